package proxy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pki is an authority with the files of a server's certificate for localhost and
// 127.0.0.1, signed by it.
type pki struct {
	t                    testing.TB
	dir                  string
	ca, certificate, key string // files
	authority            *x509.Certificate
	signer               *ecdsa.PrivateKey
	serial               int64
	longer               time.Duration // than an hour: what is issued from now on
}

func newPKI(t testing.TB) *pki {
	t.Helper()
	p := &pki{t: t, dir: t.TempDir()}
	var err error
	if p.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := p.template("authority")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, &p.signer.PublicKey, p.signer)
	if err != nil {
		t.Fatal(err)
	}
	if p.authority, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.ca = p.write("ca.pem", "CERTIFICATE", der)
	p.certificate, p.key = p.issue("server")
	return p
}

func (p *pki) template(name string) *x509.Certificate {
	p.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour + p.longer),
	}
}

// issue signs a certificate with this common name and writes its files.
func (p *pki) issue(name string) (certificate, key string) {
	p.t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template := p.template(name)
	template.DNSNames, template.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	der, err := x509.CreateCertificate(rand.Reader, template, p.authority, &private.PublicKey, p.signer)
	if err != nil {
		p.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.write(name+".pem", "CERTIFICATE", der), p.write(name+".key", "PRIVATE KEY", pkcs8)
}

func (p *pki) write(name, block string, der []byte) string {
	p.t.Helper()
	file := filepath.Join(p.dir, name)
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: block, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return file
}

// client trusts the authority, and shows a certificate of this name where there is one.
func (p *pki) client(name ...string) *tls.Config {
	p.t.Helper()
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	c.RootCAs.AddCert(p.authority)
	for _, n := range name {
		pair, err := tls.LoadX509KeyPair(p.issue(n))
		if err != nil {
			p.t.Fatal(err)
		}
		c.Certificates = append(c.Certificates, pair)
	}
	return c
}

func (p *pki) load(f TLSFiles) (*tls.Config, string) {
	p.t.Helper()
	c, id, err := LoadTLS(f)
	if err != nil {
		p.t.Fatal(err)
	}
	return c, id
}

// presented asks over TLS and returns the common name of the server's certificate.
func (p *porch) presented(config *tls.Config) (string, error) {
	p.t.Helper()
	c := tls.Client(p.dial(""), config)
	if err := c.Handshake(); err != nil {
		return "", err
	}
	// With TLS 1.3 a refused client certificate shows only now.
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return "", err
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return "", err
	}
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

// TestTLSReload: rotated files are presented to the next connection; who is connected
// stays so.
func TestTLSReload(t *testing.T) {
	pki := newPKI(t)
	files := TLSFiles{Certificate: pki.certificate, Key: pki.key}
	config, first := pki.load(files)
	if _, again := pki.load(files); again != first {
		t.Error("the same files have another identity")
	}
	p := openPorch(t, doorLimits{connections: 100, tls: config})
	client := pki.client()
	client.ClientSessionCache = tls.NewLRUClientSessionCache(10) // a ticket must not keep the old one
	inside := tls.Client(p.dial(""), client)
	p.served(inside)
	if name, err := p.presented(client); name != "server" || err != nil {
		t.Fatalf("presented %q, %v", name, err)
	}
	pki.rotate("rotated")
	config, second := pki.load(files)
	if second == first {
		t.Error("rotated files have the same identity")
	}
	p.limits.Store(&doorLimits{connections: 100, tls: config})
	if name, err := p.presented(client); name != "rotated" || err != nil {
		t.Errorf("presented %q, %v", name, err)
	}
	p.served(inside)
}

// rotate replaces the server's files.
func (p *pki) rotate(name string) {
	p.t.Helper()
	certificate, key := p.issue(name)
	if err := errors.Join(os.Rename(certificate, p.certificate), os.Rename(key, p.key)); err != nil {
		p.t.Fatal(err)
	}
}

func TestTLSClientCertificates(t *testing.T) {
	ours, theirs := newPKI(t), newPKI(t)
	config := func(clientCertificate string) *tls.Config {
		f := TLSFiles{Certificate: ours.certificate, Key: ours.key, ClientCertificate: clientCertificate}
		if clientCertificate != "none" {
			f.ClientCA = ours.ca
		}
		c, _ := ours.load(f)
		return c
	}
	foreign := theirs.client("c")
	foreign.RootCAs = ours.client().RootCAs
	// Without this Go's client would not show what the server does not ask for.
	foreign.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &foreign.Certificates[0], nil }
	f := func(name, setting string, client *tls.Config, ok bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				p := openPorch(t, doorLimits{connections: 100, tls: config(setting)})
				client := client.Clone()
				client.MaxVersion = version
				if _, err := p.presented(client); (err == nil) != ok {
					t.Errorf("version %x: %v", version, err)
				}
			}
		})
	}
	f("none", "none", ours.client(), true)
	f("none, and one is there", "none", foreign, true)
	f("optional without", "optional", ours.client(), true)
	f("optional with ours", "optional", ours.client("c"), true)
	f("optional with another's", "optional", foreign, false)
	f("required without", "required", ours.client(), false)
	f("required with ours", "required", ours.client("c"), true)
	f("required with another's", "required", foreign, false)

	t.Run("a session of an authority that was taken away", func(t *testing.T) {
		p := openPorch(t, doorLimits{connections: 100, tls: config("required")})
		client := ours.client("c")
		client.ClientSessionCache = tls.NewLRUClientSessionCache(10)
		if _, err := p.presented(client); err != nil {
			t.Fatal(err)
		}
		other, _ := ours.load(TLSFiles{Certificate: ours.certificate, Key: ours.key, ClientCA: theirs.ca, ClientCertificate: "required"})
		p.limits.Store(&doorLimits{connections: 100, tls: other})
		if _, err := p.presented(client); err == nil {
			t.Error("the session lives on")
		}
	})
}

func TestTLSDefaults(t *testing.T) {
	pki := newPKI(t)
	config, _ := pki.load(TLSFiles{Certificate: pki.certificate, Key: pki.key})
	p := openPorch(t, doorLimits{connections: 100, tls: config})
	old := pki.client()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if _, err := p.presented(old); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
	both := pki.client()
	both.NextProtos = []string{"h2", "http/1.1"}
	c := tls.Client(p.dial(""), both)
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := c.ConnectionState().NegotiatedProtocol; got != "http/1.1" {
		t.Errorf("protocol %q", got)
	}
	// A client that speaks plain HTTP is not answered as if there were no TLS.
	plain := p.dial("")
	_, _ = io.WriteString(plain, "hello\n")
	if got, _ := io.ReadAll(plain); strings.HasPrefix(string(got), "hello") {
		t.Errorf("read %q", got)
	}
	limits := *p.limits.Load()
	limits.connections = 0
	p.limits.Store(&limits)
	if _, err := p.presented(pki.client()); err == nil {
		t.Error("served over the limit")
	}
}

func TestLoadTLSFaults(t *testing.T) {
	pki, other := newPKI(t), newPKI(t)
	bad := filepath.Join(pki.dir, "bad.pem")
	write := func(text string) string {
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return bad
	}
	f := func(files TLSFiles, words ...string) {
		t.Helper()
		c, id, err := LoadTLS(files)
		if err == nil || c != nil || id != "" {
			t.Fatalf("%+v: no fault", files)
		}
		for _, w := range words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%v says nothing of %q", err, w)
			}
		}
	}
	missing := filepath.Join(pki.dir, "missing.pem")
	f(TLSFiles{}, "front.tls.certificate: required")
	f(TLSFiles{Certificate: pki.certificate}, "front.tls.key: required")
	f(TLSFiles{Certificate: missing, Key: pki.key}, "front.tls.certificate: ", "missing.pem", "check the path")
	f(TLSFiles{Certificate: pki.certificate, Key: other.key}, "front.tls.key", "the key that belongs to")
	f(TLSFiles{Certificate: pki.key, Key: pki.certificate}, "front.tls.certificate")
	f(TLSFiles{Certificate: pki.certificate, Key: write("\x30\x82")}, "front.tls.key", "no PEM")
	f(TLSFiles{Certificate: write("\x30\x82"), Key: pki.key}, "front.tls.certificate", "no PEM")
	f(TLSFiles{Certificate: pki.certificate, Key: write("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")}, "front.tls.key", "passphrase")
	server := func(ca, setting string) TLSFiles {
		return TLSFiles{Certificate: pki.certificate, Key: pki.key, ClientCA: ca, ClientCertificate: setting}
	}
	f(server(pki.ca, "none"), "front.tls.client_ca", "optional or required")
	f(server("", "required"), "front.tls.client_ca: needed")
	f(server(missing, "required"), "front.tls.client_ca: ", "check the path")
	f(server(pki.key, "required"), "front.tls.client_ca", "only certificates")
	f(server(write("nothing"), "optional"), "front.tls.client_ca", "no certificate")
	f(server(write("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "optional"), "front.tls.client_ca", "certificate 1")
	f(server(pki.ca, "always"), "front.tls.client_certificate: use none")

	for _, files := range [][4]string{{missing}, {"", "", pki.certificate, ""}, {"", "", "", pki.key}, {"", "", pki.certificate, other.key}} {
		if _, _, err := LoadUpstreamTLS(files[0], files[1], files[2], files[3]); err == nil || !strings.HasPrefix(err.Error(), "upstream_tls.") {
			t.Errorf("%v: %v", files, err)
		}
	}
}

// TestLoadUpstreamTLS: our side of a handshake with an upstream that wants a certificate.
func TestLoadUpstreamTLS(t *testing.T) {
	pki := newPKI(t)
	server, _ := pki.load(TLSFiles{Certificate: pki.certificate, Key: pki.key, ClientCA: pki.ca, ClientCertificate: "required"})
	p := openPorch(t, doorLimits{connections: 100, tls: server})
	certificate, key := pki.issue("postern")
	ids := map[string]bool{}
	f := func(ca, name, certificate, key string, ok bool) {
		t.Helper()
		c, id, err := LoadUpstreamTLS(ca, name, certificate, key)
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
		if _, err := p.presented(c); (err == nil) != ok {
			t.Errorf("%s %s %s: %v", ca, name, certificate, err)
		}
	}
	f(pki.ca, "localhost", certificate, key, true)
	f(pki.ca, "localhost", "", "", false)
	f(pki.ca, "elsewhere", certificate, key, false)
	f("", "localhost", certificate, key, false)
	f(newPKI(t).ca, "localhost", certificate, key, false)
	if len(ids) != 5 {
		t.Errorf("%d identities", len(ids))
	}
}

package config

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// certificates makes a certificate and its key, in files that only their owner can read.
func certificates(t testing.TB) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: now, NotAfter: now.Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate = write(t, "certificate.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	return certificate, write(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
}

// What files of certificates hold is checked at load, and what they hold is not shown.
func TestCertificates(t *testing.T) {
	certificate, key := certificates(t)
	other, otherKey := certificates(t)
	both := func(parts ...string) string {
		text := ""
		for _, part := range parts {
			data, err := os.ReadFile(part)
			if err != nil {
				t.Fatal(err)
			}
			text += string(data)
		}
		return write(t, "both.pem", text)
	}
	f := func(name, text string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c, err := Load(Source{File: write(t, "postern.yaml", text), Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + aKey}})
			got := lines(err)
			for _, w := range c.Warnings() {
				got = append(got, filepath.Base(w))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	front := func(more string) string { return minimal + "front: {tls: {" + more + "}}\n" }
	pair := func(certificate, key string) string { return "certificate: " + certificate + ", key: " + key }
	upstream := func(more string) string {
		return "routes: [{upstream: [\"https://a\"], upstream_tls: {" + more + "}}]\n"
	}
	const notOf = ": names a file that holds no key of the certificate: name the PEM file of the key, without a passphrase, that the certificate was made for"

	f("a pair", front(pair(certificate, key)))
	f("a chain", front(pair(both(certificate, other), key)))
	f("key first", front(pair(both(key, certificate), key)),
		"postern.yaml:2: front.tls.certificate: names a file that holds something else than certificates: name a PEM file of certificates alone")
	f("another's key", front(pair(certificate, otherKey)), "postern.yaml:2: front.tls.key"+notOf)
	f("no key", front(pair(certificate, certificate)), "postern.yaml:2: front.tls.key"+notOf)
	f("clients", front(pair(certificate, key)+", client_ca: "+other+", client_certificate: required"))
	f("clients of nobody", front(pair(certificate, key)+", client_certificate: required"),
		"postern.yaml:2: front.tls.client_certificate: needs client_ca, which is empty: name the file of the authorities that sign clients' certificates")
	f("clients that nobody asks", front(pair(certificate, key)+", client_ca: "+other),
		"postern.yaml:2: front.tls.client_ca: is set, and client_certificate is none: set client_certificate to optional or required")
	f("clients of a key", front(pair(certificate, key)+", client_certificate: optional, client_ca: "+key),
		"postern.yaml:2: front.tls.client_ca: names a file that holds something else than certificates: name a PEM file of certificates alone")
	f("upstream", upstream("ca: "+certificate+", server_name: a.internal, "+pair(other, otherKey)))
	f("upstream without a key", upstream("certificate: "+certificate),
		"postern.yaml:1: routes[0].upstream_tls.certificate: is set, and routes[0].upstream_tls.key is not: set both, or none")
	f("upstream of an empty file", upstream("ca: "+write(t, "empty.pem", "")),
		"postern.yaml:1: routes[0].upstream_tls.ca: names a file that holds no certificate: name a PEM file of certificates")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	f("a key that all can read", front(pair(certificate, key)),
		"postern.yaml:2: front.tls.key: names a file that every user of this machine can read: chmod 0600 it, or mount it with mode 0400")

	// An expired certificate is served, and warned of.
	if err := os.Chmod(key, 0o600); err != nil {
		t.Fatal(err)
	}
	expired := func(after time.Duration) bool {
		c, err := Load(Source{File: write(t, "postern.yaml", front(pair(certificate, key))), Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + aKey}, Now: time.Now().Add(after)})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(strings.Join(c.Warnings(), "\n"), "postern.yaml:2: front.tls.certificate: names a certificate that expired at 20")
	}
	if expired(0) || !expired(2*time.Hour) {
		t.Errorf("expired: now %v, in two hours %v", expired(0), expired(2*time.Hour))
	}

	// A key where its file's name belongs is not shown.
	_, err := Load(Source{Upstream: "http://127.0.0.1:3000", Environ: []string{"POSTERN_FRONT_TLS_KEY=hunter2", "POSTERN_FRONT_TLS_CERTIFICATE=" + certificate}})
	want := []string{"POSTERN_FRONT_TLS_KEY: front.tls.key: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it"}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Error(diff)
	}
}

// What a field is set to may come from a file, and is a secret either way.
func TestFieldValues(t *testing.T) {
	token := write(t, "token", "Bearer hunter2\n")
	env := []string{"POSTERN_KEYS_MASTER_KEY=" + aKey, "TOKEN=hunter2", "HOST=api.internal:8080"}
	f := func(name, fields string, want []Field, warnings ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			file := write(t, "postern.yaml", "routes: [{upstream: [\"http://a\"], request_headers: ["+fields+"]}]\n")
			if err := os.Chmod(file, 0o644); err != nil {
				t.Fatal(err)
			}
			c, err := Load(Source{File: file, Environ: env})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, c.Routes[0].RequestHeaders); diff != "" {
				t.Error(diff)
			}
			var got []string
			for _, w := range c.Warnings() {
				got = append(got, filepath.Base(w))
			}
			if diff := cmp.Diff(warnings, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	f("from a file", "{name: Authorization, value_file: "+token+"}", []Field{{Name: "Authorization", Value: "Bearer hunter2", ValueFile: token}})
	f("from a variable", `{name: Authorization, value: "Bearer ${TOKEN}"}`, []Field{{Name: "Authorization", Value: "Bearer hunter2"}})
	f("a host", `{name: Host, value: "${HOST}"}`, []Field{{Name: "Host", Value: "api.internal:8080"}})
	f("no secret", "{name: X-Environment, value: production}", []Field{{Name: "X-Environment", Value: "production"}})
	f("removed", "{name: Cookie, remove: true}", []Field{{Name: "Cookie", Remove: true}})
	f("in a file that all can read", "{name: X-Api-Key, value: hunter2}", []Field{{Name: "X-Api-Key", Value: "hunter2"}},
		"postern.yaml:1: routes[0].request_headers[0].value: is written in a file that every user of this machine can read: chmod 0600 it, or use ${NAME} or value_file")
	f("anybody's guess", "{name: Authorization, value: Bearer changeme}", []Field{{Name: "Authorization", Value: "Bearer changeme"}},
		"postern.yaml:1: routes[0].request_headers[0].value: looks like a default that anybody can guess: use a secret of your own")
	if err := os.Chmod(token, 0o644); err != nil {
		t.Fatal(err)
	}
	f("a file that all can read", "{name: Authorization, value_file: "+token+"}", []Field{{Name: "Authorization", Value: "Bearer hunter2", ValueFile: token}},
		"postern.yaml:1: routes[0].request_headers[0].value_file: names a file that every user of this machine can read: chmod 0600 it, or mount it with mode 0400")

	empty := write(t, "empty", "\n")
	_, err := Load(Source{File: write(t, "postern.yaml", "routes: [{upstream: [\"http://a\"], request_headers: [{name: A, value_file: "+empty+"}]}]\n")})
	want := []string{"postern.yaml:1: routes[0].request_headers[0].value_file: names a file that is empty: write the secret to it"}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Error(diff)
	}
}

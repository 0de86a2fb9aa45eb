package proxy

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"strings"
)

// TLSFiles name the files of the listener's TLS, and whether clients need a certificate.
type TLSFiles struct {
	Certificate string // PEM: the server's certificate, then those between it and the root
	Key         string // PEM: its private key
	ClientCA    string // PEM: who signs clients' certificates; "" with ClientCertificate none
	// ClientCertificate is none (also ""), optional (one that is sent must be valid) or
	// required.
	ClientCertificate string
}

// LoadTLS reads the files of front.tls: TLS 1.2 or later, HTTP/1.1. The identity is equal
// for equal files and settings, so that a reload can tell whether there is anything new.
// An error names the setting and says what to do.
func LoadTLS(f TLSFiles) (*tls.Config, string, error) {
	id := newFingerprint("front.tls", f.ClientCertificate)
	c := newTLSConfig()
	certificate, err := loadPair(id, "front.tls.certificate", f.Certificate, "front.tls.key", f.Key)
	if err != nil {
		return nil, "", err
	}
	c.Certificates = []tls.Certificate{certificate}
	switch f.ClientCertificate {
	case "", "none":
		if f.ClientCA != "" {
			return nil, "", errors.New("front.tls.client_ca: nobody is asked for a certificate; set front.tls.client_certificate to optional or required")
		}
		return c, id.sum(), nil
	case "optional":
		c.ClientAuth = tls.VerifyClientCertIfGiven
	case "required":
		c.ClientAuth = tls.RequireAndVerifyClientCert
	default:
		return nil, "", errors.New("front.tls.client_certificate: use none, optional or required")
	}
	if f.ClientCA == "" { // the system's roots would let in whoever has any certificate
		return nil, "", errors.New("front.tls.client_ca: needed to verify clients' certificates; name the file of the authority that signs them")
	}
	if c.ClientCAs, err = loadPool(id, "front.tls.client_ca", f.ClientCA); err != nil {
		return nil, "", err
	}
	return c, id.sum(), nil
}

// LoadUpstreamTLS reads the files of a route's upstream_tls, each of which may be "": the
// authority that signs the upstream's certificate (the system's roots where there is
// none), and a certificate of postern's own with its key. serverName is what the
// upstream's certificate must be for, where it is not the host of its URL. The identity is equal
// for equal files and settings. An error names the setting and says what to do.
func LoadUpstreamTLS(ca, serverName, certificate, key string) (*tls.Config, string, error) {
	id := newFingerprint("upstream_tls", serverName)
	c := newTLSConfig()
	c.ServerName = serverName
	if ca != "" {
		var err error
		if c.RootCAs, err = loadPool(id, "upstream_tls.ca", ca); err != nil {
			return nil, "", err
		}
	}
	if certificate != "" || key != "" {
		pair, err := loadPair(id, "upstream_tls.certificate", certificate, "upstream_tls.key", key)
		if err != nil {
			return nil, "", err
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, id.sum(), nil
}

// newTLSConfig has what both sides share. The suites and curves are Go's own, which
// follow what is known to be weak.
func newTLSConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}}
}

// loadPair reads a certificate chain with its key.
func loadPair(id *fingerprint, certificateKey, certificateFile, keyKey, keyFile string) (tls.Certificate, error) {
	certificate, err := id.read(certificateKey, certificateFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := id.read(keyKey, keyFile)
	if err != nil {
		return tls.Certificate{}, err
	}
	switch first, _ := pem.Decode(key); {
	case first == nil:
		return tls.Certificate{}, fmt.Errorf("%s: %s is no PEM; convert it: openssl pkey -in FILE -inform DER", keyKey, keyFile)
	case strings.Contains(first.Type, "ENCRYPTED") || strings.Contains(first.Headers["Proc-Type"], "ENCRYPTED"):
		return tls.Certificate{}, fmt.Errorf("%s: %s is encrypted; take the passphrase off (openssl pkey -in FILE) and guard the file", keyKey, keyFile)
	}
	if first, _ := pem.Decode(certificate); first == nil {
		return tls.Certificate{}, fmt.Errorf("%s: %s is no PEM; convert it: openssl x509 -in FILE -inform DER", certificateKey, certificateFile)
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil { // its text names neither the key nor anything in it
		return tls.Certificate{}, fmt.Errorf("%s: cannot use %s with %s %s: give the key that belongs to the first certificate: %w",
			certificateKey, certificateFile, keyKey, keyFile, err)
	}
	return pair, nil
}

// loadPool reads the certificates of authorities. All must be readable: one that is left
// out silently is found missing too late.
func loadPool(id *fingerprint, setting, file string) (*x509.CertPool, error) {
	text, err := id.read(setting, file)
	if err != nil {
		return nil, err
	}
	pool, count := x509.NewCertPool(), 0
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: %s has a block of type %q; leave only certificates in it", setting, file, block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: certificate %d of %s: take it out or repair it: %w", setting, count+1, file, err)
		}
		pool.AddCert(c)
		count++
	}
	if count == 0 {
		return nil, fmt.Errorf("%s: %s has no certificate; give the authority's certificates in PEM", setting, file)
	}
	return pool, nil
}

// fingerprint digests what a configuration was made of.
type fingerprint struct{ digest []byte }

func newFingerprint(parts ...string) *fingerprint {
	id := &fingerprint{}
	for _, p := range parts {
		id.add([]byte(p))
	}
	return id
}

func (id *fingerprint) add(part []byte) {
	sum := sha256.Sum256(part)
	whole := sha256.Sum256(append(id.digest, sum[:]...))
	id.digest = whole[:]
}

func (id *fingerprint) sum() string { return hex.EncodeToString(id.digest) }

// read reads the file of a setting.
func (id *fingerprint) read(setting, file string) ([]byte, error) {
	if file == "" {
		return nil, fmt.Errorf("%s: required; name a PEM file", setting)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; check the path, and that postern's user may read it", setting, err)
	}
	id.add([]byte(setting + "\x00" + file))
	id.add(text)
	return text, nil
}

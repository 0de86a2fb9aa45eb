package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"path/filepath"
	"time"
)

const (
	readableProblem = "names a file that every user of this machine can read"
	readableFix     = "chmod 0600 it, or mount it with mode 0400"
)

// open reports whether every user of this machine can read what has mode.
func open(mode fs.FileMode) bool { return mode.Perm()&0o004 != 0 }

// pathFix is what to do about a file that cannot be read. The path itself is not told: it may
// be a secret, written where its file's name belongs.
func (l *loader) pathFix(path string) string {
	whence := ""
	switch {
	case l.beside: // and path has been joined to it
		whence = ", relative to this file unless it begins with a slash"
	case !filepath.IsAbs(path):
		whence = ", which is relative to the working directory"
	}
	return "check its path" + whence + ", and that postern's user may read it"
}

// pem reads the file that the setting key names.
func (l *loader) pem(key, path string) (data []byte, mode fs.FileMode, ok bool) {
	data, mode, err := read(path, maxFile)
	if err != nil {
		l.fault(key, "names a file that "+err.Error(), l.pathFix(path))
		return nil, 0, false
	}
	return data, mode, true
}

// certificates reads the file that the setting key names, which must hold some.
func (l *loader) certificates(key, path string) (data []byte, ok bool) {
	data, _, ok = l.pem(key, path)
	if !ok {
		return nil, false
	}
	count := 0
	for rest := data; ; count++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil || block.Type != "CERTIFICATE" {
			l.fault(key, "names a file that holds something else than certificates", "name a PEM file of certificates alone")
			return nil, false
		}
	}
	if count == 0 {
		l.fault(key, "names a file that holds no certificate", "name a PEM file of certificates")
		return nil, false
	}
	return data, true
}

// pair checks a certificate and its key, which belong to the settings certificate and
// key of the section.
func (l *loader) pair(section, certificate, key string) {
	certificateKey, keyKey := section+".certificate", section+".key"
	if !l.ok(certificateKey, keyKey) {
		return
	}
	switch {
	case certificate == "" && key == "":
		return
	case key == "":
		l.fault(certificateKey, "is set, and "+keyKey+" is not", "set both, or none")
		return
	case certificate == "":
		l.fault(keyKey, "is set, and "+certificateKey+" is not", "set both, or none")
		return
	}
	chain, chainOK := l.certificates(certificateKey, certificate)
	private, mode, privateOK := l.pem(keyKey, key)
	if privateOK && open(mode) {
		l.warn(keyKey, readableProblem, readableFix)
	}
	if !chainOK || !privateOK {
		return
	}
	both, err := tls.X509KeyPair(chain, private)
	switch {
	case err != nil: // the error may quote the key's file
		l.fault(keyKey, "names a file that holds no key of the certificate", "name the PEM file of the key, without a passphrase, that the certificate was made for")
	case l.source.Now.After(both.Leaf.NotAfter): // no fault: an older one is no reason to end, or to keep what was before
		l.warn(certificateKey, "names a certificate that expired at "+both.Leaf.NotAfter.UTC().Format(time.RFC3339), "renew it: who connects refuses it")
	}
}

// authorities checks the certificates that others' certificates are signed with.
func (l *loader) authorities(key, path string) {
	if path != "" && l.ok(key) {
		l.certificates(key, path)
	}
}

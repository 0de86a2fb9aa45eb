package main

import (
	"bufio"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReloadLeavesFlightsAlone: requests, streams and uploads that are under way when
// their route goes end as they began, on connections that stay.
func TestReloadLeavesFlightsAlone(t *testing.T) {
	up := startPatient(t)
	s := serve(t, &upstream{address: strings.TrimPrefix(up.URL, "http://")}, "routes:\n  - {name: api, path: /, upstream: [\"{upstream}\"], access: public}\n")
	release := sync.OnceFunc(func() { close(up.release) })
	defer release()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 10}}
	defer client.CloseIdleConnections()
	results := make(chan flight, 15)
	for range 5 {
		go func() { results <- fly(t.Context(), client, "wait", "GET", s.front+"/wait", nil, "") }()
		go func() { results <- fly(t.Context(), client, "stream", "GET", s.front+"/stream", nil, "") }()
		go func() {
			results <- fly(t.Context(), client, "upload", "POST", s.front+"/upload", slowly(up.release), "")
		}()
	}
	kept, err := net.Dial("tcp", strings.TrimPrefix(s.front, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	answers := bufio.NewReader(kept)
	f := func(path string, want int) {
		t.Helper()
		_, _ = io.WriteString(kept, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n")
		answer, err := http.ReadResponse(answers, nil)
		if err != nil || answer.StatusCode != want {
			t.Fatalf("%s on the kept connection: %v %v", path, answer, err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
	}
	f("/now", 200)
	eventually(t, time.Second, "all are at the upstream", func() bool { return up.waiting.Load() == 15 })
	s.edit(replace(t, "{name: api, path: /, upstream: [\""+up.URL+"\"]", "{name: gone, path: /other, upstream: [\"http://127.0.0.1:1\"]"))
	eventually(t, time.Second, "the route is gone", func() bool { return s.do("GET", "/now", "").status == 404 })
	f("/now", 404)
	time.Sleep(200 * time.Millisecond) // streams go on
	release()
	for range 15 {
		if r := <-results; r.err != nil || r.status != 200 || r.kind == "stream" && !strings.HasSuffix(r.body, "sdone") ||
			r.kind == "upload" && !strings.HasSuffix(r.body, "000 <nil>") {
			t.Errorf("%.300s: %d %v", r.kind, r.status, r.err)
		}
	}
}

// TestReloadCertificate: a renewed certificate is served from the next handshake on;
// connections with the old one stay.
func TestReloadCertificate(t *testing.T) {
	up := startUpstream(t)
	dir := t.TempDir()
	first, second := newCertificate(t, 1), newCertificate(t, 2)
	install := func(c certificate) {
		t.Helper()
		for name, text := range map[string][]byte{"tls.crt": c.chain, "tls.key": c.key} {
			writeFile(t, dir+"/"+name+".new", string(text))
			if err := os.Rename(dir+"/"+name+".new", dir+"/"+name); err != nil {
				t.Fatal(err)
			}
		}
	}
	install(first)
	file := dir + "/postern.yaml"
	writeFile(t, file, "front: {listen: \"127.0.0.1:0\", tls: {certificate: "+dir+"/tls.crt, key: "+dir+"/tls.key}}\nadmin: {listen: \"127.0.0.1:0\"}\n"+
		strings.ReplaceAll(twoRoutes, "{upstream}", "http://"+up.address))
	p := start(t, dir, "--config", file)
	address := strings.TrimPrefix(p.front, "http://")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(first.chain)
	roots.AppendCertsFromPEM(second.chain)
	shake := func() (*tls.Conn, int64) {
		t.Helper()
		c, err := tls.Dial("tcp", address, &tls.Config{RootCAs: roots, ServerName: "api.example.com"})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c, c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	get := func(c *tls.Conn) int {
		t.Helper()
		_, _ = io.WriteString(c, "GET /public HTTP/1.1\r\nHost: api.example.com\r\n\r\n")
		answer, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode
	}
	old, serial := shake()
	if serial != 1 || get(old) != 200 {
		t.Fatalf("certificate %d", serial)
	}
	install(second)
	eventually(t, time.Second, "the new certificate is served", func() bool { _, serial := shake(); return serial == 2 })
	if get(old) != 200 {
		t.Error("the old connection is broken")
	}
	writeFile(t, dir+"/tls.key", string(first.key)) // not the certificate's
	eventually(t, time.Second, "the metric says that the key is bad", func() bool { return p.metric("postern_config_reload_failed") == 1 })
	if c, serial := shake(); serial != 2 || get(c) != 200 {
		t.Errorf("certificate %d", serial)
	}
}

// certificate is a certificate that signed itself, and its key, as PEM.
type certificate struct{ chain, key []byte }

func newCertificate(t *testing.T, serial int64) certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "api.example.com"}, DNSNames: []string{"api.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	chain, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) []byte {
		var b bytes.Buffer
		_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der})
		return b.Bytes()
	}
	return certificate{encode("CERTIFICATE", chain), encode("PRIVATE KEY", private)}
}

package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// TestUploadOverFreshTLS: the session tickets that come after the handshake of TLS 1.3 are no
// answer: an upload is sent to its end. OpenSSL sends them
// always; Go where it is asked to, and behind the client's certificate.
func TestUploadOverFreshTLS(t *testing.T) {
	ca := newAuthority(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &tls.Config{Certificates: []tls.Certificate{ca.leaf("api.internal")}, MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert}
	o := &origin{t: t, address: l.Addr().String(), listener: tls.NewListener(l, server)}
	o.running.Go(o.run)
	t.Cleanup(o.close)
	o.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, ok) })
	client := &tls.Config{RootCAs: ca.pool, ServerName: "api.internal", ClientSessionCache: tls.NewLRUClientSessionCache(1),
		Certificates: []tls.Certificate{ca.leaf("postern")}}
	f := start(t, balance(func(u *Upstream) {
		u.Endpoints, u.TLS = []Endpoint{{Network: "tcp", Address: o.address, TLS: true, Weight: 1}}, client
	}))
	c := f.dial().send(request("POST", "/public", "Transfer-Encoding: chunked"))
	for range 5 { // longer than the tickets take, and than the time between two looks for an answer
		c.send("3\r\nabc\r\n")
		time.Sleep(lookEvery / 5)
	}
	if m := c.send("0\r\n\r\n").read("POST"); m.content != "ok" {
		t.Errorf("answered %q", m.raw)
	}
	for _, m := range o.received() {
		if m.content != "abcabcabcabcabc" {
			t.Errorf("%q arrived", m.content)
		}
	}
}

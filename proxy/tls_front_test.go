package proxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// startTLS is a front with TLS, and a client's configuration for it.
func startTLS(t *testing.T, change ...func(*Options)) (*fixture, *pki, *tls.Config) {
	t.Helper()
	pki := newPKI(t)
	config, _ := pki.load(TLSFiles{Certificate: pki.certificate, Key: pki.key})
	f := start(t, append([]func(*Options){func(o *Options) { o.TLS = config }}, change...)...)
	return f, pki, pki.client()
}

// dialTLS is dial over TLS.
func (f *fixture) dialTLS(config *tls.Config) *connection {
	f.t.Helper()
	plain := f.dial()
	c := tls.Client(plain.Conn, config)
	return &connection{Conn: c, t: f.t, r: newRecorder(c)}
}

// TestFrontTLS: requests with content, kept connections and streams over TLS, and what the
// upstream reads about it.
func TestFrontTLS(t *testing.T) {
	f, _, client := startTLS(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		config := client.Clone()
		config.MaxVersion = version
		c := f.dialTLS(config)
		for range 3 {
			c.send(get("/a", as(callerA)))
			if m := c.read("GET"); m.status() != 200 {
				t.Fatalf("answered %q", m.raw)
			}
		}
		got := f.upstream.received()[2]
		if got.get("X-Forwarded-Proto") != "https" || got.get("Forwarded") != `for=127.0.0.1;host="api.test";proto=https` {
			t.Errorf("the upstream received %q", got.raw)
		}
		content := strings.Repeat("0123456789", 50_000) // more than is read whole
		c.send("POST /a HTTP/1.1\r\nHost: api.test\r\n" + as(callerA) + "\r\nContent-Length: 500000\r\n\r\n" + content)
		if m := c.read("POST"); m.status() != 200 {
			t.Fatalf("answered %q", m.raw)
		}
		if got := f.upstream.received()[0]; got.content != content {
			t.Errorf("%d bytes were received", len(got.content))
		}
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n"+content)
		})
		if m := c.send(get("/public")).read("GET"); m.content != content {
			t.Errorf("%d bytes came back", len(m.content))
		}
		f.upstream.answers(nil)
		f.upstream.received()
		c.send(get("/a", "Connection: close"))
		if m := c.read("GET"); m.status() != 401 {
			t.Errorf("answered %q", m.raw)
		}
		if _, err := c.r.ReadByte(); !errors.Is(err, io.EOF) { // not io.ErrUnexpectedEOF: TLS says that it ends
			t.Errorf("the end: %v", err)
		}
	}
}

// TestFrontTLSReload: rotated certificates under a front that serves on.
func TestFrontTLSReload(t *testing.T) {
	f, pki, client := startTLS(t)
	inside := f.dialTLS(client)
	inside.send(get("/public")).read("GET")
	pki.rotate("rotated")
	s := f.front.options.Settings
	s.TLS, _ = pki.load(TLSFiles{Certificate: pki.certificate, Key: pki.key})
	if err := f.front.Reload(s); err != nil {
		t.Fatal(err)
	}
	c := f.dialTLS(client)
	c.send(get("/public")).read("GET")
	if name := c.Conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName; name != "rotated" {
		t.Errorf("presented %q", name)
	}
	if m := inside.send(get("/public")).read("GET"); m.status() != 200 {
		t.Errorf("answered %q", m.raw)
	}
	s.TLS = nil
	if err := f.front.Reload(s); errorText(err) != "TLS cannot be switched on or off by a reload; restart" {
		t.Errorf("reload: %v", err)
	}
}

// TestFrontTLSCutsShort: an answer that ends with its connection and is not whole must not
// seem to be, so TLS does not say that it ends (RFC 8446 §6.1).
func TestFrontTLSCutsShort(t *testing.T) {
	f, _, client := startTLS(t)
	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n")
		_ = c.Close()
	})
	c := f.dialTLS(client).send("GET /public HTTP/1.0\r\nHost: api.test\r\n\r\n")
	if all, err := io.ReadAll(c); err == nil || !strings.HasSuffix(string(all), "half") {
		t.Errorf("read %q, and then %v", all, err)
	}
}

// TestFrontTLSSilence: who does not shake hands, or says nothing then, is closed in time.
func TestFrontTLSSilence(t *testing.T) {
	f, _, client := startTLS(t, func(o *Options) { o.ReadTimeout = 200 * time.Millisecond })
	silent, plain, shaken := f.dial(), f.dial().send(get("/public")), f.dialTLS(client)
	if err := shaken.Conn.(*tls.Conn).Handshake(); err != nil {
		t.Fatal(err)
	}
	if !silent.closed() {
		t.Error("a silent connection stays open")
	}
	if !shaken.closed() {
		t.Error("a connection without a request stays open")
	}
	all, _ := io.ReadAll(plain)
	if strings.HasPrefix(string(all), "HTTP/1.1 200") {
		t.Errorf("answered %q", all)
	}
}

// TestFrontTLSShutdown: idle connections are told that they end, and hold nothing up.
func TestFrontTLSShutdown(t *testing.T) {
	f, _, client := startTLS(t)
	idle := f.dialTLS(client)
	idle.send(get("/public")).read("GET")
	f.dial() // and one that has not shaken hands
	until(t, "both are inside", func() bool { return f.gauge("postern_connections") == 2 })
	begin := time.Now()
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begin); took > patience-time.Second { // less than what ReadTimeout would take
		t.Errorf("it took %s", took)
	}
	if _, err := idle.r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the end: %v", err)
	}
	if n := f.gauge("postern_connections"); n != 0 {
		t.Errorf("%v connections", n)
	}
}

// TestCertificateMetric: the expiry in the metrics is that of the certificate which a client is
// shown, also after a renewal; without TLS there is none.
func TestCertificateMetric(t *testing.T) {
	const name = "postern_tls_certificate_not_after_timestamp_seconds"
	f, pki, client := startTLS(t)
	shown := func() float64 {
		t.Helper()
		c := f.dialTLS(client).Conn.(*tls.Conn)
		if err := c.Handshake(); err != nil {
			t.Fatal(err)
		}
		return float64(c.ConnectionState().PeerCertificates[0].NotAfter.Unix())
	}
	first := shown()
	if got := f.gauge(name); got != first {
		t.Errorf("it expires at %v, the metric says %v", first, got)
	}
	pki.longer = time.Hour
	pki.rotate("renewed")
	config, _ := pki.load(TLSFiles{Certificate: pki.certificate, Key: pki.key})
	f.reload(func(s *Settings) { s.TLS = config })
	if second := shown(); second == first || f.gauge(name) != second {
		t.Errorf("renewed, it expires at %v, the metric says %v", second, f.gauge(name))
	}
	if value, ok := start(t).metrics()[name+"{}"]; ok {
		t.Errorf("without TLS the metric says %v", value)
	}
}

package proxy

import (
	"crypto/tls"
	"io"
	"strings"
	"testing"
	"time"
)

// TestWebSocketTLS on both sides: bytes both ways, our Close, and the end of TLS behind it.
func TestWebSocketTLS(t *testing.T) {
	ca := newAuthority(t)
	heard := make(chan []byte, 1)
	address := listenTLS(t, &tls.Config{Certificates: []tls.Certificate{ca.leaf("127.0.0.1")}}, func(c *tls.Conn) {
		r := newRecorder(c)
		m, err := r.request()
		if err != nil || m.get("Upgrade") != "websocket" || !strings.Contains(m.get("Forwarded"), "proto=https") {
			t.Errorf("%v: the upstream got %q", err, m.raw)
			return
		}
		_, _ = io.WriteString(c, switched+"hello")
		rest, err := io.ReadAll(r)
		if err != nil {
			t.Errorf("the upstream's TLS does not end: %v", err)
		}
		heard <- rest
		_ = c.Close()
	})
	f, _, client := startTLS(t, func(o *Options) {
		o.Routes = []Route{{
			Name: "api", Path: "/", Access: Client, Timeout: patience, Stall: patience, WebSocket: WebSocket{Enabled: true, Idle: patience},
			Upstream: Upstream{
				TLS: &tls.Config{RootCAs: ca.pool}, Endpoints: []Endpoint{{Network: "tcp", Address: address, TLS: true, Weight: 1}},
				ConnectTimeout: patience, Failures: 5, Open: patience,
			},
		}}
	})
	frame := rawFrame(0x82, 0, true, strings.Repeat("x", 100_000))
	c := f.dialTLS(client).send(socketRequest("/", asA) + string(frame))
	if m := c.read("GET"); m.status() != 101 {
		t.Fatalf("got %q", m.raw)
	}
	c.gets([]byte("hello")) // as frames: "h" begins one of 101 bytes, which does not end here
	begun := time.Now()
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 10*closeWithin {
		t.Errorf("the drain took %s", took)
	}
	if rest, err := io.ReadAll(c.r); err != nil && !strings.Contains(err.Error(), "EOF") || len(rest) > 0 {
		t.Errorf("%v: %x in the middle of a frame", err, rest)
	}
	rest := <-heard
	if len(rest) < len(frame) || string(rest[:len(frame)]) != string(frame) || !isClose(rest[len(frame):], true, closeGoingAway) {
		t.Errorf("the upstream heard %d bytes, which end in %x", len(rest), rest[max(0, len(rest)-40):])
	}
}

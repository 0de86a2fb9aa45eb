package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestShutdownMeetsHalfHeads: clients that have sent a part of a head when the front shuts
// down, however many, neither hold it up beyond its deadline nor lose a head that still
// comes whole.
func TestShutdownMeetsHalfHeads(t *testing.T) {
	f := start(t)
	var slow []*connection
	for range 20 {
		c := f.dial().send(get("/public"))
		if m := c.read("GET"); m.status() != 200 {
			t.Fatal(m.raw)
		}
		slow = append(slow, c.send("GET /public HTTP/1.1\r\nHost: api"))
	}
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	begun := time.Now()
	go func() { stopped <- f.front.Shutdown(ctx) }()
	time.Sleep(200 * time.Millisecond)
	slow[0].send(".test\r\n\r\n")
	if m := slow[0].read("GET"); m.status() != 200 || m.get("Connection") != "close" {
		t.Errorf("the head that came whole: %q", m.raw)
	}
	if err := <-stopped; err == nil || time.Since(begun) > 3*time.Second {
		t.Errorf("ended after %v: %v", time.Since(begun), err)
	}
	_ = f.stop() // says that it was shut down before
	f.stop = func() error { return nil }
	for _, c := range slow[1:] {
		if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
			t.Errorf("answered %q", rest)
		}
	}
}

// TestShutdownKeepsAnswersWhole: an answer to a request whose content was not read is not
// taken away by a reset.
func TestShutdownKeepsAnswersWhole(t *testing.T) {
	f := start(t)
	var all []*connection
	for range 20 {
		all = append(all, f.dial().send("POST / HTTP/1.1\r\n"))
	}
	time.Sleep(50 * time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	time.Sleep(100 * time.Millisecond)
	for _, c := range all {
		c.send("Host: api.test\r\nContent-Length: 100000\r\n\r\n" + noise(60_000))
	}
	for _, c := range all {
		time.Sleep(10 * time.Millisecond)
		m := c.read("POST")
		if _, err := io.ReadAll(c.r); m.status() != 401 || err != nil { // to other systems than Linux a reset takes the answer too
			t.Errorf("answered %q, then %v", m.raw, err)
		}
		_ = c.Close()
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestShutdownMeetsEverybody: whoever holds a connection, and however, it is over at the
// deadline, on both sides, with nothing counted as open.
func TestShutdownMeetsEverybody(t *testing.T) {
	f := start(t, trusting, func(o *Options) {
		o.ProxyProtocol, o.Buffer = true, 1<<10
		o.Routes[1].WebSocket = WebSocket{Enabled: true, Idle: patience}
	})
	begun := make(chan struct{}, 8)
	never := make(chan struct{})
	defer close(never)
	f.upstream.answers(func(c net.Conn, m *message) {
		begun <- struct{}{}
		switch target := strings.Fields(m.start)[1]; target {
		case "/public/flood":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for {
				if _, err := io.WriteString(c, noise(64<<10)); err != nil {
					return
				}
			}
		case "/public/socket":
			_, _ = io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
				"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
			_, _ = io.Copy(io.Discard, c)
		case "/public/quiet":
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
			_, _ = io.Copy(io.Discard, c)
		default: // never answers
			_, _ = io.Copy(io.Discard, c)
		}
	})
	const by = "PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\n"
	all := []*connection{
		f.dial(), f.dial().send("PRO"), f.dial().send(by), f.dial().send(by + "GET /public HT"),
		f.dial().send(by + request("POST", "/public", "Content-Length: 900") + "waits"),
		f.dial().send(by + request("POST", "/public", "Transfer-Encoding: chunked") + "5\r\nwa"),
		f.dial().send(by + request("POST", "/public", "Expect: 100-continue", "Content-Length: 900")),
	}
	for _, text := range []string{
		get("/public"), get("/public/flood"), get("/public/quiet"),
		get("/public/socket", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="),
	} {
		all = append(all, f.dial().send(by+text))
		<-begun
	}
	time.Sleep(100 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	at := time.Now()
	if err := f.front.Shutdown(ctx); err == nil || time.Since(at) > 4*time.Second {
		t.Errorf("ended after %v: %v", time.Since(at), err)
	}
	_ = f.stop() // says that it was shut down before
	f.stop = func() error { return nil }
	if n := f.gauge("postern_connections"); n != 0 {
		t.Errorf("%v connections are open", n)
	}
	for i, c := range all {
		if _, err := io.Copy(io.Discard, c.r); isTimeout(err) {
			t.Errorf("connection %d is open", i)
		}
	}
	assertEnd(t, f.upstream)
	until(t, "the upstream has no load", func() bool {
		e := f.front.state.Load().router.all[1].upstream.endpoints[0]
		return e.load.Load() == 0 && e.connections.Load() == 0
	})
}

package proxy

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestShutdownLetsRequestsFinish: what is in flight ends well, streams too; new
// connections are refused; and nothing of the front is left.
func TestShutdownLetsRequestsFinish(t *testing.T) {
	before := append(fasthttpOwn(), goleak.IgnoreCurrent())
	t.Run("front", func(t *testing.T) {
		f := start(t)
		asked, finish := make(chan struct{}, 3), make(chan struct{})
		f.upstream.answers(func(c net.Conn, m *message) {
			if strings.HasPrefix(m.start, "GET /public/stream") {
				_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
				asked <- struct{}{}
				<-finish
				_, _ = io.WriteString(c, "3\r\nend\r\n0\r\n\r\n")
				return
			}
			asked <- struct{}{}
			<-finish
			_, _ = io.WriteString(c, ok)
		})
		idle := f.dial()
		used := f.dial()
		upload := f.dial().send(request("POST", "/public", "Content-Length: 100000") + noise(50_000))
		plain, stream := f.dial().send(get("/public")), f.dial().send(get("/public/stream"))
		<-asked
		<-asked
		stopped := make(chan error, 1)
		go func() { stopped <- f.stop() }()
		// Refused from now on.
		deadline := time.Now().Add(patience)
		for {
			c, err := net.Dial("tcp", f.address)
			if err != nil {
				break
			}
			_ = c.Close()
			if time.Now().After(deadline) {
				t.Fatal("new connections are still accepted")
			}
			time.Sleep(time.Millisecond)
		}
		select {
		case err := <-stopped:
			t.Fatalf("stopped while requests were in flight: %v", err)
		case <-time.After(150 * time.Millisecond):
		}
		close(finish)
		upload.send(noise(100_000)[50_000:])
		if m := upload.read("POST"); m.content != "ok" || m.get("Connection") != "close" {
			t.Errorf("upload: %q", m.raw)
		}
		if m := plain.read("GET"); m.content != "ok" || m.get("Connection") != "close" || !plain.closed() {
			t.Errorf("plain: %q", m.raw)
		}
		if m := stream.read("GET"); m.content != "okend" || !stream.closed() {
			t.Errorf("stream: %q", m.raw)
		}
		for _, c := range []*connection{idle, used, plain, stream, upload} {
			_ = c.Close()
		}
		if err := <-stopped; err != nil {
			t.Error(err)
		}
	})
	if err := goleak.Find(before...); err != nil {
		t.Error(err)
	}
}

func TestShutdownAtItsDeadline(t *testing.T) {
	f := start(t)
	asked, finish := make(chan struct{}), make(chan struct{})
	f.upstream.answers(func(c net.Conn, _ *message) { close(asked); <-finish; _, _ = io.WriteString(c, ok) })
	c := f.dial().send(get("/public"))
	<-asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := f.front.Shutdown(ctx); err == nil {
		t.Error("no error though a request was in flight")
	}
	if rest, _ := io.ReadAll(c.r); len(rest) > 0 { // cut, not left to run on
		t.Errorf("answered %q", rest)
	}
	close(finish)
	_ = c.Close()
	if err := f.front.Shutdown(t.Context()); errorText(err) != "shut down before" {
		t.Errorf("twice: %v", err)
	}
	_ = f.stop() // which says so too: the fixture's own must not
	f.stop = func() error { return nil }
	assertEnd(t, f.upstream)
}

// TestShutdownClosesUpstreamConnections: those that were kept.
func TestShutdownClosesUpstreamConnections(t *testing.T) {
	f := start(t)
	f.ask(get("/public"))
	if err := f.stop(); err != nil {
		t.Fatal(err)
	}
	assertEnd(t, f.upstream)
}

// assertEnd asserts that every connection to an upstream has ended.
func assertEnd(t *testing.T, o *origin) {
	t.Helper()
	done := make(chan struct{})
	go func() { o.connectionsEnd(); close(done) }()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("a connection to the upstream is still open")
	}
}

// TestShutdownBeforeServe: a signal that comes at once must not leave a server behind.
func TestShutdownBeforeServe(t *testing.T) {
	options := start(t, func(o *Options) { o.Access = nil }).front.options
	for range 50 {
		f, err := New(options)
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- f.Serve(l) }()
		if err := f.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Fatal("Serve goes on")
		}
	}
}

// TestShutdownWhileServeBegins: Serve has its listener, and fasthttp does not know of it yet.
func TestShutdownWhileServeBegins(t *testing.T) {
	f, err := New(start(t, func(o *Options) { o.Access = nil }).front.options)
	if err != nil {
		t.Fatal(err)
	}
	if f.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	if err := f.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(f.listener) }()
	select {
	case err := <-served:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		_ = f.listener.Close()
		t.Error("the server goes on")
	}
}

func TestReap(t *testing.T) {
	f := start(t)
	f.ask(get("/public"))
	u := f.front.state.Load().router.all[0].upstream
	deadline := time.Now().Add(patience)
	for u.kept() == 0 && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	u.reap(time.Now().Add(upstreamIdle - time.Second))
	if n := u.kept(); n != 1 {
		t.Errorf("%d connections are kept before their time is over", n)
	}
	u.reap(time.Now().Add(upstreamIdle + time.Second))
	if n := u.kept(); n != 0 {
		t.Errorf("%d connections are kept after it", n)
	}
	f.upstream.received()
	f.forwards(get("/public"), wire("GET /public", "api.test", nil, ""))
}

func (p *pool) kept() (n int) {
	for _, e := range p.endpoints {
		e.mu.Lock()
		n += len(e.idle)
		e.mu.Unlock()
	}
	return n
}

// TestSilentConnectionIsClosed: a connection on which not a byte came is owed no answer.
func TestSilentConnectionIsClosed(t *testing.T) {
	f := start(t, func(o *Options) { o.ReadTimeout = 200 * time.Millisecond })
	c := f.dial()
	begun := time.Now()
	if !c.closed() || time.Since(begun) < 100*time.Millisecond || time.Since(begun) > 2*time.Second {
		t.Errorf("closed after %v", time.Since(begun))
	}
	_ = c.Close()
}

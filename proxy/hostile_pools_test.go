package proxy

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestReloadRemovesAPoolInUse: its idle connections end with the reload, its busy ones
// when their requests have, which go on until then.
func TestReloadRemovesAPoolInUse(t *testing.T) {
	f := start(t)
	begun, finished := make(chan struct{}), make(chan struct{})
	finish := sync.OnceFunc(func() { close(finished) })
	t.Cleanup(finish) // the upstream waits for its handlers
	f.upstream.answers(func(c net.Conn, m *message) {
		if !strings.HasPrefix(m.start, "GET /public/stream") {
			_, _ = io.WriteString(c, ok)
			return
		}
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
		close(begun)
		<-finished
		_, _ = io.WriteString(c, "3\r\nend\r\n0\r\n\r\n")
	})
	stream := f.dial().send(get("/public/stream"))
	<-begun
	connections := func(n int) { // so that none is used twice
		t.Helper()
		for deadline := time.Now().Add(patience); f.upstream.opens() < n; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("the upstream has %d connections, not %d", f.upstream.opens(), n)
			}
		}
	}
	upload := f.dial().send(request("POST", "/public", "Content-Length: 100000") + noise(50_000))
	connections(2)
	idle := f.dial().send(get("/public"))
	if m := idle.read("GET"); m.content != "ok" {
		t.Fatal(m.raw)
	}
	connections(3)
	old := f.front.state.Load().router.all[1].upstream
	other := newOrigin(t)
	f.reload(func(s *Settings) { s.Routes = routes(other.address)[1:2]; s.Routes[0].Name = "renamed" })
	if n := old.kept(); n != 0 {
		t.Errorf("%d idle connections are kept", n)
	}
	if m := idle.send(get("/public")).read("GET"); m.content != "ok" || len(other.received()) != 1 {
		t.Errorf("after the reload: %q", m.raw)
	}
	finish()
	if m := stream.read("GET"); m.content != "okend" {
		t.Errorf("stream: %q", m.raw)
	}
	if m := upload.send(noise(100_000)[50_000:]).read("POST"); m.content != "ok" {
		t.Errorf("upload: %q", m.raw)
	}
	assertEnd(t, f.upstream)
	e := old.endpoints[0]
	if load, open := e.load.Load(), e.connections.Load(); load != 0 || open != 0 {
		t.Errorf("%d requests and %d connections are left", load, open)
	}
	for name, value := range f.metrics() { // of the route that is gone: what was counted stays, and nothing is in use
		if strings.HasPrefix(name, "postern_upstream_connections") && strings.Contains(name, f.upstream.address) {
			t.Errorf("%s is %v", name, value)
		}
	}
}

package proxy

import (
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
)

// tally is a meter that tells what it counted.
type tally struct {
	mu      sync.Mutex
	clients map[string]*figures
}

type figures struct {
	requests, in, out int64
	refused           []answer.Reason
}

func (m *tally) of(c *directory.Client) *figures {
	if m.clients == nil {
		m.clients = map[string]*figures{}
	}
	if m.clients[c.ID] == nil {
		m.clients[c.ID] = &figures{}
	}
	return m.clients[c.ID]
}

func (m *tally) Request(c *directory.Client, _ time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.of(c).requests++
}

func (m *tally) Content(c *directory.Client, _ time.Time, in, out int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.of(c)
	f.in, f.out = f.in+in, f.out+out
}

func (m *tally) Refused(c *directory.Client, _ time.Time, reason answer.Reason) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.of(c)
	f.refused = append(f.refused, reason)
}

// told is what was counted since reset: a client's letter, requests, bytes in and out, refusals.
func (m *tally) told() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var lines []string
	for id, f := range m.clients {
		lines = append(lines, fmt.Sprint(id[1:2], " ", f.requests, " ", f.in, " ", f.out, " ", f.refused))
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

func (m *tally) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.clients = nil
}

// comes waits until that was counted.
func (m *tally) comes(f *fixture, name, want string) {
	f.t.Helper()
	for deadline := time.Now().Add(2 * patience); m.told() != want; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("%s: counted %q, want %q", name, m.told(), want)
		}
	}
}

// TestMeter: whose request it is, what of its content came and went, and why it was refused.
func TestMeter(t *testing.T) {
	m := &tally{}
	f := start(t, deciding, func(o *Options) {
		o.Meter, o.Access = m, nil
		nobody := o.Routes[0]
		nobody.Name, nobody.Path, nobody.Upstream = "nobody", "/nobody", to("127.0.0.1:1")
		small := o.Routes[0]
		small.Name, small.Path, small.MaxBody = "small", "/small", 10
		o.Routes = append(o.Routes, nobody, small)
	})
	big := noise(200_000) // more than is buffered
	check := func(name, text, method string, status int, want string) {
		t.Helper()
		m.reset()
		c := f.dial().send(text)
		if got := c.read(method).status(); got != status {
			t.Errorf("%s: %d, want %d", name, got, status)
		}
		_ = c.Close()
		m.comes(f, name, want)
	}
	f.upstream.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, ok) })
	check("a request", get("/a", as(callerA)), "GET", 200, "a 1 0 2 []")
	check("its content", request("POST", "/a", as(callerB), "Content-Length: 5")+"12345", "POST", 200, "b 1 5 2 []")
	check("large content", request("POST", "/a", as(callerA), "Content-Length: 200000")+big, "POST", 200, "a 1 200000 2 []")
	check("chunks", request("POST", "/a", as(callerA), "Transfer-Encoding: chunked")+"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "POST", 200, "a 1 5 2 []")
	check("nobody knows whose", get("/public", as(callerA)), "GET", 200, "")
	check("no token", get("/a"), "GET", 401, "")
	check("scope", get("/scoped", as(callerA)), "GET", 403, "a 0 0 0 [insufficient_scope]")
	check("agreement", get("/a", as(callerLapsed)), "GET", 403, "c 0 0 0 [forbidden_agreement]")
	check("no upstream", get("/nobody", as(callerA)), "GET", 502, "a 1 0 0 [upstream_failed]")
	check("too large", request("POST", "/small", as(callerA), "Content-Length: 11")+"12345678901", "POST", 413, "a 1 0 0 [too_large]")
	check("a gateway's question", traefik("GET", "a", "/a", as(callerA)), "GET", 200, "a 1 0 0 []")
	check("refused to a gateway", traefik("GET", "a", "/scoped", as(callerA)), "GET", 403, "a 0 0 0 [insufficient_scope]")
	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n"+big)
	})
	check("a stream", get("/a", as(callerA)), "GET", 200, "a 1 0 200000 []")
}

// TestMeterGoesOn: what a stream and a WebSocket carry is counted as they go on.
func TestMeterGoesOn(t *testing.T) {
	m := &tally{}
	more := make(chan struct{})
	t.Run("stream", func(t *testing.T) {
		f := start(t, func(o *Options) { o.Meter, o.Access = m, nil })
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
			<-more
			_, _ = io.WriteString(c, "4\r\nrest\r\n0\r\n\r\n")
		})
		goOn := sync.OnceFunc(func() { close(more) })
		t.Cleanup(goOn)
		c := f.dial().send(get("/a", as(callerA)))
		m.comes(f, "the first bytes", "a 1 0 5 []")
		goOn()
		if m := c.read("GET"); m.content != "firstrest" {
			t.Errorf("content %q", m.content)
		}
		m.comes(f, "all", "a 1 0 9 []")
	})
	t.Run("WebSocket", func(t *testing.T) {
		f, p := startSockets(t, func(o *Options) { o.Meter, o.Access = m, nil })
		m.reset()
		c, end := f.open(p, socketRequest("/a", asA))
		m.comes(f, "opened", "a 1 0 0 []")
		c.send(masked("hello"))
		end.gets([]byte(masked("hello")))
		end.says("\x81\x02ok")
		c.gets([]byte("\x81\x02ok"))
		m.comes(f, "carried", "a 1 11 4 []")
	})
}

// masked is a client's text frame, with a mask of zeros.
func masked(text string) string {
	return "\x81" + string([]byte{0x80 | byte(len(text))}) + "\x00\x00\x00\x00" + text
}

package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"postern/answer"
)

// short makes every timeout of the front short, so that a stream outlives them all.
func short(o *Options) {
	o.ReadTimeout, o.WriteTimeout = shortTime, shortTime
	for i := range o.Routes {
		o.Routes[i].Timeout = shortTime
	}
}

const (
	shortTime = 4 * time.Second
	beat      = 450 * time.Millisecond // between two pieces: well below it
	beats     = 10                     // in all: well beyond it
)

// TestFirstBytesAreNotHeldBack: what the upstream has sent reaches the client while the
// upstream goes on.
func TestFirstBytesAreNotHeldBack(t *testing.T) {
	f := start(t)
	for name, text := range map[string]string{
		"chunked":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
		"until close": "HTTP/1.1 200 OK\r\n\r\nfirst",
	} {
		more := make(chan struct{})
		f.upstream.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, text); <-more; reset(c) })
		c := f.dial().send(get("/public"))
		_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
		var seen strings.Builder
		for !strings.Contains(seen.String(), "first") {
			b := make([]byte, 1000)
			n, err := c.Read(b)
			seen.Write(b[:n])
			if err != nil {
				t.Errorf("%s: %v after %q", name, err, seen.String())
				break
			}
		}
		close(more)
		_ = c.Close()
	}
	// Of a content with a length at least the head comes, and a whole buffer.
	more := make(chan struct{})
	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
		<-more
		reset(c)
	})
	c := f.dial().send(get("/public"))
	_ = c.SetReadDeadline(time.Now().Add(2 * time.Second))
	if line, err := c.r.line(); line != "HTTP/1.1 200 OK" {
		t.Errorf("length: %q, %v", line, err)
	}
	close(more)
	_ = c.Close()
}

// TestSteadyDownload: a route's timeout runs between bytes, and no timeout is total.
func TestSteadyDownload(t *testing.T) {
	piece := noise(10_000)
	for name, script := range map[string]struct{ head, piece, end string }{
		"length":      {"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", piece, ""},
		"chunked":     {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "2710\r\n" + piece + "\r\n", "0\r\n\r\n"},
		"until close": {"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", piece, ""},
		"small":       {"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "x", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, short)
			f.upstream.answers(func(c net.Conn, _ *message) {
				_, _ = io.WriteString(c, script.head)
				for range beats {
					time.Sleep(beat)
					_, _ = io.WriteString(c, script.piece)
				}
				_, _ = io.WriteString(c, script.end)
				if name == "until close" {
					_ = c.Close()
				}
			})
			m := f.ask(get("/public"))
			want := strings.Repeat(piece, beats)
			if name == "small" {
				want = "xxxxxxxxxx"
			}
			if m.content != want {
				t.Errorf("%d bytes of %d came", len(m.content), len(want))
			}
		})
	}
}

// TestSteadyUpload: content may take as long as it likes while it keeps coming, and the
// time to the answer runs from its end.
func TestSteadyUpload(t *testing.T) {
	g := func(name, framing string, piece, end string, content string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, short)
			c := f.dial().send(request("POST", "/public", framing))
			for range beats {
				time.Sleep(beat)
				c.send(piece)
			}
			time.Sleep(beat)
			m := c.send(end).read("POST")
			if m.content != "ok" {
				t.Errorf("answered %q", m.raw)
			}
			if got := f.upstream.received(); len(got) != 1 || got[0].content != content {
				t.Errorf("another content reached the upstream")
			}
			_ = c.Close()
		})
	}
	piece := noise(10_000)
	all := strings.Repeat(piece, beats)
	g("large", "Content-Length: 100000", piece, "", all)
	g("buffered", "Content-Length: 50000", piece[:5000], "", strings.Repeat(piece[:5000], beats))
	g("small", "Content-Length: 10", "x", "", "xxxxxxxxxx")
	g("chunked", "Transfer-Encoding: chunked", "2710\r\n"+piece+"\r\n", "0\r\n\r\n", all)
	g("dripping chunk", "Transfer-Encoding: chunked", "1\r\nx\r\n", "0\r\n\r\n", "xxxxxxxxxx")
}

// TestRow127SlowHeadAndContent: what stops coming is answered 408 and closed.
func TestRow127SlowHeadAndContent(t *testing.T) {
	f := start(t, func(o *Options) { o.ReadTimeout = 300 * time.Millisecond })
	late := refusal{408, answer.InvalidRequest, "", true}
	g := func(name string, sent string, drip bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c := f.dial().send(sent)
			stop, dripping := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(dripping)
				for drip {
					select {
					case <-stop:
						return
					case <-time.After(beat / 5):
						c.send("a")
					}
				}
			}()
			begun := time.Now()
			m := c.read("POST")
			if took := time.Since(begun); took < 200*time.Millisecond || took > patience {
				t.Errorf("took %v", took)
			}
			close(stop)
			<-dripping
			assertRefusal(t, m, "POST", late)
			if !c.closed() {
				t.Error("the connection stays open")
			}
			_ = c.Close()
		})
	}
	g("half a head", "GET /public HTTP/1.1\r\nHost: a\r\n", false)
	g("a head that drips", "GET /public HTTP/1.1\r\nHost: a\r\nX: ", true)
	g("no content", request("POST", "/public", "Content-Length: 10"), false)
	g("half a content", request("POST", "/public", "Content-Length: 10")+"12345", false)
	g("half a large content", request("POST", "/public", "Content-Length: 100000")+noise(50_000), false)
	g("half a chunked content", request("POST", "/public", "Transfer-Encoding: chunked")+"5\r\n12345\r\n", false)
	if got := f.upstream.received(); len(got) != 0 {
		t.Errorf("the upstream took %q for a whole request", got[0].raw)
	}
}

// TestIdleConnectionIsClosed: without a word, after IdleTimeout.
func TestIdleConnectionIsClosed(t *testing.T) {
	f := start(t, func(o *Options) { o.IdleTimeout = 200 * time.Millisecond })
	c := f.dial().send(get("/public"))
	c.read("GET")
	begun := time.Now()
	if !c.closed() || time.Since(begun) < 100*time.Millisecond || time.Since(begun) > 2*time.Second {
		t.Errorf("closed after %v", time.Since(begun))
	}
	_ = c.Close()
}

// TestRow129ClientGoesAway: the upstream's connection is closed at once when the client
// is seen to be gone, and at the latest when a deadline of it passes.
func TestRow129ClientGoesAway(t *testing.T) {
	f := start(t)
	gone := make(chan time.Time, 1)
	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		for {
			if _, err := io.WriteString(c, "1000\r\n"+strings.Repeat("z", 0x1000)+"\r\n"); err != nil {
				gone <- time.Now()
				return
			}
		}
	})
	g := func(name string, leave func(*connection)) {
		t.Helper()
		c := f.dial().send(get("/public"))
		_, _ = io.ReadFull(c, make([]byte, 100_000))
		left := time.Now()
		leave(c)
		select {
		case at := <-gone:
			if took := at.Sub(left); took > patience {
				t.Errorf("%s: after %v", name, took)
			}
		case <-time.After(2 * patience):
			t.Errorf("%s: the upstream goes on", name)
		}
		f.upstream.received()
	}
	g("mid-download", func(c *connection) { _ = c.Close() })
	g("mid-download, reset", func(c *connection) { reset(c.Conn) })

	// Mid-upload: the upstream sees the connection end within the content.
	f.upstream.answers(nil)
	for _, framing := range []string{"Content-Length: 1000000", "Transfer-Encoding: chunked"} {
		c := f.dial().send(request("POST", "/public", framing) + "186a0\r\n" + noise(100_000) + "\r\n")
		time.Sleep(20 * time.Millisecond)
		reset(c.Conn)
		deadline := time.Now().Add(2 * patience)
		for f.upstream.halves() == 0 && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
		}
		if f.upstream.halves() != 1 || len(f.upstream.received()) != 0 {
			t.Errorf("%s: the upstream took it for a whole request", framing)
		}
		f.upstream.forget()
	}
}

// TestRow129ClientLeavesAWaitingRequest: nothing comes from the upstream that could fail to be
// written, and still the client is missed, and the upstream told, within a second.
func TestRow129ClientLeavesAWaitingRequest(t *testing.T) {
	f := start(t, func(o *Options) {
		for i := range o.Routes {
			o.Routes[i].Timeout, o.Routes[i].Stall = time.Minute, time.Minute
		}
	})
	gone := make(chan time.Time, 1)
	g := func(name, request, says string) {
		t.Helper()
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, says)
			_, _ = io.Copy(io.Discard, c) // until it is closed
			gone <- time.Now()
		})
		c := f.dial().send(request)
		for len(f.upstream.received()) == 0 {
			time.Sleep(time.Millisecond)
		}
		left := time.Now()
		_ = c.Close()
		select {
		case at := <-gone:
			if took := at.Sub(left); took > 10*time.Second {
				t.Errorf("%s: after %v", name, took)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: the upstream goes on", name)
		}
	}
	g("no answer yet", get("/public"), "")
	g("no answer yet, POST", request("POST", "/public", "Content-Length: 2")+"hi", "")
	g("silent stream", get("/public"), "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n6\r\ndata:a\r\n")
	g("silent content", get("/public"), "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nabc")
}

// TestClientThatDoesNotRead: a client that takes nothing is cut off after the write
// timeout, not before a steady one would be, and the upstream is let go.
func TestClientThatDoesNotRead(t *testing.T) {
	f := start(t, func(o *Options) { o.WriteTimeout, o.Routes[1].Stall = 200*time.Millisecond, 200*time.Millisecond })
	gone := make(chan struct{})
	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		piece := []byte(noise(1 << 16))
		for {
			if _, err := c.Write(piece); err != nil {
				close(gone)
				return
			}
		}
	})
	c := f.dial().send(get("/public"))
	defer c.Close()
	select {
	case <-gone:
	case <-time.After(2 * patience):
		t.Error("the upstream still sends")
	}
}

func TestHTTP10ClientGetsNoChunks(t *testing.T) {
	f := start(t, brief)
	g := func(name, method, connection, upstream, content string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			f.upstream.hangsUpAfter(upstream)
			c := f.dial().send(method + " /public HTTP/1.0\r\nHost: api.test\r\n" + connection + "\r\n")
			m := c.read(method)
			if m.start != "HTTP/1.1 200 OK" || m.chunked || m.content != content || m.get("Transfer-Encoding") != "" || m.get("Connection") != "close" || m.get("X") != "1" {
				t.Errorf("answered %q", m.raw)
			}
			if !c.closed() {
				t.Error("the connection stays open")
			}
			_ = c.Close()
		})
	}
	chunked := "HTTP/1.1 200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n\r\n"
	large := noise(300_000)
	for _, connection := range []string{"", "Connection: keep-alive\r\n"} {
		g("chunked "+connection, "GET", connection, chunked+chunks("hello", 2), "hello")
		g("chunked, empty "+connection, "GET", connection, chunked+"0\r\n\r\n", "")
		g("chunked, large "+connection, "GET", connection, chunked+chunks(large, 10_000), large)
		g("until close "+connection, "GET", connection, "HTTP/1.1 200 OK\r\nX: 1\r\n\r\nhello", "hello")
	}
	g("HEAD", "HEAD", "", chunked, "")
	if got := f.metrics()["postern_requests_total{class=2xx,reason=ok,route=public}"]; got != 9 {
		t.Errorf("counted %v", got)
	}
	// In order behind what was pipelined before it.
	f.upstream.answers(nil)
	line := "GET /public HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n"
	c := f.dial()
	f.upstream.answers(func(c net.Conn, m *message) {
		if m.get("X-Last") == "" {
			_, _ = io.WriteString(c, ok)
			return
		}
		_, _ = io.WriteString(c, chunked+chunks("last", 2))
	})
	c.send(line + line + strings.Replace(line, "\r\n\r\n", "\r\nX-Last: 1\r\n\r\n", 1) + line)
	for _, want := range []string{"ok", "ok", "last"} {
		if m := c.read("GET"); m.content != want {
			t.Errorf("answered %q, want %q", m.raw, want)
		}
	}
	_ = c.Close()
	// A content that is not whole ends in a reset.
	f.upstream.hangsUpAfter(chunked + "2\r\nok\r\n")
	c = f.dial().send("GET /public HTTP/1.0\r\nHost: a\r\n\r\n")
	if m, err := c.r.answer("GET"); err == nil {
		t.Errorf("the answer looks whole: %q", m.raw)
	}
	_ = c.Close()
}

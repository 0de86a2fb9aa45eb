package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"postern/answer"
)

// brief makes the routes' timeout short enough to wait for.
func brief(o *Options) {
	for i := range o.Routes {
		o.Routes[i].Timeout, o.Routes[i].Stall = 400*time.Millisecond, 400*time.Millisecond
	}
}

// reset closes c so that its peer sees a reset, not an end.
func reset(c net.Conn) {
	_ = c.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// fails asserts that a request to a public route is answered with a failure of the
// upstream, that the client's connection goes on, and that the upstream's does not.
func (f *fixture) fails(name, request string, status int, reason answer.Reason) {
	f.t.Helper()
	f.t.(*testing.T).Run(name, func(t *testing.T) {
		t.Helper()
		counted := f.refusals(reason)
		method, _, _ := strings.Cut(request, " ")
		c := f.dial().send(request)
		defer c.Close()
		_, m := c.final(method)
		assertRefusal(t, m, method, refusal{status, reason, "", false})
		if got := f.refusals(reason); got != counted+1 {
			t.Errorf("%s was counted %v times", reason, got-counted)
		}
		f.upstream.received()
		f.upstream.answers(nil)
		opens := f.upstream.opens()
		if m := c.send(get("/public")).read("GET"); m.content != "ok" {
			t.Errorf("the next request was answered %q", m.raw)
		}
		if n := f.upstream.opens() - opens; n != 1 {
			t.Errorf("the next request opened %d connections", n)
		}
		f.upstream.received()
		// And the one after it would be on a kept connection: close it for the next fault.
		f.upstream.hangsUpAfter("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		c.send(get("/public")).read("GET")
		f.upstream.received()
	})
}

func TestUpstreamRefuses(t *testing.T) {
	f := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	for _, r := range f.front.state.Load().router.all {
		r.upstream.endpoints[0].address = l.Addr().String()
	}
	c := f.dial().send(get("/public"))
	assertRefusal(t, c.read("GET"), "GET", refusal{502, answer.UpstreamFailed, "", false})
	assertRefusal(t, c.send(request("POST", "/public", "Content-Length: 2")+"hi").read("POST"), "POST", refusal{502, answer.UpstreamFailed, "", false})
	closing := refusal{502, answer.UpstreamFailed, "", true}
	assertRefusal(t, c.send(request("POST", "/public", "Transfer-Encoding: chunked")+chunks("hi", 2)).read("POST"), "POST", closing)
	if !c.closed() {
		t.Error("the connection stays open though content is on it")
	}
	_ = c.Close()
}

func TestUpstreamDiesBeforeItsAnswer(t *testing.T) {
	f := start(t)
	for name, die := range map[string]func(net.Conn){
		"reset":       reset,
		"close":       func(c net.Conn) { _ = c.Close() },
		"half a head": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Le"); _ = c.Close() },
		"an interim":  func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); _ = c.Close() },
		"no content at all": func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
			_ = c.Close()
		},
		"half a content": func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12"); reset(c) },
	} {
		die := func(c net.Conn, _ *message) { die(c) }
		f.upstream.answers(die)
		f.fails(name, get("/public"), 502, answer.UpstreamFailed)
		f.upstream.answers(die)
		f.fails(name+", POST", request("POST", "/public", "Content-Length: 3")+"abc", 502, answer.UpstreamFailed)
	}
}

func TestUpstreamHangs(t *testing.T) {
	f := start(t, brief)
	hang := make(chan struct{})
	defer close(hang)
	for name, text := range map[string]string{
		"without a word": "", "within a head": "HTTP/1.1 200 OK\r\nConte", "behind an interim": "HTTP/1.1 100 Continue\r\n\r\n",
		"before content": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "within content": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n12",
	} {
		f.upstream.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, text); <-hang })
		begun := time.Now()
		f.fails(name, get("/public"), 504, answer.UpstreamTimeout)
		if took := time.Since(begun); took < 400*time.Millisecond || took > patience {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// TestUpstreamDiesWithinAStream: the head is out already. The client must see that the
// content is not whole: no last chunk, or fewer bytes than announced.
func TestUpstreamDiesWithinAStream(t *testing.T) {
	f := start(t, brief)
	hang := make(chan struct{})
	defer close(hang)
	g := func(name, head string, reason answer.Reason, end func(net.Conn)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			counted := f.metrics()["postern_requests_total{class=2xx,reason="+string(reason)+",route=public}"]
			f.upstream.answers(func(c net.Conn, _ *message) {
				_, _ = io.WriteString(c, head)
				end(c)
			})
			c := f.dial().send(get("/public"))
			m, err := c.r.answer("GET")
			if err == nil {
				t.Fatalf("the answer looks whole: %q", m.raw)
			}
			if !strings.HasPrefix(m.raw, "HTTP/1.1 200 OK\r\n") {
				t.Errorf("answered %q", m.raw)
			}
			if strings.Contains(m.raw, "\r\n0\r\n") || strings.Contains(m.raw, "upstream_") {
				t.Errorf("answered %q", m.raw)
			}
			_ = c.Close()
			f.upstream.answers(nil)
			if m := f.ask(get("/public")); m.content != "ok" {
				t.Errorf("the next request was answered %q", m.raw)
			}
			f.upstream.received()
			if got := f.metrics()["postern_requests_total{class=2xx,reason="+string(reason)+",route=public}"]; got != counted+1 {
				t.Errorf("%s was counted %v times", reason, got-counted)
			}
		})
	}
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	closed := func(c net.Conn) { _ = c.Close() }
	hangs := func(net.Conn) { <-hang }
	g("chunked, close", chunked+"2\r\nok\r\n", answer.UpstreamFailed, closed)
	g("chunked, reset", chunked+"2\r\nok\r\n", answer.UpstreamFailed, reset)
	g("chunked, within a chunk", chunked+"5\r\nok", answer.UpstreamFailed, closed)
	g("chunked, within the last chunk", chunked+"2\r\nok\r\n0\r\n", answer.UpstreamFailed, closed)
	g("chunked, hangs", chunked+"2\r\nok\r\n", answer.UpstreamTimeout, hangs)
	g("until close, reset", "HTTP/1.1 200 OK\r\n\r\nok", answer.UpstreamFailed, reset)
	g("until close, hangs", "HTTP/1.1 200 OK\r\n\r\nok", answer.UpstreamTimeout, hangs)
	g("length, close", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+noise(50_000), answer.UpstreamFailed, closed)
	g("length, hangs", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"+noise(50_000), answer.UpstreamTimeout, hangs)
	for _, bad := range []string{"0x2\r\nok\r\n", "2\nok\r\n", "2\r\nok\n", "2\r\nokk\r\n", "-2\r\nok\r\n", "\r\n", "g\r\n", "10000000000000000\r\nok", "2 2\r\nok\r\n", ";a\r\n", strings.Repeat("0", 40_000)} {
		g("bad chunk "+bad[:min(len(bad), 20)], chunked+bad, answer.UpstreamFailed, hangs)
	}
	g("trailer that is none", chunked+"0\r\n0\r\n\r\n", answer.UpstreamFailed, hangs)
	g("trailer without an end", chunked+"0\r\n"+strings.Repeat("X: 1\r\n", 101)+"\r\n", answer.UpstreamFailed, hangs)
}

func TestRow169MalformedAnswers(t *testing.T) {
	f := start(t)
	f.upstream.answers(nil)
	hang := make(chan struct{})
	defer close(hang)
	for name, text := range map[string]string{
		"CL and TE":           "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"TE and CL":           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok",
		"two lengths":         "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
		"a list of lengths":   "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
		"a signed length":     "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
		"an endless length":   "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok",
		"an empty length":     "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok",
		"TE gzip":             "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
		"TE identity":         "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok",
		"two TE":              "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"TE in HTTP/1.0":      "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"LF":                  "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
		"one LF":              "HTTP/1.1 200 OK\r\nContent-Length: 2\nX: 1\r\n\r\nok",
		"LF and then nothing": "HTTP/1.1 200 OK\r\nX: 1\n",
		"a bare CR":           "HTTP/1.1 200 OK\r\nX: 1\r2\r\nContent-Length: 2\r\n\r\nok",
		"a NUL":               "HTTP/1.1 200 OK\r\nX: 1\x002\r\nContent-Length: 2\r\n\r\nok",
		"a fold":              "HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\nContent-Length: 2\r\n\r\nok",
		"a space":             "HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
		"no colon":            "HTTP/1.1 200 OK\r\nX\r\nContent-Length: 2\r\n\r\nok",
		"no name":             "HTTP/1.1 200 OK\r\n: x\r\nContent-Length: 2\r\n\r\nok",
		"a large head":        "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", answerHead) + "\r\n\r\n",
		"a head without end":  "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: x\r\n", 50_000),
		"101":                 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
		"101 behind 100":      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n",
		"a flood of 1xx":      strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 10_000),
		"HTTP/2.0":            "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.2":            "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/0.9":            "<html>hello, this is no HTTP\r\n\r\n",
		"ICY":                 "ICY 200 OK\r\n\r\n",
		"status 0":            "HTTP/1.1 000 X\r\nContent-Length: 2\r\n\r\nok",
		"status 99":           "HTTP/1.1 099 X\r\nContent-Length: 2\r\n\r\nok",
		"status 20":           "HTTP/1.1 20 X\r\nContent-Length: 2\r\n\r\nok",
		"status 2000":         "HTTP/1.1 2000 X\r\nContent-Length: 2\r\n\r\nok",
		"status 2x0":          "HTTP/1.1 2x0 X\r\nContent-Length: 2\r\n\r\nok",
		"no status":           "HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
		"two spaces":          "HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
		"an empty line first": "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"lower case":          "http/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"TLS":                 "\x15\x03\x01\x00\x02\x02\x50\r\n\r\n",
	} {
		// It hangs behind what it said: what is wrong must be seen from that alone.
		f.upstream.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, text); <-hang })
		begun := time.Now()
		f.fails(name, get("/public"), 502, answer.UpstreamFailed)
		if took := time.Since(begun); took > time.Second {
			t.Errorf("%s: took %v", name, took)
		}
	}
}

// TestBytesNobodyAskedFor: what comes behind an answer must not be taken for the answer
// to the next request, which may be another client's.
func TestBytesNobodyAskedFor(t *testing.T) {
	f := start(t)
	evil := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	late := func(c net.Conn, text string) {
		_, _ = io.WriteString(c, text)
		time.Sleep(20 * time.Millisecond)
		_, _ = io.WriteString(c, evil)
	}
	for name, script := range map[string]func(net.Conn, *message){
		"at once":          func(c net.Conn, _ *message) { _, _ = io.WriteString(c, ok+evil) },
		"later":            func(c net.Conn, _ *message) { late(c, ok) },
		"content of a 304": func(c net.Conn, _ *message) { late(c, "HTTP/1.1 304 Not Modified\r\n\r\n") },
		"behind a chunked answer": func(c net.Conn, _ *message) {
			late(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
		},
		"a timeout of its own": func(c net.Conn, _ *message) { late(c, ok); _ = c.Close() },
	} {
		f.upstream.answers(script)
		opens := f.upstream.opens()
		c := f.dial().send(get("/public"))
		first := c.read("GET")
		f.upstream.answers(nil)
		time.Sleep(50 * time.Millisecond)
		for _, method := range []string{"GET", "POST"} {
			if m := c.send(request(method, "/public")).read(method); m.content != "ok" {
				t.Errorf("%s: after %q, %s was answered %q", name, first.start, method, m.raw)
			}
		}
		if f.upstream.opens()-opens < 1 {
			t.Errorf("%s: the connection was used again", name)
		}
		_ = c.Close()
	}
}

// TestRow170StaleConnections: the upstream closes a kept connection. What has no effect
// is sent once more on a new one; what may have one never is.
func TestRow170StaleConnections(t *testing.T) {
	f := start(t)
	warm := func() {
		t.Helper()
		f.upstream.answers(nil)
		f.ask(get("/public"))
		f.upstream.received()
	}
	die := func(c net.Conn, _ *message) { _ = c.Close() }
	// The origin takes the request on the kept connection and closes without a word: whether
	// it had an effect cannot be known.
	g := func(name, request string, sent int, status int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			warm()
			f.upstream.answers(func(c net.Conn, m *message) {
				f.upstream.answers(nil) // the next one is answered
				die(c, m)
			})
			m := f.ask(request)
			if m.status() != status {
				t.Errorf("answered %q, want %d", m.raw, status)
			}
			got := f.upstream.received()
			if len(got) != sent {
				t.Fatalf("sent %d times, want %d", len(got), sent)
			}
			if sent == 2 && (got[0].raw != got[1].raw || got[0].connection == got[1].connection) {
				t.Error("sent again, but otherwise or on the same connection")
			}
		})
	}
	g("GET", get("/public"), 2, 200)
	g("HEAD", request("HEAD", "/public"), 2, 200)
	g("OPTIONS", request("OPTIONS", "/public"), 2, 200)
	g("POST", request("POST", "/public", "Content-Length: 2")+"hi", 1, 502)
	g("POST without content", request("POST", "/public"), 1, 502)
	g("PUT", request("PUT", "/public", "Content-Length: 2")+"hi", 2, 200)
	g("DELETE", request("DELETE", "/public"), 2, 200)
	g("PATCH", request("PATCH", "/public"), 1, 502)
	g("GET with content", request("GET", "/public", "Content-Length: 2")+"hi", 2, 200)
	g("GET, chunked", request("GET", "/public", "Transfer-Encoding: chunked")+chunks("hi", 2), 1, 502)

	t.Run("once only", func(t *testing.T) {
		warm()
		f.upstream.answers(die)
		if m := f.ask(get("/public")); m.status() != 502 || len(f.upstream.received()) != 2 {
			t.Errorf("answered %q", m.raw)
		}
	})
	t.Run("not after the first byte of an answer", func(t *testing.T) {
		warm()
		f.upstream.hangsUpAfter("HTTP/1.1 2")
		if m := f.ask(get("/public")); m.status() != 502 || len(f.upstream.received()) != 1 {
			t.Errorf("answered %q", m.raw)
		}
	})
	t.Run("closed while it was idle", func(t *testing.T) {
		for _, method := range []string{"GET", "POST"} {
			f.upstream.hangsUpAfter(ok) // without saying so
			f.ask(get("/public"))
			time.Sleep(50 * time.Millisecond)
			f.upstream.answers(nil)
			f.upstream.received()
			if m := f.ask(request(method, "/public")); m.status() != 200 {
				t.Errorf("%s: answered %q", method, m.raw)
			}
			if n := len(f.upstream.received()); n != 1 {
				t.Errorf("%s: sent %d times", method, n)
			}
		}
	})
}

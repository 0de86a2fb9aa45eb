package proxy

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
)

const (
	early      = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
	processing = "HTTP/1.1 102 Processing\r\n\r\n"
)

// final returns the next answer that is no interim one, and what came before it, byte for byte.
func (c *connection) final(method string) (before string, m *message) {
	c.t.Helper()
	for {
		m = c.read(method)
		if status := m.status(); status >= 200 || status == 101 {
			return before, m
		}
		before += m.raw
	}
}

// hints asserts what a client reads before the final answer, byte for byte, when the
// upstream says interim before it, and that its connection is good for another request.
func (f *fixture) hints(name, request, interim, want string) {
	f.t.Helper()
	f.t.(*testing.T).Run(name, func(t *testing.T) {
		t.Helper()
		f.upstream.says(interim + ok)
		method, _, _ := strings.Cut(request, " ")
		if method == "HEAD" {
			f.upstream.says(interim + strings.TrimSuffix(ok, "ok"))
		}
		c := f.dial().send(request)
		defer c.Close()
		before, m := c.final(method)
		if before != want || m.start != "HTTP/1.1 200 OK" || method != "HEAD" && m.content != "ok" {
			t.Errorf("answered %q, then %q\nwant %q", before, m.raw, want)
		}
		if m.get("Connection") == "close" {
			return
		}
		f.upstream.answers(nil)
		if m := c.send(get("/public")).read("GET"); m.content != "ok" {
			t.Errorf("the next request was answered %q", m.raw)
		}
	})
}

func TestInterimAnswersArePassedOn(t *testing.T) {
	f := start(t)
	g := func(name, interim, want string) { t.Helper(); f.hints(name, get("/public"), interim, want) }
	g("103", early, early)
	g("102", processing, processing)
	g("several, in their order", early+processing+early, early+processing+early)
	g("100 is ours to say", "HTTP/1.1 100 Continue\r\nLink: </a>\r\n\r\n"+early+"HTTP/1.1 100 Continue\r\n\r\n", early)
	g("a status that nobody knows", "HTTP/1.1 199 X Y\r\n\r\n", "HTTP/1.1 199 X Y\r\n\r\n")
	g("an empty reason", "HTTP/1.1 103 \r\n\r\n", "HTTP/1.1 103 \r\n\r\n")
	g("no reason", "HTTP/1.1 103\r\n\r\n", "HTTP/1.1 103 \r\n\r\n")
	g("HTTP/1.0", "HTTP/1.0 103 Early Hints\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n")
	g("fields", "HTTP/1.1 103 Early Hints\r\nlink:</a>\t\r\nX-A:\r\nLINK:  </b>; rel=\"x\"  \r\nX: \xe9\r\nSet-Cookie: b=2\r\nSet-Cookie: a=1\r\n\r\n",
		"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nX-A: \r\nLink: </b>; rel=\"x\"\r\nX: \xe9\r\nSet-Cookie: b=2\r\nSet-Cookie: a=1\r\n\r\n")
	for _, dropped := range []string{
		"Connection: keep-alive", "Connection: close", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: X-Sum", "Upgrade: h2c",
		"Connection: X-Mine\r\nX-Mine: 1", "X-Mine: 1\r\nconnection: x-MINE , keep-alive", "Proxy-Authenticate: Basic",
		// Its framing is no framing: there is no content.
		"Content-Length: 0", "Content-Length: 2", "content-length: 5", "Transfer-Encoding: chunked", "Connection: content-length\r\nContent-Length: 9",
	} {
		g(dropped, "HTTP/1.1 103 Early Hints\r\n"+dropped+"\r\nLink: </a>\r\n\r\n", early)
	}
	f.hints("HEAD", request("HEAD", "/public"), early, early)
	f.hints("POST", request("POST", "/public", "Content-Length: 2")+"hi", processing, processing)
	f.hints("with a token", get("/a", as(callerA)), early, early)
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
	f.hints("the last request", get("/public", "Connection: close"), early, early)
	f.hints("HTTP/1.0", "GET /public HTTP/1.0\r\nHost: api.test\r\n\r\n", early+processing, "")
	f.hints("HTTP/1.0, kept", "GET /public HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", early+processing, "")
}

// TestInterimAnswersComeAtOnce: the upstream goes on when the client has them.
func TestInterimAnswersComeAtOnce(t *testing.T) {
	f := start(t)
	next := make(chan struct{})
	f.upstream.answers(func(c net.Conn, _ *message) {
		for _, text := range []string{early, processing, ok} {
			_, _ = io.WriteString(c, text)
			<-next
		}
	})
	c := f.dial().send(get("/public"))
	for _, want := range []string{early, processing, ok} {
		if m := c.read("GET"); m.raw != want {
			t.Errorf("got %q, want %q", m.raw, want)
		}
		next <- struct{}{}
	}
}

// TestInterimAnswersOfPipelinedRequests: each comes before its own final answer.
func TestInterimAnswersOfPipelinedRequests(t *testing.T) {
	f := start(t)
	f.upstream.answers(func(c net.Conn, m *message) {
		target := strings.Fields(m.start)[1]
		_, _ = io.WriteString(c, "HTTP/1.1 103 X\r\nLink: <"+target+">\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "+itoa(len(target))+"\r\n\r\n"+target)
	})
	targets := []string{"/public/1", "/public/22", "/public/333"}
	var all, want string
	for _, target := range targets {
		all += get(target)
		want += "HTTP/1.1 103 X\r\nLink: <" + target + ">\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: " + itoa(len(target)) + "\r\n\r\n" + target
	}
	f.dial().send(all).gets([]byte(want))
}

// TestInterimAnswersFollowTheRoute: what the route removes or says itself, no interim
// answer says; and nothing is added to one.
func TestInterimAnswersFollowTheRoute(t *testing.T) {
	r := &rooms{most: 1}
	f := limited(t, r, func(o *Options) {
		o.Routes[0].ResponseFields = []Field{remove("Server"), set("X-Api-Version", "1"), set("Strict-Transport-Security", "max-age=1")}
		o.Routes[0].CORS = &CORS{Origins: []string{"https://app.test"}}
	})
	upstream := "HTTP/1.1 103 X\r\nserver: a\r\nX-API-Version: 2\r\nAccess-Control-Allow-Origin: *\r\naccess-control-expose-headers: a\r\nRateLimit: a\r\nratelimit-policy: b\r\nLink: </a>\r\n\r\n"
	f.hints("rules", get("/a", as(callerA), "Origin: https://app.test"), upstream, "HTTP/1.1 103 X\r\nLink: </a>\r\n\r\n")
	f.hints("none", get("/public"), upstream, "HTTP/1.1 103 X\r\nServer: a\r\nX-Api-Version: 2\r\nAccess-Control-Allow-Origin: *\r\n"+
		"Access-Control-Expose-Headers: a\r\nRatelimit: a\r\nRatelimit-Policy: b\r\nLink: </a>\r\n\r\n")
	f.free(r, "after it")
	f.upstream.says(upstream + ok)
	_, m := f.dial().send(get("/a", as(callerA), "Origin: https://app.test")).final("GET")
	if m.get("X-Api-Version") != "1" || m.get("RateLimit") != `"rooms";r=0` || m.get("Access-Control-Allow-Origin") != "https://app.test" {
		t.Errorf("answered %q", m.raw)
	}
}

// TestMalformedInterimAnswers: not a byte of one is passed on, and none of what is behind it.
func TestMalformedInterimAnswers(t *testing.T) {
	f := start(t)
	hang := make(chan struct{})
	defer close(hang)
	g := func(name, upstream, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			f.upstream.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, upstream); <-hang })
			c := f.dial().send(get("/public"))
			defer c.Close()
			before, m := c.final("GET")
			if before != want {
				t.Errorf("%q was passed on, want %q", before, want)
			}
			assertRefusal(t, m, "GET", refusal{502, answer.UpstreamFailed, "", false})
			f.upstream.answers(nil)
			if m := c.send(get("/public")).read("GET"); m.content != "ok" {
				t.Errorf("the next request was answered %q", m.raw)
			}
		})
	}
	const line = "HTTP/1.1 103 Early Hints\r\n"
	for name, interim := range map[string]string{
		"LF":                     "HTTP/1.1 103 Early Hints\nLink: </a>\n\n",
		"one LF":                 line + "Link: </a>\nX: 1\r\n\r\n",
		"an LF in the line":      "HTTP/1.1 103 Early\nHints\r\n\r\n",
		"a bare CR":              line + "Link: a\rb\r\n\r\n",
		"a bare CR in the line":  "HTTP/1.1 103 Early\rHints\r\n\r\n",
		"two CR":                 "HTTP/1.1 103 Early Hints\r\r\n\r\n",
		"a fold":                 line + "Link: </a>\r\n ; rel=x\r\n\r\n",
		"a fold in the line":     line + " more\r\n\r\n",
		"a NUL":                  line + "Link: \x00\r\n\r\n",
		"a NUL in the line":      "HTTP/1.1 103 Early\x00Hints\r\n\r\n",
		"DEL in the line":        "HTTP/1.1 103 Early\x7fHints\r\n\r\n",
		"ESC in 100's line":      "HTTP/1.1 100 \x1b[31m\r\n\r\n",
		"a space":                line + "Link : </a>\r\n\r\n",
		"no colon":               line + "Link\r\n\r\n",
		"no name":                line + ": a\r\n\r\n",
		"CL and TE":              line + "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"two lengths":            line + "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
		"a length that is none":  line + "Content-Length: -1\r\n\r\n",
		"TE gzip":                line + "Transfer-Encoding: gzip\r\n\r\n",
		"status 1000":            "HTTP/1.1 1000 X\r\n\r\n",
		"status 10":              "HTTP/1.1 10 X\r\n\r\n",
		"status 1x3":             "HTTP/1.1 1x3 X\r\n\r\n",
		"status 103, then X":     "HTTP/1.1 103X\r\n\r\n",
		"two spaces":             "HTTP/1.1  103 X\r\n\r\n",
		"HTTP/2.0":               "HTTP/2.0 103 X\r\n\r\n",
		"HTTP/0.1":               "HTTP/0.1 103 X\r\n\r\n",
		"an empty line before":   "\r\n" + line + "\r\n",
		"a head that is large":   line + "Link: " + strings.Repeat("a", answerHead) + "\r\n\r\n",
		"101 that nobody wanted": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
	} {
		g(name, interim+ok, "")
		g(name+", behind a good one", early+interim+ok, early)
	}
	// What follows the empty line is the next head, whatever the fields say.
	g("content", line+"Content-Length: 5\r\n\r\nhello"+ok, line+"\r\n")
	g("chunks", line+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+ok, line+"\r\n")
	g("too many", strings.Repeat(processing, maxInterim+1)+ok, strings.Repeat(processing, maxInterim))
	g("too many that are dropped", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", maxInterim+1)+ok, "")
	f.hints("as many as allowed", get("/public"), strings.Repeat(processing, maxInterim), strings.Repeat(processing, maxInterim))
	large := line + "Link: " + strings.Repeat("a", 30_000) + "\r\n\r\n"
	f.hints("large ones", get("/public"), strings.Repeat(large, maxInterim), strings.Repeat(large, maxInterim))
}

// TestInterimAnswersAreNoAnswer: they prolong no timeout, and are in no record.
func TestInterimAnswersAreNoAnswer(t *testing.T) {
	f := start(t, brief)
	f.upstream.answers(func(c net.Conn, _ *message) {
		for {
			if _, err := io.WriteString(c, processing); err != nil {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
	})
	begun := time.Now()
	before, m := f.dial().send(get("/public")).final("GET")
	if before == "" || m.status() != 504 {
		t.Errorf("answered %q, then %q", before, m.raw)
	}
	if took := time.Since(begun); took < 400*time.Millisecond || took > patience {
		t.Errorf("took %v", took)
	}
	f.hints("200", get("/a", as(callerA)), early, early)
	if f.metrics()["postern_requests_total{class=2xx,reason=ok,route=api}"] != 1 {
		t.Errorf("metrics: %v", f.metrics())
	}
	for name := range f.metrics() {
		if strings.Contains(name, "1xx") {
			t.Errorf("counted: %s", name)
		}
	}
	lines := f.lines()
	if len(lines) != 3 || !strings.Contains(lines[1], `"status":200,"reason":"ok","upstream_status":200,`) || !strings.Contains(lines[1], `"bytes_out":2,`) {
		t.Errorf("access lines: %q", lines)
	}
}

// TestNoRetryAfterAnInterimAnswer: with it the upstream has begun, and the client has
// something of it, or could have.
func TestNoRetryAfterAnInterimAnswer(t *testing.T) {
	for _, interim := range []string{early, processing, "HTTP/1.1 100 Continue\r\n\r\n"} {
		other := newOrigin(t)
		f := start(t)
		f.reload(func(s *Settings) {
			o := Options{Settings: *s}
			balance(nil, f.upstream.address, other.address)(&o)
		})
		die := func(c net.Conn, _ *message) { _, _ = io.WriteString(c, interim); reset(c) }
		warm := func() {
			f.upstream.answers(nil)
			other.answers(nil)
			for f.upstream.opens() == 0 || other.opens() == 0 { // chance names the endpoint
				f.ask(get("/public"))
			}
			f.upstream.answers(die)
			other.answers(die)
			_, _ = f.upstream.received(), other.received()
		}
		warm()
		for range 2 { // on a kept connection, and on a new one
			_, m := f.dial().send(get("/public")).final("GET")
			if n := len(f.upstream.received()) + len(other.received()); m.status() != 502 || n != 1 {
				t.Errorf("%q: answered %q, and sent %d times", interim, m.raw, n)
			}
		}
	}
}

// TestClientIsSlowToTakeInterimAnswers: it gets as long as for any answer, at nobody
// else's expense.
func TestClientIsSlowToTakeInterimAnswers(t *testing.T) {
	large := "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("a", 32_000) + "\r\n\r\n"
	all := strings.Repeat(large, maxInterim) // more than the sockets between take
	narrow := func(f *fixture) *connection {
		c := f.dial()
		_ = c.Conn.(*net.TCPConn).SetReadBuffer(32 << 10)
		return c
	}
	t.Run("too slow", func(t *testing.T) {
		f := start(t, func(o *Options) { o.WriteTimeout = 200 * time.Millisecond })
		gone := make(chan struct{})
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, all)
			_, _ = c.Read(make([]byte, 1))
			close(gone)
		})
		c := narrow(f).send(get("/public"))
		select {
		case <-gone:
		case <-time.After(2 * patience):
			t.Fatal("the upstream still works for it")
		}
		// No refusal of ours stands in the place of what is lost.
		if rest, _ := io.ReadAll(c); strings.Contains(string(rest), "upstream") || !strings.HasPrefix(all, string(rest)) {
			t.Errorf("the client reads %.100q", rest)
		}
		if n := f.endpoints()[0].failures.Load(); n != 0 {
			t.Errorf("the upstream is blamed %d times", n)
		}
		if lines := f.lines(); len(lines) != 1 || !strings.Contains(lines[0], `"status":499,"reason":"invalid_request"`) {
			t.Errorf("access lines: %q", lines)
		}
	})
	t.Run("slow", func(t *testing.T) {
		const timeout = 1500 * time.Millisecond
		f := start(t, func(o *Options) { o.Routes[1].Timeout = timeout })
		taken := make(chan struct{})
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, all)
			<-taken
			time.Sleep(lookEvery + 200*time.Millisecond) // it works: well within what is left to it
			_, _ = io.WriteString(c, ok)
		})
		c := narrow(f).send(get("/public"))
		time.Sleep(timeout + 100*time.Millisecond)
		defer close(taken)
		c.gets([]byte(all))
		taken <- struct{}{}
		if m := c.read("GET"); m.content != "ok" {
			t.Errorf("answered %q", m.raw)
		}
	})
}

// startUpload is a front that streams content to an upstream, whose first connection serve
// has, with nothing read of it.
func startUpload(t *testing.T, serve func(net.Conn)) *fixture {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	serving.Go(func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		serve(c)
	})
	t.Cleanup(func() { _ = l.Close() })
	return start(t, func(o *Options) { o.Buffer, o.Routes = 1<<10, routes(l.Addr().String()) })
}

// TestInterimAnswersDuringAnUpload: an upstream may say 102 or 103 as soon as it has the
// head. The client gets them, and it gets all content nevertheless.
func TestInterimAnswersDuringAnUpload(t *testing.T) {
	whole := noise(200_000)
	chunks := strings.Repeat("3e8\r\n"+whole[:1000]+"\r\n", 200) + "0\r\n\r\n"
	// Between two pieces of what the upstream says comes a piece of the content, as soon as
	// the client has seen as much as is whole.
	f := func(name, framing, content string, pieces ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			received, say := make(chan int, 1), make(chan string, len(pieces))
			f := startUpload(t, func(c net.Conn) {
				go func() {
					for text := range say {
						_, _ = io.WriteString(c, text)
					}
				}()
				m, err := newRecorder(c).request()
				if err != nil {
					received <- -1
					return
				}
				received <- len(m.content)
				_, _ = io.WriteString(c, processing+ok)
				_, _ = c.Read(make([]byte, 1))
			})
			defer close(say)
			c := f.dial().send(request("POST", "/public", framing))
			part := len(content) / (len(pieces) + 1)
			said, seen := "", ""
			for i, piece := range pieces {
				c.send(content[i*part : (i+1)*part])
				say <- piece
				said += piece
				for whole := strings.LastIndex(said, "\r\n\r\n") + 1; len(seen) < whole; {
					seen += c.read("POST").raw
				}
			}
			c.send(content[len(pieces)*part:])
			before, m := c.final("POST")
			if seen+before != said+processing || m.status() != 200 || m.content != "ok" {
				t.Errorf("answered %q, %q, then %q", seen, before, m.raw)
			}
			if n := <-received; n != 200_000 {
				t.Errorf("the upstream has %d bytes of the content", n)
			}
		})
	}
	split := strings.SplitAfter(early, "1")
	for name, framing := range map[string]string{"length": "Content-Length: 200000", "chunks": "Transfer-Encoding: chunked"} {
		content := map[string]string{"length": whole, "chunks": chunks}[name]
		f(name, framing, content, early)
		f(name+", several", framing, content, early+processing, early, processing)
		f(name+", in pieces", framing, content, slices.Concat(split, []string{processing + split[0], strings.Join(split[1:], "")})...)
	}
}

// drip is a connection whose peer sends byte by byte, with no pause that is worth a wait.
type drip struct {
	net.Conn
	text string
}

func (d *drip) Read(p []byte) (int, error) {
	time.Sleep(100 * time.Microsecond)
	n := copy(p[:1], d.text)
	d.text = d.text[n:]
	return n, nil
}

func (*drip) SetReadDeadline(time.Time) error { return nil }

// TestInterimAnswerThatDrips: a head that takes seconds to come holds up nobody's upload.
func TestInterimAnswerThatDrips(t *testing.T) {
	c := newUpstreamConn(&drip{text: "HTTP/1.1 103 Early Hints\r\nLink: " + strings.Repeat("a", answerHead)})
	if _, err := c.reader.Peek(1); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := c.interrupted(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > lookEvery {
		t.Errorf("it held the upload up for %v", took)
	}
}

// TestTooManyInterimAnswersDuringAnUpload: the bound is for all of a request.
func TestTooManyInterimAnswersDuringAnUpload(t *testing.T) {
	next := make(chan int, 1)
	f := startUpload(t, func(c net.Conn) {
		for n := range next {
			_, _ = io.WriteString(c, strings.Repeat(processing, n))
		}
		_, _ = io.Copy(io.Discard, c)
	})
	defer close(next)
	c := f.dial().send(request("POST", "/public", "Content-Length: 200000"))
	for range 4 {
		next <- maxInterim / 4
		c.send(noise(1000)).gets([]byte(strings.Repeat(processing, maxInterim/4)))
	}
	next <- 1
	if m := c.read("POST"); m.status() != 502 || !c.closed() {
		t.Errorf("answered %q", m.raw)
	}
}

func TestInterimAnswersBeforeAWebSocket(t *testing.T) {
	f, p := startSockets(t)
	c := f.dial().send(socketRequest("/ws", asA))
	end := p.next()
	end.says(early + switched)
	if before, m := c.final("GET"); before != early || m.status() != 101 {
		t.Fatalf("answered %q, then %q", before, m.raw)
	}
	c.send("\x81\x80abcd")
	end.gets([]byte("\x81\x80abcd"))
	end.says("\x81\x02hi")
	c.gets([]byte("\x81\x02hi"))
}

// TestEarlyHintsByNetHTTP: both ends are net/http's.
func TestEarlyHintsByNetHTTP(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Add("Link", "</a.css>; rel=preload")
		w.Header().Add("Link", "</b.js>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/plain")
		w.WriteHeader(http.StatusProcessing)
		_, _ = io.WriteString(w, "done")
	}))
	defer upstream.Close()
	f := start(t, func(o *Options) { o.Routes = routes(upstream.Listener.Addr().String()) })
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 2 {
		var codes []int
		var links []string
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			codes, links = append(codes, code), append(links, header["Link"]...)
			return nil
		}}
		r, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), "GET", "http://"+f.address+"/public", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if err != nil || res.StatusCode != 200 || string(content) != "done" {
			t.Errorf("answered %d %q, %v", res.StatusCode, content, err)
		}
		if !slices.Equal(codes, []int{103, 102}) || len(links) != 4 || links[0] != "</a.css>; rel=preload" || links[1] != "</b.js>; rel=preload" {
			t.Errorf("before it came %v with %q", codes, links)
		}
	}
}

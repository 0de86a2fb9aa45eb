package proxy

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/token"
)

// socketKey and socketAccept are RFC 6455's own (§1.3).
const (
	socketKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	socketAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

const switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + socketAccept + "\r\n\r\n"

// socketRequest is a handshake with this target and more fields.
func socketRequest(target string, fields ...string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: " + socketKey +
		"\r\nSec-WebSocket-Version: 13\r\n" + strings.Join(append(fields, ""), "\r\n") + "\r\n"
}

const asA = "Authorization: Bearer token.of.a"

// socketPeer is an upstream that records one request and then does what the test says. It reads
// nothing by itself behind the head.
type socketPeer struct {
	t     *testing.T
	l     net.Listener
	taken chan *socketEnd
}

// socketEnd is the upstream's end of one connection.
type socketEnd struct {
	*net.TCPConn
	t       *testing.T
	r       *recorder
	request *message
}

// sockets starts a front whose routes have WebSockets, and an upstream. change may set what the test is about.
func startSockets(t *testing.T, change ...func(*Options)) (*fixture, *socketPeer) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &socketPeer{t: t, l: l, taken: make(chan *socketEnd, 8)}
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(4 * patience))
			end := &socketEnd{TCPConn: c.(*net.TCPConn), t: t, r: newRecorder(c)}
			if end.request, err = end.r.request(); err != nil {
				_ = c.Close()
				continue
			}
			p.taken <- end
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		accepting.Wait()
	})
	enable := func(o *Options) {
		o.Routes = routes(l.Addr().String())
		for i := range o.Routes {
			o.Routes[i].WebSocket = WebSocket{Enabled: true, Idle: patience}
		}
	}
	return start(t, append([]func(*Options){enable}, change...)...), p
}

// next is the connection that the front opened for a request.
func (p *socketPeer) next() *socketEnd {
	p.t.Helper()
	select {
	case end := <-p.taken:
		p.t.Cleanup(func() { _ = end.Close() })
		return end
	case <-time.After(2 * patience):
		p.t.Fatal("the upstream got no request")
		return nil
	}
}

// nothing: no request came.
func (p *socketPeer) nothing() {
	p.t.Helper()
	select {
	case end := <-p.taken:
		_ = end.Close()
		p.t.Errorf("the upstream got %q", end.request.raw)
	default:
	}
}

func (e *socketEnd) says(text string) *socketEnd {
	e.t.Helper()
	if _, err := io.WriteString(e, text); err != nil {
		e.t.Fatal(err)
	}
	return e
}

func (e *socketEnd) gets(want []byte) {
	e.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(e.r, got); err != nil || !bytes.Equal(got, want) {
		e.t.Fatalf("%v: got %.60q, want %.60q", err, got[:n], want)
	}
}

func (c *connection) gets(want []byte) {
	c.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.r, got); err != nil || !bytes.Equal(got, want) {
		c.t.Fatalf("%v: got %.60q, want %.60q", err, got[:n], want)
	}
}

// closedWith expects one Close frame with this code and the end behind it.
func closedWith(t *testing.T, r io.Reader, masked bool, code uint16) {
	t.Helper()
	all, err := io.ReadAll(r)
	if err != nil || !isClose(all, masked, code) {
		t.Errorf("%v: got %x, want a Close frame with %d, masked %v", err, all, code, masked)
	}
}

// open makes a WebSocket by this request, which its upstream takes.
func (f *fixture) open(p *socketPeer, request string) (*connection, *socketEnd) {
	f.t.Helper()
	c := f.dial().send(request)
	end := p.next().says(switched)
	if m := c.read("GET"); m.status() != 101 || m.get("Sec-WebSocket-Accept") != socketAccept || m.get("Upgrade") != "websocket" || m.get("Connection") != "Upgrade" {
		f.t.Fatalf("got %q", m.raw)
	}
	return c, end
}

func (f *fixture) eventually(what string, holds func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(2 * patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("not in time: %s; %v", what, f.metrics())
		}
	}
}

func (f *fixture) socketsClosed(route string, why ending) func() bool {
	return func() bool {
		m := f.metrics()
		return m["postern_websockets_closed_total{reason="+string(why)+",route="+route+"}"] == 1 && m["postern_websockets{route="+route+"}"] == 0
	}
}

func TestRow130WebSocketToken(t *testing.T) {
	f, p := startSockets(t)
	g := func(name, request string, status int, code answer.Reason) {
		t.Helper()
		m := f.ask(request)
		if m.status() != status || !strings.Contains(m.content, `"code":"`+string(code)+`"`) || m.get("Upgrade") != "" || m.get("Sec-WebSocket-Accept") != "" {
			t.Errorf("%s: got %q", name, m.raw)
		}
		p.nothing()
	}
	g("no token", socketRequest("/"), 401, answer.MissingToken)
	g("bad token", socketRequest("/", "Authorization: Bearer token.of.nobody"), 401, answer.InvalidToken)
	g("expired token", socketRequest("/", "Authorization: Bearer "+tokenExpired), 401, answer.InvalidToken)
	g("our fault", socketRequest("/", "Authorization: Bearer "+tokenStore), 503, answer.Unavailable)
	g("agreement over", socketRequest("/", "Authorization: Bearer "+callerLapsed.token), 403, answer.ForbiddenAgreement)

	c, end := f.open(p, socketRequest("/chat?room=1", asA, "X-Client-Id: evil", "Origin: https://anywhere.example"))
	r := end.request
	if r.start != "GET /chat?room=1 HTTP/1.1" || r.get("X-Client-Id") != callerA.client || r.get("X-Organization-Id") != callerA.organization ||
		r.get("Authorization") != "" || r.get("Upgrade") != "websocket" || r.get("Connection") != "Upgrade" ||
		r.get("Sec-WebSocket-Key") != socketKey || r.get("Sec-WebSocket-Version") != "13" || r.get("Origin") != "https://anywhere.example" {
		t.Errorf("the upstream got %q", r.raw)
	}
	if n := f.metrics()["postern_websockets{route=api}"]; n != 1 {
		t.Errorf("%v WebSockets are open", n)
	}
	_ = c.Close()
	f.eventually("closed by the client", f.socketsClosed("api", endClient))
	lines := f.lines()
	if last := lines[len(lines)-1]; !strings.Contains(last, `"path":"/chat"`) || !strings.Contains(last, `"status":101,"reason":"ok"`) || !strings.Contains(last, callerA.client) {
		t.Errorf("the access line is %s", last)
	}
}

func TestRow131WebSocketUpstreamRefuses(t *testing.T) {
	f, p := startSockets(t)
	c := f.dial().send(socketRequest("/", asA))
	end := p.next().says("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Why: no\r\n\r\nno")
	if m := c.read("GET"); m.status() != 403 || m.content != "no" || m.get("X-Why") != "no" || m.get("Upgrade") != "" || m.get("Connection") != "" {
		t.Errorf("got %q", m.raw)
	}
	// Both connections serve on.
	c.send("GET /next HTTP/1.1\r\nHost: a\r\n" + asA + "\r\n\r\n")
	r, err := end.r.request()
	if err != nil || r.start != "GET /next HTTP/1.1" {
		t.Fatalf("%v: the upstream got %q", err, r.raw)
	}
	end.says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	if m := c.read("GET"); m.status() != 200 {
		t.Errorf("got %q", m.raw)
	}
}

func TestRow132WebSocketBytesBeforeTheAnswer(t *testing.T) {
	f, p := startSockets(t)
	early := rawFrame(0x81, 0, true, "too early")
	c := f.dial().send(socketRequest("/", asA) + string(early[:4]))
	end := p.next()
	c.send(string(early[4:]))
	_ = end.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	if b, err := end.r.ReadByte(); err == nil {
		t.Fatalf("the upstream got %x before its answer", b)
	}
	_ = end.SetReadDeadline(time.Now().Add(patience))
	late := rawFrame(0x81, 0, false, "at once")
	end.says(switched + string(late))
	if m := c.read("GET"); m.status() != 101 {
		t.Fatalf("got %q", m.raw)
	}
	c.gets(late)
	end.gets(early)
}

// TestRow133OtherUpgrades are ignored: the request is forwarded without.
func TestRow133OtherUpgrades(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		o.Routes[1].WebSocket = WebSocket{} // public
	})
	g := func(name, request string) {
		t.Helper()
		c := f.dial().send(request)
		end := p.next()
		if r := end.request; r.get("Upgrade") != "" || r.get("Connection") != "" || r.get("HTTP2-Settings") != "" {
			t.Errorf("%s: the upstream got %q", name, r.raw)
		}
		end.says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		if m := c.read("GET"); m.status() != 200 {
			t.Errorf("%s: got %q", name, m.raw)
		}
		_ = end.Close()
	}
	good := socketRequest("/", asA)
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %q", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	g("h2c", "GET / HTTP/1.1\r\nHost: a\r\n"+asA+"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
	g("h2c beside", replace("Upgrade: websocket", "Upgrade: websocket, h2c"))
	g("h2c first", replace("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"))
	g("no Connection", replace("Connection: Upgrade\r\n", ""))
	g("Connection close", replace("Connection: Upgrade", "Connection: close"))
	g("no key", replace("Sec-WebSocket-Key: "+socketKey+"\r\n", ""))
	g("short key", replace(socketKey, "dGhlIHNhbXBsZQ=="))
	g("long key", replace(socketKey, "dGhlIHNhbXBsZSBub25jZWE="))
	g("no base64", replace(socketKey, "dGhlIHNhbXBsZSBub25jZ!=="))
	g("two keys", replace("Sec-WebSocket-Version", "Sec-WebSocket-Key: "+socketKey+"\r\nSec-WebSocket-Version"))
	g("nominated key", replace("Connection: Upgrade", "Connection: Upgrade, Sec-WebSocket-Key"))
	g("other version", replace("Version: 13", "Version: 8"))
	g("two versions", replace("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13"))
	g("POST", replace("GET ", "POST "))
	g("HTTP/1.0", replace("HTTP/1.1", "HTTP/1.0"))
	g("with content", replace("Sec-WebSocket-Version", "Content-Length: 1\r\nSec-WebSocket-Version")+"x")
	g("not on this route", socketRequest("/public/x"))
	g("case does not matter", replace("Version: 13", "Version: 12")) // the control: only the version is wrong

	c := f.dial().send(strings.NewReplacer("Upgrade: websocket", "uPGRADE: WebSocket", "Connection: Upgrade", "connection: keep-alive, uPgRaDe", "Sec-WebSocket", "sec-websocket").Replace(good))
	p.next().says(switched)
	if m := c.read("GET"); m.status() != 101 {
		t.Errorf("got %q", m.raw)
	}
}

func TestRow134WebSocketAnswerDoesNotFit(t *testing.T) {
	f, p := startSockets(t)
	g := func(name, reply string, want int, fields ...string) {
		t.Helper()
		c := f.dial().send(socketRequest("/", append(fields, asA)...))
		end := p.next().says(reply)
		if m := c.read("GET"); m.status() != want || want == 502 && !strings.Contains(m.content, "upstream_failed") || want != 502 && m.status() != 101 {
			t.Errorf("%s: got %q", name, m.raw)
		}
		if want == 502 {
			if _, err := io.Copy(io.Discard, end.r); err != nil {
				t.Errorf("%s: the upstream's connection is not closed: %v", name, err)
			}
		}
	}
	replace := func(old, new string) string { return strings.Replace(switched, old, new, 1) }
	sum := sha1.Sum([]byte("AAAAAAAAAAAAAAAAAAAAAA==" + acceptSuffix))
	chat := "Sec-WebSocket-Protocol: chat, superchat"
	deflate := "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
	with := func(field string) string { return replace("Connection", field+"\r\nConnection") }
	g("as it should be", switched, 101)
	g("another key's", replace(socketAccept, base64.StdEncoding.EncodeToString(sum[:])), 502)
	g("no accept", replace("Sec-WebSocket-Accept: "+socketAccept+"\r\n", ""), 502)
	g("two", with("Sec-WebSocket-Accept: "+socketAccept), 502)
	g("no upgrade", replace("Upgrade: websocket\r\n", ""), 502)
	g("another upgrade", replace("Upgrade: websocket", "Upgrade: h2c"), 502)
	g("no connection", replace("Connection: Upgrade\r\n", ""), 502)
	g("protocol", with("Sec-WebSocket-Protocol: superchat"), 101, chat)
	g("protocol of the second line", with("Sec-WebSocket-Protocol: superchat"), 101, "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: superchat")
	g("protocol that nobody offered", with("Sec-WebSocket-Protocol: other"), 502, chat)
	g("protocol in another case", with("Sec-WebSocket-Protocol: Chat"), 502, chat)
	g("two protocols", with("Sec-WebSocket-Protocol: chat, superchat"), 502, chat)
	g("protocol unasked", with("Sec-WebSocket-Protocol: chat"), 502)
	g("empty protocol", with("Sec-WebSocket-Protocol: "), 502)
	g("extension", with("Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover"), 101, deflate)
	g("extension that nobody offered", with("Sec-WebSocket-Extensions: permessage-deflate, bbf-usp-protocol"), 502, deflate)
	g("extension unasked", with("Sec-WebSocket-Extensions: permessage-deflate"), 502)
	g("101 to a request like any", "HTTP/1.1 101 Switching Protocols\r\n\r\n", 502)
	c := f.dial().send("GET / HTTP/1.1\r\nHost: a\r\n" + asA + "\r\n\r\n")
	sum = sha1.Sum([]byte(acceptSuffix)) // what fits a handshake without a key
	p.next().says(replace(socketAccept, base64.StdEncoding.EncodeToString(sum[:])))
	if m := c.read("GET"); m.status() != 502 {
		t.Errorf("a 101 that nobody asked for: %q", m.raw)
	}
}

func TestRow135WebSocketBytesIdentical(t *testing.T) {
	f, p := startSockets(t)
	c, end := f.open(p, socketRequest("/", asA))
	up := bytes.Join(append(shapes(true), rawFrame(0x88, 0, true, "\x0f\xa3a close of ours")), nil)
	down := bytes.Join(append(shapes(false), rawFrame(0x88, 0, false, "\x03\xf3")), nil)
	var moving sync.WaitGroup
	moving.Go(func() { _, _ = c.Write(up) })
	moving.Go(func() { _, _ = end.Write(down) })
	moving.Go(func() { end.gets(up) })
	c.gets(down)
	moving.Wait()
	_ = end.Close()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		t.Errorf("%v: %x behind the Close", err, rest)
	}
}

func TestRow136WebSocketTokenEnds(t *testing.T) {
	g := func(name string, errs error, closed bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			var now atomic.Pointer[error]
			f, p := startSockets(t, func(o *Options) { o.Verifier = changing{o.Verifier, &now} })
			c, end := f.open(p, socketRequest("/", asA))
			now.Store(&errs)
			if closed {
				closedWith(t, c.r, false, 1008)
				closedWith(t, end.r, true, 1008)
				f.eventually("closed", f.socketsClosed("api", endInvalid))
				return
			}
			time.Sleep(2 * socketLook)
			end.says("still here")
			c.gets([]byte("still here"))
		})
	}
	g("expired", token.Expired, true)
	g("revoked", token.Revoked, true)
	g("store away: our own fault", tokenStoreAway(), false)
}

func tokenStoreAway() error {
	_, err := tokens{}.Verify([]byte(tokenStore), time.Time{})
	return err
}

// changing is a verifier that says something else once it is told to.
type changing struct {
	Verifier
	now *atomic.Pointer[error]
}

func (v changing) Verify(raw []byte, now time.Time) (directory.Principal, error) {
	if err := v.now.Load(); err != nil {
		return directory.Principal{}, *err
	}
	return v.Verifier.Verify(raw, now)
}

func TestRow137WebSocketOrigin(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		for i := range o.Routes {
			o.Routes[i].WebSocket.Origins = []string{"https://app.example.com", "http://localhost:3000"}
		}
	})
	g := func(want int, fields ...string) {
		t.Helper()
		c := f.dial().send(socketRequest("/", append(fields, asA)...))
		if want == 101 {
			p.next().says(switched)
		}
		m := c.read("GET")
		if m.status() != want || want == 403 && (!strings.Contains(m.content, `"code":"invalid_request"`) || strings.Contains(m.raw, "evil")) {
			t.Errorf("%q: got %q", fields, m.raw)
		}
		p.nothing()
	}
	g(101, "Origin: https://app.example.com")
	g(101, "Origin: http://localhost:3000")
	g(101) // no browser
	for _, bad := range []string{"https://evil.example", "http://app.example.com", "https://app.example.com:444", "https://app.example.com.evil.example", "null", ""} {
		g(403, "Origin: "+bad)
	}
	g(403, "Origin: https://app.example.com", "Origin: https://evil.example")
	g(403, "Origin: https://evil.example", "Origin: https://app.example.com")
}

func TestRow138WebSocketEnds(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		o.Routes[1].WebSocket.Idle = 100 * time.Millisecond    // public
		o.Routes[4].WebSocket.Lifetime = 50 * time.Millisecond // read
	})
	c, end := f.open(p, socketRequest("/pass/half", asA))
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	closedWith(t, end.r, true, 1001)
	closedWith(t, c.r, false, 1001)
	f.eventually("half-close", f.socketsClosed("pass", endClient))

	c, end = f.open(p, socketRequest("/public/idle"))
	closedWith(t, c.r, false, 1001)
	closedWith(t, end.r, true, 1001)
	f.eventually("idle", f.socketsClosed("public", endIdle))

	c, end = f.open(p, socketRequest("/read", asA))
	closedWith(t, c.r, false, 1001)
	closedWith(t, end.r, true, 1001)
	f.eventually("lifetime", f.socketsClosed("read", endLifetime))

	c, end = f.open(p, socketRequest("/", asA))
	begun := time.Now()
	if err := f.stop(); err != nil {
		t.Error(err)
	}
	closedWith(t, c.r, false, 1001)
	closedWith(t, end.r, true, 1001)
	if took := time.Since(begun); took > 10*closeWithin {
		t.Errorf("the drain took %s", took)
	}
	if !f.socketsClosed("api", endDrain)() {
		t.Errorf("%v", f.metrics())
	}
	for _, r := range f.front.state.Load().router.all {
		for _, e := range r.upstream.endpoints {
			if n, open := e.load.Load(), e.connections.Load(); n != 0 || open != 0 {
				t.Errorf("%s: %d requests, %d connections are left", r.Name, n, open)
			}
		}
	}
}

// TestWebSocketTokenPlaces: where a browser, which cannot set Authorization, may put its token, and that the upstream does
// not see it there.
func TestWebSocketTokenPlaces(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		o.Routes[0].WebSocket.Query, o.Routes[0].WebSocket.Subprotocol = "t", "bearer."
		o.Routes[1].WebSocket.Query, o.Routes[1].WebSocket.Subprotocol = "t", "bearer."
	})
	g := func(name, target, forwarded, protocols string, fields ...string) {
		t.Helper()
		c := f.dial().send(socketRequest(target, fields...))
		end := p.next()
		if r := end.request; r.start != "GET "+forwarded+" HTTP/1.1" || r.get("Sec-WebSocket-Protocol") != protocols ||
			strings.HasPrefix(target, "/public") == (r.get("X-Client-Id") != "") || !strings.HasPrefix(target, "/public") && strings.Contains(r.raw, "token.of") {
			t.Errorf("%s: the upstream got %q", name, r.raw)
		}
		end.says(switched)
		if m := c.read("GET"); m.status() != 101 || strings.Contains(m.raw, "token.of") {
			t.Errorf("%s: got %q", name, m.raw)
		}
	}
	g("Authorization", "/x?a=1", "/x?a=1", "", asA)
	g("query alone", "/x?t=token.of.a", "/x", "")
	g("query first", "/x?t=token.of.a&a=1&b", "/x?a=1&b", "")
	g("query in the middle", "/x?a=1&t=token.of.a&b=%20", "/x?a=1&b=%20", "")
	g("query last, odd separators", "/x?a;b;&c=1;t=token.of.a", "/x?a;b;&c=1", "")
	g("query, name encoded", "/x?a=1&%74=token.of.a", "/x?a=1", "")
	g("query, like it", "/x?tt=1&t=token.of.a&T=2", "/x?tt=1&T=2", "")
	g("subprotocol first", "/x", "/x", "chat, superchat", "Sec-WebSocket-Protocol: bearer.token.of.a, chat,superchat")
	g("subprotocol last", "/x", "/x", "chat, superchat", "Sec-WebSocket-Protocol: chat,superchat ,bearer.token.of.a")
	g("subprotocol in lines", "/x", "/x", "chat, superchat", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Protocol: bearer.token.of.a", "Sec-WebSocket-Protocol: superchat")
	g("subprotocols as they are", "/x", "/x", "chat,superchat AND third", asA, "Sec-WebSocket-Protocol: chat,superchat", "Sec-WebSocket-Protocol: third")
	g("public: not ours", "/public?t=token.of.a", "/public?t=token.of.a", "bearer.x", "Sec-WebSocket-Protocol: bearer.x")

	bad := func(name, target string, status int, fields ...string) {
		t.Helper()
		m := f.ask(socketRequest(target, fields...))
		if m.status() != status || strings.Contains(m.raw, "token.of") || status == 401 != strings.Contains(m.raw, "_token") {
			t.Errorf("%s: got %q", name, m.raw)
		}
		p.nothing()
	}
	bad("Authorization and query", "/x?t=token.of.a", 400, asA)
	bad("Authorization and subprotocol", "/x", 400, asA, "Sec-WebSocket-Protocol: bearer.token.of.a, chat")
	bad("query and subprotocol", "/x?t=token.of.a", 400, "Sec-WebSocket-Protocol: bearer.token.of.a, chat")
	bad("two in the query", "/x?t=token.of.a&t=token.of.b", 400)
	bad("two subprotocols", "/x", 400, "Sec-WebSocket-Protocol: bearer.token.of.a, bearer.token.of.b, chat")
	bad("also as access_token", "/x?t=token.of.a&access_token=token.of.a", 400)
	bad("empty", "/x?t=", 400)
	bad("no value", "/x?t", 400)
	bad("encoded token", "/x?t=token%2Eof%2Ea", 400)
	bad("subprotocol without any other", "/x", 400, "Sec-WebSocket-Protocol: bearer.token.of.a")
	bad("bad token in the query", "/x?t=nobody", 401)
	bad("bad token in a subprotocol", "/x", 401, "Sec-WebSocket-Protocol: bearer.nobody, chat")
	bad("the parameter of another route", "/read?t=token.of.a", 401)
	if m := f.ask("GET /x?t=token.of.a HTTP/1.1\r\nHost: a\r\n\r\n"); m.status() != 401 {
		t.Errorf("a token in the query of a request like any: %q", m.raw)
	}
	p.nothing()
	for _, line := range f.lines() {
		if strings.Contains(line, "token.of") {
			t.Errorf("a token is in the access line %s", line)
		}
	}
	if strings.Contains(f.log.String(), "token.of") {
		t.Errorf("a token is in the log")
	}
}

// TestWebSocketAnswerHead: what the upstream says beside the handshake goes on, but for what concerns its connection.
func TestWebSocketAnswerHead(t *testing.T) {
	f, p := startSockets(t)
	c := f.dial().send(socketRequest("/", asA))
	p.next().says(strings.Replace(switched, "Connection: Upgrade", "Connection: Upgrade, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nX-Node: 7\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d", 1))
	m := c.read("GET")
	if m.start != "HTTP/1.1 101 Switching Protocols" || m.get("X-Node") != "7" || m.get("Set-Cookie") != "a=b AND c=d" || m.get("X-Hop") != "" ||
		m.get("Keep-Alive") != "" || m.get("Connection") != "Upgrade" || m.get("Content-Length") != "" || m.get("Date") != "" || m.get("Server") != "" {
		t.Errorf("got %q", m.raw)
	}
}

// TestWebSocketRouteRules: a route's rules hold for its handshakes as for any request.
func TestWebSocketRouteRules(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		r := &o.Routes[0]
		r.Path, r.StripPrefix, r.AddPrefix, r.Access, r.WebSocket.Query = "/v1", "/v1", "/internal", Optional, "t"
		r.RequestFields = []Field{{Name: "X-Key", Value: "ours"}}
		r.ResponseFields = []Field{{Name: "X-Node", Remove: true}, {Name: "X-Front", Value: "1"}}
		o.Routes[4].Scopes = []string{"admin"} // read
	})
	g := func(target, client string) {
		t.Helper()
		c := f.dial().send(socketRequest(target, "X-Key: theirs"))
		end := p.next()
		if r := end.request; r.start != "GET /internal/chat?a=1 HTTP/1.1" || r.get("X-Key") != "ours" || r.get("X-Client-Id") != client {
			t.Errorf("%s: the upstream got %q", target, r.raw)
		}
		end.says(strings.Replace(switched, "Connection", "X-Node: 7\r\nConnection", 1))
		if m := c.read("GET"); m.status() != 101 || m.get("X-Node") != "" || m.get("X-Front") != "1" {
			t.Errorf("%s: got %q", target, m.raw)
		}
	}
	g("/v1/chat?a=1", "")
	g("/v1/chat?a=1&t=token.of.a", callerA.client)
	for target, status := range map[string]int{"/v1/chat?t=nobody": 401, "/v1/chat?t=" + callerLapsed.token: 403} {
		if m := f.ask(socketRequest(target)); m.status() != status {
			t.Errorf("%s: got %q", target, m.raw)
		}
	}
	if m := f.ask(socketRequest("/read", asA)); m.status() != 403 || !strings.Contains(m.content, "insufficient_scope") {
		t.Errorf("without the scope: %q", m.raw)
	}
	p.nothing()
}

// TestWebSocketOutlivesTimeouts: the deadlines of a request are none of a WebSocket's.
func TestWebSocketOutlivesTimeouts(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		o.ReadTimeout, o.IdleTimeout, o.WriteTimeout = 150*time.Millisecond, 150*time.Millisecond, 150*time.Millisecond
		for i := range o.Routes {
			o.Routes[i].Timeout, o.Routes[i].Stall = 150*time.Millisecond, 150*time.Millisecond
		}
	})
	c, end := f.open(p, socketRequest("/", asA))
	time.Sleep(time.Second)
	end.says("down")
	c.gets([]byte("down"))
	c.send("up")
	end.gets([]byte("up"))
}

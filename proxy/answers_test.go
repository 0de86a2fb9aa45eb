package proxy

import (
	"slices"
	"strings"
	"testing"
)

// passed sorts the fields of a message by name, case folded; those of one name keep
// their order.
func passed(m *message) (lines []string) {
	fields := slices.Clone(m.fields)
	slices.SortStableFunc(fields, func(a, b line) int { return strings.Compare(strings.ToLower(a.name), strings.ToLower(b.name)) })
	for _, l := range fields {
		lines = append(lines, strings.ToLower(l.name)+": "+l.value)
	}
	return lines
}

// answers asserts what comes of an upstream's answer: status line, fields (sorted, in
// lower case) and content, and that the client's connection is good for another request.
func (f *fixture) answers(name, method, upstream, start, content string, fields ...string) {
	f.t.Helper()
	f.t.(*testing.T).Run(name, func(t *testing.T) {
		t.Helper()
		f.upstream.says(upstream)
		c := f.dial().send(request(method, "/public"))
		defer c.Close()
		m := c.read(method)
		if m.start != start || m.content != content || !slices.Equal(passed(m), fields) {
			t.Errorf("answered %q\n%q\n%q\nwant %q\n%q\n%q", m.start, passed(m), m.content, start, fields, content)
		}
		if len(m.trailer) > 0 {
			t.Errorf("trailer %q", m.trailer)
		}
		f.upstream.answers(nil)
		if m := c.send(get("/public")).read("GET"); m.content != "ok" {
			t.Errorf("the next request was answered %q", m.raw)
		}
	})
}

func TestAnswersAreForwardedAsTheyCame(t *testing.T) {
	f := start(t)
	const line = "HTTP/1.1 200 OK"
	f.answers("nothing but a length", "GET", line+"\r\nContent-Length: 2\r\n\r\nok", line, "ok", "content-length: 2")
	f.answers("no fields", "GET", line+"\r\nContent-Length: 0\r\n\r\n", line, "", "content-length: 0")
	f.answers("reason", "GET", "HTTP/1.1 200 Yes, Sir\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 Yes, Sir", "", "content-length: 0")
	f.answers("another status", "GET", "HTTP/1.1 599 X\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 599 X", "", "content-length: 0")
	f.answers("401 of the upstream's own", "GET", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Negotiate\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 401 Unauthorized", "x",
		"content-length: 1", "www-authenticate: Negotiate")
	f.answers("cookies", "GET", line+"\r\nSet-Cookie: b=2; Path=/\r\nSet-Cookie: a=1\r\nset-cookie: b=3; HttpOnly\r\nSet-Cookie: b=2; Path=/\r\nContent-Length: 0\r\n\r\n", line, "",
		"content-length: 0", "set-cookie: b=2; Path=/", "set-cookie: a=1", "set-cookie: b=3; HttpOnly", "set-cookie: b=2; Path=/")
	f.answers("Date, Server and Content-Type are the upstream's", "GET",
		line+"\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nServer: own/1\r\nContent-Type: text/x; charset=y\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok", line, "ok",
		"content-encoding: gzip", "content-length: 2", "content-type: text/x; charset=y", "date: Mon, 01 Jan 2001 00:00:00 GMT", "server: own/1")
	f.answers("duplicates and obs-text", "GET", line+"\r\nVary: a\r\nX: \xe9\r\nvary: b\r\nLink: <a>\r\nLink: <b>\r\nX-Request-Id: theirs\r\nVia: 1.1 x\r\nContent-Length: 0\r\n\r\n", line, "",
		"content-length: 0", "link: <a>", "link: <b>", "vary: a", "vary: b", "via: 1.1 x", "x: \xe9", "x-request-id: theirs")
	f.answers("empty values", "GET", line+"\r\nX:\r\nY: \r\nContent-Length: 0\r\n\r\n", line, "", "content-length: 0", "x: ", "y: ")
	f.answers("CORS and caching", "GET", line+"\r\nAccess-Control-Allow-Origin: *\r\nETag: W/\"a\"\r\nCache-Control: max-age=1\r\nAge: 3\r\nContent-Length: 0\r\n\r\n", line, "",
		"access-control-allow-origin: *", "age: 3", "cache-control: max-age=1", "content-length: 0", `etag: W/"a"`)
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

func TestAnswersWithoutContent(t *testing.T) {
	f := start(t)
	f.answers("HEAD with a length", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 1234567\r\nContent-Type: a/b\r\n\r\n", "HTTP/1.1 200 OK", "", "content-length: 1234567", "content-type: a/b")
	f.answers("HEAD with 0", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK", "", "content-length: 0")
	f.answers("HEAD chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.1 200 OK", "", "transfer-encoding: chunked")
	f.answers("HEAD 404", "HEAD", "HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", "HTTP/1.1 404 Not Found", "", "content-length: 9")
	f.answers("204", "GET", "HTTP/1.1 204 No Content\r\nX: 1\r\n\r\n", "HTTP/1.1 204 No Content", "", "x: 1")
	f.answers("204 with a length of 0", "DELETE", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 No Content", "")
	f.answers("304", "GET", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", "HTTP/1.1 304 Not Modified", "", `etag: "a"`)
	f.answers("304 with a length", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n", "HTTP/1.1 304 Not Modified", "", "content-length: 99")
	f.answers("HEAD without a length", "HEAD", "HTTP/1.1 200 OK\r\nX: 1\r\n\r\n", "HTTP/1.1 200 OK", "", "x: 1")
}

func TestAnswersOfUnknownLength(t *testing.T) {
	f := start(t)
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
	f.answers("chunked", "GET", chunked+"\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK", "ok", "transfer-encoding: chunked")
	f.answers("chunked, empty", "GET", chunked+"\r\n0\r\n\r\n", "HTTP/1.1 200 OK", "", "transfer-encoding: chunked")
	f.answers("chunked with extensions and odd sizes", "GET", chunked+"\r\n1;a=b\r\no\r\n001 ;x\r\nk\r\n0A\r\n0123456789\r\n0000\r\n\r\n", "HTTP/1.1 200 OK", "ok0123456789", "transfer-encoding: chunked")
	f.answers("chunked with a trailer", "GET", chunked+"Trailer: X-Sum, Y\r\nConnection: keep-alive\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", "HTTP/1.1 200 OK", "ok", "transfer-encoding: chunked")
	f.answers("chunked, large", "GET", chunked+"\r\n"+strings.Repeat("1000\r\n"+strings.Repeat("z", 0x1000)+"\r\n", 100)+"0\r\n\r\n", "HTTP/1.1 200 OK",
		strings.Repeat("z", 100*0x1000), "transfer-encoding: chunked")
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
	f.closing("until close", "HTTP/1.1 200 OK\r\nX: 1\r\n\r\nok", "ok", "transfer-encoding: chunked", "x: 1")
	f.closing("until close, empty", "HTTP/1.1 200 OK\r\n\r\n", "", "transfer-encoding: chunked")
	f.closing("until close, large", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"+strings.Repeat("z", 300_000), strings.Repeat("z", 300_000), "transfer-encoding: chunked")
	f.closing("HTTP/1.0", "HTTP/1.0 200 OK\r\nServer: old\r\n\r\nok", "ok", "server: old", "transfer-encoding: chunked")
	f.closing("HTTP/1.0 with a length", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "ok", "content-length: 2")
	f.closing("HTTP/1.0 keep-alive", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok", "ok", "content-length: 2")
	f.closing("close with a length", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", "ok", "content-length: 2")
}

// closing is answers for an upstream that closes behind its answer: the client's
// connection stays open.
func (f *fixture) closing(name, upstream, content string, fields ...string) {
	f.t.Helper()
	f.t.(*testing.T).Run(name, func(t *testing.T) {
		t.Helper()
		opens := f.upstream.opens()
		f.upstream.hangsUpAfter(upstream)
		c := f.dial().send(get("/public"))
		defer c.Close()
		m := c.read("GET")
		if m.start != "HTTP/1.1 200 OK" || m.content != content || !slices.Equal(passed(m), fields) {
			t.Errorf("answered %q\n%q\n%q", m.start, passed(m), m.content)
		}
		f.upstream.answers(nil)
		if m := c.send(get("/public")).read("GET"); m.content != "ok" {
			t.Errorf("the next request was answered %q", m.raw)
		}
		if n := f.upstream.opens() - opens; n < 1 {
			t.Error("the connection that was closed was used again")
		}
	})
}

func TestRow096UpstreamUnauthorized(t *testing.T) {
	f := start(t)
	f.upstream.says("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"theirs\"\r\nContent-Length: 3\r\n\r\nno!")
	m := f.ask(get("/a", as(callerA)))
	if m.start != "HTTP/1.1 401 Unauthorized" || m.content != "no!" || !slices.Equal(passed(m), []string{"content-length: 3", `www-authenticate: Bearer realm="theirs"`}) {
		t.Errorf("answered %q", m.raw)
	}
	if f.refusals("missing_token")+f.refusals("invalid_token") != 0 || f.metrics()["postern_requests_total{class=4xx,reason=ok,route=api}"] != 1 {
		t.Errorf("metrics: %v", f.metrics())
	}
	f.ask(get("/a"))
	lines := f.lines()
	if !strings.Contains(lines[0], `"status":401,"reason":"ok","upstream_status":401,`) || !strings.Contains(lines[1], `"status":401,"reason":"missing_token","duration_ms"`) {
		t.Errorf("access lines: %q", lines)
	}
}

func TestRow097HopByHopFieldsOfAnAnswer(t *testing.T) {
	f := start(t)
	const line = "HTTP/1.1 200 OK"
	for _, dropped := range []string{
		"Connection: keep-alive", "Keep-Alive: timeout=5", "keep-alive: timeout=5, max=9", "Proxy-Connection: keep-alive", "TE: trailers", "Trailer: X-Sum", "trailer: a, b",
		"Upgrade: h2c", "Connection: upgrade\r\nUpgrade: websocket", "Connection: X-Mine\r\nX-Mine: 1", "X-Mine: 1\r\nconnection: x-MINE , keep-alive", "Connection: keep-alive\r\nConnection: x-mine\r\nX-Mine: 1\r\nx-mine: 2",
		"Connection: Set-Cookie, Content-Type, Server, Date\r\nSet-Cookie: a=b\r\nContent-Type: a/b\r\nServer: x\r\nDate: y", "Connection: content-length, ,", "Proxy-Authenticate: Basic",
	} {
		f.answers(dropped, "GET", line+"\r\nX-Kept: 1\r\n"+dropped+"\r\nContent-Length: 2\r\n\r\nok", line, "ok", "content-length: 2", "x-kept: 1")
	}
	f.answers("Connection nominates the framing", "GET", line+"\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", line, "ok", "transfer-encoding: chunked")
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

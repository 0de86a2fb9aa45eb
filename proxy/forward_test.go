package proxy

import (
	"slices"
	"strings"
	"testing"
)

// TestRequestFieldsAreForwardedAsTheyCame: order, duplicates, names and values, and
// nothing that the client did not send.
func TestRequestFieldsAreForwardedAsTheyCame(t *testing.T) {
	f := start(t)
	g := func(name string, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			f.forwards(get("/a", append(slices.Clone(fields), as(callerA))...), wire("GET /a", "api.test", &callerA, "", fields...))
		})
	}
	g("none")
	g("cookies", "Cookie: b=2; a=1", "Cookie: c=3", "cookie: a=1; a=2", "Cookie: not a pair;;=")
	g("User-Agent", "User-Agent: one", "X: 1", "User-Agent: two", "user-agent: ")
	g("Content-Type", "Content-Type: text/plain", "Content-Type: application/json", "content-type: a")
	g("multipart", "Content-Type: multipart/form-data; boundary=x")
	g("Accept", "Accept: */*", "Accept-Encoding: gzip", "Accept: a;q=0.1, b", "accept: c")
	g("odd case", "x-lower: 1", "X-UPPER: 2", "x-MiXeD: 3", "X-Lower: 4", "ETAG: 5")
	g("obs-text", "X-Latin: caf\xe9", "X-Utf8: caf\xc3\xa9 \xf0\x9f\x8e\xb5", "X: \x80\xff")
	g("inner blanks", "X: a \t b", "Y: a  b", "Z: ,,; =\"\\\"\"")
	g("empty values", "X: ", "Y: ", "X: ")
	g("the same name many times", strings.Split(strings.Repeat("X-Many: v\n", 90), "\n")[:90]...)
	g("conditional and range", "If-None-Match: \"a\", W/\"b\"", "If-Modified-Since: x", "Range: bytes=0-1", "If-Range: \"a\"")
	g("browser", "Origin: null", "Referer: http://a/?token", "Sec-Fetch-Mode: cors", "Upgrade-Insecure-Requests: 1", "Access-Control-Request-Method: PUT")
	g("traces", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=b")
	g("names alike", "Host2: a", "Content-Length2: 3", "X-Connection: close", "Proxied: 1", "Authorizations: 1", "Forwarding: 1", "Vias: 1", "Expects: 1", "Trailers: 1", "Upgraded: 1")
	// Blanks around a value are no part of it (RFC 9110 §5.5).
	f.forwards(get("/a", "X:none", "Y: \t  both \t ", as(callerA)), wire("GET /a", "api.test", &callerA, "", "X: none", "Y: both"))
	f.forwards("GET /a HTTP/1.1\r\nX-Request-Id:test\r\nX: 1\r\nhOsT:api.test\r\n"+as(callerA)+"\r\n\r\n", wire("GET /a", "api.test", &callerA, "", "X: 1"))
}

func TestMethodsAreForwarded(t *testing.T) {
	f := start(t)
	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "get", "Post"} {
		f.forwards(request(method, "/a", as(callerA)), wire(method+" /a", "api.test", &callerA, ""))
		f.forwards(request(method, "/a", as(callerA), "Content-Length: 0"), wire(method+" /a", "api.test", &callerA, "Content-Length: 0"))
		f.forwards(request(method, "/a", as(callerA), "Content-Length: 4")+"body", wire(method+" /a", "api.test", &callerA, "Content-Length: 4")+"body")
	}
	f.upstream.says("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
	if m := f.ask(request("HEAD", "/a", as(callerA))); m.status() != 200 {
		t.Errorf("HEAD: %q", m.raw)
	}
	f.received(wire("HEAD /a", "api.test", &callerA, ""))
}

// TestConnectionsAreReused: many requests of several clients, one connection.
func TestConnectionsAreReused(t *testing.T) {
	f := start(t)
	for range 10 {
		f.forwards(get("/a", as(callerA)), wire("GET /a", "api.test", &callerA, ""))
		f.forwards(request("POST", "/a", as(callerB), "Content-Length: 2")+"hi", wire("POST /a", "api.test", &callerB, "Content-Length: 2")+"hi")
	}
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestRequestsDoNotMix: what one request left in the buffers is in no other.
func TestRequestsDoNotMix(t *testing.T) {
	f := start(t)
	c := f.dial()
	for i := range 50 {
		who := []caller{callerA, callerB}[i%2]
		mark := strings.Repeat(string(rune('a'+i%26)), 1+i*37%900)
		m := c.send(request("PUT", "/"+mark, "X-Mark: "+mark, as(who), "Content-Length: "+itoa(len(mark))) + mark).read("PUT")
		if m.content != "ok" {
			t.Fatalf("answered %q", m.raw)
		}
		f.received(wire("PUT /"+mark, "api.test", &who, "Content-Length: "+itoa(len(mark)), "X-Mark: "+mark) + mark)
		if m := c.send(get("/", "Authorization: Bearer bad")).read("GET"); m.status() != 401 {
			t.Fatalf("answered %q", m.raw)
		}
		if m := c.send(get("/public")).read("GET"); m.status() != 200 {
			t.Fatalf("answered %q", m.raw)
		}
		f.received(wire("GET /public", "api.test", nil, ""))
	}
	_ = c.Close()
}

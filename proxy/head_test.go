package proxy

import (
	"strings"
	"testing"

	"postern/answer"
)

func TestRow092FieldNames(t *testing.T) {
	f := start(t)
	for _, l := range []string{
		"X Y: 1", "X-Organization Id: evil", "Content Length: 5", " X: 1", "\tX: 1", ": 1", ":", "X\x00: 1", "X\x7f: 1", "X\xe9: 1", "X(: 1",
		"X/Y: 1", "X\"Y: 1", "X@Y: 1", "X[Y: 1", "X{Y: 1", "X,Y: 1", "X;Y: 1", "X=Y: 1", "X", "X Y", "X: 1\x00", "X : 1", "X\t: 1", "Host : a", "Content-Length : 5",
		"Transfer-Encoding : chunked", "Authorization : " + callerB.token,
	} {
		f.refuses(l, get("/public", "A: b", l, "C: d"), shortB)
	}
	f.refuses("first line", "GET /public HTTP/1.1\r\n X: 1\r\nHost: a\r\n\r\n", shortB)
	token := "!#$%&'*+-.^_`|~0aZ: odd"
	f.forwards(get("/public", token), wire("GET /public", "api.test", nil, "", token))
}

func TestRow093ControlCharactersInValues(t *testing.T) {
	f := start(t)
	for c := range 256 {
		value := "a" + string([]byte{byte(c)}) + "b"
		switch {
		case c == '\n': // bare LF: row 116
		case c == '\t' || c >= ' ' && c != 0x7f:
			f.forwards(get("/public", "X: "+value), wire("GET /public", "api.test", nil, "", "X: "+value))
		default:
			f.refuses(strings.ToUpper(value), get("/public", "X: "+value), shortB)
		}
	}
	f.refuses("CR at the end", get("/public", "X: a\r"), shortB)
	f.refuses("CR at the start", get("/public", "X:\ra"), shortB)
}

func TestRow094ObsFold(t *testing.T) {
	f := start(t)
	f.refuses("space", get("/public", "X: a\r\n b"), shortB)
	f.refuses("tab", get("/public", "X: a\r\n\tb"), shortB)
	f.refuses("only blanks", get("/public", "X: a\r\n  "), shortB)
	f.refuses("empty first", get("/public", "X:\r\n a"), shortB)
	f.refuses("Transfer-Encoding", request("POST", "/public", "Transfer-Encoding:\r\n chunked")+"0\r\n\r\n", shortB)
	f.refuses("Content-Length", request("POST", "/public", "Content-Length:\r\n 1")+"1", shortB)
	f.refuses("Authorization", get("/a", "Authorization: Bearer\r\n "+callerA.token), shortB)
	f.refuses("behind the last", "GET /public HTTP/1.1\r\nHost: a\r\n \r\n\r\n", shortB)
}

func TestRow095LargeHead(t *testing.T) {
	f := start(t)
	large := refusal{431, answer.InvalidRequest, "", true}
	f.refuses("17 KiB in one field", get("/public", "X: "+strings.Repeat("a", 17<<10)), large)
	f.refuses("17 KiB in 90 fields", get("/public", strings.Split(strings.Repeat("X: "+strings.Repeat("a", 190)+"\n", 90), "\n")[:90]...), large)
	f.refuses("17 KiB in a name", get("/public", strings.Repeat("a", 17<<10)+": a"), large)
	f.refuses("1 MiB", get("/public", "X: "+strings.Repeat("a", 1<<20)), large)
	rest := len(get("/public", "X: "))
	exactly := "X: " + strings.Repeat("a", 16<<10-rest)
	f.forwards(get("/public", exactly), wire("GET /public", "api.test", nil, "", exactly))
	f.refuses("one byte more", get("/public", exactly+"a"), large)

	// Host and X-Request-Id are two of the hundred.
	var fields []string
	for range 98 {
		fields = append(fields, "X: 1")
	}
	f.forwards(get("/public", fields...), wire("GET /public", "api.test", nil, "", fields...))
	f.refuses("101 fields", get("/public", append(fields, "X: 1")...), large)
	f.refuses("101 fields that are dropped", get("/public", append(fields, "Via: 1")...), large)
	f.refuses("1000 fields", get("/public", strings.Split(strings.Repeat("X:\n", 1000), "\n")[:1000]...), large)
}

func TestRow116BareLF(t *testing.T) {
	f := start(t)
	head := get("/public", "A: b", "C: d")
	for i := range head {
		if head[i] == '\r' {
			f.refuses(head[:i], head[:i]+head[i+1:], shortB)
			f.refuses(head[:i]+", another request behind it", head[:i]+head[i+1:]+head, shortB)
		}
	}
	f.refuses("between value bytes", get("/public", "A: b\nC: d"), shortB)
	f.refuses("an empty line", get("/public", "A: b\r\n\nC: d"), shortB)
	f.refuses("the whole head, another request behind it", strings.ReplaceAll(head, "\r\n", "\n")+head, shortB)
	f.refuses("no CRLF CRLF ever", strings.ReplaceAll(head, "\r\n", "\n"), shortB)
	f.refuses("an LF ends the request line", strings.Replace(head, "\r\n", "\n", 1), shortB)
	f.refuses("an LF in front", "\n"+head, shortB)
	f.refuses("an empty line in front", "\r\n"+head, shortB)
	f.refuses("two empty lines in front", "\r\n\r\n"+head, shortB)
}

func TestRow117Host(t *testing.T) {
	f := start(t)
	line := "GET /public HTTP/1.1\r\n"
	f.refuses("none", line+"\r\n", shortB)
	f.refuses("none but a field", line+"X: 1\r\n\r\n", shortB)
	f.refuses("none, absolute-form", "GET http://api.test/public HTTP/1.1\r\nX: 1\r\n\r\n", shortB)
	f.refuses("two", line+"Host: a\r\nHost: b\r\n\r\n", shortB)
	f.refuses("two equal ones", line+"Host: a\r\nhost: a\r\n\r\n", shortB)
	f.refuses("two, HTTP/1.0", "GET /public HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", shortB)
	for _, host := range []string{
		"", "a b", "a,b", "a/b", "a?b", "a#b", "a\\b", "a@b", "a:b", "a:80:80", "a:123456", "a:-1", ":80", ".", ".a", "a..b", "%61", "a%00", "[::1", "::1", "[::1]a",
		"[::1]:x", "[fe80::1%25eth0]", "[fe80::1%eth0]", "[v1.a]", "[]", "[1.2.3.4]", "ä.test", "a\tb", `a"b`, "a;b", "a<b>", "a$b", "a|b", strings.Repeat("a", 256),
	} {
		f.refuses("bad "+host, line+"Host: "+host+"\r\n\r\n", shortB)
		if host != "" {
			f.refuses("bad, HTTP/1.0 "+host, "GET /public HTTP/1.0\r\nHost: "+host+"\r\n\r\n", shortB)
		}
	}
	for _, host := range []string{"a", "A.Test", "a.", "a:80", "a:", "a:65535", "127.0.0.1:1", "[::1]", "[::1]:80", "[2001:DB8::1]", "a_b-c.d", strings.Repeat("a", 255)} {
		head := line + "Host: " + host + "\r\nX-Request-Id: test\r\n\r\n"
		f.forwards(head, wire("GET /public", host, nil, ""))
	}
}

func TestRow118Versions(t *testing.T) {
	f := start(t)
	want := refusal{505, answer.InvalidRequest, "", true}
	for _, version := range []string{"HTTP/2.0", "HTTP/9.9", "HTTP/1.2", "HTTP/0.9", "HTTP/3.0"} {
		f.refuses(version, "GET /public "+version+"\r\nHost: a\r\n\r\n", want)
	}
	for _, version := range []string{"HTTP/1", "HTTP/1.10", "HTTP/11", "http/1.1", "HTTPS/1.1", "HTTP/1.1 ", " HTTP/1.1", "HTTP/a.b", "ICY/1.1", ""} {
		f.refuses("malformed "+version, "GET /public "+version+"\r\nHost: a\r\n\r\n", shortB)
	}
	f.refuses("HTTP/0.9", "GET /public\r\n\r\n", shortB)
	f.refuses("preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", want)
}

func TestRow119HTTP10(t *testing.T) {
	f := start(t)
	g := func(name, head string, closes bool, connection string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c := f.dial().send(head)
			m := c.read("GET")
			if m.status() != 200 || m.content != "ok" || m.get("Connection") != connection {
				t.Errorf("answered %q", m.raw)
			}
			if closes && !c.closed() {
				t.Error("the connection stays open")
			}
			if !closes && c.send(head).read("GET").status() != 200 {
				t.Error("the connection was closed")
			}
			for _, m := range f.upstream.received() {
				if m.raw != wire("GET /public", "api.test", nil, "") {
					t.Errorf("the upstream received %q", m.raw)
				}
			}
			_ = c.Close()
		})
	}
	const head10, head11 = "GET /public HTTP/1.0\r\nHost: api.test\r\nX-Request-Id: test\r\n", "GET /public HTTP/1.1\r\nHost: api.test\r\nX-Request-Id: test\r\n"
	g("1.0", head10+"\r\n", true, "close")
	g("1.0 keep-alive", head10+"Connection: keep-alive\r\n\r\n", false, "keep-alive")
	g("1.0 Keep-Alive", head10+"Connection: Keep-Alive\r\n\r\n", false, "keep-alive")
	g("1.0 close", head10+"Connection: close\r\n\r\n", true, "close")
	g("1.1", head11+"\r\n", false, "")
	g("1.1 close", head11+"Connection: close\r\n\r\n", true, "close")
	g("1.1 Close among others", head11+"Connection: x, Close\r\n\r\n", true, "close")

	// Without a Host the upstream is told its own address.
	f.forwards("GET /public HTTP/1.0\r\nX-Request-Id: test\r\n\r\n", wire("GET /public", f.upstream.address, nil, ""))
	f.refuses("Transfer-Encoding", "POST /public HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", shortB)
	f.forwards("POST /public HTTP/1.0\r\nHost: a\r\nX-Request-Id: test\r\nContent-Length: 2\r\n\r\nhi", wire("POST /public", "a", nil, "Content-Length: 2")+"hi")
}

func TestRow124TraceAndConnect(t *testing.T) {
	f := start(t)
	f.refuses("TRACE", request("TRACE", "/public"), refusal{405, answer.MethodNotAllowed, "", true})
	f.refuses("TRACE with a token", request("TRACE", "/a", as(callerA)), refusal{405, answer.MethodNotAllowed, "", true})
	f.refuses("CONNECT", request("CONNECT", "a:443", as(callerA)), refusal{501, answer.MethodNotAllowed, "", true})
	f.refuses("CONNECT with a path", request("CONNECT", "/public"), refusal{501, answer.MethodNotAllowed, "", true})
	if got := f.ask(request("TRACE", "/public")).get("Allow"); got != "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" {
		t.Errorf("Allow: %q", got)
	}
}

func TestRow125UnknownMethods(t *testing.T) {
	f := start(t)
	before := len(f.metrics())
	for _, method := range []string{"PROPFIND", "get", "X", "M-SEARCH", "TRACEX", strings.Repeat("A", 1000)} {
		f.forwards(request(method, "/a", as(callerA)), wire(method+" /a", "api.test", &callerA, ""))
		f.refuses(method, request(method, "/read", as(callerA)), refusal{405, answer.MethodNotAllowed, "", false})
	}
	// No series has a method's name: one came for what was forwarded, one for what was not,
	// one for the next requests on the connections.
	if got := len(f.metrics()) - before; got != 3 {
		t.Errorf("%d series more", got)
	}
	for _, method := range []string{"GE T", "GE\tT", "GET\x00", "G\xe9T", "G(T", "", "@"} {
		f.refuses("malformed "+method, method+" /public HTTP/1.1\r\nHost: a\r\n\r\n", shortB)
	}
}

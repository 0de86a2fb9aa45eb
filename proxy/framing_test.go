package proxy

import (
	"strings"
	"testing"
	"time"

	"postern/answer"
)

func TestRow111ContentLengthWithTransferEncoding(t *testing.T) {
	f := start(t)
	for _, path := range []string{"/public", "/a"} {
		f.refuses(path+" length first", request("POST", path, as(callerA), "Content-Length: 5", "Transfer-Encoding: chunked")+"0\r\n\r\n", shortB)
		f.refuses(path+" encoding first", request("POST", path, as(callerA), "Transfer-Encoding: chunked", "Content-Length: 5")+"0\r\n\r\n", shortB)
		f.refuses(path+" GET, odd case", get(path, as(callerA), "tRANSFER-eNCODING: CHUNKED", "cONTENT-lENGTH: 0")+"0\r\n\r\n", shortB)
	}
	f.refuses("with a request behind it", request("POST", "/public", "Content-Length: 4", "Transfer-Encoding: chunked")+"0\r\n\r\n"+get("/public/smuggled"), shortB)
}

func TestRow112TransferEncodings(t *testing.T) {
	f := start(t)
	for _, value := range []string{
		"identity", "gzip, chunked", "chunked, identity", "chunked, chunked", "xchunked", "chunkedx", "chunked;a=b", `"chunked"`, "chunked,", ",chunked", "", "gzip", "\x0bchunked", "chun ked",
		"identity, chunked", "chunked\r\nTransfer-Encoding: chunked", "chunked\r\nTransfer-Encoding: identity", "identity\r\nTransfer-Encoding: chunked",
	} {
		f.refuses(value, request("POST", "/public", "Transfer-Encoding: "+value)+"0\r\n\r\n", shortB)
	}
	f.refuses("identity with a length", request("POST", "/public", "Transfer-Encoding: identity", "Content-Length: 2")+"hi", shortB)
	want := wire("POST /public", "api.test", nil, "Transfer-Encoding: chunked") + "0\r\n\r\n"
	for _, l := range []string{"Transfer-Encoding: chunked", "transfer-encoding:CHUNKED", "Transfer-Encoding: \t chunked \t"} {
		f.forwards(request("POST", "/public", l)+"0\r\n\r\n", want)
	}
}

func TestRow113ContentLengths(t *testing.T) {
	f := start(t)
	for _, value := range []string{
		"2\r\nContent-Length: 2", "2\r\nContent-Length: 3", "2\r\ncontent-length: 2", "2, 2", "2,", ",2", "+2", "-2", "-0", "0x2", "2h", "2.0", "2 2", "", " ", "1e1", "٢", "0_2",
		"9223372036854775808", "18446744073709551618", "99999999999999999999", strings.Repeat("0", 18) + "2",
	} {
		f.refuses(value, request("POST", "/public", "Content-Length: "+value)+"hi", shortB)
	}
	f.forwards(request("POST", "/public", "Content-Length: 002")+"hi", wire("POST /public", "api.test", nil, "Content-Length: 2")+"hi")
}

// TestRow114Chunks sends content that is not chunked as it should be. The upstream's
// connection, if there is one already, is dropped and never used again.
func TestRow114Chunks(t *testing.T) {
	f := start(t)
	g := func(name, content string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c := f.dial().send(request("POST", "/public", "Transfer-Encoding: chunked") + content + get("/public/smuggled"))
			m := c.read("POST")
			assertRefusal(t, m, "POST", shortB)
			if !c.closed() {
				t.Error("the connection stays open")
			}
			if got := f.upstream.received(); len(got) != 0 {
				t.Errorf("the upstream received %q", got[0].raw)
			}
			_ = c.Close()
		})
	}
	g("0x", "0x2\r\nhi\r\n0\r\n\r\n")
	g("minus", "-2\r\nhi\r\n0\r\n\r\n")
	g("plus", "+2\r\nhi\r\n0\r\n\r\n")
	g("no size", "\r\nhi\r\n0\r\n\r\n")
	g("not hex", "g\r\nhi\r\n0\r\n\r\n")
	g("overflow", "ffffffffffffffff2\r\nhi\r\n0\r\n\r\n")
	g("overflow of 64 bits", "10000000000000002\r\nhi\r\n0\r\n\r\n")
	g("overflow of 63 bits", "8000000000000002\r\nhi\r\n0\r\n\r\n")
	g("overflow in the second chunk", "2\r\nhi\r\nffffffffffffffff\r\n0\r\n\r\n")
	g("trailing space", "2 \r\nhi\r\n0\r\n\r\n")
	g("trailing tab", "2\t\r\nhi\r\n0\r\n\r\n")
	g("space before an extension", "2 ;a=b\r\nhi\r\n0\r\n\r\n")
	g("trailing space in the last chunk", "2\r\nhi\r\n0 \r\n\r\n")
	g("leading space", " 2\r\nhi\r\n0\r\n\r\n")
	g("bare LF behind the size", "2\nhi\r\n0\r\n\r\n")
	g("bare CR behind the size", "2\rhi\r\n0\r\n\r\n")
	g("CR CR LF behind the size", "2\r\r\nhi\r\n0\r\n\r\n")
	g("bare CR in an extension", "2;a\rb\r\nhi\r\n0\r\n\r\n")
	g("NUL in an extension", "2;a\x00\r\nhi\r\n0\r\n\r\n")
	g("bare CR behind the data", "2\r\nhi\r0\r\n\r\n")
	g("CR CR LF behind the data", "2\r\nhi\r\r\n0\r\n\r\n")
	g("nothing behind the data", "2\r\nhi0\r\n\r\n")
	g("bare LF behind the last size", "2\r\nhi\r\n0\n\r\n")
	g("bare LF at the end", "2\r\nhi\r\n0\r\n\n")
	g("bare LF behind a trailer field", "2\r\nhi\r\n0\r\nX: 1\n\r\n")
	g("a folded trailer field", "2\r\nhi\r\n0\r\nX: 1\r\n 2\r\n\r\n")
	g("a space in a trailer's name", "2\r\nhi\r\n0\r\nX : 1\r\n\r\n")
	g("bare LF behind the data", "2\r\nhi\n0\r\n\r\n")
	g("too much data", "2\r\nhi!\r\n0\r\n\r\n")
	g("too little data", "3\r\nhi\r\n0\r\n\r\n")
	g("bare LF in an extension", "2;a\nb\r\nhi\r\n0\r\n\r\n")
	g("bad last chunk", "2\r\nhi\r\n0x\r\n\r\n")
	g("bad trailer", "2\r\nhi\r\n0\r\n bad\r\n\r\n")
	g("a comma", "2,2\r\nhi\r\n0\r\n\r\n")
}

func TestRow121RefusedWithContentUnread(t *testing.T) {
	f := start(t)
	smuggled := get("/public/smuggled")
	n := shortN
	n.closes = true
	f.refuses("chunked", request("POST", "/a", "Transfer-Encoding: chunked")+smuggled, n)
	f.refuses("chunked, whole", request("POST", "/a", "Transfer-Encoding: chunked")+"0\r\n\r\n"+smuggled, n)
	f.refuses("larger than what was read", request("POST", "/a", "Content-Length: 9000")+strings.Repeat(smuggled, 9000/len(smuggled)+10)[:9000], n)
	f.refuses("large and nearly absent", request("POST", "/a", "Content-Length: 100000")+"1", n)
	f.refuses("wrong version", "POST /public HTTP/2.0\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"+smuggled, refusal{505, answer.InvalidRequest, "", true})
	f.refuses("malformed", request("POST", "/public", "Content-Length: 1", "X Y: 1")+"1"+smuggled, shortB)
	// Little content is dropped instead, all of it, and the answer does not wait for it.
	f.refuses("content that looks like a request", request("POST", "/a", "Content-Length: "+itoa(len(smuggled)))+smuggled, shortN)
	f.refuses("8 KiB of such content", request("POST", "/a", "Content-Length: 8192")+strings.Repeat(smuggled, 8192/len(smuggled)+1)[:8192], shortN)
	c := f.dial().send(request("POST", "/a", "Content-Length: 10") + "1")
	assertRefusal(t, c.read("POST"), "POST", shortN)
	if m := c.send("234567890" + get("/public")).read("GET"); m.status() != 200 {
		t.Errorf("the next request: %q", m.raw)
	}
	_ = c.Close()
	f.received(wire("GET /public", "api.test", nil, ""))
}

func TestRow122ExpectWithoutToken(t *testing.T) {
	f := start(t)
	for _, length := range []string{"Content-Length: 5", "Content-Length: 100000", "Transfer-Encoding: chunked"} {
		for _, expect := range []string{"Expect: 100-continue", "expect: 100-CONTINUE"} {
			c := f.dial()
			begun := time.Now()
			m := c.send(request("POST", "/a", expect, length)).read("POST")
			if took := time.Since(begun); took > time.Second {
				t.Errorf("the answer took %v", took)
			}
			n := shortN
			n.closes = true
			assertRefusal(t, m, "POST", n)
			if !c.closed() {
				t.Error("the connection stays open")
			}
			_ = c.Close()
		}
	}
	if f.upstream.opens() != 0 {
		t.Error("the upstream saw it")
	}
	if got := f.metrics()["postern_requests_total{class=4xx,reason=missing_token,route=api}"]; got != 6 || f.refusals(answer.MissingToken) != 6 {
		t.Errorf("counted %v", got)
	}
}

func TestExpectWithToken(t *testing.T) {
	f := start(t)
	c := f.dial().send(request("POST", "/a", as(callerA), "Expect: 100-continue", "Content-Length: 4"))
	if m := c.read("POST"); m.raw != "HTTP/1.1 100 Continue\r\n\r\n" {
		t.Fatalf("answered %q", m.raw)
	}
	if f.upstream.opens() != 0 {
		t.Error("the upstream saw it before the content came")
	}
	if m := c.send("body").read("POST"); m.status() != 200 {
		t.Fatalf("answered %q", m.raw)
	}
	// We answered the expectation: it does not go further.
	f.received(wire("POST /a", "api.test", &callerA, "Content-Length: 4") + "body")
	if m := c.send(get("/public")).read("GET"); m.status() != 200 {
		t.Errorf("the next request: %q", m.raw)
	}
	_ = c.Close()
	if got := f.metrics()["postern_requests_total{class=2xx,reason=ok,route=api}"]; got != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestRow123OtherExpectations(t *testing.T) {
	f := start(t)
	want := refusal{417, answer.InvalidRequest, "", true}
	for _, value := range []string{"200-ok", "100-continue, x", "100-continue;a=b", "", "100-continu", "100-continue\r\nExpect: x"} {
		f.refuses(value, request("POST", "/a", as(callerA), "Expect: "+value, "Content-Length: 0"), want)
	}
	// HTTP/1.0 has none: the content comes at once.
	f.forwards("POST /public HTTP/1.0\r\nHost: a\r\nX-Request-Id: test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
		wire("POST /public", "a", nil, "Content-Length: 2")+"hi")
}

func TestRow126Pipelining(t *testing.T) {
	f := start(t)
	var all strings.Builder
	var want []int
	for i := range 20 {
		switch i % 4 {
		case 0:
			all.WriteString(get("/a", as(callerA)))
			want = append(want, 200)
		case 1:
			all.WriteString(get("/a"))
			want = append(want, 401)
		case 2:
			all.WriteString(request("POST", "/a", as(callerB), "Content-Length: 3") + "abc")
			want = append(want, 200)
		default:
			all.WriteString(get("/a", "Authorization: Bearer bad"))
			want = append(want, 401)
		}
	}
	c := f.dial().send(all.String())
	for i, status := range want {
		if m := c.read("GET"); m.status() != status {
			t.Errorf("answer %d: %q, want %d", i, m.start, status)
		}
	}
	_ = c.Close()
	var wants []string
	for range 5 {
		wants = append(wants, wire("GET /a", "api.test", &callerA, ""), wire("POST /a", "api.test", &callerB, "Content-Length: 3")+"abc")
	}
	f.received(wants...)
	// Nothing is parsed behind a request that is malformed.
	c = f.dial().send(get("/public") + get("/public", "X Y: 1") + get("/public"))
	if first, second := c.read("GET").status(), c.read("GET").status(); first != 200 || second != 400 || !c.closed() {
		t.Errorf("answered %d, %d", first, second)
	}
	_ = c.Close()
	f.received(wire("GET /public", "api.test", nil, ""))
}

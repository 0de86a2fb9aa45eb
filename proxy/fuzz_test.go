package proxy

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// unserved is a front without a listener.
func unserved(t testing.TB) *Front {
	t.Helper()
	f, err := New(Options{
		Settings: Settings{
			Routes: routes("127.0.0.1:1"), Headers: DefaultHeaders(), Realm: "R",
			MaxHeader: 16 << 10, MaxTarget: 8 << 10, MaxFields: 100, Buffer: 64 << 10, ReadTimeout: time.Second, WriteTimeout: time.Second,
		},
		Verifier: newTokens(t), Now: time.Now, Random: strings.NewReader("1234567812345678"), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// FuzzHead: whatever raw request head is forwarded is read by net/http as the same
// method, target and host, with our fields once and with none that must not pass.
func FuzzHead(f *testing.F) {
	for _, seed := range []string{
		get("/a", as(callerA)), get("/public?x", "X-Organization-Id: evil", "Connection: x-a, close", "X-A: 1"),
		request("POST", "/a;b%2f", "Transfer-Encoding: chunked", "Trailer: X-Client-Id"), request("PUT", "/pass", as(callerA), "Content-Length: 3") + "abc",
		"GET http://u@h:80/a HTTP/1.1\r\nHost: b\r\n\r\n", "GET http://h:80/a?b HTTP/1.0\r\nX_Scopes: 1\r\n\r\n", "GET /a HTTP/1.1\nHost: b\r\nX: \xff\t\r\n\r\n",
		"\r\nOPTIONS * HTTP/1.1\r\nHost: [::1]:1\r\nCookie: a\r\ncookie: b\r\nX-Request-Id: a\r\nX:\r\n y\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	front := unserved(f)
	who := newTokens(f)[callerA.token]
	ours := map[string]string{}
	for _, l := range identity(callerA) {
		name, value, _ := strings.Cut(l, ": ")
		ours[name] = value
	}
	isReserved := map[string]bool{}
	for _, name := range reserved {
		isReserved[string(fold(nil, []byte(name)))] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		end := endOfHead(data, 0)
		if s := front.state.Load(); end == 0 || faultOf(data[:end], s.MaxHeader, s.MaxTarget) != noFault {
			return
		}
		x := newExchange(front)
		x.state = front.state.Load()
		x.requestID = []byte("test")
		if refusal, ok := x.head.check(data[:end], x.state); !ok {
			if refusal.Reason.Index() == 0 || !refusal.Close {
				t.Errorf("refused with %+v", refusal)
			}
			return
		}
		if _, ok := front.findRoute(x, x.head.method); !ok {
			return
		}
		x.who, x.known = who, true
		out := x.upstreamHead(nil)
		if !bytes.HasSuffix(out, []byte("\r\n\r\n")) || bytes.Count(out, []byte("\r\n\r\n")) != 1 || bytes.Count(out, []byte("\r")) != bytes.Count(out, []byte("\n")) {
			t.Fatalf("the head %q has several readings", out)
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out)))
		if err != nil {
			t.Fatalf("net/http cannot read %q: %v", out, err)
		}
		if r.Method != string(x.head.method) || r.RequestURI != string(x.head.target) || r.Proto != "HTTP/1.1" {
			t.Errorf("net/http reads %s %s of %q", r.Method, r.RequestURI, out)
		}
		host := string(x.head.host)
		if host == "" {
			host = "127.0.0.1:1"
		}
		if r.Host != host || r.URL.Host != "" || r.URL.User != nil {
			t.Errorf("net/http reads the host %q of %q", r.Host, out)
		}
		if x.head.chunked != (r.ContentLength == -1) || !x.head.chunked && r.ContentLength != x.head.contentLength {
			t.Errorf("net/http reads the length %d of %q", r.ContentLength, out)
		}
		m, err := newRecorder(strings.NewReader(string(out) + "0\r\n\r\n")).request()
		if m.start == "" {
			t.Fatal(err)
		}
		seen := map[string]int{}
		for _, l := range m.fields {
			folded := string(fold(nil, []byte(l.name)))
			seen[folded]++
			if isReserved[folded] && ours[l.name] != l.value {
				t.Errorf("%s: %s went upstream", l.name, l.value)
			}
			switch folded {
			case "connection", "keepalive", "te", "trailer", "upgrade", "http2settings", "expect":
				t.Errorf("%s: %s went upstream", l.name, l.value)
			case "authorization":
				if !x.route.PassAuthorization {
					t.Errorf("%s: %s went upstream", l.name, l.value)
				}
			}
			if strings.HasPrefix(folded, "proxy") {
				t.Errorf("%s: %s went upstream", l.name, l.value)
			}
		}
		for name := range ours {
			if n := seen[string(fold(nil, []byte(name)))]; n != 1 {
				t.Errorf("%s went upstream %d times", name, n)
			}
		}
		for _, once := range []string{"host", "via", "forwarded", "xforwardedfor", "xforwardedhost", "xforwardedproto", "xrequestid"} {
			if seen[once] != 1 {
				t.Errorf("%s went upstream %d times", once, seen[once])
			}
		}
		if seen["contentlength"]+seen["transferencoding"] > 1 || seen["authorization"] > 1 {
			t.Errorf("framed twice: %q", out)
		}
	})
}

// FuzzTarget: an accepted path is clean however an upstream reads it.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{"/", "/a/b/?x=y", "/a%2fb", "/a/..;/b", "/%2e%2e/a", "/a%2f%2fb;x=y/c", "/.%2f", "/a;%2e%2e", "/%252e%252e", "/...", "/a%2f..%2fb", "/%3b/..", "//", "/a\\b"} {
		f.Add(seed)
	}
	parameters, slashes := regexp.MustCompile(`;[^/]*`), regexp.MustCompile(`/+`)
	f.Fuzz(func(t *testing.T, target string) {
		raw, query, ok := checkTarget([]byte(target))
		if !ok {
			return
		}
		if whole := string(raw) + "?" + string(query); whole != target && whole != target+"?" {
			t.Errorf("%q was split into %q and %q", target, raw, query)
		}
		for _, c := range []byte(target) {
			if c <= ' ' || c >= 0x7f || c == '#' {
				t.Errorf("%q was accepted with %#x", target, c)
			}
		}
		decoded, err := url.PathUnescape(string(raw))
		if err != nil {
			t.Fatalf("%q: %v", target, err)
		}
		// Decoded slashes may make empty segments, which readers of them merge.
		merged := slashes.ReplaceAllString(decoded, "/")
		if clean := path.Clean(merged); clean != merged && clean+"/" != merged {
			t.Errorf("%q is read as %q", target, clean)
		}
		if strings.Contains(string(raw), "//") || strings.ContainsAny(decoded, "\\\x00\r\n") {
			t.Errorf("%q is ambiguous", target)
		}
		kept := regexp.MustCompile(`(?i)%2f`).ReplaceAllString(string(raw), "%252F") // so that it stays "%2F"
		first, err := url.PathUnescape(kept)
		if got := string(reading{}.read(nil, raw)); err != nil || got != first {
			t.Errorf("%q is judged as %q, want %q", target, got, first)
		}
		if got := string(reading{slashes: true}.read(nil, raw)); got != merged {
			t.Errorf("%q with slashes is judged as %q, want %q", target, got, merged)
		}
		for _, p := range []string{string(raw), first, decoded, merged, parameters.ReplaceAllString(decoded, ""), parameters.ReplaceAllString(first, ""), parameters.ReplaceAllString(string(raw), "")} {
			for _, segment := range strings.Split(p, "/") {
				if segment == "." || segment == ".." {
					t.Errorf("%q is read as %q", target, p)
				}
			}
		}
		if got, want := string(reading{slashes: true, parameters: true}.read(nil, raw)), slashes.ReplaceAllString(parameters.ReplaceAllString(decoded, ""), "/"); got != want {
			t.Errorf("%q without parameters is judged as %q, want %q", target, got, want)
		}
	})
}

// nowhere is a connection that goes nowhere.
type nowhere struct{ net.Conn }

func (nowhere) Read([]byte) (int, error)         { return 0, io.EOF }
func (nowhere) Close() error                     { return nil }
func (nowhere) SetDeadline(time.Time) error      { return nil }
func (nowhere) SetReadDeadline(time.Time) error  { return nil }
func (nowhere) SetWriteDeadline(time.Time) error { return nil }
func (nowhere) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (nowhere) LocalAddr() net.Addr              { return &net.TCPAddr{} }

// into is a connection that keeps what is written to it.
type into struct {
	nowhere
	b *bytes.Buffer
}

func (i into) Write(p []byte) (int, error) { return i.b.Write(p) }

// assertInterim asserts that out, made of an upstream's interim answer, is one head with one
// reading, and no framing.
func assertInterim(t *testing.T, data, out []byte) {
	t.Helper()
	if endOfHead(out, 0) != len(out) || bytes.Count(out, []byte("\r")) != bytes.Count(out, []byte("\n")) || bareLF(out) || !bytes.HasPrefix(out, []byte("HTTP/1.1 1")) {
		t.Fatalf("%q was passed on as %q", data, out)
	}
	got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out)), nil)
	if err != nil {
		t.Fatalf("net/http cannot read %q, made of %q: %v", out, data, err)
	}
	for _, name := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Proxy-Connection", "Proxy-Authenticate", "Content-Length"} {
		if got.Header[name] != nil || got.TransferEncoding != nil {
			t.Errorf("%q was passed on as %q", data, out)
		}
	}
}

// FuzzAnswerHead: what we pass on of an upstream's answer is read by net/http as the
// upstream's own bytes are, without the fields that belong to one hop.
func FuzzAnswerHead(f *testing.F) {
	for _, seed := range []string{
		ok, "HTTP/1.1 200\r\n\r\nabc", "HTTP/1.0 404 X\r\nServer: a\r\n\r\nabc", "HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 304 No\r\nContent-Length: 7\r\nETag: a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nConnection: x-a\r\nX-A: 1\r\n\r\n2;a\r\nok\r\n0\r\nX: 1\r\n\r\n",
		"HTTP/1.1 100 Continue\r\n\r\n" + ok, "HTTP/1.1 103\r\nlink:a\r\nTransfer-Encoding: chunked\r\nConnection: x-a\r\nX-A: 1\r\n\r\n" + ok, "HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nKeep-Alive: 1\r\nContent-Length: 1\r\n\r\nx", "HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n",
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	front := unserved(f)
	one, err := newPool(to("a:1"), poolOptions{now: time.Now})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte, head bool) {
		method := "GET"
		if head {
			method = "HEAD"
		}
		c := &upstreamConn{Conn: nowhere{}, reader: bufio.NewReaderSize(bytes.NewReader(data), answerHead)}
		var ctx fasthttp.RequestCtx
		ctx.Init2(nowhere{}, nil, false)
		ctx.Response.SkipBody = head
		ctx.Response.Header.SetNoDefaultContentType(true)
		x := newExchange(front)
		x.head.method = []byte(method)
		x.state = front.state.Load()
		var out bytes.Buffer
		x.client = newClientConn(front, into{nowhere{}, &out})
		x.route = &route{Route: Route{Name: "api", Timeout: time.Second, Stall: time.Second}, upstream: one}
		x.taken = taken{conn: c, endpoint: one.endpoints[0]}
		n, keep, err := readAnswerHead(c, nil)
		if err != nil {
			return
		}
		if n.status < 200 {
			if n.status == http.StatusSwitchingProtocols || n.status == http.StatusContinue {
				return
			}
			if raw, _ := c.reader.Peek(n.size); x.passOn(&n, raw) != nil {
				t.Fatalf("%q cannot be passed on", raw)
			}
			assertInterim(t, data, out.Bytes())
			return
		}
		if front.answer(&ctx, x, c, n, keep) != nil {
			return
		}
		w := bufio.NewWriter(&out)
		written := ctx.Response.Write(w)
		_ = w.Flush()
		request := &http.Request{Method: method}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(data)), request)
		if err != nil {
			t.Fatalf("net/http cannot read %q: %v", data, err)
		}
		body, broken := io.ReadAll(theirs.Body)
		if written != nil {
			return // cut off: the client sees that
		}
		if broken != nil {
			t.Fatalf("net/http cannot read the content of %q: %v; passed on as %q", data, broken, out.Bytes())
		}
		got, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(out.Bytes())), request)
		if err != nil {
			t.Fatalf("net/http cannot read %q, made of %q: %v", out.Bytes(), data, err)
		}
		content, err := io.ReadAll(got.Body)
		if err != nil || got.StatusCode != theirs.StatusCode || !bytes.Equal(content, body) || got.Proto != "HTTP/1.1" {
			t.Errorf("%q was passed on as %q (%v)", data, out.Bytes(), err)
		}
		for _, name := range []string{"Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Proxy-Connection", "Proxy-Authenticate"} {
			if got.Header[name] != nil || got.Trailer != nil {
				t.Errorf("%q was passed on as %q", data, out.Bytes())
			}
		}
		for _, nominated := range strings.Split(strings.Join(theirs.Header["Connection"], ","), ",") {
			name := http.CanonicalHeaderKey(strings.Trim(nominated, " \t"))
			if name != "Content-Length" && got.Header[name] != nil {
				t.Errorf("%q was passed on as %q", data, out.Bytes())
			}
		}
	})
}

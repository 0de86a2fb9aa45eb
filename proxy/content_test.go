package proxy

import (
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"
)

// noise is n bytes of all values that do not repeat early.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n), byte(n >> 8), byte(n >> 16)}).Read(b)
	return string(b)
}

// chunks writes content as chunks of this size.
func chunks(content string, size int) string {
	var b strings.Builder
	for len(content) > 0 {
		n := min(size, len(content))
		b.Write(appendChunkHead(nil, n))
		b.WriteString(content[:n] + "\r\n")
		content = content[n:]
	}
	return b.String() + "0\r\n\r\n"
}

// sizes around every buffer on the way.
var sizes = []int{0, 1, 2, 8 << 10, 8<<10 + 1, 32 << 10, 64 << 10, 64<<10 + 1, 3 << 20}

func TestRequestContentIsForwarded(t *testing.T) {
	f := start(t)
	g := func(name, method, framing, sent, content string) {
		t.Helper()
		c := f.dial()
		m := c.send(request(method, "/a", as(callerA), framing) + sent).read(method)
		if m.content != "ok" {
			t.Fatalf("%s: answered %q", name, m.raw)
		}
		got := f.upstream.received()
		if len(got) != 1 || got[0].content != content {
			t.Fatalf("%s: %d requests reached the upstream, or another content", name, len(got))
		}
		if head := wire(method+" /a", "api.test", &callerA, framing); got[0].head() != head {
			t.Errorf("%s: the upstream received %q, want %q", name, got[0].head(), head)
		}
		if c.send(get("/public")).read("GET").status() != 200 {
			t.Errorf("%s: the connection is not usable", name)
		}
		f.upstream.received()
		_ = c.Close()
	}
	for _, n := range sizes {
		content := noise(n)
		for _, method := range []string{"POST", "PUT", "GET"} {
			g("length "+itoa(n), method, "Content-Length: "+itoa(n), content, content)
			g("chunked "+itoa(n), method, "Transfer-Encoding: chunked", chunks(content, 10_000), content)
		}
	}
	g("a chunk of 3 MiB", "POST", "Transfer-Encoding: chunked", chunks(noise(3<<20), 3<<20), noise(3<<20))
	g("chunks of 1 byte", "POST", "Transfer-Encoding: chunked", chunks(noise(5000), 1), noise(5000))
	g("extensions", "POST", "Transfer-Encoding: chunked", "2;a\r\nab\r\n1;a=b;c=\"d\"\r\nc\r\n000a;\r\n0123456789\r\n0;x\r\n\r\n", "abc0123456789")
	g("content that looks like an end", "POST", "Transfer-Encoding: chunked", chunks("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", 7), "0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n")
	multipart := "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--x--\r\n\r\n"
	g("multipart is not taken apart", "POST", "Content-Length: "+itoa(len(multipart)), multipart, multipart)
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
}

// TestChunksAreOurs: the chunks that go upstream are written by us, without extensions.
func TestChunksAreOurs(t *testing.T) {
	f := start(t)
	f.forwards(request("POST", "/a", as(callerA), "Transfer-Encoding: chunked")+"00002;a=b\r\nhi\r\n0;c\r\nX: 1\r\n\r\n",
		wire("POST /a", "api.test", &callerA, "Transfer-Encoding: chunked")+"2\r\nhi\r\n0\r\n\r\n")
	for _, head := range []string{"2 ", "2\t ", "2;\x01\x7f", "2;a=\"\r", " 2", "2 ;a"} {
		if m := f.ask(request("POST", "/public", "Transfer-Encoding: chunked") + head + "\r\nhi\r\n0\r\n\r\n"); m.status() != 400 {
			t.Errorf("%q: answered %q", head, m.raw)
		}
		f.received()
	}
}

// TestTruncatedContent: the client goes away, or stops, within its content. The upstream
// must not take what came for the whole, and its connection is never used again.
func TestTruncatedContent(t *testing.T) {
	f := start(t)
	g := func(name, framing, sent string, reaches bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			before := f.upstream.opens()
			c := f.dial().send(request("POST", "/a", as(callerA), framing) + sent)
			_ = c.Conn.(*net.TCPConn).CloseWrite()
			m := c.read("POST")
			assertRefusal(t, m, "POST", shortB)
			if !c.closed() {
				t.Error("the connection stays open")
			}
			_ = c.Close()
			if got := f.upstream.received(); len(got) > 0 {
				t.Errorf("the upstream took %q for a whole request", got[0].raw)
			}
			deadline := time.Now().Add(patience)
			for reaches && f.upstream.opens() == before && time.Now().Before(deadline) {
				time.Sleep(time.Millisecond) // it may not have accepted yet
			}
			if reached := f.upstream.opens() > before; reached != reaches {
				t.Errorf("reached the upstream: %v", reached)
			}
		})
	}
	small, large := noise(8000), noise(100_000)
	g("none of a small one", "Content-Length: 8000", "", false)
	g("half of a small one", "Content-Length: 8000", small[:4000], false)
	g("all but one byte", "Content-Length: 8000", small[:7999], false)
	g("half of a middle one", "Content-Length: 60000", large[:30_000], false)
	g("half of a large one", "Content-Length: 100000", large[:50_000], true)
	g("all but one byte of a large one", "Content-Length: 100000", large[:99_999], true)
	whole := chunks(small, 1000)
	g("no chunk", "Transfer-Encoding: chunked", "", true)
	g("within a chunk's head", "Transfer-Encoding: chunked", "3e", true)
	g("within a chunk", "Transfer-Encoding: chunked", whole[:1500], true)
	g("between chunks", "Transfer-Encoding: chunked", chunks(small[:1000], 1000)[:1000+len("3e8\r\n\r\n")], true)
	g("before the last chunk", "Transfer-Encoding: chunked", strings.TrimSuffix(whole, "0\r\n\r\n"), true)
	g("within the last chunk", "Transfer-Encoding: chunked", strings.TrimSuffix(whole, "\r\n"), true)
	opens := f.upstream.opens()
	f.forwards(get("/public"), wire("GET /public", "api.test", nil, ""))
	if f.upstream.opens() != opens+1 {
		t.Error("a connection with half a request on it was used again")
	}
}

// TestAnswerContentIsForwarded: every size and framing, byte for byte.
func TestAnswerContentIsForwarded(t *testing.T) {
	f := start(t)
	c := f.dial()
	for _, n := range sizes {
		content := noise(n)
		for name, text := range map[string]string{
			"length":  "HTTP/1.1 200 OK\r\nContent-Length: " + itoa(n) + "\r\n\r\n" + content,
			"chunked": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(content, 7777),
		} {
			f.upstream.says(text)
			m := c.send(get("/public")).read("GET")
			if m.content != content || m.chunked != (name == "chunked") {
				t.Fatalf("%s %d: %q and %d bytes", name, n, m.head(), len(m.content))
			}
		}
	}
	f.upstream.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(noise(3000), 1))
	if m := c.send(get("/public")).read("GET"); m.content != noise(3000) {
		t.Errorf("chunks of 1 byte: %d bytes", len(m.content))
	}
	if n := f.upstream.opens(); n != 1 {
		t.Errorf("%d connections to the upstream", n)
	}
	_ = c.Close()
}

// TestAnswerBeforeTheContent: an upstream that has read enough answers and closes. What
// it said is passed on; the rest of the content is nobody's.
func TestAnswerBeforeTheContent(t *testing.T) {
	f := start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1000)
			_, _ = io.ReadFull(c, b)
			_, _ = io.WriteString(c, "HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nbig")
			_ = c.(*net.TCPConn).CloseWrite()
			time.Sleep(50 * time.Millisecond) // a close at once would take the answer with it
			_ = c.Close()
		}
	}()
	for _, r := range f.front.state.Load().router.all {
		r.upstream.endpoints[0].address = l.Addr().String()
	}
	for name, sent := range map[string]string{
		"length":  request("POST", "/public", "Content-Length: 20000000") + noise(10_000_000),
		"chunked": request("POST", "/public", "Transfer-Encoding: chunked") + chunks(noise(10_000_000), 5000),
	} {
		c := f.dial()
		sending := make(chan struct{})
		go func() { c.send(sent); close(sending) }()
		m := c.read("POST")
		if m.status() != 413 || m.content != "big" {
			t.Errorf("%s: answered %q", name, m.raw)
		}
		if !c.closed() {
			t.Errorf("%s: the connection stays open", name)
		}
		_ = c.Close()
		<-sending
	}
}

package proxy

import (
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
)

// TestRow115ChunkOverhead: chunks that are nearly all framing are cheap, and past a limit
// refused. net/http's limit is the same: 16 KiB beyond what small chunks need.
func TestRow115ChunkOverhead(t *testing.T) {
	f := start(t)
	head := request("POST", "/public", "Transfer-Encoding: chunked")
	g := func(name, content string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c := f.dial().send(head + content)
			assertRefusal(t, c.read("POST"), "POST", shortB)
			if !c.closed() {
				t.Error("the connection stays open")
			}
			_ = c.Close()
			if got := f.upstream.received(); len(got) != 0 {
				t.Errorf("the upstream received %.100q", got[0].raw)
			}
		})
	}
	extension := strings.Repeat("a", 64<<10)
	g("an extension of 64 KiB", "2;"+extension+"\r\nhi\r\n0\r\n\r\n")
	g("one in the last chunk", "2\r\nhi\r\n0;"+extension+"\r\n\r\n")
	g("one that never ends", "2;"+extension+extension)
	g("64 KiB in all", strings.Repeat("1;"+extension[:100]+"\r\nx\r\n", 640)+"0\r\n\r\n")
	g("a size of 64 KiB", strings.Repeat("0", 64<<10)+"2\r\nhi\r\n0\r\n\r\n")
	g("a trailer of 64 KiB", "2\r\nhi\r\n0\r\nX: "+extension+"\r\n\r\n")
	g("a trailer of 10,000 lines", "2\r\nhi\r\n0\r\n"+strings.Repeat("X: 1\r\n", 10_000)+"\r\n")

	f.forwards(head+"2;"+extension[:1000]+"\r\nhi\r\n0\r\n\r\n", wire("POST /public", "api.test", nil, "Transfer-Encoding: chunked")+"2\r\nhi\r\n0\r\n\r\n")
}

// TestRow115ManySmallChunks: a million of them cost little, and are not passed on as such.
func TestRow115ManySmallChunks(t *testing.T) {
	f := start(t)
	content := noise(1 << 20)
	sent := chunks(content, 1)
	before, begun := cpu(t), time.Now()
	m := f.ask(request("POST", "/public", "Transfer-Encoding: chunked") + sent)
	if m.status() != 200 {
		t.Fatalf("answered %q", m.raw)
	}
	spent := cpu(t) - before
	t.Logf("%v of CPU in %v for %d bytes of %d", spent, time.Since(begun), len(content), len(sent))
	if spent > 5*time.Second { // with the test's own part in it
		t.Errorf("they took %v of CPU", spent)
	}
	got := f.upstream.received()
	if len(got) != 1 || got[0].content != content {
		t.Fatalf("%d requests reached the upstream, or another content", len(got))
	}
	if overhead := len(got[0].raw) - len(content); overhead > len(content)/100 {
		t.Errorf("%d bytes of content became %d", len(content), len(got[0].raw))
	}
}

// TestRow127SlowContent: content that keeps coming may take as long as it likes, unless
// there is a least rate.
func TestRow127SlowContent(t *testing.T) {
	g := func(name, framing, piece, last string, rate int, want int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, func(o *Options) { o.ReadTimeout, o.MinBodyRate = 300*time.Millisecond, rate })
			c := f.dial().send(request("POST", "/public", framing))
			stop := make(chan struct{})
			var dripping sync.WaitGroup
			dripping.Go(func() {
				for range 30 { // of 20 ms each: twice what may pass without a byte
					c.send(piece)
					select {
					case <-stop:
						return
					case <-time.After(20 * time.Millisecond):
					}
				}
				c.send(last)
			})
			m := c.read("POST")
			close(stop)
			dripping.Wait()
			if want == 200 && m.status() != 200 {
				t.Errorf("answered %q", m.raw)
			}
			if want == 408 {
				assertRefusal(t, m, "POST", refusal{408, answer.InvalidRequest, "", true})
				if got := f.upstream.received(); !c.closed() || len(got) != 0 {
					t.Errorf("the connection stays open, or %d requests reached the upstream", len(got))
				}
			}
			_ = c.Close()
		})
	}
	g("any rate", "Content-Length: 31", "a", "b", 0, 200)
	g("any rate, chunked", "Transfer-Encoding: chunked", "1\r\na\r\n", "0\r\n\r\n", 0, 200)
	g("too slow", "Content-Length: 1000", "a", "", 1000, 408)
	g("too slow, chunked", "Transfer-Encoding: chunked", "1\r\na\r\n", "", 1000, 408)
	g("too slow, large", "Content-Length: 1000000", "a", "", 1000, 408)
	g("fast enough", "Content-Length: 30001", strings.Repeat("a", 1000), "b", 1000, 200)
}

package proxy

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// TestInterimAnswersDuringAnUpload: an upstream may say 102 or 103 as soon as it has the
// head. It gets all content nevertheless.
func TestInterimAnswersDuringAnUpload(t *testing.T) {
	f := func(name, interim, framing, content string, pause time.Duration) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			f := start(t, func(o *Options) { o.Buffer = 1 << 10 })
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			f.reload(func(s *Settings) { s.Routes = routes(l.Addr().String()) })
			received := make(chan int, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				_, _ = io.WriteString(c, interim)
				r := newRecorder(c)
				m, err := r.request()
				if err != nil {
					received <- -1
					return
				}
				received <- len(m.content)
				_, _ = io.WriteString(c, interim+ok)
				_, _ = c.Read(make([]byte, 1))
			}()
			c := f.dial().send(request("POST", "/public", framing))
			half := len(content) / 2
			c.send(content[:half])
			time.Sleep(pause)
			c.send(content[half:])
			if m := c.read("POST"); m.status() != 200 || m.content != "ok" {
				t.Errorf("answered %q", m.raw)
			}
			if n := <-received; n != 200_000 {
				t.Errorf("the upstream has %d bytes of the content", n)
			}
		})
	}
	early := "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
	whole := noise(200_000)
	chunks := strings.Repeat("3e8\r\n"+whole[:1000]+"\r\n", 200) + "0\r\n\r\n"
	f("length", early, "Content-Length: 200000", whole, 0)
	f("length, slow", early+early, "Content-Length: 200000", whole, 1200*time.Millisecond)
	f("chunks", early, "Transfer-Encoding: chunked", chunks, 0)
	f("chunks, slow", early+"HTTP/1.1 102 Processing\r\n\r\n", "Transfer-Encoding: chunked", chunks, 1200*time.Millisecond)
}

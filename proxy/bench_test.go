package proxy

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"strconv"
	"testing"
)

// answering is an upstream that answers each request without looking at it: head, then
// content. It allocates nothing per request.
func answering(b *testing.B, answer string) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	text := []byte(answer)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buffer, end := make([]byte, 64<<10), []byte("\r\n\r\n")
				for {
					n, err := c.Read(buffer)
					if err != nil {
						return
					}
					for range bytes.Count(buffer[:n], end) {
						if _, err := c.Write(text); err != nil {
							return
						}
					}
				}
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkForward is one warm connection through the front to an upstream on loopback;
// what the client and the upstream of the benchmark allocate is nothing.
func BenchmarkForward(b *testing.B) {
	run := func(name, answer, request string, access bool) {
		b.Run(name, func(b *testing.B) {
			address := answering(b, answer)
			f := start(b, func(o *Options) {
				o.Routes = routes(address)
				o.Log = slog.New(slog.DiscardHandler)
				o.Issuer, o.Access = nil, nil // the double allocates
				if access {
					o.Access = NewAccessLog(io.Discard)
				}
			})
			c, err := net.Dial("tcp", f.address)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			r, text := bufio.NewReaderSize(c, 64<<10), []byte(request)
			exchange := func() {
				if _, err := c.Write(text); err != nil {
					b.Fatal(err)
				}
				length := 0
				for {
					line, err := r.ReadSlice('\n')
					if err != nil {
						b.Fatal(err)
					}
					if len(line) == 2 {
						break
					}
					if value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); ok {
						length, _ = strconv.Atoi(string(value[:len(value)-2]))
					}
				}
				if _, err := r.Discard(length); err != nil {
					b.Fatal(err)
				}
			}
			exchange()
			b.ReportAllocs()
			begun := cpu(b)
			for b.Loop() {
				exchange()
			}
			// Of the client, the front and the upstream together; other load does not change it.
			b.ReportMetric(float64(cpu(b)-begun)/float64(b.N), "cpu-ns/op")
		})
	}
	body := func(n int) string {
		return "Content-Length: " + itoa(n) + "\r\n\r\n" + noise(n)
	}
	const head = "HTTP/1.1 200 OK\r\nServer: own\r\nDate: Mon, 01 Jan 2001 00:00:00 GMT\r\nContent-Type: text/plain\r\n"
	usual := []string{as(callerA), "User-Agent: bench/1.0", "Accept: */*", "Accept-Encoding: gzip, br", "Cookie: a=b; c=d"}
	run("1KiB", head+body(1<<10), get("/a", usual...), false)
	run("1KiB/access", head+body(1<<10), get("/a", usual...), true)
	run("1KiB/keep-alive", head+"Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n"+body(1<<10), get("/a", usual...), false)
	run("public", head+body(1<<10), get("/public", usual...), false)
	run("encoded", head+body(1<<10), get("/a%2fb;c/d", usual...), false)
	run("32KiB", head+body(32<<10), get("/a", usual...), false)
	run("256KiB", head+body(256<<10), get("/a", usual...), false)
	run("POST/1KiB", head+body(1<<10), request("POST", "/a", append(usual, "Content-Length: 1024")...)+noise(1024), false)
	run("refused", head+body(1<<10), get("/a"), false)
}

// BenchmarkQuiet is the look at a kept connection before its next use.
func BenchmarkQuiet(b *testing.B) {
	c, err := net.Dial("tcp", answering(b, ok))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	u := newUpstreamConn(c)
	b.ReportAllocs()
	begun := cpu(b)
	for b.Loop() {
		if !u.quiet() {
			b.Fatal("it is not")
		}
	}
	b.ReportMetric(float64(cpu(b)-begun)/float64(b.N), "cpu-ns/op")
}

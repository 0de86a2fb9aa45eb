package proxy

import (
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"
)

// TestRow128IdleConnections: as many clients as there are descriptors for, up to 10,000, have
// sent a request and keep their connections. Others are answered as ever, and an idle
// connection holds no buffer that a request needs.
func TestRow128IdleConnections(t *testing.T) {
	limit, ok := openFiles()
	if !ok {
		limit = 2000
	}
	n := min(10_000, (limit-400)/2) // both ends are here
	f := start(t, func(o *Options) {
		o.MaxConnections = n + 10
		o.ReadTimeout, o.IdleTimeout = 5*time.Minute, 5*time.Minute
	})
	request := "GET /public HTTP/1.1\r\nHost: a\r\n\r\n"
	other := f.dial()
	if m := other.send(request).read("GET"); m.status() != 200 {
		t.Fatalf("%d", m.status())
	}

	refused := "GET / HTTP/1.1\r\nHost: a\r\n\r\n" // the upstream remembers what it gets
	before := usedMemory()
	idle := make([]net.Conn, n)
	var dialing sync.WaitGroup
	const workers = 8
	for w := range workers {
		dialing.Go(func() {
			scratch := make([]byte, 4096)
			for i := w; i < n; i += workers {
				c, err := net.Dial("tcp", f.address)
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				idle[i] = c
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.WriteString(c, refused); err != nil {
					t.Errorf("connection %d: %v", i, err)
				}
				if got, err := c.Read(scratch); err != nil || string(scratch[:min(16, got)]) != "HTTP/1.1 401 Una" {
					t.Errorf("connection %d: %q, %v", i, scratch[:got], err)
				}
			}
		})
	}
	defer func() {
		for _, c := range idle {
			if c != nil {
				_ = c.Close()
			}
		}
	}()
	dialing.Wait()
	if open := f.metrics()["postern_connections{}"]; int(open) != n+1 {
		t.Fatalf("%v of %d are open", open, n+1)
	}
	each := (usedMemory() - before) / int64(n)
	t.Logf("%d idle connections, %d bytes each, both ends", n, each)
	if each >= 20<<10 { // 8 KiB are the stack; the buffer of a head would double it
		t.Errorf("an idle connection takes %d bytes", each)
	}

	_ = other.SetDeadline(time.Now().Add(2 * time.Minute))
	var took []time.Duration
	for range 500 {
		begun := time.Now()
		if m := other.send(request).read("GET"); m.status() != 200 {
			t.Fatalf("%d", m.status())
		}
		took = append(took, time.Since(begun))
	}
	slices.Sort(took)
	if p99 := took[len(took)*99/100]; p99 > 100*time.Millisecond {
		t.Errorf("99 of 100 requests beside them took up to %s", p99)
	}
}

// usedMemory is what lives on the heap and the stacks.
func usedMemory() int64 {
	runtime.GC()
	runtime.GC() // what pools held
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

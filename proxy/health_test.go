package proxy

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestPoolOpens(t *testing.T) {
	const open = 10 * time.Second
	p, clock := startPool(t, Upstream{Failures: 3, Open: open, Endpoints: []Endpoint{tcp("127.0.0.1:1"), tcp("127.0.0.1:2")}})
	bad := p.endpoints[0]
	share := func(want bool) {
		t.Helper()
		n := 0
		for range 100 {
			e, probe := p.choose(nil, p.options.now())
			if probe {
				t.Fatal("it is probed")
			}
			if e == bad {
				n++
			}
		}
		if n > 0 != want {
			t.Errorf("the bad one got %d of 100", n)
		}
	}
	probes := func() {
		t.Helper()
		e, probe := p.choose(nil, p.options.now())
		if e != bad || !probe {
			t.Fatal("it is not probed")
		}
	}
	end := func() { bad.load.Add(1); taken{endpoint: bad, probe: true}.end() }

	bad.failed(io.EOF)
	bad.failed(io.EOF)
	bad.succeeded()
	bad.failed(io.EOF)
	bad.failed(io.EOF)
	share(true) // never three in a row
	bad.failed(io.EOF)
	share(false)
	clock.pass(open - 1)
	share(false)
	clock.pass(1)
	if e, probe := p.choose(p.endpoints[1], p.options.now()); e != bad || !probe {
		t.Fatal("it is not probed where there is no other")
	}
	end() // without a verdict
	if e, probe := p.choose(bad, p.options.now()); e == bad || probe {
		t.Fatal("a retry probes though another is well")
	}
	probes()
	share(false) // one at a time
	bad.failed(io.EOF)
	end()
	share(false)
	clock.pass(open)
	probes()
	bad.succeeded()
	share(true)
	// The request that tried it goes on while it opens again.
	for range 3 {
		bad.failed(io.EOF)
	}
	clock.pass(open)
	probes()
	share(false)
	end()
	end()
}

func TestPoolAllOpen(t *testing.T) {
	p, clock := startPool(t, Upstream{Failures: 1, Open: time.Second, Endpoints: []Endpoint{tcp(refusing(t)), tcp(refusing(t))}})
	for i := range 2 {
		if one, err := p.take(nil, false); err == nil || one.endpoint == nil {
			t.Fatalf("take %d: %+v, %v", i, one, err)
		}
	}
	if _, err := p.take(nil, false); !errors.Is(err, errNoUpstream) {
		t.Errorf("all are open: %v", err)
	}
	if _, err := p.take(p.endpoints[0], false); !errors.Is(err, errNoUpstream) {
		t.Errorf("all are open: %v", err)
	}
	clock.pass(time.Second)
	for range 2 {
		if _, err := p.take(nil, false); err == nil || errors.Is(err, errNoUpstream) {
			t.Errorf("their time has come: %v", err)
		}
	}
	if _, err := p.take(nil, false); !errors.Is(err, errNoUpstream) {
		t.Errorf("all are open again: %v", err)
	}
}

// TestPoolTellsWhy: the client is told nothing of why its upstream did not answer, so the log
// is at the first failure, also of a route's only upstream, and it is not flooded.
func TestPoolTellsWhy(t *testing.T) {
	var log buffer
	p, clock := startPool(t, Upstream{Failures: 5, Endpoints: []Endpoint{tcp("127.0.0.1:1")}}, func(o *poolOptions) {
		o.log = slog.New(slog.NewTextHandler(&log, nil))
	})
	f := func(wantLines int) {
		t.Helper()
		for range 100 {
			if _, err := p.take(nil, false); err == nil {
				t.Fatal("port 1 is served")
			}
		}
		if n := strings.Count(log.String(), "an upstream failed"); n != wantLines {
			t.Errorf("%d lines, want %d: %s", n, wantLines, log.String())
		}
	}
	f(1)
	if told := log.String(); !strings.Contains(told, "upstream=http://127.0.0.1:1 ") || !strings.Contains(told, "connection refused") {
		t.Error(told)
	}
	clock.pass(failureNotice - 1)
	f(1)
	clock.pass(1)
	f(2)
}

// TestPoolNeverOpens: a limit of 0 is none.
func TestPoolNeverOpens(t *testing.T) {
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp("127.0.0.1:1")}})
	for range 1000 {
		p.endpoints[0].failed(io.EOF)
	}
	if !p.endpoints[0].well() {
		t.Error("it is open")
	}
}

func TestPoolChecks(t *testing.T) {
	var answer atomic.Pointer[string]
	says := func(s string) { answer.Store(&s) }
	says("HTTP/1.1 204 No Content\r\n\r\n")
	asked := make(chan string, 1000)
	address := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		buffer := make([]byte, 4096)
		n, _ := c.Read(buffer)
		asked <- string(buffer[:n])
		_, _ = io.WriteString(c, *answer.Load())
		if strings.HasSuffix(*answer.Load(), "…") {
			silent(c)
		}
	})
	other := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.0 200\r\n\r\n"); silent(c) })
	p, _ := startPool(t, Upstream{Failures: 1, Open: time.Hour, Endpoints: []Endpoint{tcp(address), tcp(other), tcp(refusing(t))},
		Check: HealthCheck{Path: "/health?x=y", Interval: 5 * time.Millisecond, Timeout: 50 * time.Millisecond}})
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { p.run(stop) })
	defer group.Wait()
	defer close(stop)
	if got, want := <-asked, "GET /health?x=y HTTP/1.1\r\nHost: "+address+"\r\nUser-Agent: postern\r\nAccept: */*\r\nConnection: close\r\n\r\n"; got != want {
		t.Errorf("asked %q", got)
	}
	e := p.endpoints[0]
	f := func(text string, well bool) {
		t.Helper()
		says(text)
		until(t, fmt.Sprintf("well is %v after %q", well, text), func() bool { return e.well() == well })
	}
	const good = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	for _, bad := range []string{
		"HTTP/1.1 503 No\r\n\r\n", "HTTP/1.1 404 No\r\n\r\n", "HTTP/1.1 199 \r\n\r\n", "", "HTTP/1.1 20", "SSH-2.0\r\n\r\n", "HTTP/2.0 200\r\n\r\n",
		"HTTP/1.1 200 OK\r\n…", "HTTP/1.1 200 OK\r\nA: " + strings.Repeat("a", answerHead) + "\r\n\r\n", strings.Repeat("HTTP/1.1 103 \r\n\r\n", 21) + good,
	} {
		f(bad, false)
		f(good, true)
	}
	f("HTTP/1.1 503 No\r\n\r\n", false)
	f("HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 302 Found\r\n\r\n", true)
	e.failed(io.EOF) // a check that is good closes what requests have opened
	until(t, "well after a failure", e.well)
	if !p.endpoints[1].well() || p.endpoints[2].well() {
		t.Error("the others: the one that answers is not well, or the one that refuses is")
	}
	// A success of a request does not prove an endpoint well that its check says is not.
	p.endpoints[2].succeeded()
	if p.endpoints[2].well() {
		t.Error("a request's success ended what the check found")
	}
}

// TestPoolRunEndsAtOnce: in the middle of a check, and of a dial.
func TestPoolRunEndsAtOnce(t *testing.T) {
	before := append(fasthttpOwn(), goleak.IgnoreCurrent())
	asked := make(chan struct{}, 100)
	address := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) { asked <- struct{}{}; silent(c) })
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp(address), tcp("localhost:1")}, ConnectTimeout: time.Hour,
		Check: HealthCheck{Path: "/", Interval: time.Hour, Timeout: time.Hour}})
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { p.run(stop); close(done) }()
	<-asked
	begun := time.Now()
	close(stop)
	<-done
	if took := time.Since(begun); took > patience {
		t.Errorf("took %v", took)
	}
	if !p.endpoints[0].well() {
		t.Error("a check that was stopped counts as failed")
	}
	p.close()
	// What is left is the test's own listener.
	if err := goleak.Find(append(before, goleak.IgnoreAnyFunction("postern/proxy.serveOn.func1"), goleak.IgnoreAnyFunction("postern/proxy.silent"))...); err != nil {
		t.Error(err)
	}
}

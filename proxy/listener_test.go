package proxy

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/answer"
)

// porch is a door that is served: each connection is answered one line with whose it is,
// for each line that it sends.
type porch struct {
	t        testing.TB
	door     *door
	address  string
	log      *buffer
	limits   atomic.Pointer[doorLimits]
	shedding atomic.Bool
	registry *prometheus.Registry
}

func openPorch(t testing.TB, limits doorLimits, change ...func(*doorOptions)) *porch {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &porch{t: t, address: l.Addr().String(), log: &buffer{}, registry: prometheus.NewRegistry()}
	p.limits.Store(&limits)
	o := doorOptions{
		limits: func() doorLimits { return *p.limits.Load() }, shedding: p.shedding.Load,
		requestID: func(dst []byte) []byte { return append(dst, "test-1"...) }, now: time.Now,
		log: slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&o)
	}
	m := newDoorMetrics()
	p.registry.MustRegister(m.connections, m.refused)
	p.door = newDoor(l, o, m)
	var served sync.WaitGroup
	served.Go(func() { p.serve(&served) })
	t.Cleanup(func() {
		_ = p.door.Close()
		served.Wait()
	})
	return p
}

func (p *porch) serve(served *sync.WaitGroup) {
	for {
		c, err := p.door.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				p.t.Errorf("accept: %v", err)
			}
			return
		}
		t := c.(*transport)
		served.Go(func() {
			defer t.Close()
			_ = t.SetDeadline(time.Now().Add(2 * patience))
			for lines := bufio.NewScanner(t); lines.Scan(); {
				fmt.Fprintf(t, "%s %s %s\n", lines.Text(), t.peer, t.RemoteAddr())
			}
		})
	}
}

// dial is a client of the porch, from this address where it is not "".
func (p *porch) dial(from string) net.Conn {
	p.t.Helper()
	d := net.Dialer{Timeout: patience}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	c, err := d.Dial("tcp", p.address)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c
}

// served asks on c and fails unless the answer is that of the porch. It returns it.
func (p *porch) served(c net.Conn) string {
	p.t.Helper()
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "hello ") {
		p.t.Fatalf("not served: %q, %v", line, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(line, "hello "), "\n")
}

// turnedAway sends a whole request on c and fails unless all that comes is 503 and the
// end of the connection, not a reset.
func (p *porch) turnedAway(c net.Conn) {
	p.t.Helper()
	_, _ = io.WriteString(c, get("/a", as(callerA)))
	time.Sleep(20 * time.Millisecond) // a slow client: part of it comes behind the answer
	if _, err := io.WriteString(c, strings.Repeat("x", 10_000)); err != nil {
		p.t.Errorf("it is not waited for: %v", err)
	}
	r := newRecorder(c)
	m, err := r.answer("GET")
	if err != nil {
		p.t.Fatalf("read the answer: %v, %q", err, r.raw)
	}
	if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
		p.t.Errorf("behind the answer: %q, %v", rest, err)
	}
	if m.start != "HTTP/1.1 503 Service Unavailable" || m.get("Retry-After") != "1" || m.get("Connection") != "close" ||
		m.get("Cache-Control") != "no-store" || m.get("Content-Type") != "application/json" || m.get("X-Request-Id") != "test-1" {
		p.t.Errorf("head %q", m.head())
	}
	if !strings.Contains(m.content, `"code":"`+string(answer.Unavailable)+`"`) || !strings.HasPrefix(m.content, `{"status":503,"timestamp":`) ||
		!strings.Contains(m.content, `"request_id":"test-1"`) {
		p.t.Errorf("content %q", m.content)
	}
}

// sample is one metric's value.
func (p *porch) sample(name string) float64 {
	p.t.Helper()
	return (&fixture{t: p.t, registry: p.registry}).metrics()[name]
}

func (p *porch) refused(reason refusedReason) float64 {
	p.t.Helper()
	return p.sample("postern_connections_refused_total{reason=" + string(reason) + "}")
}

// until waits for what must come soon.
func until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("still not: %s", what)
		}
	}
}

func (p *porch) open() int {
	p.door.mu.Lock()
	defer p.door.mu.Unlock()
	return p.door.total
}

func TestDoorLimit(t *testing.T) {
	p := openPorch(t, doorLimits{connections: 2})
	first, second := p.dial(""), p.dial("")
	p.served(first)
	p.served(second)
	p.turnedAway(p.dial(""))
	p.turnedAway(p.dial(""))
	if got := p.refused(overLimit); got != 2 {
		t.Errorf("%v refused", got)
	}
	_ = first.Close()
	until(t, "one left", func() bool { return p.open() == 1 })
	p.served(p.dial(""))
	p.turnedAway(p.dial(""))

	p.limits.Store(&doorLimits{connections: 3}) // as a reload does
	p.served(p.dial(""))
	p.turnedAway(p.dial(""))
	p.served(second) // whoever is inside stays there
}

// TestDoorLetsReadTheAnswer: many are turned away at once, each with its answer.
func TestDoorLetsReadTheAnswer(t *testing.T) {
	p := openPorch(t, doorLimits{connections: 1})
	p.served(p.dial(""))
	var calls sync.WaitGroup
	for range 3 * maxLeaving {
		c := p.dial("")
		calls.Go(func() {
			m, err := newRecorder(c).answer("GET") // it only listens: nothing can be lost to a reset
			if err != nil || m.status() != 503 {
				t.Errorf("answer %v, %v", m, err)
			}
		})
	}
	calls.Wait()
	if got := p.refused(overLimit); got != 3*maxLeaving {
		t.Errorf("%v refused", got)
	}
}

// TestRow128LimitOfOneAddress: one address cannot take the places of the others.
func TestRow128LimitOfOneAddress(t *testing.T) {
	p := openPorch(t, doorLimits{connections: 100, perAddress: 2})
	first := p.dial("127.0.0.1")
	p.served(first)
	p.served(p.dial("127.0.0.1"))
	p.turnedAway(p.dial("127.0.0.1"))
	p.served(p.dial("127.0.0.2"))
	p.served(p.dial("127.0.0.2"))
	p.turnedAway(p.dial("127.0.0.2"))
	if got := p.refused(overAddressLimit); got != 2 {
		t.Errorf("%v refused", got)
	}
	_ = first.Close()
	until(t, "one left", func() bool { return p.open() == 3 })
	p.served(p.dial("127.0.0.1"))
	p.turnedAway(p.dial("127.0.0.1"))

	p.limits.Store(&doorLimits{connections: 100, perAddress: 2, trusted: trusted{netip.MustParsePrefix("127.0.0.1/32")}})
	for range 5 {
		p.served(p.dial("127.0.0.1")) // a proxy's connections are those of many
	}
	p.turnedAway(p.dial("127.0.0.2"))
	p.limits.Store(&doorLimits{connections: 100})
	p.served(p.dial("127.0.0.2"))
	p.door.mu.Lock()
	defer p.door.mu.Unlock()
	if n := len(p.door.by); n != 2 {
		t.Errorf("%d addresses are counted", n)
	}
}

func TestSeatOf(t *testing.T) {
	for address, want := range map[string]string{
		"192.0.2.1": "192.0.2.1", "2001:db8:1:2:3:4:5:6": "2001:db8:1:2::", "2001:db8:1:2::": "2001:db8:1:2::",
		"fe80::1%eth0": "fe80::", "::1": "::",
	} {
		if got := seatOf(netip.MustParseAddr(address)); got.String() != want {
			t.Errorf("%s is seated at %s, not %s", address, got, want)
		}
	}
	if got := seatOf(netip.Addr{}); got.IsValid() {
		t.Errorf("no address is seated at %s", got)
	}
}

func TestDoorShedsForMemory(t *testing.T) {
	p := openPorch(t, doorLimits{connections: 100})
	inside := p.dial("")
	p.served(inside)
	p.shedding.Store(true)
	p.turnedAway(p.dial(""))
	p.served(inside)
	p.shedding.Store(false)
	p.served(p.dial(""))
	if got := p.refused(outOfMemory); got != 1 {
		t.Errorf("%v refused", got)
	}
}

// TestDoorLowersTheLimit: descriptors allow fewer connections than are set.
func TestDoorLowersTheLimit(t *testing.T) {
	p := openPorch(t, doorLimits{connections: 1000}, func(o *doorOptions) {
		o.descriptors = func() (int, bool) { return spareDescriptors + 4, true }
	})
	for range 3 {
		p.served(p.dial(""))
	}
	p.turnedAway(p.dial(""))
	if got := p.refused(outOfDescriptors); got != 1 {
		t.Errorf("%v refused", got)
	}
	if n := strings.Count(p.log.String(), "max_connections=1000 allowed=3 wanted_open_files=1396"); n != 1 {
		t.Errorf("%d warnings in %s", n, p.log)
	}
	p.limits.Store(&doorLimits{connections: 2})
	p.turnedAway(p.dial(""))
	if got := p.refused(overLimit); got != 1 {
		t.Errorf("%v refused", got)
	}
}

// TestDoorCloses ends all that waits, soon, and keeps who is inside.
func TestDoorCloses(t *testing.T) {
	p := openPorch(t, doorLimits{connections: 1})
	inside := p.dial("")
	p.served(inside)
	away := p.dial("")
	if _, err := newRecorder(away).answer("GET"); err != nil { // and now it is waited for
		t.Fatal(err)
	}
	begin := time.Now()
	if err := p.door.Close(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > farewell-100*time.Millisecond {
		t.Errorf("closing took %s", took)
	}
	if err := p.door.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closing again: %v", err)
	}
	if c, err := p.door.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v, %v", c, err)
	}
	p.served(inside)
}

// failing is a listener whose Accept fails some times.
type failing struct {
	net.Listener
	times atomic.Int32
}

func (f *failing) Accept() (net.Conn, error) {
	if f.times.Add(-1) >= 0 {
		return nil, errors.New("no buffer space available")
	}
	return f.Listener.Accept()
}

func TestDoorOutlivesFailures(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &failing{Listener: l}
	f.times.Store(4)
	d := newDoor(f, doorOptions{
		limits: func() doorLimits { return doorLimits{connections: 1} },
		now:    time.Now, log: slog.New(slog.DiscardHandler),
	}, newDoorMetrics())
	defer d.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = got.Close()
	_ = got.Close() // twice counts once
	if d.total != 0 {
		t.Errorf("%d connections", d.total)
	}
}

// TestTransportResets: the client sees a reset, not an end.
func TestTransportResets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor(l, doorOptions{
		limits: func() doorLimits { return doorLimits{connections: 1} },
		now:    time.Now, log: slog.New(slog.DiscardHandler),
	}, newDoorMetrics())
	defer d.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	inside, err := d.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if inside.(*transport).raw == nil {
		t.Error("a TCP connection without its raw one")
	}
	if err := inside.(*transport).SetLinger(0); err != nil {
		t.Fatal(err)
	}
	if err := inside.Close(); err != nil {
		t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("read: %v", err)
	}
	if d.total != 0 {
		t.Errorf("%d connections", d.total)
	}
}

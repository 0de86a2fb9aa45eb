package proxy

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// testClock is a clock that a test moves.
type testClock struct{ nanoseconds atomic.Int64 }

func (c *testClock) now() time.Time            { return time.Unix(1e9, c.nanoseconds.Load()) }
func (c *testClock) pass(d time.Duration)      { c.nanoseconds.Add(int64(d)) }
func tcp(address string) Endpoint              { return Endpoint{Network: "tcp", Address: address, Weight: 1} }
func weighing(weight int, e Endpoint) Endpoint { e.Weight = weight; return e }

// startPool builds a pool and closes it at the end, when no connection may be left.
func startPool(t testing.TB, u Upstream, change ...func(*poolOptions)) (*pool, *testClock) {
	t.Helper()
	clock := &testClock{}
	o := poolOptions{now: clock.now, random: newRandom(1), log: slog.New(slog.DiscardHandler)}
	for _, c := range change {
		c(&o)
	}
	if u.ConnectTimeout == 0 {
		u.ConnectTimeout = patience
	}
	p, err := newPool(u, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.close()
		for _, e := range p.endpoints {
			if n := e.connections.Load(); n != 0 {
				t.Errorf("%s: %d connections are counted after the end", e.label, n)
			}
			if n := e.load.Load(); n != 0 {
				t.Errorf("%s: %d requests are counted after the end", e.label, n)
			}
		}
	})
	return p, clock
}

// listen is a peer that does with each connection what serve does, then closes it.
func listen(t testing.TB, network, address string, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, l, serve)
	return l.Addr().String()
}

func serveOn(t testing.TB, l net.Listener, serve func(net.Conn)) {
	var group sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	group.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			group.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		group.Wait()
	})
}

// silent keeps a connection until its peer closes it.
func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// refusing is an address that refuses connections: bound, so that nobody else listens there.
func refusing(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(bound.(*syscall.SockaddrInet4).Port))
}

func mustTake(t testing.TB, p *pool) taken {
	t.Helper()
	taken, err := p.take(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return taken
}

func TestPoolSpreadsByWeight(t *testing.T) {
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{
		weighing(1, tcp("127.0.0.1:1")), weighing(3, tcp("127.0.0.1:2")), weighing(6, tcp("127.0.0.1:3"))}})
	f := func(name string, avoid *endpoint, want ...int) {
		t.Helper()
		got := map[*endpoint]int{}
		for range 100_000 {
			e, _ := p.choose(avoid, p.options.now())
			got[e]++
		}
		for i, e := range p.endpoints {
			if n := (got[e] + 500) / 1000; n != want[i] {
				t.Errorf("%s: endpoint %d got %d per cent, not %d", name, i, n, want[i])
			}
		}
	}
	f("all", nil, 10, 30, 60)
	f("one is avoided", p.endpoints[1], 14, 0, 86)
	p.endpoints[2].state.Store(opened)
	p.endpoints[2].until.Store(p.options.now().Add(time.Hour).UnixNano())
	f("one is open", nil, 25, 75, 0)
	f("one is open, one avoided", p.endpoints[0], 0, 100, 0)
	p.endpoints[1].state.Store(unwell)
	f("only the avoided one is left", p.endpoints[0], 100, 0, 0)
}

// TestPoolLoadFollowsWeight: with as many requests at once as it likes, each endpoint has
// its share of them.
func TestPoolLoadFollowsWeight(t *testing.T) {
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{weighing(1, tcp("127.0.0.1:1")), weighing(4, tcp("127.0.0.1:2"))}})
	for range 1000 {
		e, _ := p.choose(nil, p.options.now())
		e.load.Add(1)
	}
	if n := p.endpoints[0].load.Load(); n < 190 || n > 210 {
		t.Errorf("the lighter one has %d of 1000", n)
	}
	for _, e := range p.endpoints {
		e.load.Store(0)
	}
}

// TestPoolSparesTheSlow: an endpoint that takes ten times as long gets fewer requests.
func TestPoolSparesTheSlow(t *testing.T) {
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp("127.0.0.1:1"), tcp("127.0.0.1:2"), tcp("127.0.0.1:3")}})
	type going struct {
		e   *endpoint
		end int
	}
	var now []going
	got := map[*endpoint]int{}
	for step := range 10_000 {
		keep := now[:0]
		for _, g := range now {
			if g.end <= step {
				g.e.load.Add(-1)
			} else {
				keep = append(keep, g)
			}
		}
		e, _ := p.choose(nil, p.options.now())
		e.load.Add(1)
		got[e]++
		takes := 3
		if e == p.endpoints[0] {
			takes = 30
		}
		now = append(keep, going{e, step + takes})
	}
	if slow := got[p.endpoints[0]]; slow > 1500 {
		t.Errorf("the slow one got %d of 10000", slow)
	}
	for _, g := range now {
		g.e.load.Add(-1)
	}
}

func TestPoolReuse(t *testing.T) {
	accepted := make(chan net.Conn, 10)
	p, clock := startPool(t, Upstream{MaxIdle: 2, Endpoints: []Endpoint{tcp(listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
		accepted <- c
		silent(c)
	}))}})
	first := mustTake(t, p)
	peer := <-accepted
	if first.reused {
		t.Error("the first connection is said to be reused")
	}
	p.put(first)
	again := mustTake(t, p)
	if !again.reused || again.conn != first.conn {
		t.Error("it is not used again")
	}
	if fresh, err := p.take(nil, true); err != nil || fresh.reused {
		t.Errorf("asked for a fresh one: reused %v, %v", fresh.reused, err)
	} else {
		p.drop(fresh)
	}
	f := func(name string, spoil func()) {
		t.Helper()
		p.put(again)
		spoil()
		next := mustTake(t, p)
		if next.reused {
			t.Errorf("%s: it is used again", name)
		}
		again = next
		for peer = range accepted { // the last one
			if peer.RemoteAddr().String() == next.conn.LocalAddr().String() {
				break
			}
		}
	}
	f("idle for too long", func() { clock.pass(upstreamIdle) })
	f("closed", func() {
		_ = peer.Close()
		until(t, "the end is seen", func() bool { return !again.conn.quiet() })
	})
	f("bytes that nobody asked for", func() {
		_, _ = io.WriteString(peer, "HTTP/1.1 200 OK\r\n\r\n")
		until(t, "the bytes are seen", func() bool { return !again.conn.quiet() })
	})
	_, _ = io.WriteString(peer, "ab")
	if _, err := again.conn.reader.ReadByte(); err != nil { // the rest is in our buffer, not the socket's
		t.Fatal(err)
	}
	f("bytes that were read already", func() {})

	// No more than MaxIdle are kept.
	p.put(again)
	var all []taken
	for range 4 {
		all = append(all, mustTake(t, p))
	}
	for _, one := range all {
		p.put(one)
	}
	e := p.endpoints[0]
	if n := e.connections.Load(); n != 2 {
		t.Errorf("%d connections are kept, not 2", n)
	}
	clock.pass(upstreamIdle)
	p.reap(clock.now())
	if n := e.connections.Load(); n != 0 {
		t.Errorf("%d connections are kept after their time", n)
	}
	last := mustTake(t, p)
	p.close()
	p.put(last)
	if n := e.connections.Load(); n != 0 {
		t.Errorf("%d connections are kept after the end", n)
	}
}

func TestPoolTriesAnother(t *testing.T) {
	good := listen(t, "tcp", "127.0.0.1:0", silent)
	bad := refusing(t)
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp(bad), tcp(good)}})
	for range 20 {
		one, err := p.take(nil, false)
		if err != nil {
			if one.endpoint != p.endpoints[0] || one.conn != nil {
				t.Fatalf("failed with %+v", one)
			}
			if one, err = p.take(one.endpoint, true); err != nil {
				t.Fatalf("the other endpoint: %v", err)
			}
		}
		if one.endpoint != p.endpoints[1] {
			t.Fatal("connected to nobody")
		}
		p.put(one)
	}
	// The good one is avoided, and the bad one is no better.
	if _, err := p.take(p.endpoints[1], false); err == nil {
		t.Error("no error")
	}
}

func TestPoolRefusesWhatCannotWork(t *testing.T) {
	f := func(want string, u Upstream) {
		t.Helper()
		if _, err := newPool(u, poolOptions{now: time.Now}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, not %q", err, want)
		}
	}
	one := []Endpoint{tcp("127.0.0.1:1")}
	f("needs an endpoint", Upstream{ConnectTimeout: 1})
	f("neither tcp nor unix", Upstream{ConnectTimeout: 1, Endpoints: []Endpoint{{Network: "udp", Address: "127.0.0.1:1"}}})
	f("missing port", Upstream{ConnectTimeout: 1, Endpoints: []Endpoint{tcp("127.0.0.1")}})
	f("read an endpoint's port", Upstream{ConnectTimeout: 1, Endpoints: []Endpoint{tcp("localhost:70000")}})
	f("needs a server name", Upstream{ConnectTimeout: 1, Endpoints: []Endpoint{{Network: "unix", Address: "/s", TLS: true}}})
	f("needs an interval", Upstream{ConnectTimeout: 1, Endpoints: one, Check: HealthCheck{Path: "/"}})
}

func TestUpstreamKey(t *testing.T) {
	u := Upstream{Endpoints: []Endpoint{tcp("a:1"), tcp("b:1")}, TLSIdentity: "x", ConnectTimeout: 1, RetryBudget: 20}
	same := u
	same.Endpoints = append([]Endpoint(nil), u.Endpoints...)
	if u.key() != same.key() {
		t.Error("equal ones have different keys")
	}
	for name, change := range map[string]func(*Upstream){
		"endpoint": func(u *Upstream) { u.Endpoints = u.Endpoints[:1] }, "weight": func(u *Upstream) { u.Endpoints[1].Weight = 2 },
		"TLS": func(u *Upstream) { u.TLSIdentity = "y" }, "check": func(u *Upstream) { u.Check.Path = "/" },
		"timeout": func(u *Upstream) { u.ConnectTimeout = 2 }, "budget": func(u *Upstream) { u.RetryBudget = 0 },
	} {
		other := u
		other.Endpoints = append([]Endpoint(nil), u.Endpoints...)
		change(&other)
		if u.key() == other.key() {
			t.Errorf("another %s, and the same key", name)
		}
	}
}

func TestPoolMetrics(t *testing.T) {
	address := listen(t, "tcp", "127.0.0.1:0", silent)
	one, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp(address)}})
	other, _ := startPool(t, Upstream{Failures: 1, Open: time.Hour, Endpoints: []Endpoint{tcp(address), {Network: "unix", Address: "/run/s"}}})
	registry := prometheus.NewRegistry()
	registry.MustRegister(newPoolMetrics(func() []*pool { return []*pool{one, other} }))
	a, b := mustTake(t, one), mustTake(t, one)
	p, err := other.take(other.endpoints[1], false)
	if err != nil {
		t.Fatal(err)
	}
	f := func(want map[string]float64) {
		t.Helper()
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, family := range families {
			for _, m := range family.GetMetric() {
				got[family.GetName()+" "+m.GetLabel()[0].GetValue()] = m.GetGauge().GetValue()
			}
		}
		for key, value := range want {
			if v, ok := got[key]; !ok || v != value {
				t.Errorf("%s is %v, not %v", key, v, value)
			}
		}
		if len(got) != len(want) {
			t.Errorf("gathered %v", got)
		}
	}
	f(map[string]float64{
		"postern_upstream_connections http://" + address: 3, "postern_upstream_connections unix:/run/s": 0,
		"postern_upstream_healthy http://" + address: 1, "postern_upstream_healthy unix:/run/s": 1})
	one.put(a)
	one.drop(b)
	other.drop(p)
	other.endpoints[0].failed(io.EOF)
	f(map[string]float64{
		"postern_upstream_connections http://" + address: 1, "postern_upstream_connections unix:/run/s": 0,
		"postern_upstream_healthy http://" + address: 0, "postern_upstream_healthy unix:/run/s": 1})
}

// TestPoolAtOnce: many requests at once, some of which fail, while it is reaped and closed.
func TestPoolAtOnce(t *testing.T) {
	u := Upstream{Failures: 2, Open: time.Millisecond, RetryBudget: 20, MaxIdle: 3}
	for range 3 {
		u.Endpoints = append(u.Endpoints, tcp(listen(t, "tcp", "127.0.0.1:0", silent)))
	}
	p, _ := startPool(t, u, func(o *poolOptions) { o.now = time.Now })
	p.reapEvery = time.Millisecond
	stop := make(chan struct{})
	var group, running sync.WaitGroup
	running.Go(func() { p.run(stop) })
	for i := range 8 {
		group.Go(func() {
			for n := range 200 {
				p.request()
				one, err := p.take(nil, n%7 == 0)
				if errors.Is(err, errNoUpstream) {
					continue
				} else if err != nil {
					t.Error(err)
					return
				}
				switch (n + i) % 5 {
				case 0:
					one.endpoint.failed(io.EOF)
					p.mayRetry()
					p.drop(one)
				case 1:
					p.drop(one) // no verdict: the client went away
				default:
					one.endpoint.succeeded()
					p.put(one)
				}
			}
		})
	}
	group.Wait()
	close(stop)
	running.Wait()
}

package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

const (
	upstreamIdle   = 30 * time.Second // a kept connection is closed after it; most upstreams keep theirs longer
	upstreamKept   = 512              // connections kept idle to one endpoint, by default
	connectTimeout = 5 * time.Second  // by default

	reapEvery    = upstreamIdle / 3
	resolveEvery = 30 * time.Second
)

// errNoUpstream: no endpoint takes requests now.
var errNoUpstream = errors.New("no endpoint of the upstream is well")

// pool is the endpoints of one upstream and the connections to them. All methods may be
// called concurrently. A usual request costs it no allocation and no lock but the one
// around an endpoint's list of idle connections.
type pool struct {
	upstream  Upstream
	options   poolOptions
	host      []byte // the Host field where the client sent none: one head goes to any endpoint
	endpoints []*endpoint
	budget    budget
	second    atomic.Int64 // of the clock, when a connection was last taken

	reapEvery, resolveEvery time.Duration
}

type poolOptions struct {
	now    func() time.Time
	random func() uint64 // may be called concurrently; see newRandom
	log    *slog.Logger
	lookup lookup // nil: the system's resolver
}

// lookup is (*net.Resolver).LookupNetIP.
type lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

// taken is a connection that one request owns, until put or drop.
type taken struct {
	conn     *upstreamConn
	endpoint *endpoint
	reused   bool // it served another request before
	probe    bool // the endpoint is tried again with this request
}

// key is equal for upstreams that can share a pool.
func (u Upstream) key() string {
	u.TLS = nil // TLSIdentity stands for it
	return fmt.Sprintf("%#v", u)
}

// newPool checks u and builds its pool. It does no I/O; run does what must go on beside requests.
func newPool(u Upstream, o poolOptions) (*pool, error) {
	if len(u.Endpoints) == 0 {
		return nil, errors.New("an upstream needs an endpoint")
	}
	if u.ConnectTimeout <= 0 {
		u.ConnectTimeout = connectTimeout
	}
	if u.Check.Path != "" && (u.Check.Interval <= 0 || u.Check.Timeout <= 0) {
		return nil, errors.New("a health check needs an interval and a timeout")
	}
	if u.MaxIdle <= 0 {
		u.MaxIdle = upstreamKept
	}
	if o.lookup == nil {
		o.lookup = new(net.Resolver).LookupNetIP
	}
	p := &pool{upstream: u, options: o, reapEvery: reapEvery, resolveEvery: resolveEvery}
	p.budget.percent = u.RetryBudget
	for _, given := range u.Endpoints {
		e, err := newEndpoint(p, given)
		if err != nil {
			return nil, err
		}
		p.endpoints = append(p.endpoints, e)
	}
	p.host = []byte(p.endpoints[0].field)
	return p, nil
}

// newRandom returns a source of well mixed numbers for choosing, not for secrets
// (SplitMix64: one atomic addition and no lock).
func newRandom(seed uint64) func() uint64 {
	var state atomic.Uint64
	state.Store(seed)
	return func() uint64 {
		z := state.Add(0x9e3779b97f4a7c15)
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		return z ^ z>>31
	}
}

// run reaps idle connections, resolves names again and asks endpoints whether they are
// well, until stop is closed. It returns when all that has ended.
func (p *pool) run(stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var group sync.WaitGroup
	group.Go(func() { p.every(ctx, p.reapEvery, func() { p.reap(p.options.now()) }) })
	for _, e := range p.endpoints {
		if e.host != "" {
			group.Go(func() { p.every(ctx, p.resolveEvery, func() { e.resolveAgain(ctx) }) })
		}
		if p.upstream.Check.Path != "" {
			group.Go(func() { e.checks(ctx) })
		}
	}
	<-stop
	cancel()
	group.Wait()
}

func (p *pool) every(ctx context.Context, d time.Duration, do func()) {
	tick := time.NewTicker(d)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do()
		}
	}
}

// take chooses an endpoint and returns an idle connection to it, or dials one; with
// fresh it always dials. avoid is where this request has failed already, or nil: it is
// chosen only where there is no other.
//
// A failure to connect counts against the endpoint; taken then says which it was, and
// owns nothing. No byte of the request has been sent: another take repeats nothing.
func (p *pool) take(avoid *endpoint, fresh bool) (taken, error) {
	now := p.options.now()
	if second := now.Unix(); p.second.Load() != second {
		p.second.Store(second)
	}
	e, probe := p.choose(avoid, now)
	if e == nil {
		return taken{}, errNoUpstream
	}
	t := taken{endpoint: e, probe: probe}
	e.load.Add(1)
	if !fresh && !probe {
		if t.conn = e.pop(now); t.conn != nil {
			t.reused = true
			return t, nil
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), p.upstream.ConnectTimeout)
	defer cancel()
	conn, err := e.connect(ctx)
	if err != nil {
		if !ownFault(err) {
			e.failed(err)
		}
		t.end()
		return taken{endpoint: e}, err
	}
	t.conn = conn
	return t, nil
}

// choose returns the less loaded of two endpoints that chance named by their weight:
// nearly as even as the least loaded of all, and without everybody choosing the same
// one. An endpoint whose time has come is tried with one request first.
func (p *pool) choose(avoid *endpoint, now time.Time) (e *endpoint, probe bool) {
	if avoid == nil { // a second try is better off with one that is known to be well
		if e = p.due(now); e != nil {
			return e, true
		}
	}
	a := p.pick(avoid, nil)
	if a == nil {
		if avoid == nil {
			return nil, false
		}
		if e = p.due(now); e != nil {
			return e, true
		}
		if avoid.well() {
			return avoid, false
		}
		return nil, false
	}
	if b := p.pick(avoid, a); b != nil && b.load.Load()*a.weight < a.load.Load()*b.weight {
		return b, false
	}
	return a, false
}

// pick returns an endpoint that is well and neither of the two given, by chance and
// weight; nil where there is none.
func (p *pool) pick(not, nor *endpoint) *endpoint {
	var total int64
	var last *endpoint
	for _, e := range p.endpoints {
		if e != not && e != nor && e.well() {
			total += e.weight
			last = e
		}
	}
	if last == nil || total == last.weight {
		return last
	}
	at := int64(p.options.random() % uint64(total))
	for _, e := range p.endpoints {
		if e != not && e != nor && e.well() {
			if at -= e.weight; at < 0 {
				return e
			}
		}
	}
	return last // the state of one has changed meanwhile
}

// due returns an endpoint that is to be tried again, and marks it as being tried.
func (p *pool) due(now time.Time) *endpoint {
	for _, e := range p.endpoints {
		if e.state.Load() == opened && now.UnixNano() >= e.until.Load() && e.probing.CompareAndSwap(false, true) {
			return e
		}
	}
	return nil
}

// put keeps the connection, which must have been read to the end of its answer, for
// another request, and ends the request on its endpoint.
func (p *pool) put(t taken) {
	t.endpoint.push(t.conn, p.options.now())
	t.end()
}

// drop closes the connection and ends the request on its endpoint.
func (p *pool) drop(t taken) {
	t.endpoint.discard(t.conn)
	t.end()
}

func (t taken) end() {
	t.endpoint.load.Add(-1)
	if t.probe { // whatever came of it: where nothing did, another request may try
		t.endpoint.probing.Store(false)
	}
}

// reap closes connections that have been idle for too long, or that lead to addresses
// which the endpoint's name no longer has.
func (p *pool) reap(now time.Time) {
	for _, e := range p.endpoints {
		e.reap(now)
	}
}

// close closes the idle connections and keeps none from now on. Those in use are closed
// when they are put.
func (p *pool) close() {
	for _, e := range p.endpoints {
		e.close()
	}
}

// request counts a request for which a connection was just taken (its second is that of the
// clock), and of which retries are a share.
func (p *pool) request() { p.budget.request(p.second.Load()) }

// mayRetry reports whether one more retry is within the budget, and counts it.
func (p *pool) mayRetry() bool { return p.budget.retry(p.options.now().Unix()) }

// Package proxy is the front door: it checks the head of each request, finds the
// route, verifies the bearer token, builds a fresh upstream request that says who is
// asking, forwards, and cleans the answer.
//
// What it must never do: forward a byte that it has not judged, let a client's field
// stand where the upstream reads ours, or ask a store. The client's request is never
// edited and passed on: the upstream's is built from an allow-rule. fasthttp serves the
// connections and writes answers; what clients send it never parses: clientConn reads
// heads and content itself, and gives it a stand-in.
//
// Start reading at Front.handle in request.go: judge, then forward in forward.go, which
// sends (attempt.go) once: c.send(x.out) there is the line that forwards. What the upstream
// says before its final answer passes through interim.go. From main.go that
// is three jumps: ServeCommand.Run, Front.Serve, Front.handle. Before handle come the door
// (listener.go) and clientconn.go, beside it routes.go and pool.go, behind it stream.go and,
// for WebSockets, tunnel.go.
package proxy

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
)

// Issuer answers the routes that are postern's own.
type Issuer interface {
	// Owns reports whether path (no query, checked by the front) is answered here and
	// never forwarded. It may be called concurrently.
	Owns(path []byte) bool
	// Serve answers the request in ctx. It writes the whole response and returns its reason.
	Serve(ctx *fasthttp.RequestCtx, requestID string) answer.Reason
}

// Verifier reports whom a raw bearer token speaks for. It must not keep raw: its buffer is
// reused. An error that is an Invalid is the client's fault; any other is ours.
type Verifier interface {
	Verify(raw []byte, now time.Time) (directory.Principal, error)
}

// Asserter signs who is asking, for an upstream that cannot trust the network between:
// a short-lived JWT with this audience. It is asked for each request, so it must remember
// what it signed. An error is our own fault. It may be called concurrently.
type Asserter interface {
	Assert(who directory.Principal, audience string, now time.Time) (string, error)
}

// Front is the public listener's server. Serve it, then Shutdown.
type Front struct {
	options    Options
	state      atomic.Pointer[state]
	server     *fasthttp.Server
	metrics    *metrics
	pool       sync.Pool // of *exchange
	buffers    headBuffers
	requestIDs requestIDs
	now        func() time.Time
	random     func() uint64 // for choosing

	connections connections
	sockets     sockets
	draining    atomic.Bool // answers close their connections
	doorMetrics *doorMetrics
	memory      *memoryGuard

	running sync.WaitGroup // of pools, and of the memory guard
	stop    chan struct{}  // ends the memory guard

	mu       sync.Mutex // of what follows, and of Reload
	listener net.Listener
	accepted chan struct{} // closed when nothing is accepted any more; nil before Serve
	stopped  bool
}

// state is what one Reload made of its settings. It is immutable: each exchange holds the
// one that it began with.
type state struct {
	Settings
	router     *router
	classifier *classifier
	stamps     stamps
	pools      pools
}

// New checks o and builds a front.
func New(o Options) (*Front, error) {
	ids, err := newRequestIDs(o.Random)
	if err != nil {
		return nil, err
	}
	var seed [8]byte
	if _, err := io.ReadFull(o.Random, seed[:]); err != nil {
		return nil, fmt.Errorf("read randomness: %w", err)
	}
	f := &Front{
		options: o, metrics: newMetrics(), doorMetrics: newDoorMetrics(), memory: newMemoryGuard(),
		requestIDs: ids, now: o.Now, random: newRandom(binary.NativeEndian.Uint64(seed[:])), stop: make(chan struct{}),
	}
	f.metrics.pools = newPoolMetrics(func() []*pool { return f.state.Load().pools.list() })
	f.metrics.certificate = newCertificateMetrics(func() *tls.Config { return f.state.Load().TLS })
	s, err := f.newState(o.Settings, nil)
	if err != nil {
		return nil, err
	}
	f.state.Store(s)
	f.pool.New = func() any { return newExchange(f) }
	f.sockets.buffers.New = func() any { return new([tunnelPiece]byte) }
	f.server = &fasthttp.Server{
		Handler:               f.handle,
		Logger:                slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		ReadBufferSize:        len(standIn) * 2,
		Concurrency:           math.MaxInt32, // the gate counts connections, and refuses in our own words
		NoDefaultServerHeader: true,
		NoDefaultContentType:  true,
		NoDefaultDate:         true, // an upstream's Date is passed on
		SecureErrorLogMessage: true,
	}
	return f, nil
}

// drained is how much content a refusal leaves to be dropped so that the connection can
// be kept.
const drained = 8 << 10

// newState checks s and builds what requests need of it. Pools of old are kept.
func (f *Front) newState(s Settings, old *state) (*state, error) {
	var before pools
	if old != nil {
		before = old.pools
	}
	current, o := pools{}, poolOptions{now: f.now, random: f.random, log: f.options.Log}
	router, err := newRouter(s.Routes, func(u Upstream) (*pool, error) { return current.get(u, before, o) })
	if err != nil {
		return nil, err
	}
	classifier, err := newClassifier(slices.Concat(DefaultHeaders().all(), s.Headers.all(), []string{assertionField}))
	if err != nil {
		return nil, err
	}
	if s.DecisionPath != "" && f.options.Issuer != nil && f.options.Issuer.Owns([]byte(s.DecisionPath)) {
		return nil, fmt.Errorf("the decision endpoint's path %q is the issuer's", s.DecisionPath)
	}
	for _, r := range router.all {
		if r.rules, err = newRules(r.Route, classifier); err != nil {
			return nil, err
		}
		if r.Access != Public && f.options.Verifier == nil {
			return nil, fmt.Errorf("route %q needs a verifier", r.Name)
		}
		if r.catalog != (catalogPlace{}) && f.options.Catalogs == nil {
			return nil, fmt.Errorf("route %q needs to know the catalogs", r.Name)
		}
		if r.Assertion != nil && f.options.Asserter == nil {
			return nil, fmt.Errorf("route %q needs an asserter", r.Name)
		}
		r.metrics = f.metrics.route(r.Name)
	}
	return &state{Settings: s, router: router, classifier: classifier, stamps: newStamps(s.Headers), pools: current}, nil
}

// Reload replaces the settings. What is in flight lives on under those that it began
// with. After an error nothing has changed. It may be called while the front serves.
func (f *Front) Reload(s Settings) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return errors.New("the front is shut down")
	}
	old := f.state.Load()
	if (s.TLS == nil) != (old.TLS == nil) {
		return errors.New("TLS cannot be switched on or off by a reload; restart")
	}
	next, err := f.newState(s, old)
	if err != nil {
		return err
	}
	f.state.Store(next)
	if f.listener != nil {
		next.pools.run(&f.running)
	}
	old.pools.end(next.pools)
	return nil
}

// Serve answers on l until Shutdown, and closes it. Call it once.
func (f *Front) Serve(l net.Listener) error {
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return l.Close()
	}
	d := newDoor(l, f.doorOptions(), f.doorMetrics)
	f.listener = d
	accepted := make(chan struct{})
	defer close(accepted)
	f.accepted = accepted
	f.running.Go(func() { f.memory.run(f.stop) })
	f.state.Load().pools.run(&f.running)
	f.mu.Unlock()
	if err := f.server.Serve(gate{d, f}); err != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

func (f *Front) doorOptions() doorOptions {
	return doorOptions{
		limits: func() doorLimits {
			s := f.state.Load()
			return doorLimits{
				connections: s.MaxConnections, perAddress: s.MaxConnectionsPerAddress,
				readTimeout: s.ReadTimeout, trusted: s.TrustedProxies, tls: s.TLS,
			}
		},
		proxyProtocol: f.options.ProxyProtocol, shedding: f.memory.shedding, requestID: f.requestIDs.append,
		now: f.now, log: f.options.Log,
	}
}

// Shutdown stops accepting, closes connections that wait for a request, lets those in
// flight finish until ctx ends, cuts what is left then, and closes the connections to upstreams. It
// fails when some were cut.
func (f *Front) Shutdown(ctx context.Context) error {
	f.mu.Lock()
	again, l, accepted := f.stopped, f.listener, f.accepted
	f.stopped = true
	f.mu.Unlock()
	if again {
		return errors.New("shut down before")
	}
	f.draining.Store(true)
	if l != nil {
		_ = l.Close()
	}
	f.connections.closeWaiting(false)
	f.sockets.drain()
	// fasthttp's own shutdown would close connections of which a part of a head was read,
	// while they are read, and each for as long as that takes.
	if accepted != nil {
		<-accepted
	}
	err := f.connections.wait(ctx)
	if err != nil {
		f.connections.closeWaiting(true)
	}
	f.sockets.wait()
	f.state.Load().pools.end(nil)
	close(f.stop)
	f.running.Wait()
	return err
}

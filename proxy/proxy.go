// Package proxy is the front door: it checks the head of each request, finds the
// route, verifies the bearer token, builds a fresh upstream request that says who is
// asking, forwards, and cleans the answer.
//
// What it must never do: forward a byte that it has not judged, let a client's field
// stand where the upstream reads ours, or ask a store. The client's request is never
// edited and passed on: the upstream's is built from an allow-rule (FASTHTTP's parsed
// header is not trusted for it; the raw head is).
//
// Start reading at Front.handle in request.go: judge, then forward.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
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

// Verifier reports whom a raw bearer token speaks for. It must not keep raw: fasthttp
// reuses it. An error that is an Invalid is the client's fault; any other is ours.
type Verifier interface {
	Verify(raw []byte, now time.Time) (directory.Principal, error)
}

// Headers are the names under which the upstream reads the identity.
type Headers struct {
	Organization, Client, Environment, Token, Agreement, Catalog, Scopes string
}

// DefaultHeaders are the names of the contract. They are reserved even where others
// are configured.
func DefaultHeaders() Headers {
	return Headers{
		Organization: "X-Organization-Id", Client: "X-Client-Id", Environment: "X-Client-Environment",
		Token: "X-Token-Id", Agreement: "X-Agreement-Id", Catalog: "X-Catalog-Id", Scopes: "X-Scopes",
	}
}

func (h Headers) all() []string {
	return []string{h.Organization, h.Client, h.Environment, h.Token, h.Agreement, h.Catalog, h.Scopes}
}

// Options of a front. All fields are required unless their comment says otherwise;
// sizes are bytes.
type Options struct {
	Routes   []Route
	Headers  Headers
	Realm    string   // of the Bearer challenge
	Issuer   Issuer   // nil: this postern only verifies
	Verifier Verifier // required when a route needs a client

	MaxHeader      int           // request line and fields; more is 431
	MaxTarget      int           // request target; more is 414
	Buffer         int           // content up to this size is read whole, larger content is streamed
	ReadTimeout    time.Duration // for the head, and between two reads of the content
	WriteTimeout   time.Duration // between two writes to the client
	IdleTimeout    time.Duration // of a client's connection between requests
	MaxConnections int           // client connections at once

	Now    func() time.Time
	Random io.Reader // for request ids
	Log    *slog.Logger
	Access *AccessLog // nil: none
}

// Front is the public listener's server. Serve it, then Shutdown.
type Front struct {
	options    Options
	router     *router
	classifier *classifier
	stamps     stamps
	server     *fasthttp.Server
	metrics    *metrics
	pool       sync.Pool // of *exchange
	requestIDs requestIDs
	now        func() time.Time

	reaping sync.WaitGroup
	stop    chan struct{}

	mu       sync.Mutex // of what follows
	listener net.Listener
	stopped  bool
}

// New checks o and builds a front.
func New(o Options) (*Front, error) {
	router, err := newRouter(o.Routes)
	if err != nil {
		return nil, err
	}
	for _, r := range o.Routes {
		if r.Access == Client && o.Verifier == nil {
			return nil, fmt.Errorf("route %q needs a verifier", r.Name)
		}
	}
	classifier, err := newClassifier(append(DefaultHeaders().all(), o.Headers.all()...))
	if err != nil {
		return nil, err
	}
	ids, err := newRequestIDs(o.Random)
	if err != nil {
		return nil, err
	}
	f := &Front{
		options: o, router: router, classifier: classifier, stamps: newStamps(o.Headers),
		metrics: newMetrics(router.names()), requestIDs: ids, now: o.Now, stop: make(chan struct{}),
	}
	f.pool.New = func() any { return newExchange(f) }
	f.server = &fasthttp.Server{
		Handler:       f.handle,
		ErrorHandler:  f.unreadable,
		ExpectHandler: f.expect,
		Logger:        slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
		// The target may be longer than its limit and still be told so (414, not 431).
		ReadBufferSize:               o.MaxHeader + o.MaxTarget,
		ReadTimeout:                  o.ReadTimeout,
		WriteTimeout:                 o.WriteTimeout,
		IdleTimeout:                  o.IdleTimeout,
		Concurrency:                  o.MaxConnections,
		MaxRequestBodySize:           prefetch,
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		NoDefaultDate:                true, // an upstream's Date is passed on; our own answers get one
		SecureErrorLogMessage:        true,
		CloseOnShutdown:              true,
		TCPKeepalive:                 true,
	}
	return f, nil
}

const (
	// prefetch is how much content fasthttp reads before it calls us, under the deadline
	// of the head: as little as it can, so that no refusal waits for content.
	prefetch = 1
	// drained is how much content a refusal leaves for fasthttp to drop so that the
	// connection can be kept; fasthttp itself gives up at 256 KiB.
	drained = 8 << 10
)

// Serve answers on l until Shutdown, and closes it. Call it once.
func (f *Front) Serve(l net.Listener) error {
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return l.Close()
	}
	f.listener = l
	f.reaping.Go(f.reap)
	f.mu.Unlock()
	if err := f.server.Serve(l); err != nil {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown stops accepting, lets the requests in flight finish until ctx ends, and
// closes the connections to upstreams. It fails when some were still in flight.
func (f *Front) Shutdown(ctx context.Context) error {
	f.mu.Lock()
	again, l := f.stopped, f.listener
	f.stopped = true
	f.mu.Unlock()
	if again {
		return errors.New("shut down before")
	}
	err := f.server.ShutdownWithContext(ctx)
	if l != nil {
		_ = l.Close() // fasthttp closes it only once it accepts from it
	}
	close(f.stop)
	f.reaping.Wait()
	for _, r := range f.router.all {
		r.upstream.close()
	}
	return err
}

// reap closes connections to upstreams that were idle for too long. It ends with Shutdown.
func (f *Front) reap() {
	tick := time.NewTicker(upstreamIdle / 3)
	defer tick.Stop()
	for {
		select {
		case <-f.stop:
			return
		case <-tick.C:
			for _, r := range f.router.all {
				r.upstream.reap(time.Now())
			}
		}
	}
}

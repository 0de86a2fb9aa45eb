package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, fasthttpOwn()...)
}

// fasthttpOwn are goroutines that end in their own time: one clock for the Date field as
// long as the process lives, and a server's cleaner that looks every 10 s whether to stop.
func fasthttpOwn() []goleak.Option {
	return []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"),
	}
}

// patience is how long a test waits for what must come at once.
const patience = 5 * time.Second

// caller is one client with a token of it.
type caller struct {
	client, organization, environment, agreement, scope string
	token                                               string
	record                                              uuid.UUID
}

// The callers: a has everything, b has neither an agreement nor a scope, the agreement of
// lapsed is over, and that of shadow too, which refuses nothing.
var (
	callerA = caller{"0a000000-0000-4000-8000-000000000001", "0a000000-0000-4000-8000-00000000000f", "production",
		"0a000000-0000-4000-8000-0000000000aa", "search tag", "token.of.a", uuid.MustParse("0a000000-0000-7000-8000-0000000000a1")}
	callerB = caller{client: "0b000000-0000-4000-8000-000000000001", organization: "0b000000-0000-4000-8000-00000000000f", environment: "development",
		token: "token.of.b", record: uuid.MustParse("0b000000-0000-7000-8000-0000000000a1")}
	callerLapsed = caller{client: "0c000000-0000-4000-8000-000000000001", organization: "0c000000-0000-4000-8000-00000000000f", environment: "development",
		agreement: "0c000000-0000-4000-8000-0000000000aa", token: "token.of.lapsed"}
	callerShadow = caller{client: "0d000000-0000-4000-8000-000000000001", organization: "0d000000-0000-4000-8000-00000000000f", environment: "development",
		agreement: "0d000000-0000-4000-8000-0000000000aa", token: "token.of.shadow"}
)

// Tokens with which the verifier does something else than know a caller.
const (
	tokenPanics  = "token.that.panics"
	tokenExpired = "token.that.expired"
	tokenStore   = "token.that.needs.the.store"
)

// memory is a store and a feed of the clients and some catalogs.
type memory struct{}

// catalogs are "open", which is public, "own" and "a/b" of a's organization, and others of
// b's, of which "granted" is licensed to a.
func (memory) EachCatalog(_ context.Context, use func(registry.Catalog)) error {
	for _, c := range []struct{ external, owner string }{
		{"open", callerB.organization}, {"own", callerA.organization}, {"a/b", callerA.organization}, {"a+b", callerA.organization},
		{"granted", callerB.organization}, {"theirs", callerB.organization},
	} {
		use(registry.Catalog{ID: "id of " + c.external, ExternalID: c.external, OrganizationID: c.owner, Public: c.external == "open"})
	}
	return nil
}

func (memory) Grant(_ context.Context, id string) (registry.Grant, error) {
	for _, c := range []caller{callerA, callerB, callerLapsed, callerShadow} {
		if c.client != id {
			continue
		}
		g := registry.Grant{
			Client:       registry.Client{ID: c.client, OrganizationID: c.organization, Environment: c.environment, AgreementID: c.agreement},
			Organization: registry.Organization{ID: c.organization},
		}
		if c.agreement != "" {
			g.Agreement = &registry.Agreement{ID: c.agreement, OrganizationID: c.organization}
		}
		switch c {
		case callerA:
			g.Agreement.Terms.Catalogs = registry.Set{State: registry.Value, Values: []string{"granted"}}
		case callerLapsed:
			g.Agreement.EndsAt = 1
		case callerShadow:
			g.Agreement.EndsAt, g.Agreement.Enforce = 1, registry.Shadow
			g.Agreement.Terms.Catalogs = registry.Set{State: registry.Value}
		}
		return g, nil
	}
	return registry.Grant{}, registry.ErrNotFound
}
func (memory) Keys(context.Context) ([]registry.Key, error)               { return nil, nil }
func (memory) Revocations(context.Context) ([]registry.Revocation, error) { return nil, nil }
func (memory) Revocation(context.Context, string) (registry.Revocation, error) {
	return registry.Revocation{}, registry.ErrNotFound
}

func (memory) Catalog(context.Context, string) (registry.Catalog, error) {
	return registry.Catalog{}, registry.ErrNotFound
}
func (memory) Poll(context.Context) ([]registry.Change, bool, error) { return nil, true, nil }
func (memory) News() (<-chan struct{}, time.Duration)                { return nil, time.Hour }

// tokens is a verifier that knows tokens by heart.
type tokens map[string]directory.Principal

func (v tokens) Verify(raw []byte, _ time.Time) (directory.Principal, error) {
	switch string(raw) {
	case tokenPanics:
		panic("the verifier broke")
	case tokenExpired:
		return directory.Principal{}, token.Expired
	case tokenStore:
		return directory.Principal{}, fmt.Errorf("read client: %w", registry.ErrUnavailable)
	}
	who, ok := v[string(raw)]
	if !ok {
		return directory.Principal{}, token.Malformed
	}
	return who, nil
}

func newDirectory(t testing.TB) *directory.Directory {
	t.Helper()
	d, err := directory.Open(context.Background(), memory{}, memory{}, directory.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// newTokens reads the callers through a real directory.
func newTokens(t testing.TB) tokens { return tokensOf(t, newDirectory(t)) }

func tokensOf(t testing.TB, d *directory.Directory) tokens {
	t.Helper()
	known := tokens{}
	for _, c := range []caller{callerA, callerB, callerLapsed, callerShadow} {
		client, err := d.Client(context.Background(), c.client)
		if err != nil {
			t.Fatal(err)
		}
		known[c.token] = directory.Principal{Client: client, Token: c.record, Scope: c.scope}
	}
	return known
}

// ownRoutes is an issuer that answers below /oauth/token and its look-alikes.
type ownRoutes struct{}

func (ownRoutes) Owns(path []byte) bool {
	return bytes.HasPrefix(bytes.ToLower(bytes.ReplaceAll(path, []byte("%74"), []byte("t"))), []byte("/oauth/token"))
}

func (ownRoutes) Serve(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	if bytes.HasSuffix(ctx.Path(), []byte("/panic")) {
		panic("the issuer broke")
	}
	if !bytes.Equal(ctx.Request.Header.RequestURI(), []byte("/oauth/token")) {
		return answer.Refuse(ctx, answer.Refusal{Reason: answer.NotFound}, requestID, time.Now())
	}
	ctx.Response.SetStatusCode(fasthttp.StatusCreated)
	ctx.Response.Header.Set("X-Request-Id", requestID)
	ctx.Response.SetBodyString("issued")
	return answer.OK
}

// buffer is written to by several goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// fixture is a served front with its upstream.
type fixture struct {
	t        testing.TB
	front    *Front
	address  string
	upstream *origin
	log      *buffer
	access   *buffer // filled when the access log is closed, or once a second
	registry *prometheus.Registry
	stop     func() error
}

// to is one upstream on a TCP address.
func to(address string) Upstream {
	return Upstream{Endpoints: []Endpoint{{Network: "tcp", Address: address, Weight: 1}}, ConnectTimeout: patience, RetryBudget: 100}
}

// routes are the default ones.
func routes(upstream string) []Route {
	const timeout = patience
	return []Route{
		{Name: "api", Path: "/", Upstream: to(upstream), Access: Client, Timeout: timeout, Stall: timeout},
		{Name: "public", Path: "/public", Upstream: to(upstream), Access: Public, Timeout: timeout, Stall: timeout},
		{Name: "pass", Path: "/pass", Upstream: to(upstream), Access: Client, PassAuthorization: true, Timeout: timeout, Stall: timeout},
		{Name: "public-pass", Path: "/public/pass", Upstream: to(upstream), Access: Public, PassAuthorization: true, Timeout: timeout, Stall: timeout},
		{Name: "read", Path: "/read", Methods: []string{"GET", "HEAD"}, Upstream: to(upstream), Access: Client, Timeout: timeout, Stall: timeout},
	}
}

func start(t testing.TB, change ...func(*Options)) *fixture {
	t.Helper()
	f := &fixture{t: t, upstream: newOrigin(t), log: &buffer{}, access: &buffer{}, registry: prometheus.NewRegistry()}
	d := newDirectory(t)
	o := Options{
		Settings: Settings{
			Routes: routes(f.upstream.address), Headers: DefaultHeaders(), Realm: "R",
			MaxHeader: 16 << 10, MaxTarget: 8 << 10, MaxFields: 100, Buffer: 64 << 10,
			ReadTimeout: patience, WriteTimeout: patience, IdleTimeout: patience, MaxConnections: 1000,
		},
		Issuer: ownRoutes{}, Verifier: tokensOf(t, d), Catalogs: d,
		Now: time.Now, Random: rand.Reader,
		Log:    slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Access: NewAccessLog(f.access),
	}
	given := o.Access
	for _, c := range change {
		c(&o)
	}
	if o.Access != given {
		given.Close()
	}
	var err error
	if f.front, err = New(o); err != nil {
		t.Fatal(err)
	}
	f.registry.MustRegister(f.front.Collectors()...)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.address = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- f.front.Serve(l) }()
	f.stop = sync.OnceValue(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
		defer cancel()
		err := errors.Join(f.front.Shutdown(ctx), <-served)
		if o.Access != nil {
			o.Access.Close()
		}
		return err
	})
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Errorf("stop the front: %v", err)
		}
	})
	return f
}

// lines stops the front and returns its access lines.
func (f *fixture) lines() []string {
	f.t.Helper()
	if err := f.stop(); err != nil {
		f.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(f.access.String(), "\n"), "\n")
}

// metrics returns all samples by their names and labels; a histogram counts as _count.
func (f *fixture) metrics() map[string]float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	all := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := family.GetName() + "{" + strings.Join(labels, ",") + "}"
			all[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
			if h := m.GetHistogram(); h != nil {
				all[name] = float64(h.GetSampleCount())
			}
		}
	}
	return all
}

func (f *fixture) refusals(reason answer.Reason) float64 {
	return f.metrics()["postern_refusals_total{reason="+string(reason)+"}"]
}

// connection is a client's raw connection.
type connection struct {
	net.Conn
	t testing.TB
	r *recorder
}

func (f *fixture) dial() *connection {
	f.t.Helper()
	c, err := net.Dial("tcp", f.address)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	return &connection{Conn: c, t: f.t, r: newRecorder(c)}
}

func (c *connection) send(text string) *connection {
	c.t.Helper()
	// What the front refused early it does not read: the answer is what counts.
	_, _ = io.WriteString(c, text)
	return c
}

// read returns the next answer to a request with this method.
func (c *connection) read(method string) *message {
	c.t.Helper()
	m, err := c.r.answer(method)
	if err != nil {
		c.t.Fatalf("read an answer: %v; so far %q", err, c.r.raw)
	}
	return m
}

// closed reports whether the front has closed the connection, with nothing left on it.
func (c *connection) closed() bool {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	rest, err := io.ReadAll(c.r)
	if len(rest) > 0 {
		c.t.Errorf("%q came behind the answer", rest)
	}
	var timeout net.Error
	return !errors.As(err, &timeout) || !timeout.Timeout()
}

// ask sends one request on a connection of its own and returns the answer.
func (f *fixture) ask(request string) *message {
	f.t.Helper()
	method, _, _ := strings.Cut(request, " ")
	c := f.dial().send(request)
	defer c.Close()
	return c.read(method)
}

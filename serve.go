package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"postern/config"
	"postern/directory"
	"postern/issuer"
	"postern/limiter"
	"postern/proxy"
	"postern/registry"
	"postern/token"
	"postern/usage"
	"postern/verifier"
)

// ServeCommand serves until it is told to end.
type ServeCommand struct {
	Config      string `placeholder:"FILE" help:"The configuration; by default $$POSTERN_CONFIG. Without one: SQLite in the working directory, on loopback."`
	Upstream    string `placeholder:"URL" help:"Forward everything to this upstream, for clients with an access token; instead of the configuration's routes."`
	Listen      string `placeholder:"ADDRESS" help:"front.listen, for example 0.0.0.0:8080."`
	AdminListen string `placeholder:"ADDRESS" help:"admin.listen, for example 0.0.0.0:9090."`
	IssuerURL   string `placeholder:"URL" help:"issuer.url, for example https://api.example.com."`
	Store       string `placeholder:"DSN" help:"store, for example sqlite:/var/lib/postern/postern.db."`
}

// Help gives examples.
func (ServeCommand) Help() string {
	return "SIGHUP reads the configuration again; SIGTERM finishes what is in flight and ends, a second one ends at once.\n\n" +
		example("postern serve --config postern.yaml", "postern serve --upstream http://127.0.0.1:3000")
}

// Run serves until ctx ends, then drains.
func (s *ServeCommand) Run(ctx context.Context, e *environment) error {
	source := config.Source{File: configFile(e, s.Config), Environ: e.Environ, Upstream: s.Upstream, Flags: map[string]string{}}
	for key, value := range map[string]string{
		"front.listen": s.Listen, "admin.listen": s.AdminListen, "issuer.url": s.IssuerURL, "store": s.Store,
	} {
		if value != "" {
			source.Flags[key] = value
		}
	}
	c, err := loadConfig(e, source)
	if err != nil {
		return cannot("serve", err, next{})
	}
	proxy.LimitMemory(e.Environ, os.DirFS("/"))
	p, err := assemble(ctx, e, source, c)
	if err != nil {
		return cannot("serve", err, next{})
	}
	return p.serve(ctx)
}

// postern is all rooms joined. assemble builds one, serve runs it to its end.
type postern struct {
	config config.Config
	log    *slog.Logger

	store     *lateStore
	makeKey   func() (registry.Key, error) // makes one of issuer.algorithm
	directory *directory.Directory
	verifier  *verifier.Verifier
	limiter   *limiter.Limiter
	usage     *usage.Meter
	issuer    *issuer.Issuer // nil where issuing is off
	access    *proxy.AccessLog
	refusals  *proxy.Refusals
	front     *proxy.Front
	reloader  *reloader
	admin     *admin

	frontListener, adminListener net.Listener

	quitting chan struct{} // closed by quit
	quit     func()        // begins the drain; it may be called at any time, and again
	draining atomic.Bool
	closers  []func() // in the order of opening
}

// assemble opens everything in the order in which it depends on each other. What it
// returns holds its ports already and answers on none. c was loaded from source, and will
// be again. After an error nothing is left open.
func assemble(ctx context.Context, e *environment, source config.Source, c config.Config) (_ *postern, err error) {
	p := &postern{config: c, log: e.Logger(c.Log.Format, level(c.Log.Level)), quitting: make(chan struct{}), refusals: proxy.NewRefusals()}
	p.makeKey = e.keyMaker(c)
	p.quit = sync.OnceFunc(func() { close(p.quitting) })
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	for _, warning := range c.Warnings() {
		p.log.Warn(warning)
	}
	if err := p.listen(ctx); err != nil {
		return nil, err
	}
	if err := p.openStore(ctx, e); err != nil {
		return nil, err
	}
	url, audience := p.identity()
	p.verifier, err = verifier.New(p.directory, verifier.Options{
		Issuer: url, Audience: audience, Leeway: time.Duration(c.Verify.Leeway), CacheBytes: int64(c.Verify.Cache), Now: e.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("make the verifier: %w", err)
	}
	p.closers = append(p.closers, p.verifier.Close)
	p.usage, err = usage.Open(p.store, usage.Options{
		Interval: time.Duration(c.Usage.Interval), Keep: time.Duration(c.Usage.Keep), Now: e.Now, Random: e.Random, Log: p.log,
	})
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, p.usage.Close) // before the store's
	if err := p.openLimiter(ctx, e); err != nil {
		return nil, err
	}
	if c.Issuer.Enabled {
		p.issuer = issuer.New(p.directory, p.store, issuer.Options{
			URL: url, Audience: audience, Realm: c.Issuer.Realm, TokenPath: c.Issuer.TokenPath,
			Lifetime: time.Duration(c.Issuer.Lifetime), MaxLifetime: time.Duration(c.Issuer.MaxLifetime),
			Algorithm: token.Algorithm(c.Issuer.Algorithm), KeyPublish: time.Duration(c.Keys.Publish), Limiter: issueLimits{p.limiter}, Verifier: p.verifier,
			Now: e.Now, Random: e.Random, Log: p.log, Refused: p.refusals.Issuing(e.Now), Meter: p.usage,
		})
	}
	if c.Log.Access {
		p.access = proxy.NewAccessLog(e.Stderr)
		p.closers = append(p.closers, p.access.Close)
		if err := p.access.Choose(accessChoice(c)); err != nil {
			return nil, fmt.Errorf("make the access log: %w", err)
		}
	}
	if err := p.openFront(e, source); err != nil {
		return nil, fmt.Errorf("make the front: %w", err)
	}
	p.admin = newAdmin(p, e.Now)
	return p, nil
}

func (p *postern) listen(ctx context.Context) (err error) {
	for _, door := range []struct {
		key, address string
		listener     *net.Listener
	}{
		{"front.listen", p.config.Front.Listen, &p.frontListener},
		{"admin.listen", p.config.Admin.Listen, &p.adminListener},
	} {
		if *door.listener, err = new(net.ListenConfig).Listen(ctx, "tcp", door.address); err != nil {
			return refuse("choose another address for "+door.key+", or end what holds this one", "%s: %w", door.key, err)
		}
		p.closers = append(p.closers, func() { _ = (*door.listener).Close() })
	}
	return nil
}

// openStore opens the registry, or goes on trying behind the doors, and follows the feed.
func (p *postern) openStore(ctx context.Context, e *environment) (err error) {
	p.store = newLateStore(p.log, p.connect(e))
	p.closers = append(p.closers, func() { p.warn("close store", p.store.close()) })
	if err := p.store.start(ctx); err != nil {
		return err
	}
	p.directory, err = directory.Open(ctx, p.store, p.store, directory.Options{
		MaxStaleness: time.Duration(p.config.Verify.MaxStaleness), ServeStale: p.config.Verify.OnStale == "serve", Late: true,
		Now: e.Now, Log: p.log,
	})
	if err != nil {
		return err
	}
	p.closers = append(p.closers, p.directory.Close)
	return nil
}

// connect returns what tries once to open the store, to make the first signing key and to
// connect to the change feed.
func (p *postern) connect(e *environment) func(context.Context, *registry.Metrics) (*connected, error) {
	return func(ctx context.Context, metrics *registry.Metrics) (_ *connected, err error) {
		r, err := registry.Open(ctx, registry.Options{
			DSN: p.config.Store, MasterKey: p.config.Keys.MasterKey, Now: e.Now, Random: e.Random, Log: p.log, Metrics: metrics,
			Connections: p.config.StoreOptions.Connections, StatementTimeout: time.Duration(p.config.StoreOptions.StatementTimeout),
		})
		if err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
		defer func() {
			if err != nil {
				p.warn("close store", r.Close())
			}
		}()
		if p.config.Issuer.Enabled {
			rotation := rotationOf(p.config)
			created, err := r.EnsureKey(ctx, registry.Actor{Kind: "postern"}, p.config.Issuer.Algorithm, rotation.Publish, rotation.Keep, p.makeKey)
			if err != nil {
				return nil, fmt.Errorf("make the first signing key: %w", err)
			}
			if created {
				p.log.Info("made a signing key", "algorithm", p.config.Issuer.Algorithm)
			}
		}
		p.warnAlone(ctx, r)
		feed, err := r.Feed(ctx)
		if err != nil {
			return nil, fmt.Errorf("open the change feed: %w", err)
		}
		return &connected{r, feed}, nil
	}
}

// identity is iss and aud. On loopback the address that was taken stands for a URL
// that nobody set.
func (p *postern) identity() (url, audience string) {
	url, audience = p.config.Issuer.URL, p.config.Issuer.Audience
	if url == "" {
		url = "http://" + p.frontListener.Addr().String()
		if p.config.Front.TLS.Enabled() {
			url = "https://" + p.frontListener.Addr().String()
		}
	}
	if audience == "" {
		audience = url
	}
	return url, audience
}

// openFront makes the front, and what gives it other settings later.
func (p *postern) openFront(e *environment, source config.Source) error {
	settings, digest, err := frontSettings(p.config)
	if err != nil {
		return err
	}
	p.verifier.ExpectAssertions(audiences(settings))
	o := proxy.Options{
		Settings: settings, Verifier: p.verifier, Catalogs: p.directory, NewGrant: p.newGrant, ProxyProtocol: p.config.Front.ProxyProtocol,
		Now: e.Now, Random: e.Random, Log: p.log, Access: p.access,
		Refusals: p.refusals, Whose: p.verifier.Whose, Meter: p.usage,
	}
	if p.issuer != nil {
		url, _ := p.identity()
		o.Issuer = p.issuer
		o.Asserter = issuer.NewAsserter(p.directory, url, time.Duration(p.config.Assertion.Lifetime), e.Random)
	}
	if p.front, err = proxy.New(o); err != nil {
		return err
	}
	p.reloader = newReloader(p, digest, func() (config.Config, error) { return loadConfig(e, source) }, e.Now)
	p.closers = append(p.closers, p.reloader.close)
	return nil
}

// serve answers until ctx ends, quit is called or a door fails, then drains.
func (p *postern) serve(ctx context.Context) error {
	defer p.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 2)
	var doors, loops sync.WaitGroup
	doors.Go(func() { failed <- p.front.Serve(p.frontListener) })
	doors.Go(func() { failed <- p.admin.serve(p.adminListener) })
	if p.issuer != nil {
		loops.Go(func() { p.issuer.Run(ctx) })
		loops.Go(func() { p.rotateKeys(ctx) })
	}
	loops.Go(func() { p.reloader.run(ctx) })
	p.log.Info("serving", "front", p.frontListener.Addr().String(), "admin", p.adminListener.Addr().String(), "issuing", p.issuer != nil)
	var err error
	select {
	case <-ctx.Done():
	case <-p.quitting:
	case err = <-failed:
	}
	late := p.drain(context.WithoutCancel(ctx))
	stop()
	loops.Wait()
	if late {
		return err // the doors end with the process
	}
	doors.Wait()
	p.log.Info("ended")
	return err
}

// drain ends both doors. First /readyz says so, and for front.drain_delay all is served as
// usual, until nobody sends more. Then nothing is accepted, what is idle is closed, and
// what is in flight gets front.drain to finish. It reports whether some of that was cut.
func (p *postern) drain(ctx context.Context) (late bool) {
	c := p.reloader.config().Front
	p.draining.Store(true)
	p.log.Info("draining", "delay", c.DrainDelay.String(), "deadline", c.Drain.String())
	time.Sleep(time.Duration(c.DrainDelay))
	ctx, cancel := context.WithTimeout(ctx, time.Duration(c.Drain))
	defer cancel()
	if err := p.front.Shutdown(ctx); err != nil {
		p.log.Warn("requests were still in flight at the deadline of front.drain; their connections are cut", "error", err)
		late = true
	}
	p.warn("close the admin door", p.admin.shutdown(context.WithoutCancel(ctx)))
	return late
}

// close closes what was opened, the last first.
func (p *postern) close() {
	for i := len(p.closers) - 1; i >= 0; i-- {
		p.closers[i]()
	}
	p.closers = nil
}

func (p *postern) warn(task string, err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		p.log.Warn("cannot "+task, "error", err)
	}
}

// level reads log.level, which was validated.
func level(name string) slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(name))
	return l
}

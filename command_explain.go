package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"postern/config"
	"postern/directory"
	"postern/issuer"
	"postern/limiter"
	"postern/proxy"
	"postern/registry"
	"postern/token"
	"postern/verifier"
)

// ExplainCommand says what postern would do with a request, and why.
type ExplainCommand struct {
	where
	Token  string   `xor:"who" placeholder:"TOKEN" help:"The access token of the request; - reads it from the standard input, where no shell history keeps it."`
	Client string   `xor:"who" placeholder:"ID" help:"Instead of a token: this client, with one that it got just now."`
	Scope  string   `placeholder:"NAMES" help:"With --client: the scopes of its token, separated by spaces; by default all that are licensed."`
	Header []string `sep:"none" placeholder:"'NAME: VALUE'" help:"A field of the request; may be given several times."`
	Method string   `arg:"" help:"The method, for example GET."`
	Target string   `arg:"" name:"url" help:"The URL, or what a request line has: the path and the query."`
}

// Help says what it rests on and gives examples.
func (ExplainCommand) Help() string {
	return "Judges the request by the configuration and the store, with the code that serves, and prints each decision with the value that it rested on. " +
		"No postern need run, nothing is sent, and nothing is spent. What only a running postern counts, requests in this second and at once, is not known here. " +
		"The exit code is 0 when the request is let through and 1 when it is refused.\n\n" +
		example("postern explain --token - GET https://api.example.com/tracks/1 --header X-Catalog:jazz --config postern.yaml")
}

// Validate refuses what would be more than one request.
func (c *ExplainCommand) Validate() error {
	for _, text := range append([]string{c.Method, c.Target}, c.Header...) {
		if strings.ContainsAny(text, "\r\n") {
			return errors.New("a line break ends the request's head: leave it out")
		}
	}
	for _, h := range c.Header {
		if name, _, ok := strings.Cut(h, ":"); !ok || name == "" {
			return errors.New("--header: use 'Name: value'")
		}
	}
	if c.Scope != "" && c.Client == "" {
		return errors.New("--scope: goes with --client; a token has its own")
	}
	if _, rest, ok := strings.Cut(c.Target, "://"); !strings.HasPrefix(c.Target, "/") && c.Target != "*" && (!ok || rest == "") {
		return errors.New("use a URL, for example https://api.example.com/tracks, or a path, for example /tracks")
	}
	if host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(c.Target, "https://"), "http://"), "/"); strings.Contains(host, "@") {
		return errors.New("leave the user's name and password out of the URL")
	}
	return nil
}

// errRefused ends a run that has said everything.
var errRefused = errors.New("the request is refused")

// Run answers with each decision, and the answer that the client would get.
func (c *ExplainCommand) Run(ctx context.Context, e *environment) error {
	var said explained
	err := c.useLive(ctx, e, func(r *registry.Registry, d *directory.Directory, settings config.Config) (err error) {
		said, err = c.explain(ctx, e, r, d, settings)
		return err
	})
	if err == nil {
		err = said.answer(e, c.JSON)
	}
	if err != nil {
		return cannot("explain the request", err, next{notFound: clientsHint, other: masterHint})
	}
	if said.Refused {
		return errRefused
	}
	return nil
}

// explain puts together what serves, on this store and without doors, and asks it.
func (c *ExplainCommand) explain(ctx context.Context, e *environment, r *registry.Registry, d *directory.Directory, settings config.Config) (said explained, err error) {
	now := e.Now()
	u := &explaining{ctx: ctx, now: now, store: r, directory: d, settings: settings}
	raw, expect, err := c.token(e, u)
	if err != nil {
		return said, err
	}
	front, err := u.front(e, expect, c)
	if err != nil {
		return said, err
	}
	defer u.close()
	if u.clientID == "" && len(raw) > 0 {
		u.clientID = u.verifier.Whose(raw)
	}
	if u.clientID != "" { // before the request takes its part of them
		client, err := d.Client(ctx, u.clientID)
		if err == nil {
			u.limits = u.limiter.Explain(client, now)
		} else if !errors.Is(err, registry.ErrNotFound) {
			return said, err
		}
	}
	u.found = front.Explain(c.head(settings, raw))
	return u.say()
}

// token reads the token, if there is one, and what it must say to be ours.
func (c *ExplainCommand) token(e *environment, u *explaining) (raw []byte, expect token.Expect, err error) {
	issuerURL, audience := identity(u.settings.Issuer, "", "")
	expect = token.Expect{Issuer: issuerURL, Audience: audience, Leeway: time.Duration(u.settings.Verify.Leeway)}
	switch {
	case c.Client != "":
		u.clientID = c.Client
		if u.presumed, err = u.directory.Client(u.ctx, c.Client); err != nil {
			return nil, expect, err
		}
		return []byte("presumed"), expect, nil
	case c.Token != "":
		if raw, err = e.bearer(c.Token); err != nil {
			return nil, expect, err
		}
		keys, _ := u.directory.Keys()
		u.token, expect = takeApart(raw, keys, expect, u.now)
		return raw, expect, u.token.lookUp(u.ctx, u.store, u.now)
	}
	return nil, expect, nil
}

// front is one that serves nobody.
func (u *explaining) front(e *environment, expect token.Expect, c *ExplainCommand) (*proxy.Front, error) {
	settings, log := withoutFiles(u.settings), e.Logger("text", slog.LevelError)
	s, _, err := frontSettings(settings)
	if err != nil {
		return nil, err
	}
	issuerURL := cmp.Or(expect.Issuer, nobody)
	audience := cmp.Or(expect.Audience, issuerURL)
	u.verifier, err = verifier.New(u.directory, verifier.Options{Issuer: issuerURL, Audience: audience, Leeway: expect.Leeway, CacheBytes: 1 << 20})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			u.close()
		}
	}()
	// Without Redis: its counts of this second are its own in any case. Where the replicas have
	// none either, it has the part of one of them.
	replicas := 1
	if settings.Redis == "" {
		replicas = settings.Limits.Replicas
	}
	u.limiter, err = limiter.Open(u.ctx, limiter.Options{Now: e.Now, Random: e.Random, Log: log, Replicas: replicas, Spent: u.store.Spent})
	if err != nil {
		return nil, err
	}
	o := proxy.Options{
		Settings: s, Verifier: u.verifier, Catalogs: u.directory, NewGrant: func() proxy.Grant { return &grant{limiter: u.limiter} },
		Now: func() time.Time { return u.now }, Random: e.Random, Log: log,
	}
	if u.presumed != nil {
		p := presumed{verifier: u.verifier, client: u.presumed}
		var licensed bool
		if p.scope, licensed = issuer.Scope(u.presumed, c.Scope); !licensed {
			return nil, refuse("leave --scope out for a token with all that is licensed", "the scope is malformed or not licensed to the client")
		}
		if p.record, err = registry.NewID(u.now, e.Random); err != nil {
			return nil, err
		}
		o.Verifier = p
	}
	if settings.Issuer.Enabled {
		o.Issuer = issuer.New(u.directory, u.store, issuer.Options{
			URL: issuerURL, Audience: audience, TokenPath: settings.Issuer.TokenPath, Lifetime: time.Duration(settings.Issuer.Lifetime),
			MaxLifetime: time.Duration(settings.Issuer.MaxLifetime), Now: e.Now, Random: e.Random, Log: log,
		})
		o.Asserter = issuer.NewAsserter(u.directory, issuerURL, time.Duration(settings.Assertion.Lifetime), e.Random)
	}
	front, err := proxy.New(o)
	return front, err
}

func (u *explaining) close() {
	u.verifier.Close()
	if u.limiter != nil {
		u.limiter.Close()
	}
}

// withoutFiles is c without the certificates and keys of TLS: they are the serving machine's,
// and decide about no request.
func withoutFiles(c config.Config) config.Config {
	c.Front.TLS = config.FrontTLS{}
	c.Routes = slices.Clone(c.Routes)
	for i := range c.Routes {
		c.Routes[i].UpstreamTLS = config.UpstreamTLS{ServerName: c.Routes[i].UpstreamTLS.ServerName}
	}
	return c
}

// presumed verifies the token that a client got just now: whatever comes is taken for it.
type presumed struct {
	verifier *verifier.Verifier
	client   *directory.Client
	record   uuid.UUID
	scope    string
}

func (p presumed) Verify(_ []byte, now time.Time) (directory.Principal, error) {
	return p.verifier.Presume(p.client, p.record, p.scope, now)
}

// head is the request's, as a client sends it. A URL goes apart into Host and target, as it
// is written; its fragment stays with the client.
func (c *ExplainCommand) head(settings config.Config, raw []byte) []byte {
	target, host := c.Target, settings.Front.Listen
	if u, err := url.Parse(settings.Issuer.URL); err == nil && u.Host != "" {
		host = u.Host
	}
	if _, rest, ok := strings.Cut(target, "://"); ok && !strings.HasPrefix(target, "/") {
		rest, _, _ = strings.Cut(rest, "#")
		end := strings.IndexAny(rest, "/?")
		if end < 0 {
			end = len(rest)
		}
		if host, target = rest[:end], rest[end:]; !strings.HasPrefix(target, "/") {
			target = "/" + target
		}
	}
	b := []byte(c.Method + " " + target + " HTTP/1.1\r\n")
	named := func(name string) bool {
		return slices.ContainsFunc(c.Header, func(h string) bool {
			n, _, _ := strings.Cut(h, ":")
			return strings.EqualFold(n, name)
		})
	}
	if !named("Host") {
		b = append(b, "Host: "+host+"\r\n"...)
	}
	if len(raw) > 0 {
		b = append(append(append(b, "Authorization: Bearer "...), raw...), "\r\n"...)
	}
	for _, h := range c.Header {
		b = append(b, h+"\r\n"...)
	}
	return append(b, "\r\n"...)
}

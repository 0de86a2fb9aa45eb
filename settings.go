package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"postern/config"
	"postern/proxy"
)

// frontSettings makes of c what the front can be told while it runs. It reads the files
// of certificates and keys; digest tells one content of them from another. An error
// names the setting.
func frontSettings(c config.Config) (s proxy.Settings, digest string, err error) {
	s = proxy.Settings{
		Headers: proxy.Headers(c.Headers),
		Realm:   c.Issuer.Realm,

		TrustedProxies: c.Front.Proxies(),
		DecisionPath:   c.Decision.Path,

		MaxHeader: int(c.Front.MaxHeader), MaxTarget: int(c.Front.MaxTarget), MaxFields: c.Front.MaxFields,
		Buffer:      int(c.Front.Buffer),
		ReadTimeout: time.Duration(c.Front.ReadTimeout), MinBodyRate: int(c.Front.MinBodyRate),
		WriteTimeout: time.Duration(c.Front.WriteTimeout), IdleTimeout: time.Duration(c.Front.IdleTimeout),
		MaxConnections: c.Front.MaxConnections, MaxConnectionsPerAddress: c.Front.MaxConnectionsPerAddress,
	}
	if c.Front.ProxyProtocol && len(s.TrustedProxies) == 0 { // Load refuses it: only keepFixed makes it
		return s, "", errors.New("front.trusted_proxies: is empty, and front.proxy_protocol stays on until a restart, so nobody could connect: restart, or keep them")
	}
	var identities []string
	if t := c.Front.TLS; t.Enabled() {
		var identity string
		s.TLS, identity, err = proxy.LoadTLS(proxy.TLSFiles{
			Certificate: t.Certificate, Key: t.Key, ClientCA: t.ClientCA, ClientCertificate: t.ClientCertificate,
		})
		if err != nil {
			return s, "", err
		}
		identities = append(identities, identity)
	}
	for _, r := range c.Routes {
		route, err := frontRoute(c, r)
		if err != nil {
			return s, "", fmt.Errorf("route %s: %w", r.Name, err)
		}
		s.Routes = append(s.Routes, route)
		identities = append(identities, route.Upstream.TLSIdentity)
	}
	return s, strings.Join(identities, " "), nil
}

// audiences is how many audiences the routes of s have assertions for.
func audiences(s proxy.Settings) int {
	all := map[string]bool{}
	for _, r := range s.Routes {
		if r.Assertion != nil {
			all[r.Assertion.Audience] = true
		}
	}
	return len(all)
}

// frontRoute is one route. What it leaves empty follows from c.
func frontRoute(c config.Config, r config.Route) (proxy.Route, error) {
	upstream, err := frontUpstream(r)
	if err != nil {
		return proxy.Route{}, err
	}
	route := proxy.Route{
		Name: r.Name, Host: r.Host, Path: r.Path, Exact: r.Match == "exact", Methods: r.Methods,
		Access: proxy.Access(r.Access), Scopes: r.Scopes, ScopesAny: r.ScopesAny,
		Catalog: proxy.Catalog(r.Catalog), Shadow: r.Enforce == "shadow",
		PassAuthorization: r.Authorization == "pass", StripPrefix: r.StripPrefix, AddPrefix: r.AddPrefix,
		RequestFields: fields(r.RequestHeaders), ResponseFields: fields(r.ResponseHeaders), Trailers: r.Trailers,
		WebSocket: proxy.WebSocket{
			Enabled: r.WebSocket.Enabled, Query: r.WebSocket.Query, Subprotocol: r.WebSocket.Subprotocol,
			Idle: time.Duration(r.WebSocket.Idle), Lifetime: time.Duration(r.WebSocket.Lifetime), Origins: r.WebSocket.Origins,
		},
		Upstream: upstream, MaxBody: int64(r.MaxBody),
		Timeout: time.Duration(r.Timeout), Stall: time.Duration(r.StallTimeout),
	}
	if route.MaxBody == 0 {
		route.MaxBody = int64(c.Front.MaxBody)
	}
	if route.Stall == 0 {
		route.Stall = route.Timeout
	}
	if len(r.CORS.Origins) > 0 {
		route.CORS = &proxy.CORS{
			Origins: r.CORS.Origins, Methods: r.CORS.Methods, Headers: r.CORS.Headers, Expose: r.CORS.Expose,
			Credentials: r.CORS.Credentials, MaxAge: time.Duration(r.CORS.MaxAge),
		}
	}
	if r.Assertion.Enabled {
		route.Assertion = &proxy.Assertion{Audience: r.Assertion.Audience}
	}
	return route, nil
}

func frontUpstream(r config.Route) (proxy.Upstream, error) {
	u := proxy.Upstream{
		ConnectTimeout: time.Duration(r.ConnectTimeout), Failures: r.Health.Failures, Open: time.Duration(r.Health.Open),
		Check:       proxy.HealthCheck{Path: r.Health.Path, Interval: time.Duration(r.Health.Interval), Timeout: time.Duration(r.Health.Timeout)},
		RetryBudget: r.RetryBudget,
	}
	secure := false
	for _, e := range r.Endpoints() {
		u.Endpoints = append(u.Endpoints, proxy.Endpoint(e))
		secure = secure || e.TLS
	}
	if !secure {
		return u, nil
	}
	var err error
	t := r.UpstreamTLS
	u.TLS, u.TLSIdentity, err = proxy.LoadUpstreamTLS(t.CA, t.ServerName, t.Certificate, t.Key)
	return u, err
}

func fields(all []config.Field) []proxy.Field {
	var made []proxy.Field
	for _, f := range all {
		made = append(made, proxy.Field{Name: f.Name, Value: f.Value, Remove: f.Remove})
	}
	return made
}

// accessChoice is what the access log writes.
func accessChoice(c config.Config) proxy.AccessLogOptions {
	return proxy.AccessLogOptions{Fields: c.Log.AccessFields, Sample: c.Log.AccessSample}
}

// keepFixed is next with those settings of running that take a restart to change.
func keepFixed(running, next config.Config) config.Config {
	next.Front.Listen, next.Front.ProxyProtocol = running.Front.Listen, running.Front.ProxyProtocol
	if next.Front.TLS.Enabled() != running.Front.TLS.Enabled() {
		next.Front.TLS = running.Front.TLS
	}
	next.Admin, next.Store, next.StoreFile, next.StoreOptions, next.Keys = running.Admin, running.Store, running.StoreFile, running.StoreOptions, running.Keys
	next.Redis, next.RedisFile, next.Limits = running.Redis, running.RedisFile, running.Limits
	next.Issuer, next.Assertion, next.Verify, next.Usage = running.Issuer, running.Assertion, running.Verify, running.Usage
	next.Log.Access, next.Log.Format, next.Log.Level = running.Log.Access, running.Log.Format, running.Log.Level
	return next
}

package main

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/config"
	"postern/proxy"
	"postern/secret"
)

// TestKeepFixed: what a reload applies is exactly what check --diff says of it. Every
// setting outside lists is changed.
func TestKeepFixed(t *testing.T) {
	f := func(name string, running, loaded config.Config) {
		t.Helper()
		var restart, reload []string
		for _, c := range config.Diff(running, loaded) {
			if c.Restart {
				restart = append(restart, c.Key)
			} else {
				reload = append(reload, c.Key)
			}
		}
		if len(restart) < 15 || len(reload) < 15 {
			t.Fatalf("%s: %d and %d changes", name, len(restart), len(reload))
		}
		keys := func(changes []config.Change) (all []string) {
			for _, c := range changes {
				all = append(all, c.Key)
			}
			return all
		}
		next := keepFixed(running, loaded)
		if diff := cmp.Diff(restart, keys(config.Diff(next, loaded))); diff != "" {
			t.Errorf("%s: what is kept: %s", name, diff)
		}
		if diff := cmp.Diff(reload, keys(config.Diff(running, next))); diff != "" {
			t.Errorf("%s: what is applied: %s", name, diff)
		}
	}
	plain := config.Default()
	changed := plain
	change(reflect.ValueOf(&changed).Elem())
	f("TLS switched on", plain, changed)
	f("TLS switched off", changed, plain)
	again := changed
	change(reflect.ValueOf(&again).Elem())
	f("TLS files changed", changed, again)
}

// TestKeepFixedProxyProtocol: what is kept and what is applied must fit together.
func TestKeepFixedProxyProtocol(t *testing.T) {
	running := config.Default()
	running.Front.ProxyProtocol, running.Front.TrustedProxies = true, []string{"10.0.0.0/8"}
	if _, _, err := frontSettings(keepFixed(running, running)); err != nil {
		t.Error(err)
	}
	if _, _, err := frontSettings(keepFixed(running, config.Default())); err == nil || !strings.Contains(err.Error(), "front.trusted_proxies: ") {
		t.Errorf("nobody could connect: %v", err)
	}
}

// change makes every value of v another one; lists of sections stay.
func change(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); {
		case !f.CanSet():
		case f.Kind() == reflect.Struct:
			change(f)
		case f.Kind() == reflect.String:
			f.SetString(f.String() + "x")
		case f.Kind() == reflect.Bool:
			f.SetBool(!f.Bool())
		case f.CanInt():
			f.SetInt(f.Int() + 1)
		case f.Type() == reflect.TypeFor[[]string]():
			f.Set(reflect.ValueOf(append(slices.Clone(f.Interface().([]string)), "x")))
		}
	}
}

// TestFrontSettings: every setting of the front and of a route arrives where it belongs.
func TestFrontSettings(t *testing.T) {
	file := t.TempDir() + "/postern.yaml"
	writeFile(t, file, `
front: {max_body: 3MiB, min_body_rate: 50B, max_fields: 50, max_connections: 7, max_connections_per_address: 3, trusted_proxies: [10.0.0.0/8, "::1"]}
decision: {path: /decide}
log: {access_fields: [status, path], access_sample: 5}
routes:
  - name: api
    host: api.example.com
    path: /v1
    match: exact
    methods: [GET, POST]
    access: optional
    scopes: [a, b]
    scopes_any: [c]
    authorization: pass
    strip_prefix: /v1
    add_prefix: /v2
    request_headers: [{name: X-Key, value: k}, {name: Cookie, remove: true}]
    response_headers: [{name: Server, remove: true}]
    trailers: [X-Sum]
    cors: {origins: ["https://app.example.com"], methods: [PUT], headers: [X-Asked], expose: [X-Told], credentials: true, max_age: 1m}
    websocket: {enabled: true, query: token, subprotocol: bearer., idle: 1m, lifetime: 1h, origins: ["https://app.example.com"]}
    assertion: {enabled: true}
    upstream: ["http://a.example:1", {url: "https://b.example", weight: 3}, "unix:/run/c.sock"]
    upstream_tls: {server_name: b.internal}
    health: {failures: 2, open: 3s, path: /health, interval: 4s, timeout: 1s}
    retry_budget: 10
    timeout: 10s
    connect_timeout: 1s
  - {name: other, path: /other, upstream: ["http://a.example:1"], access: client, max_body: 1MiB, stall_timeout: 1m, assertion: {enabled: true, audience: "urn:other"}}
`)
	c, err := config.Load(config.Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	s, digest, err := frontSettings(c)
	if err != nil {
		t.Fatal(err)
	}
	api := s.Routes[0]
	if api.Upstream.TLS == nil || api.Upstream.TLS.ServerName != "b.internal" || api.Upstream.TLSIdentity == "" || !strings.Contains(digest, api.Upstream.TLSIdentity) {
		t.Errorf("TLS of the upstream: %+v %q %q", api.Upstream.TLS, api.Upstream.TLSIdentity, digest)
	}
	api.Upstream.TLS, api.Upstream.TLSIdentity = nil, ""
	f := func(name string, got, want any) {
		t.Helper()
		if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b secret.Secret) bool { return a == b })); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	f("route", api, proxy.Route{
		Name: "api", Host: "api.example.com", Path: "/v1", Exact: true, Methods: []string{"GET", "POST"},
		Access: proxy.Optional, Scopes: []string{"a", "b"}, ScopesAny: []string{"c"}, PassAuthorization: true,
		StripPrefix: "/v1", AddPrefix: "/v2",
		RequestFields:  []proxy.Field{{Name: "X-Key", Value: "k"}, {Name: "Cookie", Remove: true}},
		ResponseFields: []proxy.Field{{Name: "Server", Remove: true}}, Trailers: []string{"X-Sum"},
		CORS: &proxy.CORS{
			Origins: []string{"https://app.example.com"}, Methods: []string{"PUT"}, Headers: []string{"X-Asked"},
			Expose: []string{"X-Told"}, Credentials: true, MaxAge: time.Minute,
		},
		Assertion: &proxy.Assertion{Audience: "api"},
		WebSocket: proxy.WebSocket{
			Enabled: true, Query: "token", Subprotocol: "bearer.", Idle: time.Minute, Lifetime: time.Hour, Origins: []string{"https://app.example.com"},
		},
		Upstream: proxy.Upstream{
			Endpoints: []proxy.Endpoint{
				{Network: "tcp", Address: "a.example:1", Weight: 1}, {Network: "tcp", Address: "b.example:443", TLS: true, Weight: 3},
				{Network: "unix", Address: "/run/c.sock", Weight: 1},
			},
			ConnectTimeout: time.Second, Failures: 2, Open: 3 * time.Second,
			Check:       proxy.HealthCheck{Path: "/health", Interval: 4 * time.Second, Timeout: time.Second},
			RetryBudget: 10,
		},
		MaxBody: 3 << 20, Timeout: 10 * time.Second, Stall: 10 * time.Second,
	})
	other := s.Routes[1]
	f("what a route says itself", []any{other.Access, other.MaxBody, other.Stall, other.Assertion.Audience, other.CORS == nil, other.Upstream.TLS == nil},
		[]any{proxy.Client, int64(1 << 20), time.Minute, "urn:other", true, true})
	var proxies []string
	for _, p := range s.TrustedProxies {
		proxies = append(proxies, p.String())
	}
	f("front", []any{s.DecisionPath, s.MaxFields, s.MinBodyRate, s.MaxConnections, s.MaxConnectionsPerAddress, proxies, s.Realm, s.TLS == nil},
		[]any{"/decide", 50, 50, 7, 3, []string{"10.0.0.0/8", "::1/128"}, "postern", true})
	f("access log", accessChoice(c), proxy.AccessLogOptions{Fields: []string{"status", "path"}, Sample: 5})
}

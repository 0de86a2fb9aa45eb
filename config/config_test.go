package config

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// minimal is the least that a file must say.
const minimal = "routes: [{upstream: [\"http://127.0.0.1:3000\"]}]\n"

// aKey is the base64 of 32 bytes.
const (
	aKey    = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="
	aKeyHex = "0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20"
	aKeyRaw = "\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x20"
)

// write makes a file that only its owner can read, in a directory of the test.
func write(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// route is a route with the defaults, and what change does to it.
func route(change func(*Route)) Route {
	r := Route{
		Path: "/", Match: "prefix", Access: "client", Enforce: "enforce", Authorization: "strip", RetryBudget: 20,
		Timeout: Duration(30 * time.Second), ConnectTimeout: Duration(5 * time.Second),
		WebSocket: WebSocket{Idle: Duration(5 * time.Minute)}, CORS: CORS{MaxAge: Duration(10 * time.Minute)},
		Health: Health{Failures: 5, Open: Duration(10 * time.Second), Interval: Duration(10 * time.Second), Timeout: Duration(2 * time.Second)},
	}
	change(&r)
	if r.Assertion.Enabled && r.Assertion.Audience == "" {
		r.Assertion.Audience = r.Name
	}
	return r
}

// to are upstreams as their URLs alone say.
func to(urls ...string) (all []Upstream) {
	for _, url := range urls {
		all = append(all, Upstream{url, 1})
	}
	return all
}

// lines is what an operator sees of err, without the directory that the test chose.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var all []string
	for _, e := range joined.Unwrap() {
		f := e.(Fault)
		if strings.ContainsRune(f.File, filepath.Separator) {
			f.File = filepath.Base(f.File)
		}
		all = append(all, f.Error())
	}
	return all
}

func TestDefault(t *testing.T) {
	want := Config{
		Front: Front{
			Listen: "127.0.0.1:8080", MaxHeader: 16 << 10, MaxTarget: 8 << 10, Buffer: 64 << 10,
			ReadTimeout: Duration(30 * time.Second), IdleTimeout: Duration(75 * time.Second),
			WriteTimeout: Duration(30 * time.Second), MaxConnections: 10000, Drain: Duration(25 * time.Second),
			TLS: FrontTLS{ClientCertificate: "none"}, MaxFields: 100, MinBodyRate: 100,
		},
		Assertion:    Assertion{Lifetime: Duration(5 * time.Minute)},
		Admin:        Admin{Listen: "127.0.0.1:9090"},
		Store:        "sqlite:postern.db",
		StoreOptions: StoreOptions{Connections: 8, StatementTimeout: Duration(2 * time.Second)}, Limits: Limits{Replicas: 1},
		Keys: Keys{Publish: Duration(2 * time.Hour)},
		Issuer: Issuer{
			Enabled: true, Realm: "postern", TokenPath: "/oauth/token", Algorithm: "ES256",
			Lifetime: Duration(2 * time.Hour), MaxLifetime: Duration(24 * time.Hour),
		},
		Verify: Verify{Leeway: Duration(30 * time.Second), Cache: 32 << 20, MaxStaleness: Duration(5 * time.Minute), OnStale: "refuse"},
		Usage:  Usage{Interval: Duration(10 * time.Second), Keep: Duration(400 * 24 * time.Hour)},
		Headers: Headers{
			Organization: "X-Organization-Id", Client: "X-Client-Id", Environment: "X-Client-Environment",
			Token: "X-Token-Id", Agreement: "X-Agreement-Id", Catalog: "X-Catalog-Id", Scopes: "X-Scopes",
		},
		Log: Log{Format: "json", Level: "info", AccessSample: 1},
	}
	if got := Default(); !reflect.DeepEqual(got, want) {
		t.Errorf("Default() = %+v\nwant %+v", got, want)
	}
}

// The shipped example says what the defaults are, and its routes are what it says.
func TestExample(t *testing.T) {
	got, err := Load(Source{File: "example.yaml"})
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Issuer.URL, want.Issuer.Audience = "http://127.0.0.1:8080", "http://127.0.0.1:8080"
	want.file = "example.yaml"
	want.Routes = []Route{
		route(func(r *Route) { r.Name, r.Upstream = "/", to("http://127.0.0.1:3000") }),
		route(func(r *Route) {
			r.Name, r.Path, r.Methods, r.Access = "status", "/status", []string{"GET", "HEAD"}, "public"
			r.Upstream = to("http://127.0.0.1:3000")
		}),
		route(func(r *Route) {
			r.Name, r.Host, r.Path, r.Match, r.Access = "reports", "*.example.com", "/reports", "prefix", "optional"
			r.Scopes, r.ScopesAny = []string{"reports:read"}, []string{"catalog:1", "catalog:2"}
			r.Catalog.Query = "catalog"
			r.StripPrefix, r.AddPrefix = "/reports", "/v2"
			r.Authorization, r.Trailers = "strip", []string{"Digest"}
			r.RequestHeaders = []Field{{Name: "X-Environment", Value: "production"}, {Name: "Cookie", Remove: true}}
			r.ResponseHeaders = []Field{{Name: "Server", Remove: true}}
			r.CORS.Origins, r.CORS.Methods, r.CORS.Headers = []string{"https://app.example.com"}, []string{"PUT", "DELETE"}, []string{"Authorization", "Content-Type"}
			r.CORS.Expose = []string{"X-Request-Id"}
			r.Assertion.Enabled = true
			r.WebSocket = WebSocket{Enabled: true, Query: "access_token", Subprotocol: "bearer.", Idle: Duration(5 * time.Minute), Lifetime: Duration(12 * time.Hour), Origins: []string{"https://app.example.com"}}
			r.Upstream = []Upstream{{"https://reports.internal:8443", 1}, {"https://reports-2.internal:8443", 3}}
			r.UpstreamTLS = UpstreamTLS{ServerName: "reports.internal"}
			r.Health.Path, r.MaxBody, r.StallTimeout = "/healthz", 10<<20, Duration(5*time.Minute)
		}),
	}
	want.warnings = []string{"example.yaml:85: keys.master_key: is not set: the store holds the signing keys in clear: make one with: openssl rand -base64 32"}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(Config{})); diff != "" {
		t.Errorf("example.yaml is not what it says: %s", diff)
	}
	text, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	each(reflect.TypeFor[Config](), "", func(key string, s setting) {
		if !strings.Contains(string(text), s.name+": ") {
			t.Errorf("example.yaml does not show %s", key)
		}
	})
}

// Flags beat the environment, which beats the file, which beats the default.
func TestLayers(t *testing.T) {
	f := func(name string, s Source, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c, err := Load(s)
			if err != nil {
				t.Fatal(err)
			}
			if c.Front.Listen != want {
				t.Errorf("front.listen is %q, want %q", c.Front.Listen, want)
			}
		})
	}
	file := write(t, "postern.yaml", "front: {listen: \"127.0.0.1:1\"}\n"+minimal)
	env := []string{"HOME=/", "POSTERN_FRONT_LISTEN=127.0.0.1:2"}
	flags := map[string]string{"front.listen": "127.0.0.1:3"}
	f("default", Source{Upstream: "http://127.0.0.1:3000"}, "127.0.0.1:8080")
	f("file", Source{File: file}, "127.0.0.1:1")
	f("environment", Source{File: file, Environ: env}, "127.0.0.1:2")
	f("flag", Source{File: file, Environ: env, Flags: flags}, "127.0.0.1:3")
	f("flag without a file", Source{Flags: flags, Upstream: "http://127.0.0.1:3000"}, "127.0.0.1:3")
}

// Every scalar has a variable, and the variable sets that one and no other.
func TestEnvironmentReachesEverySetting(t *testing.T) {
	other := map[string]string{
		"string": "X-Other", "bool": "false", "int": "7", "Duration": "90m", "Size": "5KiB", "Secret": "sqlite:other.db",
		"front.listen": "127.0.0.1:1", "admin.listen": "127.0.0.1:2", "store_file": "", "keys.master_key_file": "",
		"keys.master_key": aKey, "redis": "redis://127.0.0.1:1", "redis_file": "", "usage.interval": "9s", "usage.keep": "9000h", "keys.rotate": "3h", "issuer.url": "https://i.example", "issuer.token_path": "/t", "issuer.algorithm": "EdDSA",
		"verify.cache": "2MiB", "verify.on_stale": "serve", "log.format": "text", "log.level": "warn", "log.access": "true",
		"issuer.lifetime": "90s", "verify.leeway": "9s", "front.max_header": "9KiB", "issuer.max_lifetime": "25h",
		"front.proxy_protocol": "true", "front.max_fields": "11", "decision.path": "/d", "assertion.lifetime": "9m",
	}
	certificate, private := certificates(t)
	// Settings that cannot stand alone, with what else they need.
	together := map[string][]string{}
	for _, name := range strings.Fields("certificate key client_ca client_certificate") {
		together["front.tls."+name] = []string{"POSTERN_FRONT_TLS_CERTIFICATE=" + certificate, "POSTERN_FRONT_TLS_KEY=" + private,
			"POSTERN_FRONT_TLS_CLIENT_CA=" + certificate, "POSTERN_FRONT_TLS_CLIENT_CERTIFICATE=optional"}
	}
	file := write(t, "postern.yaml", "front: {trusted_proxies: [127.0.0.1]}\n"+minimal)
	want, err := Load(Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	all, keys := scalars()
	for _, key := range keys {
		t.Run(key, func(t *testing.T) {
			text, ok := other[key]
			if !ok {
				text = other[all[key].typ.Name()]
			}
			environ := []string{variable(key, all[key]) + "=" + text}
			if more := together[key]; more != nil {
				environ = more
			}
			c, err := Load(Source{Environ: environ, File: file})
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range keys {
				same := reflect.DeepEqual(c.at(k).Interface(), want.at(k).Interface())
				set := slices.ContainsFunc(environ, func(e string) bool {
					return strings.HasPrefix(e, variable(k, all[k])+"=") && e != variable(k, all[k])+"="
				})
				follows := k == "issuer.url" && (key == "front.listen" || together[key] != nil) ||
					k == "issuer.audience" && (key == "front.listen" || key == "issuer.url" || together[key] != nil)
				if changes := set || follows; same == changes {
					t.Errorf("%s is %v, by default %v", k, c.at(k), want.at(k))
				}
			}
		})
	}
}

func TestEnvironmentMustBeText(t *testing.T) {
	_, err := Load(Source{Upstream: "http://127.0.0.1:3000", Environ: []string{"POSTERN_STORE_FILE=", "POSTERN_STORE=sqlite:\xff"}})
	if diff := cmp.Diff([]string{"POSTERN_STORE: store: the value is not UTF-8: write it in UTF-8"}, lines(err)); diff != "" {
		t.Error(diff)
	}
}

// What the issuer's URL is, when the front's port is not known yet, is for the caller.
func TestIssuerURL(t *testing.T) {
	f := func(listen, url, audience, wantURL, wantAudience string) {
		t.Helper()
		c, err := Load(Source{Upstream: "http://127.0.0.1:3000", Flags: map[string]string{
			"front.listen": listen, "issuer.url": url, "issuer.audience": audience,
		}})
		if err != nil || c.Issuer.URL != wantURL || c.Issuer.Audience != wantAudience {
			t.Errorf("on %s it is %q for %q, %v", listen, c.Issuer.URL, c.Issuer.Audience, err)
		}
	}
	f("127.0.0.1:8080", "", "", "http://127.0.0.1:8080", "http://127.0.0.1:8080")
	f("[::1]:80", "", "", "http://[::1]:80", "http://[::1]:80")
	f("localhost:80", "", "music", "http://localhost:80", "music")
	f("127.0.0.1:0", "", "", "", "")
	f("127.0.0.1:0", "", "music", "", "music")
	f(":80", "https://api.example.com", "", "https://api.example.com", "https://api.example.com")
	f("127.0.0.1:80", "https://api.example.com:8443", "", "https://api.example.com:8443", "https://api.example.com:8443")
}

func TestKubernetesServiceLinksAreNoSettings(t *testing.T) {
	_, err := Load(Source{Upstream: "http://127.0.0.1:3000", Environ: []string{
		"POSTERN_SERVICE_HOST=10.0.0.1", "POSTERN_SERVICE_PORT=8080", "POSTERN_SERVICE_PORT_HTTP=8080",
		"POSTERN_PORT=tcp://10.0.0.1:8080", "POSTERN_PORT_8080_TCP=tcp://10.0.0.1:8080", "POSTERN_PORT_8080_TCP_PROTO=tcp",
		"POSTERN_PORT_8080_TCP_PORT=8080", "POSTERN_PORT_8080_TCP_ADDR=10.0.0.1", "POSTERN_ADMIN_PORT=tcp://10.0.0.2:9090",
	}})
	if err != nil {
		t.Errorf("a service called postern stops postern: %v", err)
	}
	_, err = Load(Source{Upstream: "http://127.0.0.1:3000", Environ: []string{"POSTERN_PORT=8080"}})
	want := []string{"POSTERN_PORT: is an unknown variable: the nearest known one is POSTERN_STORE"}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Error(diff)
	}
}

func TestUpstreamFlag(t *testing.T) {
	c, err := Load(Source{Upstream: "http://[::1]:3000"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Route{route(func(r *Route) { r.Name, r.Upstream = "/", to("http://[::1]:3000") })}
	if !reflect.DeepEqual(c.Routes, want) {
		t.Errorf("routes are %+v, want %+v", c.Routes, want)
	}
	if got := c.Routes[0].Endpoints()[0].Address; got != "[::1]:3000" {
		t.Errorf("its address is %s", got)
	}
	f := func(name string, s Source, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			_, err := Load(s)
			if diff := cmp.Diff(want, lines(err)); diff != "" {
				t.Error(diff)
			}
		})
	}
	f("no scheme", Source{Upstream: "localhost:3000"},
		`--upstream: "localhost:3000" is not an http, https or unix URL: write it as http://host:port, https://host:port or unix:/path, such as http://127.0.0.1:3000`)
	f("a password", Source{Upstream: "http://u:hunter2@localhost"},
		`--upstream: the value holds a user name or a password: remove it; to send an upstream credentials, set Authorization in request_headers`)
	f("beside routes", Source{Upstream: "http://127.0.0.1:3000", File: write(t, "postern.yaml", minimal)},
		`--upstream: is given, and routes are too: use one of the two`)
}

func TestEndpoints(t *testing.T) {
	f := func(upstream string, want Endpoint) {
		t.Helper()
		want.Weight = 7
		if got := (Route{Upstream: []Upstream{{upstream, 7}}}).Endpoints(); len(got) != 1 || got[0] != want {
			t.Errorf("%s is %+v, want %+v", upstream, got, want)
		}
	}
	f("http://127.0.0.1:3000", Endpoint{Network: "tcp", Address: "127.0.0.1:3000"})
	f("http://api", Endpoint{Network: "tcp", Address: "api:80"})
	f("http://[::1]", Endpoint{Network: "tcp", Address: "[::1]:80"})
	f("https://api", Endpoint{Network: "tcp", Address: "api:443", TLS: true})
	f("https://[::1]:8443", Endpoint{Network: "tcp", Address: "[::1]:8443", TLS: true})
	f("unix:/run/api.sock", Endpoint{Network: "unix", Address: "/run/api.sock"})
}

// What ${NAME} brings in is one value: it cannot add structure.
func TestInterpolation(t *testing.T) {
	f := func(name, value, env, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c, err := Load(Source{
				File: write(t, "postern.yaml", "issuer: {realm: \""+value+"\"}\n"+minimal), Environ: []string{"N=" + env, "M=m"},
			})
			got := c.Issuer.Realm
			if err != nil {
				got = lines(err)[0]
			}
			if got != want {
				t.Errorf("%s is %s, want %s", value, got, want)
			}
		})
	}
	f("whole", "${N}", "x", "x")
	f("inside", "a ${N}-${M} b", "x", "a x-m b")
	f("dollar", "a$$b$${N}", "x", "a$b${N}")
	f("not twice", "${N}", "${M}", "${M}")
	f("structure", "${N}", "x, lifetime: 1s", "x, lifetime: 1s")
	f("number", "${N}", "5", "5")
	f("line", "${N}", "a\nb: c", `postern.yaml:1: issuer.realm: "${N}" has a line break or another control character: write it on one line`)
	f("unset", "${X}", "", `postern.yaml:1: issuer.realm: ${X} is not set: set the variable, or write $$ for a $`)
	f("lone dollar", "a$b", "", `postern.yaml:1: issuer.realm: has a $ that begins no ${NAME}: write $$ for a $`)
	f("value is not shown", "${N}\\\\", "hunter2", `postern.yaml:1: issuer.realm: "${N}\\" is not 1 to 128 printable ASCII characters without quotes and backslashes: use a name such as postern`)

	c, err := Load(Source{
		File:    write(t, "postern.yaml", "front:\n  max_connections: ${N}\n  drain: ${D}\nlog:\n  access: \"${B}\"\n"+minimal),
		Environ: []string{"N=12", "D=3s", "B=true"},
	})
	if err != nil || c.Front.MaxConnections != 12 || c.Front.Drain != Duration(3*time.Second) || !c.Log.Access {
		t.Errorf("typed values: %v %+v", err, c)
	}
}

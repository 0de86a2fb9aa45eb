package proxy

import (
	"strings"
	"testing"
	"time"

	"postern/answer"
)

func TestRoutesByHost(t *testing.T) {
	f := start(t, func(o *Options) {
		upstream := o.Routes[0].Upstream
		add := func(name, host, path string, access Access) {
			o.Routes = append(o.Routes, Route{Name: name, Host: host, Path: path, Upstream: upstream, Access: access, Timeout: time.Second, Stall: time.Second})
		}
		o.Routes = nil
		add("any", "", "/", Client)
		add("exact", "a.example.com", "/", Public)
		add("exact-path", "a.example.com", "/closed", Client)
		add("wild", "*.example.com", "/", Public)
		add("wild-inner", "*.inner.example.com", "/", Client)
		add("paths-only", "b.example.com", "/only", Public)
	})
	g := func(host, path, want string) {
		t.Helper()
		before := f.metrics()
		m := f.ask("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n")
		for name, value := range f.metrics() {
			if strings.HasPrefix(name, "postern_request_duration_seconds") && value != before[name] && name != "postern_request_duration_seconds{route="+want+"}" {
				t.Errorf("%s %s: %q, counted for %s, want %s", host, path, m.start, name, want)
			}
		}
		_ = m
	}
	g("a.example.com", "/", "exact")
	g("A.EXAMPLE.com.", "/", "exact")
	g("a.example.com:8080", "/x", "exact")
	g("a.example.com", "/closed", "exact-path")
	g("a.example.com", "/closed/x", "exact-path")
	g("c.example.com", "/closed", "wild")
	g("c.d.example.com", "/", "wild")
	g("x.inner.example.com", "/", "wild-inner")
	g("inner.example.com", "/", "wild")
	g("example.com", "/", "any")
	g("xexample.com", "/", "any")
	g("a.example.com.evil", "/", "any")
	g("[::1]:80", "/", "any")
	g("b.example.com", "/only", "paths-only")
	g("b.example.com", "/other", "none") // the host is decided before the path
}

func TestRoutesByPath(t *testing.T) {
	f := start(t, func(o *Options) {
		upstream := o.Routes[0].Upstream
		o.Routes = nil
		for _, path := range []string{"/status", "/status/deep/er", "/a/b", "/slash/"} {
			o.Routes = append(o.Routes, Route{Name: path, Path: path, Upstream: upstream, Access: Public, Timeout: time.Second, Stall: time.Second})
		}
		o.Routes = append(o.Routes, Route{Name: "closed", Path: "/status/deep", Upstream: upstream, Access: Client, Timeout: time.Second, Stall: time.Second})
	})
	notFound := refusal{404, answer.NotFound, "", false}
	miss := func(path string) {
		t.Helper()
		if m := f.ask(get(path)); m.status() != 404 {
			t.Errorf("%s: %q", path, m.start)
		} else {
			assertRefusal(t, m, "GET", notFound)
		}
		f.received()
	}
	f.passes("/status", "/status/", "/status/a", "/status/deeper", "/status/deep/er", "/status/deep/er/x", "/a/b", "/a/b/c", "/slash/", "/st%61tus", "/status/a%2fb")
	for _, path := range []string{"/", "/a", "/a/", "/a/bc", "/a%2fb", "/status-admin", "/statu", "/status%2fdeep", "/status;x", "/slash", "/slashes", "/Status"} {
		miss(path)
	}
	for _, path := range []string{"/status/deep", "/status/deep/", "/status/deep/e", "/status/deep/err", "/status/d%65ep/x"} {
		if m := f.ask(get(path)); m.status() != 401 {
			t.Errorf("%s: %q", path, m.start)
		}
	}
}

func TestRoutesByMethod(t *testing.T) {
	f := start(t, func(o *Options) {
		upstream := o.Routes[0].Upstream
		add := func(name, path string, access Access, methods ...string) {
			o.Routes = append(o.Routes, Route{Name: name, Path: path, Methods: methods, Upstream: upstream, Access: access, Timeout: time.Second, Stall: time.Second})
		}
		o.Routes = nil
		add("root", "/", Public)
		add("read", "/data", Public, "HEAD", "GET")
		add("write", "/data", Client, "PUT", "POST", "GET")
	})
	f.passes("/data", "/data/x")
	f.refuses("POST", request("POST", "/data"), shortN)
	f.forwards(request("PUT", "/data", as(callerA)), wire("PUT /data", "api.test", &callerA, ""))
	for _, method := range []string{"DELETE", "OPTIONS", "get", "PATCH", "X"} {
		// No fall-through to "/": first the path, then the method.
		f.refuses(method, request(method, "/data", as(callerA)), refusal{405, answer.MethodNotAllowed, "", false})
		if got := f.ask(request(method, "/data")).get("Allow"); got != "GET, HEAD, POST, PUT" {
			t.Errorf("Allow: %q", got)
		}
	}
}

// TestPublicIsNeverOpenedByAmbiguity: whatever an upstream could read as the path of a
// route that needs a client is refused on a public one.
func TestPublicIsNeverOpenedByAmbiguity(t *testing.T) {
	f := start(t, guarded)
	f.denies("/admin;x", "/admin;x/users", "/admin%3bx", "/admin;", "/pub%2finner", "/pub%2Finner/x", "/pub;x/inner", "/pub;x%2finner", "/pub/inner;x", "/pub/inn%65r;x",
		"/%2fadmin", "/pub/;x/inner", "/admin%2f", "/admin%2fusers")
	f.guards("/admin", "/admin/", "/admin/a;x", "/admin/a%2fb", "/pub/inner", "/%70ub/inner", "/pub/inner/a;b")
	f.passes("/pub", "/pub/a;x", "/pub/a%2fb", "/adm;in", "/administrator;x", "/a%2fadmin", "/pub/a%2finner", "/;admin", "/%3badmin", "/pub/%2einner", "/pub;/x%2f")
}

// TestNoRouteIsReachedByAmbiguity: a route that does not have the method, or that has
// another client's rules, is not reached through one that does.
func TestNoRouteIsReachedByAmbiguity(t *testing.T) {
	f := start(t, func(o *Options) {
		upstream := o.Routes[0].Upstream
		o.Routes = []Route{
			{Name: "root", Path: "/", Upstream: upstream, Access: Public, Timeout: patience, Stall: patience},
			{Name: "fixed", Path: "/fixed", Methods: []string{"GET"}, Upstream: upstream, Access: Public, Timeout: patience, Stall: patience},
			{Name: "api", Path: "/api", Upstream: upstream, Access: Client, Timeout: patience, Stall: patience},
			{Name: "reports", Path: "/api/reports", Upstream: upstream, Access: Client, Timeout: patience, Stall: patience},
			{Name: "open", Path: "/api/open", Upstream: upstream, Access: Public, Timeout: patience, Stall: patience},
		}
	})
	f.refuses("method", request("DELETE", "/fixed;x"), shortB)
	f.refuses("method, encoded slash", request("DELETE", "/fixed%2fx"), shortB)
	f.passes("/fixed;x", "/fixed%2fx")
	f.denies("/api/reports;x", "/api/reports%2fx")
	f.guards("/api/a;x", "/api/a%2freports", "/api/reports/a%2fb", "/api/open%2fx", "/api/open;x")
}

func TestBadRoutes(t *testing.T) {
	for _, path := range []string{"", "a", "/a//b", "/a/../b", "/a%41", "/a;b", "/.", `/a\b`} {
		_, err := newRouter([]Route{{Name: "r", Path: path}}, nil)
		if want := `route "r": path "` + strings.ReplaceAll(path, `\`, `\\`) + `" is not an absolute plain path`; errorText(err) != want {
			t.Errorf("%q: %v", path, err)
		}
	}
}

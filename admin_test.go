package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLocalOnly: what acts on the process or shows its insides is for programs on this
// machine alone.
func TestLocalOnly(t *testing.T) {
	reached := false
	h := local(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached = true }))
	f := func(name, peer, host string, want int, header ...string) {
		t.Helper()
		r := httptest.NewRequest("POST", "/quit", http.NoBody)
		r.RemoteAddr, r.Host, reached = peer, host, false
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || reached != (want == 200) {
			t.Errorf("%s: %d %s, reached: %t", name, w.Code, w.Body, reached)
		}
	}
	f("IPv4", "127.0.0.1:1234", "127.0.0.1:9090", 200)
	f("anywhere in 127/8", "127.8.9.1:1234", "127.8.9.1", 200)
	f("IPv6", "[::1]:1234", "[::1]:9090", 200)
	f("IPv6 without a port", "[::1]:1234", "[::1]", 200)
	f("IPv4 in IPv6", "[::ffff:127.0.0.1]:1234", "localhost:9090", 200)
	f("a private network", "10.0.0.7:1234", "127.0.0.1:9090", 403)
	f("IPv6 elsewhere", "[2001:db8::1]:1234", "[::1]:9090", 403)
	f("no address", "@", "127.0.0.1:9090", 403)
	f("a rebound name", "127.0.0.1:1234", "evil.example:9090", 403)
	f("a name that looks alike", "127.0.0.1:1234", "127.0.0.1.evil.example", 403)
	f("no host", "127.0.0.1:1234", "", 403)
	f("another site's page", "127.0.0.1:1234", "127.0.0.1:9090", 403, "Origin", "https://evil.example")
	f("a page without an origin", "127.0.0.1:1234", "127.0.0.1:9090", 403, "Sec-Fetch-Site", "cross-site")
	f("forwarded", "127.0.0.1:1234", "127.0.0.1:9090", 403, "X-Forwarded-For", "192.0.2.1")
	f("forwarded by the standard", "127.0.0.1:1234", "127.0.0.1:9090", 403, "Forwarded", "for=192.0.2.1")
	f("by way of a proxy", "127.0.0.1:1234", "127.0.0.1:9090", 403, "Via", "1.1 mesh")
}

// TestLocalOnlyMounted: everything of admin_local.go is behind local.
func TestLocalOnlyMounted(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	for _, what := range []string{"POST /quit", "POST /reload", "GET /config", "GET /refusals?client=a", "GET /debug/pprof/", "GET /debug/pprof/heap", "GET /debug/pprof/cmdline",
		"GET /debug/pprof/profile?seconds=1", "GET /debug/pprof/symbol", "GET /debug/pprof/trace?seconds=1"} {
		method, path, _ := strings.Cut(what, " ")
		r, err := send(t.Context(), method, s.admin+path, "", "X-Forwarded-For", "192.0.2.1")
		if err != nil || r.status != 403 {
			t.Errorf("%s: %d %s %v", what, r.status, r.body, err)
		}
		if method == "POST" {
			continue
		}
		if r, err := send(t.Context(), method, s.admin+path, ""); err != nil || r.status != 200 {
			t.Errorf("%s from here: %d %s %v", what, r.status, r.body, err)
		}
	}
}

// TestQuit: POST /quit ends postern as SIGTERM does; connections that say nothing, at
// either door, do not hold it.
func TestQuit(t *testing.T) {
	up := startUpstream(t)
	p := start(t, t.TempDir(), "--upstream", "http://"+up.address, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	for _, door := range []string{p.front, p.admin} {
		c, err := net.Dial("tcp", strings.TrimPrefix(door, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	if r, err := send(t.Context(), "POST", p.admin+"/quit", ""); err != nil || r.status != 202 {
		t.Fatalf("%d %s %v", r.status, r.body, err)
	}
	if code := p.ends(2 * time.Second); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestSecondSignal: the first SIGTERM waits for a request in flight, the second does not.
func TestSecondSignal(t *testing.T) {
	t.Parallel() // it waits most of the time
	up := startUpstream(t)
	p := start(t, t.TempDir(), "--upstream", "http://"+up.address, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	token := p.goodToken(p.client(""))
	up.slow(10 * time.Second)
	go func() { _, _ = send(t.Context(), "GET", p.front+"/", "", "Authorization", "Bearer "+token) }()
	eventually(t, time.Second, "the request is at the upstream", func() bool { return len(up.requests()) == 1 })
	p.signal(syscall.SIGTERM)
	eventually(t, time.Second, "it drains", func() bool { return strings.Contains(p.logs.String(), `"msg":"draining"`) })
	p.signal(syscall.SIGTERM)
	if code := p.ends(500 * time.Millisecond); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
}

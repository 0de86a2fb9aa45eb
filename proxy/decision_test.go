package proxy

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
)

// deciding is a front with a decision endpoint for gateways on this machine, and routes
// with scopes, without a client, and with an assertion.
func deciding(o *Options) {
	o.DecisionPath = "/decision"
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	o.Asserter = asserter{}
	scoped, optional, asserted, shared := o.Routes[0], o.Routes[0], o.Routes[0], o.Routes[0]
	shared.Name, shared.Path, shared.CORS = "shared", "/shared", &CORS{Origins: []string{"https://app.example.com"}}
	scoped.Name, scoped.Path, scoped.Scopes = "scoped", "/scoped", []string{"search", "write"}
	optional.Name, optional.Path, optional.Access = "optional", "/optional", Optional
	asserted.Name, asserted.Path, asserted.Assertion = "asserted", "/asserted", &Assertion{Audience: "tracks"}
	o.Routes = append(o.Routes, scoped, optional, asserted, shared)
}

// asserter asserts in clear, unless it has no key.
type asserter struct{ fault error }

func (a asserter) Assert(who directory.Principal, audience string, _ time.Time) (string, error) {
	return who.Client.ID + ".for." + audience, a.fault
}

// shape is how one kind of gateway tells of a request.
type shape func(method, host, target string, more ...string) string

func traefik(method, host, target string, more ...string) string {
	return request("GET", "/decision", append([]string{"X-Forwarded-Method: " + method, "X-Forwarded-Proto: https",
		"X-Forwarded-Host: " + host, "X-Forwarded-Uri: " + target, "X-Forwarded-For: 192.0.2.1"}, more...)...)
}

func caddy(method, host, target string, more ...string) string {
	return request("GET", "/decision?x=1", append([]string{"x-forwarded-method: " + method, "x-forwarded-uri: " + target, "x-forwarded-host: " + host}, more...)...)
}

func nginx(method, host, target string, more ...string) string {
	return "GET /decision HTTP/1.0\r\nHost: postern\r\nConnection: close\r\n" + strings.Join(append([]string{
		"X-Original-Method: " + method, "X-Original-Host: " + host, "X-Original-URI: " + target}, more...), "\r\n") + "\r\n\r\n"
}

func envoy(method, host, target string, more ...string) string {
	return method + " /decision" + target + " HTTP/1.1\r\nHost: " + host + "\r\n" + strings.Join(append([]string{"Content-Length: 0"}, more...), "\r\n") + "\r\n\r\n"
}

func shapesOfGateways() map[string]shape {
	return map[string]shape{"traefik": traefik, "caddy": caddy, "nginx": nginx, "envoy": envoy}
}

// told are the identity fields of an answer, in their order.
func told(m *message) (lines []string) {
	for _, l := range m.fields {
		for _, name := range append([]string{"X-Postern-Assertion"}, reserved...) {
			if strings.EqualFold(l.name, name) {
				lines = append(lines, l.name+": "+l.value)
			}
		}
	}
	return lines
}

func TestDecisionPasses(t *testing.T) {
	f := start(t, deciding)
	for name, ask := range shapesOfGateways() {
		g := func(what, method, target string, who *caller, fields ...string) {
			t.Helper()
			m := f.ask(ask(method, "api.test", target, fields...))
			var want []string
			if who != nil {
				want = identity(*who)
			}
			if strings.HasPrefix(target, "/asserted") {
				want = append(want, "X-Postern-Assertion: "+who.client+".for.tracks")
			}
			if m.status() != 200 || m.content != "" || strings.Join(told(m), "\n") != strings.Join(want, "\n") ||
				m.get("Cache-Control") != "no-store" || m.get("X-Request-Id") == "" || m.get("Date") == "" || m.get("Content-Length") != "0" && method != "HEAD" {
				t.Errorf("%s, %s: %q, want 200 and %q", name, what, m.raw, want)
			}
			f.received()
		}
		g("a good token", "GET", "/a", &callerA, as(callerA))
		g("without scope or agreement", "POST", "/a/b?c=d", &callerB, as(callerB))
		g("forged identity", "GET", "/a", &callerB, "X-Client-Id: evil", as(callerB), "X_Scopes: evil", "X-Agreement-Id: evil", "X-Postern-Assertion: evil")
		g("a public route", "GET", "/public/a", nil)
		g("a public route, with a token", "DELETE", "/public/a", nil, as(callerA), "X-Client-Id: evil")
		g("an optional route", "GET", "/optional", nil)
		g("an optional route, with a token", "GET", "/optional", &callerA, as(callerA))
		g("an assertion", "GET", "/asserted", &callerA, as(callerA))
		g("by method", "HEAD", "/read", &callerA, as(callerA))
		g("an encoded slash", "GET", "/a%2Fb", &callerA, as(callerA))
	}
	if n := f.metrics()["postern_requests_total{class=2xx,reason=ok,route=read}"]; n != 4 {
		t.Errorf("%v requests to the route that was asked for", n)
	}
}

func TestDecisionRefuses(t *testing.T) {
	f := start(t, deciding)
	for name, ask := range shapesOfGateways() {
		g := func(what, method, target string, status int, reason answer.Reason, fields ...string) {
			t.Helper()
			m := f.ask(ask(method, "api.test", target, fields...))
			want := status
			if name == "nginx" && status < 500 && status != 401 {
				want = 403
			}
			if m.status() != want || !strings.Contains(m.content, `"code":"`+string(reason)+`"`) || len(told(m)) > 0 {
				t.Errorf("%s, %s: %q, want %d %s", name, what, m.raw, want, reason)
			}
			// What is malformed in Envoy's own request line was never a question.
			unread := name == "envoy" && strings.Contains(target, "..")
			if m.get("X-Postern-Reason") != string(reason) && !unread || m.get("X-Postern-Status") != strconv.Itoa(status) && !unread {
				t.Errorf("%s, %s: says %q %q", name, what, m.get("X-Postern-Status"), m.get("X-Postern-Reason"))
			}
			if challenge := m.get("WWW-Authenticate"); (challenge != "") != (status == 401 || reason == answer.InsufficientScope || strings.Contains(target, "access_token")) {
				t.Errorf("%s, %s: challenge %q", name, what, challenge)
			}
			f.received()
		}
		g("no token", "GET", "/a", 401, answer.MissingToken)
		g("another scheme", "GET", "/a", 401, answer.MissingToken, "Authorization: Basic dTpw")
		g("an expired token", "GET", "/a", 401, answer.InvalidToken, "Authorization: Bearer "+tokenExpired)
		g("an expired token on an optional route", "GET", "/optional", 401, answer.InvalidToken, "Authorization: Bearer "+tokenExpired)
		g("a browser's preflight", "OPTIONS", "/shared", 401, answer.MissingToken,
			"Origin: https://app.example.com", "Access-Control-Request-Method: GET")
		g("forged identity alone", "GET", "/a", 401, answer.MissingToken, "X-Client-Id: "+callerA.client)
		g("scope", "GET", "/scoped", 403, answer.InsufficientScope, as(callerA))
		g("agreement", "GET", "/a", 403, answer.ForbiddenAgreement, as(callerLapsed))
		g("our own fault", "GET", "/a", 503, answer.Unavailable, "Authorization: Bearer "+tokenStore)
		g("another method", "POST", "/read", 405, answer.MethodNotAllowed, as(callerA))
		if name != "envoy" { // whose own methods they would be
			g("TRACE", "TRACE", "/public", 405, answer.MethodNotAllowed)
			g("CONNECT", "CONNECT", "/public", 501, answer.MethodNotAllowed)
		}
		g("the token route", "POST", "/oauth/token", 404, answer.NotFound, as(callerA))
		g("the decision endpoint", "GET", "/decision", 404, answer.NotFound, as(callerA))
		g("below the decision endpoint", "GET", "/decision/a", 404, answer.NotFound, as(callerA))
		g("ambiguous with a public route", "GET", "/public%2F..;/a", 400, answer.InvalidRequest, as(callerA))
		g("a token in the query too", "GET", "/a?access_token=x", 400, answer.InvalidRequest, as(callerA))
	}
}

// What cannot be a question is refused, and is nothing that the client of a gateway could
// have said to get another answer.
func TestDecisionQuestions(t *testing.T) {
	f := start(t, deciding)
	g := func(what, request string, status int) {
		t.Helper()
		if m := f.ask(request); m.status() != status || m.get("X-Postern-Reason") != "invalid_request" || len(told(m)) > 0 {
			t.Errorf("%s: %q, want %d", what, m.raw, status)
		}
		f.received()
	}
	asked := func(fields ...string) string { return request("GET", "/decision", append(fields, as(callerA))...) }
	const method, host, target = "X-Forwarded-Method: GET", "X-Forwarded-Host: api.test", "X-Forwarded-Uri: /public"
	g("nothing", asked(), 400)
	if m := f.ask(asked(host)); !strings.Contains(m.content, "X-Forwarded-Method") || !strings.Contains(m.content, "X-Original-Method") {
		t.Errorf("the gateway's operator is not told which fields are needed: %s", m.content)
	}
	g("no method", asked(host, target), 400)
	g("no host", asked(method, target), 400)
	g("no target", asked(method, host), 400)
	g("an empty method", asked("X-Forwarded-Method:", host, target), 400)
	g("two methods", asked(method, method, host, target), 400)
	g("two targets", asked(method, host, target, "x-forwarded-uri: /a"), 400)
	g("two hosts", asked(method, host, host, target), 400)
	g("a malformed method", asked("X-Forwarded-Method: G T", host, target), 400)
	g("a malformed host", asked(method, "X-Forwarded-Host: a, b", target), 400)
	g("a target with a host", asked(method, host, "X-Forwarded-Uri: http://api.test/public"), 400)
	g("an ambiguous target", asked(method, host, "X-Forwarded-Uri: /public/../a"), 400)
	g("a long target", asked(method, host, "X-Forwarded-Uri: /"+strings.Repeat("a", 9000)), 414)
	// A client adds what its gateway passes on: it may spoil its own question, and no more.
	g("both, by nginx", nginx("GET", "api.test", "/a", target, as(callerA)), 403)
	g("both, by nginx, the method", nginx("GET", "api.test", "/a", method, as(callerA)), 403)
	g("both, by Traefik", traefik("GET", "api.test", "/a", "X-Original-URI: /public"), 403)
	g("both, by Traefik, whole", traefik("GET", "api.test", "/a", "X-Original-Method: GET", "X-Original-Host: api.test", "X-Original-URI: /public"), 403)
	g("half, by nginx", asked("X-Original-Method: GET", "X-Original-URI: /public"), 403)
	if m := f.ask(nginx("GET", "api.test", "/a", host, as(callerA))); m.status() != 200 { // proxies add that one always
		t.Errorf("nginx with X-Forwarded-Host: %q", m.raw)
	}
	// Envoy: the request itself is the question.
	if m := f.ask(envoy("GET", "api.test", "/a", method, host, target, "X-Original-Method: GET", "X-Original-URI: /public")); m.status() != 401 {
		t.Errorf("fields beside Envoy's question: %q", m.raw)
	}
}

// The question may have any method, and the answer is framed by that method.
func TestDecisionOnOneConnection(t *testing.T) {
	f := start(t, deciding)
	c := f.dial()
	for range 2 {
		c.send(traefik("HEAD", "api.test", "/a"))
		if m := c.read("GET"); m.status() != 401 || m.content == "" {
			t.Fatalf("GET about HEAD: %q", m.raw)
		}
		c.send(strings.Replace(traefik("GET", "api.test", "/a"), "GET ", "HEAD ", 1))
		if m := c.read("HEAD"); m.status() != 401 || m.content != "" {
			t.Fatalf("HEAD about GET: %q", m.raw)
		}
		c.send(traefik("GET", "api.test", "/a//b", as(callerA)))
		if m := c.read("GET"); m.status() != 400 {
			t.Fatalf("an ambiguous target: %q", m.raw)
		}
		c.send(strings.Replace(traefik("GET", "api.test", "/a", as(callerA), "Content-Length: 4"), "GET ", "POST ", 1) + "body")
		if m := c.read("POST"); m.status() != 200 {
			t.Fatalf("POST with content: %q", m.raw)
		}
	}
}

// Nobody but a trusted gateway gets an answer, or learns that there is one.
func TestDecisionOfAnUntrustedPeer(t *testing.T) {
	f := start(t, deciding, func(o *Options) { o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	for name, ask := range shapesOfGateways() {
		for _, fields := range [][]string{nil, {as(callerA)}, {as(callerA), "X-Forwarded-For: 192.0.2.1"}} {
			m := f.ask(ask("GET", "api.test", "/public", fields...))
			if m.status() != 404 || !strings.Contains(m.content, `"code":"not_found"`) || m.get("X-Postern-Reason") != "" {
				t.Errorf("%s: %q", name, m.raw)
			}
			f.received()
		}
	}
}

// Paths that only look alike are routed as any, and so is the path itself where it is not set.
func TestDecisionPath(t *testing.T) {
	f := start(t, deciding)
	for _, path := range []string{"/decisions", "/Decision", "/a/decision", "/decisio"} {
		f.forwards(get(path, as(callerA)), wire("GET "+path, "api.test", &callerA, ""))
	}
	off := start(t)
	off.forwards(get("/decision", as(callerA)), wire("GET /decision", "api.test", &callerA, ""))
}

// No key that signs is our own fault, and never the client's.
func TestAssertionFails(t *testing.T) {
	f := start(t, deciding, func(o *Options) { o.Asserter = asserter{errors.New("no key")} })
	f.refuses("forwarded", get("/asserted", as(callerA)), refusal{status: 503, reason: answer.Unavailable})
	for name, ask := range shapesOfGateways() {
		if m := f.ask(ask("GET", "api.test", "/asserted", as(callerA))); m.status() != 503 || len(told(m)) > 0 {
			t.Errorf("%s: %q", name, m.raw)
		}
	}
	f.refuses("no token", get("/asserted"), refusal{status: 401, reason: answer.MissingToken, challenge: `Bearer realm="R"`})
	f.forwards(get("/a", as(callerA)), wire("GET /a", "api.test", &callerA, ""))
}

// The upstream gets the assertion behind the identity, and a client's own on no route.
func TestAssertionIsForwarded(t *testing.T) {
	f := start(t, deciding)
	signed := strings.TrimSuffix(wire("GET /asserted", "api.test", &callerA, ""), "\r\n") +
		"X-Postern-Assertion: " + callerA.client + ".for.tracks\r\n\r\n"
	for _, twin := range spellings("X-Postern-Assertion") {
		forged := twin + ": evil"
		f.forwards(get("/asserted", as(callerA), forged), signed)
		f.forwards(get("/a", as(callerA), forged), wire("GET /a", "api.test", &callerA, ""))
		f.forwards(get("/optional", forged), wire("GET /optional", "api.test", nil, ""))
		f.forwards(get("/public", forged), wire("GET /public", "api.test", nil, ""))
	}
	f.forwards(get("/asserted", as(callerA), "Connection: X-Postern-Assertion"), signed)
}

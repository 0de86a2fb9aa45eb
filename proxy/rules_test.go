package proxy

import (
	"io"
	"net"
	"slices"
	"strings"
	"testing"

	"postern/answer"
)

// startRoutes serves these routes; they need to say no upstream.
func startRoutes(t testing.TB, given ...Route) *fixture {
	t.Helper()
	return start(t, func(o *Options) {
		usual := o.Routes[0]
		o.Routes = nil
		// refuses asks for /public behind each refusal.
		for _, r := range append(given, Route{Name: "public", Path: "/public", Access: Public}) {
			r.Upstream, r.Timeout, r.Stall = usual.Upstream, usual.Timeout, usual.Stall
			o.Routes = append(o.Routes, r)
		}
	})
}

func TestExactRoutes(t *testing.T) {
	f := startRoutes(t,
		Route{Name: "root", Path: "/", Access: Client},
		Route{Name: "below", Path: "/status", Access: Client, Methods: []string{"POST"}},
		Route{Name: "exact", Path: "/status", Exact: true, Access: Public, Methods: []string{"GET"}},
		Route{Name: "only", Path: "/only", Exact: true, Access: Public, Methods: []string{"GET"}},
		Route{Name: "slash", Path: "/slash/", Exact: true, Access: Public})
	public := func(target string) { t.Helper(); f.forwards(get(target), wire("GET "+target, "api.test", nil, "")) }
	closed := func(method, target string) {
		t.Helper()
		f.refuses(method+" "+target, request(method, target), refusal{401, answer.MissingToken, `Bearer realm="R"`, false})
	}
	public("/status")
	public("/status?x=/status/a")
	public("/only")
	public("/slash/")
	closed("GET", "/only/") // which is another path
	closed("GET", "/only/a")
	closed("GET", "/onlyx")
	closed("GET", "/slash")
	closed("GET", "/slash/a")
	closed("POST", "/status")
	closed("POST", "/status/a")
	f.forwards(get("/st%61tus"), wire("GET /st%61tus", "api.test", nil, ""))
	// A reading in which the path is another one's.
	f.refuses("encoded slash", get("/only%2Fa"), refusal{401, answer.MissingToken, `Bearer realm="R"`, false})
	f.refuses("parameter", get("/only;a"), refusal{401, answer.MissingToken, `Bearer realm="R"`, false})
	allow := func(method, target, want string) {
		t.Helper()
		if m := f.ask(request(method, target, as(callerA))); m.status() != 405 || m.get("Allow") != want {
			t.Errorf("%s %s: %q, want Allow: %s", method, target, m.raw, want)
		}
	}
	allow("PUT", "/status", "GET, POST")
	allow("PUT", "/only", "GET")
	allow("GET", "/status/a", "POST")
	allow("GET", "/status/", "POST")
}

func TestOptionalAccess(t *testing.T) {
	f := startRoutes(t,
		Route{Name: "root", Path: "/", Access: Optional},
		Route{Name: "closed", Path: "/closed", Access: Client},
		Route{Name: "tagged", Path: "/tagged", Access: Optional, Scopes: []string{"tag"}})
	forged := "X-Client-Id: evil"
	f.forwards(get("/a", forged), wire("GET /a", "api.test", nil, ""))
	f.forwards(get("/a", as(callerA), forged), wire("GET /a", "api.test", &callerA, ""))
	f.forwards(get("/a?access_token=x"), wire("GET /a?access_token=x", "api.test", nil, ""))
	invalid := refusal{401, answer.InvalidToken, `Bearer realm="R", error="invalid_token"`, false}
	f.refuses("unknown", get("/a", "Authorization: Bearer unknown"), invalid)
	f.refuses("expired", get("/a", "Authorization: Bearer "+tokenExpired), invalid)
	f.refuses("another scheme", get("/a", "Authorization: Basic dTpw"), refusal{401, answer.MissingToken, `Bearer realm="R"`, false})
	malformed := refusal{400, answer.InvalidRequest, `Bearer realm="R", error="invalid_request"`, false}
	f.refuses("malformed", get("/a", "Authorization: Bearer a b"), malformed)
	f.refuses("two", get("/a", as(callerA), as(callerA)), malformed)
	f.refuses("two places", get("/a?access_token=x", as(callerA)), malformed)
	f.refuses("store away", get("/a", "Authorization: Bearer "+tokenStore), refusal{503, answer.Unavailable, "", false})
	f.refuses("agreement over", get("/a", as(callerLapsed)), refusal{403, answer.ForbiddenAgreement, "", false})
	// A scope is demanded of those who say who they are.
	f.forwards(get("/tagged"), wire("GET /tagged", "api.test", nil, ""))
	f.forwards(get("/tagged", as(callerA)), wire("GET /tagged", "api.test", &callerA, ""))
	f.refuses("scope", get("/tagged", as(callerB)), refusal{403, answer.InsufficientScope, `Bearer realm="R", error="insufficient_scope", scope="tag"`, false})
	// What a reading would make a client's is not open.
	f.refuses("ambiguous", get("/x%2F..;/closed"), refusal{400, answer.InvalidRequest, "", true})
	f.refuses("ambiguous", get("/closed;a"), refusal{400, answer.InvalidRequest, "", true})
}

// TestRow042InsufficientScope: a good token is 403 where the route demands a scope that
// it has not, and is told which (RFC 6750 §3.1).
func TestRow042InsufficientScope(t *testing.T) {
	f := startRoutes(t,
		Route{Name: "root", Path: "/", Access: Client},
		Route{Name: "search", Path: "/search", Access: Client, Scopes: []string{"search"}},
		Route{Name: "both", Path: "/both", Access: Client, Scopes: []string{"search", "tag"}},
		Route{Name: "more", Path: "/more", Access: Client, Scopes: []string{"search", "stream"}},
		Route{Name: "either", Path: "/either", Access: Client, ScopesAny: []string{"stream", "tag"}},
		Route{Name: "neither", Path: "/neither", Access: Client, Scopes: []string{"tag"}, ScopesAny: []string{"stream", "tags"}})
	passes := func(path string, who caller) {
		t.Helper()
		f.forwards(get(path, as(who)), wire("GET "+path, "api.test", &who, ""))
	}
	denied := func(path string, who caller, scope string) {
		t.Helper()
		m := f.ask(get(path, as(who)))
		if want := `Bearer realm="R", error="insufficient_scope", scope="` + scope + `"`; m.status() != 403 || m.get("WWW-Authenticate") != want ||
			!strings.Contains(m.content, `"code":"insufficient_scope"`) {
			t.Errorf("%s: %q", path, m.raw)
		}
		f.received()
	}
	passes("/a", callerA) // who has "search tag"
	passes("/a", callerB) // who has none
	passes("/search", callerA)
	passes("/both", callerA)
	passes("/either", callerA)
	denied("/search", callerB, "search")
	denied("/search/below", callerB, "search")
	denied("/both", callerB, "search tag")
	denied("/more", callerA, "search stream")
	denied("/either", callerB, "stream tag")
	denied("/neither", callerA, "tag stream tags")
	// Another reading of the path would come by without the scope.
	f.refuses("ambiguous", get("/a%2F..;/search", as(callerB)), refusal{400, answer.InvalidRequest, "", true})
	f.refuses("ambiguous", get("/search;a", as(callerB)), refusal{400, answer.InvalidRequest, "", true})
	f.refuses("no token", get("/search"), refusal{401, answer.MissingToken, `Bearer realm="R"`, false})
	f.refuses("bad token", get("/search", "Authorization: Bearer x"), refusal{401, answer.InvalidToken, `Bearer realm="R", error="invalid_token"`, false})
}

func TestRewrittenTargets(t *testing.T) {
	f := startRoutes(t,
		Route{Name: "strip", Path: "/api", Access: Client, StripPrefix: "/api"},
		Route{Name: "move", Path: "/old/v1", Access: Client, StripPrefix: "/old", AddPrefix: "/new"},
		Route{Name: "add", Path: "/", Access: Public, AddPrefix: "/site"},
		Route{Name: "whole", Path: "/kept", Access: Public})
	g := func(target, want string) {
		t.Helper()
		f.forwards(get(target, as(callerA)), wire("GET "+want, "api.test", &callerA, ""))
	}
	g("/api/a?b=c&d=/api", "/a?b=c&d=/api")
	g("/api", "/")
	g("/api?x", "/?x")
	g("/api/%61%2fb;c?%2e%2e", "/%61%2fb;c?%2e%2e")
	g("http://api.test/api/a", "/a")
	g("/old/v1/a", "/new/v1/a")
	f.forwards(get("/a"), wire("GET /site/a", "api.test", nil, ""))
	f.forwards(get("/"), wire("GET /site/", "api.test", nil, ""))
	f.forwards(get("/kept"), wire("GET /kept", "api.test", nil, "")) // after another's was rewritten
	malformed := refusal{400, answer.InvalidRequest, "", true}
	f.refuses("encoded prefix", get("/%61pi/a", as(callerA)), malformed)
	f.refuses("encoded prefix", get("/%6fld/v1/a", as(callerA)), malformed)
	// A preflight that is none of ours looks for two routes, and is forwarded once.
	preflight := []string{ourApp, "Access-Control-Request-Method: GET"}
	f.forwards(request("OPTIONS", "/api/a", append(preflight, as(callerA))...), wire("OPTIONS /a", "api.test", &callerA, "", preflight...))
	// The content follows as ever, and the next request is its own.
	c := f.dial()
	c.send(request("POST", "/api/a", as(callerA), "Content-Length: 4") + "body" + get("/kept"))
	if m, m2 := c.read("POST"), c.read("GET"); m.content != "ok" || m2.content != "ok" {
		t.Errorf("%q %q", m.raw, m2.raw)
	}
	f.received(wire("POST /a", "api.test", &callerA, "Content-Length: 4")+"body", wire("GET /kept", "api.test", nil, ""))
}

func TestFieldsOfARoute(t *testing.T) {
	f := startRoutes(t,
		Route{Name: "legacy", Path: "/", Access: Client, RequestFields: []Field{set("Authorization", "Basic bGVnYWN5OnNlY3JldA=="), set("X-Api-Version", "2"), remove("Cookie")},
			ResponseFields: []Field{remove("Server"), set("Strict-Transport-Security", "max-age=31536000"), set("X-Api-Version", "1")}},
		Route{Name: "host", Path: "/host", Access: Public, RequestFields: []Field{set("Host", "legacy.internal:8080")}},
		Route{Name: "plain", Path: "/plain", Access: Public})
	ours := []string{"X-Kept: 1", "Authorization: Basic bGVnYWN5OnNlY3JldA==", "X-Api-Version: 2"}
	want := wire("GET /a", "api.test", &callerA, "", ours...)
	f.forwards(get("/a", as(callerA), "X-Kept: 1"), want)
	for _, theirs := range []string{"X-Api-Version: 9", "x_api.version: 9", "XAPIVERSION: 9", "Cookie: a=b", "cookie: a=b"} {
		f.forwards(get("/a", theirs, as(callerA), theirs, "X-Kept: 1"), want)
	}
	// Connection cannot take them away, nor can a trailer add to them.
	f.forwards(get("/a", as(callerA), "X-Kept: 1", "Connection: X-Api-Version"), want)
	f.forwards(request("POST", "/a", as(callerA), "X-Kept: 1", "Transfer-Encoding: chunked")+"0\r\nX-Api-Version: 9\r\n\r\n",
		wire("POST /a", "api.test", &callerA, "Transfer-Encoding: chunked", ours...)+"0\r\n\r\n")
	f.forwards(get("/plain", "X-Api-Version: 9", "Cookie: a=b"), wire("GET /plain", "api.test", nil, "", "X-Api-Version: 9", "Cookie: a=b"))
	f.forwards(get("/host"), strings.Replace(wire("GET /host", "api.test", nil, ""), "Host: api.test", "Host: legacy.internal:8080", 1))

	check := func(m *message, fields ...string) {
		t.Helper()
		var got []string
		for _, l := range m.fields {
			if l.name != "Content-Length" && l.name != "Transfer-Encoding" {
				got = append(got, l.name+": "+l.value)
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, fields) {
			t.Errorf("got %q, want %q", got, fields)
		}
	}
	f.upstream.says("HTTP/1.1 200 OK\r\nServer: legacy/1\r\nX-Api-Version: 7\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nok")
	check(f.ask(get("/a", as(callerA))), "Strict-Transport-Security: max-age=31536000", "X-Api-Version: 1", "X-Kept: 1")
	check(f.ask(get("/plain")), "Server: legacy/1", "X-Api-Version: 7", "X-Kept: 1")
	f.upstream.says("HTTP/1.1 200 OK\r\nServer: legacy/1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	check(f.ask(get("/a", as(callerA))), "Strict-Transport-Security: max-age=31536000", "X-Api-Version: 1")
	// Our own refusals are not touched.
	if m := f.ask(get("/a")); m.status() != 401 || m.get("Strict-Transport-Security") != "" {
		t.Errorf("%q", m.raw)
	}
	if log := f.log.String(); strings.Contains(log, "bGVnYWN5OnNlY3JldA") {
		t.Error("the log holds what a route sets")
	}
}

// TestRulesAllocateNothing: neither does a route's rewriting, its fields and its scopes
// cost memory.
func TestRulesAllocateNothing(t *testing.T) {
	front := startRoutes(t, Route{Name: "api", Path: "/api", Access: Client, StripPrefix: "/api", AddPrefix: "/v1", Scopes: []string{"tag"},
		RequestFields: []Field{set("X-A", "1"), remove("Cookie"), set("Host", "h")}}).front
	x, raw := newExchange(front), []byte(get("/api/a?b", "Accept: */*", "X-A: 2", "Cookie: a=b", as(callerA)))
	x.state, x.who, x.known = front.state.Load(), newTokens(t)[callerA.token], true
	if n := testing.AllocsPerRun(100, func() {
		x.head.reset()
		if _, ok := x.head.check(raw, x.state); !ok {
			t.Fatal("it is refused")
		}
		if _, ok := front.findRoute(x, x.head.method); !ok || !x.route.scopes.cover(x.who.Scope) {
			t.Fatal("it is refused")
		}
		x.out = x.upstreamHead(x.out[:0])
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRulesThatNoRouteHas(t *testing.T) {
	c := testClassifier(t)
	for what, r := range map[string]Route{
		"scopes on a public route":      {Path: "/", Access: Public, Scopes: []string{"a"}},
		"any scope on a public route":   {Path: "/", Access: Public, ScopesAny: []string{"a"}},
		"strip beyond the path":         {Path: "/", Access: Client, StripPrefix: "/api"},
		"strip half a segment":          {Path: "/api", Access: Client, StripPrefix: "/ap"},
		"Authorization set and passed":  {Path: "/", Access: Client, PassAuthorization: true, RequestFields: []Field{set("Authorization", "x")}},
		"a trailer that is set":         {Path: "/", Access: Client, RequestFields: []Field{set("X-Sum", "x")}, Trailers: []string{"x-sum"}},
		"a trailer of ours":             {Path: "/", Access: Client, Trailers: []string{"X_Client-Id"}},
		"a trailer that frames":         {Path: "/", Access: Client, Trailers: []string{"Content-Length"}},
		"a trailer that is set back":    {Path: "/", Access: Client, ResponseFields: []Field{set("X-Sum", "x")}, Trailers: []string{"x-sum"}},
		"an identity field":             {Path: "/", Access: Client, RequestFields: []Field{set("X-Client-Id", "x")}},
		"CORS for all with credentials": {Path: "/", Access: Client, CORS: &CORS{Origins: []string{"*"}, Credentials: true}},
	} {
		r.Name = "the-route"
		if _, err := newRules(r, c); err == nil || !strings.Contains(err.Error(), `route "the-route"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestCORSAtTheWire(t *testing.T) {
	rule := &CORS{Origins: []string{"https://app.example.com"}, Methods: []string{"PUT"}, Headers: []string{"Authorization"}, Expose: []string{"X-Request-Id"}}
	f := startRoutes(t,
		Route{Name: "plain", Path: "/", Access: Client},
		Route{Name: "app", Path: "/app", Access: Client, CORS: rule},
		Route{Name: "read", Path: "/read", Access: Client, Methods: []string{"GET", "PUT"}, CORS: rule},
		Route{Name: "options", Path: "/read", Access: Public, Methods: []string{"OPTIONS"}})
	const names = "Access-Control-Request-Headers: authorization"
	asked := func(method string) string { return "Access-Control-Request-Method: " + method }
	check := func(what string, m *message, status int, origin, vary string) {
		t.Helper()
		if m.status() != status || m.get("Access-Control-Allow-Origin") != origin || m.get("Vary") != vary {
			t.Errorf("%s: %q, want %d, %q, Vary %q", what, m.raw, status, origin, vary)
		}
	}
	const app, long = "https://app.example.com", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"

	// Preflights are answered here, and the connection goes on.
	c := f.dial()
	m := c.send(request("OPTIONS", "/app/a", ourApp, asked("PUT"), names)).read("OPTIONS")
	check("preflight", m, 204, app, long)
	if m.content != "" || m.get("X-Request-Id") != "test" || m.get("Content-Length") != "" || m.get("Access-Control-Allow-Methods") != "GET, HEAD, POST, PUT" {
		t.Errorf("%q", m.raw)
	}
	check("another", c.send(request("OPTIONS", "/read", ourApp, asked("PUT"))).read("OPTIONS"), 204, app, long)
	check("disallowed origin", c.send(request("OPTIONS", "/app", otherApp, asked("PUT"))).read("OPTIONS"), 403, "", "Origin")
	check("disallowed method", c.send(request("OPTIONS", "/app", ourApp, asked("DELETE"))).read("OPTIONS"), 403, "", "Origin")
	check("disallowed field", c.send(request("OPTIONS", "/app", ourApp, asked("PUT"), names+",x-b")).read("OPTIONS"), 403, "", "Origin")
	f.received()

	// What is no preflight, or of no such route, is judged like any request.
	check("OPTIONS", c.send(request("OPTIONS", "/app", ourApp)).read("OPTIONS"), 401, app, "Origin")
	check("no method", c.send(request("OPTIONS", "/app", ourApp, "Access-Control-Request-Method:")).read("OPTIONS"), 401, app, "Origin")
	check("no origin", c.send(request("OPTIONS", "/app", asked("PUT"))).read("OPTIONS"), 401, "", "Origin")
	check("no CORS", c.send(request("OPTIONS", "/a", ourApp, asked("PUT"))).read("OPTIONS"), 401, "", "")
	f.received()
	check("the route's methods", c.send(request("OPTIONS", "/read", ourApp, asked("DELETE"))).read("OPTIONS"), 200, "", "")
	f.received(wire("OPTIONS /read", "api.test", nil, "", ourApp, asked("DELETE")))

	// Requests: the upstream's answers, and our own.
	f.upstream.says("HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nAccess-Control-Allow-Credentials: true\r\nVary: Accept\r\nContent-Length: 2\r\n\r\nok")
	m = c.send(request("PUT", "/app", ourApp, as(callerA), "Content-Length: 0")).read("PUT")
	check("allowed", m, 200, app, "Accept, Origin")
	if m.get("Access-Control-Allow-Credentials") != "" || m.get("Access-Control-Expose-Headers") != "X-Request-Id" {
		t.Errorf("%q", m.raw)
	}
	f.received(wire("PUT /app", "api.test", &callerA, "Content-Length: 0", ourApp))
	check("disallowed", c.send(get("/app", otherApp, as(callerA))).read("GET"), 200, "", "Accept, Origin")
	check("no origin", c.send(get("/app", as(callerA))).read("GET"), 200, "", "Accept, Origin")
	check("no token", c.send(get("/app", ourApp)).read("GET"), 401, app, "Origin")
	check("bad token", c.send(get("/app", ourApp, "Authorization: Bearer x")).read("GET"), 401, app, "Origin")
	check("agreement over", c.send(get("/app", ourApp, as(callerLapsed))).read("GET"), 403, app, "Origin")
	check("no CORS", c.send(get("/a", ourApp)).read("GET"), 401, "", "")
	// Without CORS the upstream's own fields pass.
	check("upstream's own", c.send(get("/a", ourApp, as(callerA))).read("GET"), 200, "*", "Accept")
	f.upstream.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	check("streamed", c.send(get("/app", ourApp, as(callerA))).read("GET"), 200, app, "Origin")
	f.upstream.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, "HTTP/1.1 2"); _ = c.Close() })
	check("upstream failed", f.ask(get("/app", ourApp, as(callerA))), 502, app, "Origin")

	// With one preflight. A streamed answer is counted behind its end.
	until(t, "five are counted", func() bool { return f.metrics()["postern_requests_total{class=2xx,reason=ok,route=app}"] == 5 })
	if got := f.metrics()["postern_requests_total{class=4xx,reason=invalid_request,route=app}"]; got != 3 {
		t.Errorf("counted %v refused preflights", got)
	}
}

// TestPreflightWithContent: what a preflight brings along is never taken for a request.
func TestPreflightWithContent(t *testing.T) {
	f := startRoutes(t, Route{Name: "app", Path: "/", Access: Client, CORS: &CORS{Origins: []string{"*"}}})
	preflight := func(framing string) string {
		return request("OPTIONS", "/app", ourApp, "Access-Control-Request-Method: GET", framing)
	}
	c := f.dial()
	c.send(preflight("Content-Length: "+itoa(len(get("/evil")))) + get("/evil") + get("/a", as(callerA)))
	if m, m2 := c.read("OPTIONS"), c.read("GET"); m.status() != 204 || m2.status() != 200 {
		t.Errorf("%q %q", m.raw, m2.raw)
	}
	f.received(wire("GET /a", "api.test", &callerA, ""))
	c = f.dial().send(preflight("Transfer-Encoding: chunked") + "2\r\nok\r\n0\r\n\r\n")
	if m := c.read("OPTIONS"); m.status() != 204 || m.get("Connection") != "close" {
		t.Errorf("%q", m.raw)
	}
}

// TestRewrittenWebSocket: a token that is taken out of the query does not come back with
// the rewritten path, and scopes are demanded of it.
func TestRewrittenWebSocket(t *testing.T) {
	f, p := startSockets(t, func(o *Options) {
		for i := range o.Routes {
			if o.Routes[i].Name == "api" {
				o.Routes[i].Path, o.Routes[i].StripPrefix, o.Routes[i].Scopes = "/ws", "/ws", []string{"tag"}
				o.Routes[i].WebSocket.Query = "token"
			}
		}
	})
	_, end := f.open(p, socketRequest("/ws/chat?a=1&token="+callerA.token+"&b=2"))
	if end.request.start != "GET /chat?a=1&b=2 HTTP/1.1" || strings.Contains(end.request.raw, callerA.token) {
		t.Errorf("the upstream received %q", end.request.raw)
	}
	if m := f.ask(socketRequest("/ws/chat?token=" + callerB.token)); m.status() != 403 || !strings.Contains(m.content, "insufficient_scope") {
		t.Errorf("%q", m.raw)
	}
	p.nothing()
}

// TestRulesAreNotTheDecisions: a gateway that asks forwards by itself, so its preflights
// are judged as any request is, and its paths are not rewritten.
func TestRulesAreNotTheDecisions(t *testing.T) {
	f := start(t, deciding, func(o *Options) {
		app := o.Routes[0]
		app.Name, app.Path, app.StripPrefix, app.CORS = "app", "/app", "/app", &CORS{Origins: []string{"*"}}
		o.Routes = append(o.Routes, app)
	})
	for name, ask := range shapesOfGateways() {
		if m := f.ask(ask("OPTIONS", "api.test", "/app", ourApp, "Access-Control-Request-Method: GET")); m.status() != 401 || m.get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %q", name, m.raw)
		}
		if m := f.ask(ask("GET", "api.test", "/%61pp", as(callerA))); m.status() != 200 {
			t.Errorf("%s: %q", name, m.raw)
		}
	}
	f.received()
}

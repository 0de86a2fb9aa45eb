package proxy

import (
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
)

// rooms is a limiter that grants so many requests at once.
type rooms struct {
	mu            sync.Mutex
	most, running int
	asked         int
	shared        bool
	silent        bool // no limit applies
}

func (r *rooms) set(most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.most = most
}

func (r *rooms) at() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running
}

func (r *rooms) grant() Grant { return &roomGrant{r: r} }

type roomGrant struct {
	r    *rooms
	held bool
	left int
}

func (g *roomGrant) Take(*directory.Client, time.Time) bool {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	if g.held {
		panic("taken twice")
	}
	g.r.asked++
	if g.left = g.r.most - g.r.running - 1; g.left < 0 {
		g.left = 0
		return false
	}
	g.r.running++
	g.held = true
	return true
}

func (g *roomGrant) Release() {
	g.r.mu.Lock()
	defer g.r.mu.Unlock()
	if g.held {
		g.held = false
		g.r.running--
	}
}

func (g *roomGrant) Refusal() (answer.Refusal, bool) {
	return answer.Refusal{Reason: answer.ConcurrencyLimited, RetryAfter: 7 * time.Second}, g.r.shared
}

func (g *roomGrant) AppendPolicy(dst []byte) []byte {
	if g.r.silent {
		return dst
	}
	return append(dst, `"rooms";q=`+strconv.Itoa(g.r.most)...)
}

func (g *roomGrant) AppendState(dst []byte) []byte {
	if g.r.silent {
		return dst
	}
	return append(dst, `"rooms";r=`+strconv.Itoa(g.left)...)
}

// limited is a front with one room.
func limited(t testing.TB, r *rooms, change ...func(*Options)) *fixture {
	return start(t, append([]func(*Options){func(o *Options) { o.NewGrant = r.grant }}, change...)...)
}

func (f *fixture) free(r *rooms, when string) {
	f.t.Helper()
	f.eventually("nothing runs "+when, func() bool { return r.at() == 0 })
}

func TestLimitAnswers(t *testing.T) {
	r := &rooms{most: 1}
	f := limited(t, r)
	f.upstream.says("HTTP/1.1 200 OK\r\nRateLimit: upstream\r\nratelimit: more\r\nRateLimit-Policy: own\r\nContent-Length: 2\r\n\r\nok")
	fields := func(what, request string, status int, policy, state, after string) {
		t.Helper()
		m := f.ask(request)
		if m.status() != status || m.get("RateLimit-Policy") != policy || m.get("RateLimit") != state || m.get("Retry-After") != after {
			t.Errorf("%s: %q", what, m.raw)
		}
	}
	fields("granted", get("/a", as(callerA)), 200, `"rooms";q=1`, `"rooms";r=0`, "")
	f.free(r, "after it")
	r.set(0)
	fields("refused", get("/a", as(callerA)), 429, `"rooms";q=0`, `"rooms";r=0`, "7")
	if n := f.refusals(answer.ConcurrencyLimited); n != 1 {
		t.Errorf("counted %v times", n)
	}
	asked := r.asked
	fields("public", get("/public"), 200, "own", "upstream AND more", "")
	fields("no token", get("/a"), 401, "", "", "")
	fields("another's agreement", get("/a", as(callerLapsed)), 403, "", "", "")
	fields("malformed", get("//a", as(callerA)), 400, "", "", "")
	if r.asked != asked {
		t.Error("what is refused before is asked for")
	}
	r.set(1)
	r.silent = true
	fields("no limit applies", get("/a", as(callerA)), 200, "own", "upstream AND more", "")
	r.silent = false
	f.upstream.hangsUpAfter("nonsense")
	fields("the upstream failed", get("/a", as(callerA)), 502, `"rooms";q=1`, `"rooms";r=0`, "")
	f.free(r, "after a failure")
}

// What was granted is given back however the exchange ends.
func TestLimitReleases(t *testing.T) {
	r := &rooms{most: 1}
	f := limited(t, r)
	again := func(when string) {
		t.Helper()
		f.free(r, when)
		f.upstream.says(ok)
		if m := f.ask(get("/a", as(callerA))); m.status() != 200 {
			t.Fatalf("%s: %q", when, m.raw)
		}
		f.free(r, "after an exchange")
	}

	streaming := make(chan bool)
	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
		<-streaming
		_, _ = io.WriteString(c, "0\r\n\r\n")
	})
	c := f.dial().send(get("/a", as(callerA)))
	f.eventually("it streams", func() bool { return r.at() == 1 })
	if m := f.ask(get("/a", as(callerA))); m.status() != 429 {
		t.Errorf("while one streams: %q", m.raw)
	}
	streaming <- true
	if m := c.read("GET"); m.content != "ok" {
		t.Errorf("%q", m.raw)
	}
	again("after a stream")

	f.upstream.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
		<-streaming
	})
	c = f.dial().send(get("/a", as(callerA)))
	f.eventually("it streams", func() bool { return r.at() == 1 })
	_ = c.Close()
	again("when the client has gone")
	streaming <- true

	c = f.dial().send(request("POST", "/a", as(callerA), "Content-Length: 10") + "x")
	f.eventually("its content is waited for", func() bool { return r.at() == 1 })
	_ = c.Close()
	again("when the content did not come")
}

func TestLimitReleasesAfterPanic(t *testing.T) {
	r := &rooms{most: 1}
	f := limited(t, r, func(o *Options) {
		o.Asserter = panicking{}
		o.Routes[0].Assertion = &Assertion{Audience: "a"}
	})
	if m := f.ask(get("/a", as(callerA))); m.status() != 500 {
		t.Errorf("%q", m.raw)
	}
	f.free(r, "after a panic")
}

type panicking struct{}

func (panicking) Assert(directory.Principal, string, time.Time) (string, error) { panic("it broke") }

func TestLimitOfWebSocketAndDecision(t *testing.T) {
	r := &rooms{most: 1}
	f, p := startSockets(t, func(o *Options) { o.NewGrant = r.grant })
	c, end := f.open(p, socketRequest("/", asA))
	if r.at() != 1 {
		t.Errorf("%d run while a WebSocket is open", r.at())
	}
	if m := f.ask(get("/", asA)); m.status() != 429 {
		t.Errorf("beside a WebSocket: %q", m.raw)
	}
	_ = end.Close()
	_ = c.Close()
	f.free(r, "after a WebSocket")

	r = &rooms{most: 1}
	f = limited(t, r, deciding)
	for range 3 {
		if m := f.ask(traefik("GET", "api.test", "/a", as(callerA))); m.status() != 200 || m.get("RateLimit") != `"rooms";r=0` {
			t.Errorf("%q", m.raw)
		}
		f.free(r, "after a decision")
	}
	r.set(0)
	if m := f.ask(traefik("GET", "api.test", "/a", as(callerA))); m.status() != 429 || m.get("Retry-After") != "7" || m.get("RateLimit") != `"rooms";r=0` {
		t.Errorf("%q", m.raw)
	}
}

// TestShadowRoute: what rests on who is asking is forwarded and counted, what is malformed,
// not there or our own fault is refused as ever.
func TestShadowRoute(t *testing.T) {
	r := &rooms{most: 1}
	f := limited(t, r, func(o *Options) {
		o.Routes[0].Shadow, o.Routes[0].Scopes = true, []string{"search"}
		o.Routes[0].Catalog = Catalog{Query: "catalog", Required: true}
		o.Routes[0].RequestFields = []Field{remove("Cookie")}
	})
	const target = "/a?catalog=own&access_token=x"
	noted := func(reason answer.Reason, who *caller, fields ...string) {
		t.Helper()
		f.forwards(get("/a?catalog=theirs", append(fields, "X-Client-Id: evil", "X-Catalog-Id: theirs", "Cookie: a=b")...),
			wire("GET /a?catalog=theirs", "api.test", who, ""))
		name := fmt.Sprintf("postern_shadowed_total{reason=%s,route=api}", reason)
		if n := f.metrics()[name]; n != 1 {
			t.Errorf("%s: %v", name, n)
		}
		f.free(r, "")
	}
	noted(answer.MissingToken, nil)
	noted(answer.InvalidToken, nil, "Authorization: Bearer "+tokenExpired)
	noted(answer.InsufficientScope, &callerB, as(callerB))
	noted(answer.ForbiddenCatalog, &callerA, as(callerA))
	if r.asked != 0 {
		t.Error("what would be refused is spent")
	}
	r.set(0)
	limited := f.ask(get("/a?catalog=own", as(callerA)))
	if limited.status() != 200 || limited.get("RateLimit") != "" || f.metrics()["postern_shadowed_total{reason=concurrency_limited,route=api}"] != 1 {
		t.Errorf("over a limit: %q", limited.raw)
	}
	f.upstream.received()
	if f.metrics()["postern_requests_total{class=2xx,reason=ok,route=api}"] != 5 {
		t.Errorf("the requests are not ok: %v", f.metrics())
	}
	f.refuses("malformed", get(target, "Authorization: Bearer a b"), shortQ)
	f.refuses("two places", get(target, as(callerA)), shortQ)
	f.refuses("no catalog, no token", get("/a"), malformedCatalog)
	f.refuses("ambiguous catalog, no token", get("/a?catalog[]=own"), malformedCatalog)
	f.refuses("our own fault", get("/a?catalog=own", "Authorization: Bearer "+tokenStore), refusal{503, answer.Unavailable, "", false})
	lines := strings.Join(f.lines(), "\n")
	for _, want := range []string{`"reason":"ok"`, `"shadow":"missing_token"`, `"shadow":"forbidden_catalog"`, `"shadow":"concurrency_limited"`} {
		if !strings.Contains(lines, want) {
			t.Errorf("no line has %s: %s", want, lines)
		}
	}
}

// An agreement in shadow refuses nothing of what it decides: its dates, its catalogs, its
// limits. Scopes are the route's, and limits of the organization hold.
func TestShadowAgreement(t *testing.T) {
	r := &rooms{most: 1}
	f := limited(t, r, func(o *Options) {
		o.Routes[0].Catalog = Catalog{Query: "catalog"}
		o.Routes[4].Scopes = []string{"search"}
	})
	noted := func(request, want string, reason answer.Reason, n float64) {
		t.Helper()
		f.forwards(request, want)
		name := fmt.Sprintf("postern_shadowed_total{reason=%s,route=api}", reason)
		if got := f.metrics()[name]; got != n {
			t.Errorf("%s: %v, want %v", name, got, n)
		}
	}
	noted(get("/a", as(callerShadow)), wire("GET /a", "api.test", &callerShadow, ""), answer.ForbiddenAgreement, 1)
	// The first reason is the one that it would be refused with.
	noted(get("/a?catalog=theirs", as(callerShadow)), wire("GET /a?catalog=theirs", "api.test", &callerShadow, ""), answer.ForbiddenAgreement, 2)
	r.set(0)
	noted(get("/a", as(callerShadow)), wire("GET /a", "api.test", &callerShadow, ""), answer.ForbiddenAgreement, 3)
	f.refuses("another agreement", get("/a", as(callerA)), refusal{429, answer.ConcurrencyLimited, "", false})
	f.refuses("a scope", get("/read", as(callerShadow)), refusal{403, answer.InsufficientScope, `Bearer realm="R", error="insufficient_scope"`, false})
	r.shared = true
	f.refuses("the organization's limit", get("/a", as(callerShadow)), refusal{429, answer.ConcurrencyLimited, "", false})
	m := f.ask(get("/a", as(callerShadow)))
	if m.status() != 429 || m.get("RateLimit") == "" || m.get("RateLimit-Policy") == "" || m.get("Retry-After") != "7" {
		t.Errorf("over its limit: %q", m.raw)
	}
	if n := f.metrics()["postern_shadowed_total{reason=forbidden_agreement,route=api}"]; n != 3 {
		t.Errorf("what was refused in the end is counted as let through: %v", n)
	}
	for _, line := range f.lines() {
		if strings.Contains(line, `"status":429`) && strings.Contains(line, `"shadow"`) {
			t.Errorf("what was refused is marked as let through: %s", line)
		}
	}
}

// TestPermitAllocatesNothing: neither catalogs nor limits cost memory.
func TestPermitAllocatesNothing(t *testing.T) {
	r := &rooms{most: 1}
	front := limited(t, r, func(o *Options) { o.Routes[0].Catalog = Catalog{Query: "catalog"} }).front
	x, raw := newExchange(front), []byte(get("/a?catalog=own&catalog=open", as(callerA)))
	x.state, x.started = front.state.Load(), time.Now()
	if n := testing.AllocsPerRun(100, func() {
		x.head.reset()
		if _, ok := x.head.check(raw, x.state); !ok {
			t.Fatal("it is refused")
		}
		if _, ok := front.findRoute(x, x.head.method); !ok {
			t.Fatal("it is refused")
		}
		if refusal, ok := front.permit(x); !ok {
			t.Fatal(refusal)
		}
		x.out = x.upstreamHead(x.out[:0])
		x.free()
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

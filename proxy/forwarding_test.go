package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"postern/answer"
)

// way is what the upstream reads of the way that a request came: X-Forwarded-For, -Proto,
// -Host, Forwarded, Via.
type way [5]string

// trusting believes 127.0.0.1.
func trusting(o *Options) {
	o.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
}

func (f *fixture) way(request string) (w way) {
	f.t.Helper()
	if m := f.ask(request); m.status() != 200 {
		f.t.Fatalf("answered %q", m.raw)
	}
	got := f.upstream.received()[0]
	for i, name := range []string{"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded", "Via"} {
		if w[i] = got.get(name); len(got.all(name)) != 1 {
			f.t.Errorf("%s: %q", name, got.all(name))
		}
	}
	if strings.Contains(got.raw, "X-Forwarded-Uri") || strings.Contains(got.raw, "X-Forwarded-Port") {
		f.t.Errorf("the upstream received %q", got.raw)
	}
	return w
}

func TestRow090ForwardingFieldsOfATrustedPeer(t *testing.T) {
	f := start(t, trusting)
	const own = `for=127.0.0.1;host="api.test";proto=http`
	g := func(name string, want way, fields ...string) {
		t.Helper()
		if got := f.way(get("/public", fields...)); got != want {
			t.Errorf("%s:\n%q, want\n%q", name, got, want)
		}
	}
	fresh := way{"127.0.0.1", "http", "api.test", own, "1.1 postern"}
	g("nothing said", fresh)
	g("all said", way{"198.51.100.1, 127.0.0.1", "https", "shop.test:8443", "for=198.51.100.1;proto=https, " + own, "2 edge, 1.1 postern"},
		"X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: HTTPS", "X-Forwarded-Host: shop.test:8443", "Forwarded: for=198.51.100.1;proto=https", "Via: 2 edge")
	g("several lines", way{"198.51.100.7, 198.51.100.1,10.0.0.1, 127.0.0.1", "http", "api.test", "for=_a, for=_b, " + own, "1.0 a, 1.1 b (c), 1.1 postern"},
		"x-forwarded-for: 198.51.100.7 ", "Via: 1.0 a", "Forwarded: for=_a", "X-FORWARDED-FOR: 198.51.100.1,10.0.0.1", "Via: 1.1 b (c)", "Forwarded:for=_b")
	g("empty ones", fresh, "X-Forwarded-For:", "X-Forwarded-For: , ,", "Via: ", "Forwarded: ,", "X-Forwarded-Proto:", "X-Forwarded-Host:")
	g("what is not sane", fresh, "X-Forwarded-Proto: ftp", "X-Forwarded-Host: a/b", "X-Forwarded-Uri: /x", "X-Forwarded-Port: 1")
	g("two of one kind", fresh, "X-Forwarded-Proto: https", "X-Forwarded-Proto: https", "X-Forwarded-Host: a", "X-Forwarded-Host: a")
	g("twins", fresh, "X_Forwarded_For: 198.51.100.1", "X.Forwarded.Proto: https", "XForwardedHost: a", "V-ia: 1.1 a", "For-warded: for=x")
	g("nominated by Connection", way{"198.51.100.1, 127.0.0.1", "http", "api.test", own, "1.1 postern"},
		"Connection: X-Forwarded-For", "X-Forwarded-For: 198.51.100.1")

	g("a stranger's", fresh) // the same again under settings that trust nobody
	s := f.front.options.Settings
	s.TrustedProxies = nil
	if err := f.front.Reload(s); err != nil {
		t.Fatal(err)
	}
	g("after a reload", fresh, "X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.test",
		"Forwarded: for=198.51.100.1", "Via: 2 edge")
}

// TestClientOfATrustedPeer: the record has the client's address, and not a claim of it.
func TestClientOfATrustedPeer(t *testing.T) {
	for _, trust := range []bool{true, false} {
		f := start(t, func(o *Options) {
			if trust {
				trusting(o)
			}
		})
		f.ask(get("/public", "X-Forwarded-For: 10.1.2.3, 198.51.100.1"))
		f.ask(get("/a", "X-Forwarded-For: nonsense"))
		want := []string{`"peer":"198.51.100.1"`, `"peer":"127.0.0.1"`}
		if !trust {
			want[0] = want[1]
		}
		for i, l := range f.lines() {
			if !strings.Contains(l, want[i]) {
				t.Errorf("%s in %s", want[i], l)
			}
		}
	}
}

func TestForwardingAllocatesNothing(t *testing.T) {
	x := &exchange{state: &state{Settings: Settings{TrustedProxies: loopback()}}, hop: netip.MustParseAddr("127.0.0.1"), requestID: []byte("id")}
	x.head.hops = []field{{[]byte("X-Forwarded-For"), []byte("198.51.100.1")}, {[]byte("Via"), []byte("1.1 edge")}}
	out, host := make([]byte, 0, 4096), []byte("api.test")
	if n := testing.AllocsPerRun(100, func() {
		x.peer = trusted(x.state.TrustedProxies).client(x.hop, x.head.hops)
		out = appendForwarding(out[:0], x, host)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestRow141LoopDetected: two fronts that forward to each other, and one to itself.
func TestRow141LoopDetected(t *testing.T) {
	g := func(name string, change func(*Options)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			a, b := start(t, change), start(t, change)
			for from, to := range map[*fixture]*fixture{a: b, b: a} {
				s := from.front.options.Settings
				s.Routes = routes(to.address)
				if err := from.front.Reload(s); err != nil {
					t.Fatal(err)
				}
			}
			m := a.ask(get("/public"))
			if m.status() != 508 || !strings.Contains(m.content, `"code":"`+string(answer.InvalidRequest)+`"`) {
				t.Errorf("answered %q", m.raw)
			}
			if n := a.refusals(answer.InvalidRequest) + b.refusals(answer.InvalidRequest); n != 1 {
				t.Errorf("%v refusals", n)
			}
			total := 0.0
			for _, f := range []*fixture{a, b} {
				total += f.metrics()["postern_requests_total{class=5xx,reason=ok,route=public}"]
			}
			if total != maxPosterns+1 { // each passed the 508 on
				t.Errorf("%v requests went round", total)
			}
		})
	}
	g("strangers to each other", func(*Options) {})
	g("trusting each other", trusting)
	t.Run("itself", func(t *testing.T) {
		f := start(t)
		s := f.front.options.Settings
		s.Routes = routes(f.address)
		if err := f.front.Reload(s); err != nil {
			t.Fatal(err)
		}
		if m := f.ask(get("/public")); m.status() != 508 {
			t.Errorf("answered %q", m.raw)
		}
	})
	t.Run("counted", func(t *testing.T) {
		f := start(t)
		entries := strings.Repeat("1.1 POSTERN (x),HTTP/1.1  postern ,", maxPosterns/2)
		if got := f.way(get("/public", "Via: 1.1 a, "+entries, "Via: postern, 1.1 postern.example, 1.1 b")); got[4] != strings.Repeat("1.1 postern, ", maxPosterns)+"1.1 postern" {
			t.Errorf("Via: %q", got[4])
		}
		f.refuses("one more", get("/public", "Via: "+entries, "Via: 1.1 postern"), refusal{508, answer.InvalidRequest, "", true})
	})
}

// TestTraceContext: a well-formed trace passes from anyone, and nothing of another.
func TestTraceContext(t *testing.T) {
	f := start(t)
	const (
		parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
		vendor = "tracestate: rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
		bags   = "baggage: userId=alice,serverNode=DF%2028"
	)
	passes := func(fields ...string) {
		t.Helper()
		f.forwards(get("/public", fields...), wire("GET /public", "api.test", nil, "", fields...))
	}
	drops := func(fields ...string) {
		t.Helper()
		f.forwards(get("/public", append(fields, "X: 1", vendor, bags)...), wire("GET /public", "api.test", nil, "", "X: 1", bags))
	}
	passes(parent, vendor, bags)
	passes(vendor, "X: 1", parent, vendor)
	passes(strings.Replace(parent, "traceparent", "Traceparent", 1))
	passes(strings.Replace(parent, "00-", "cc-", 1) + "-what-the-future-will-be-like")
	passes(strings.Replace(parent, "00-", "01-", 1))
	drops()
	drops(parent, parent)
	drops(parent, "traceparent: x")
	for _, bad := range []string{"", "00", strings.ToUpper(parent[13:]), parent[13:] + "-more", parent[13:] + "0", "ff" + parent[15:], "0g" + parent[15:],
		strings.Replace(parent[13:], "0af7651916cd43dd8448eb211c80319c", strings.Repeat("0", 32), 1),
		strings.Replace(parent[13:], "b7ad6b7169203331", strings.Repeat("0", 16), 1), strings.Replace(parent[13:], "c-b", "cc-", 1),
		"cc" + parent[15:] + "more", parent[13 : len(parent)-1]} {
		drops("traceparent: " + bad)
	}
	f.forwards(get("/public", "Trace-Parent: x"), wire("GET /public", "api.test", nil, ""))
	f.forwards(get("/public", "Connection: traceparent", parent, vendor), wire("GET /public", "api.test", nil, ""))
}

// TestFrontProxyProtocol: the upstream reads the address of the header, and what the
// client says about itself is a stranger's claim.
func TestFrontProxyProtocol(t *testing.T) {
	f := start(t, trusting, func(o *Options) { o.ProxyProtocol = true })
	g := func(header, address, node string) {
		t.Helper()
		c := f.dial().send(header + get("/public", "X-Forwarded-For: 10.9.9.9"))
		if m := c.read("GET"); m.status() != 200 {
			t.Fatalf("answered %q", m.raw)
		}
		got := f.upstream.received()[0]
		if got.get("X-Forwarded-For") != address || got.get("Forwarded") != "for="+node+`;host="api.test";proto=http` {
			t.Errorf("%q: the upstream received %q", header, got.raw)
		}
	}
	g("PROXY TCP4 192.0.2.1 192.0.2.2 4096 443\r\n", "192.0.2.1", "192.0.2.1")
	g(version2(1, 0x21, block6), "2001:db8::1", `"[2001:db8::1]"`)
	g("PROXY UNKNOWN\r\n", "unknown", "unknown")
	g(version2(0, 0, ""), "10.9.9.9, 127.0.0.1", "127.0.0.1") // LOCAL: the proxy speaks for itself
	c := f.dial().send(get("/public"))
	if !c.closed() {
		t.Error("a connection without a header is served")
	}
	if n := f.metrics()["postern_connections_refused_total{reason=proxy_protocol}"]; n != 1 {
		t.Errorf("%v refused", n)
	}
}

// TestFrontConnectionLimits: of the settings, also of those that a reload brought.
func TestFrontConnectionLimits(t *testing.T) {
	f := start(t, func(o *Options) { o.MaxConnections, o.MaxConnectionsPerAddress = 2, 1 })
	limits := func(connections, perAddress int) {
		s := f.front.options.Settings
		s.MaxConnections, s.MaxConnectionsPerAddress = connections, perAddress
		if err := f.front.Reload(s); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(want int) *connection {
		t.Helper()
		c := f.dial().send(get("/public"))
		if m := c.read("GET"); m.status() != want {
			t.Errorf("answered %q, want %d", m.raw, want)
		}
		return c
	}
	first := ask(200)
	ask(503)
	limits(2, 0)
	second := ask(200)
	ask(503)
	limits(3, 0)
	ask(200)
	if m := first.send(get("/public")).read("GET"); m.status() != 200 {
		t.Errorf("answered %q", m.raw)
	}
	_ = second.Close()
	until(t, "one left", func() bool { return f.gauge("postern_connections") == 2 })
	all := f.metrics()
	if one, other := all["postern_connections_refused_total{reason=limit}"], all["postern_connections_refused_total{reason=address_limit}"]; one != 1 || other != 1 {
		t.Errorf("%v and %v refused", one, other)
	}
}

// gauge is a gauge without labels.
func (f *fixture) gauge(name string) float64 {
	f.t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		f.t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			return family.GetMetric()[0].GetGauge().GetValue()
		}
	}
	f.t.Fatalf("there is no %s", name)
	return 0
}

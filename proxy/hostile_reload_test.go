package proxy

import (
	"slices"
	"strings"
	"testing"
)

// reload changes the settings of a front that serves.
func (f *fixture) reload(change func(*Settings)) {
	f.t.Helper()
	s := f.front.state.Load().Settings
	change(&s)
	if err := f.front.Reload(s); err != nil {
		f.t.Fatal(err)
	}
}

// TestReloadOfMaxHeaderMeetsOpenConnections: a connection that waits, or has a part of a
// head already, gets an answer under the new limit and no silent end.
func TestReloadOfMaxHeaderMeetsOpenConnections(t *testing.T) {
	large := get("/public", "X-Large: "+strings.Repeat("x", 12<<10))
	f := func(name string, before, after int, part bool, statuses ...int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			f := start(t, func(o *Options) { o.MaxHeader, o.MaxTarget = before, 2<<10 })
			c := f.dial().send(get("/public"))
			if m := c.read("GET"); m.status() != 200 {
				t.Fatal(m.raw)
			}
			rest := large
			if part { // more than was asked for: it stays in the buffer
				c.send(get("/public") + rest[:300])
				if m := c.read("GET"); m.status() != 200 {
					t.Fatal(m.raw)
				}
				rest = rest[300:]
			}
			f.reload(func(s *Settings) { s.MaxHeader = after })
			if m := c.send(rest).read("GET"); !slices.Contains(statuses, m.status()) {
				t.Errorf("answered %q", m.start)
			}
		})
	}
	f("waiting, less is allowed", 32<<10, 8<<10, false, 431)
	f("waiting, more is allowed", 8<<10, 32<<10, false, 200)
	f("in a head, less is allowed", 32<<10, 8<<10, true, 200, 431) // it may have begun before
	f("in a head, more is allowed", 8<<10, 32<<10, true, 200, 431)
}

// TestReloadLeavesTheTokenRouteAlone: a new token path waits for a restart, and its old
// place must not be given away until then.
func TestReloadLeavesTheTokenRouteAlone(t *testing.T) {
	f := start(t, trusting)
	s := f.front.state.Load().Settings
	s.DecisionPath = "/oauth/token"
	if err := f.front.Reload(s); errorText(err) != `the decision endpoint's path "/oauth/token" is the issuer's` {
		t.Errorf("reloaded: %v", err)
	}
	if m := f.ask(request("POST", "/oauth/token")); m.status() != 201 {
		t.Errorf("answered %q", m.raw)
	}
}

// TestDecisionAboveTheTokenRoute: what is postern's own stays so, wherever the endpoint is.
func TestDecisionAboveTheTokenRoute(t *testing.T) {
	f := start(t, trusting, func(o *Options) { o.DecisionPath = "/oauth" })
	if m := f.ask(request("POST", "/oauth/token")); m.status() != 201 {
		t.Errorf("answered %q", m.raw)
	}
	if m := f.ask(get("/oauth/public")); m.status() != 200 || len(f.upstream.received()) != 0 {
		t.Errorf("the endpoint itself: %q", m.raw)
	}
}

package issuer

import (
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/registry"
)

// tally is a meter that tells what it counted. Safe for concurrent use.
type tally struct {
	mu  sync.Mutex
	all []string
}

func (m *tally) add(c *directory.Client, what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, c.ID+" "+what)
}

func (m *tally) Issued(c *directory.Client, _ time.Time) { m.add(c, "issued") }
func (m *tally) Refused(c *directory.Client, _ time.Time, reason answer.Reason) {
	m.add(c, string(reason))
}

// told returns what was counted since the last call.
func (m *tally) told() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.all = nil }()
	return strings.Join(m.all, ", ")
}

// TestMeter counts what authenticated clients get and do not get, and nothing that others
// say in their name.
func TestMeter(t *testing.T) {
	w := start(t, registry.Terms{Products: registry.Set{State: registry.Value, Values: []string{"tracks"}}})
	m := &tally{}
	w.issuer.options.Meter = m
	f := func(name string, r reply, status int, want string) {
		t.Helper()
		if want != "" {
			want = w.client.ID + " " + want
		}
		if got := m.told(); r.StatusCode != status || got != want {
			t.Errorf("%s: %d, counted %q; want %d, %q", name, r.StatusCode, got, status, want)
		}
	}
	r := w.ask(w.good())
	f("issue", r, 201, "issued")
	first, _ := w.wantIssued(r)
	f("refresh", w.below("/refresh", first.Data.Token), 201, "issued")
	f("refresh of another token", w.below("/refresh", "a.b.c"), 401, "invalid_token")
	f("scope", w.ask(strings.TrimSuffix(w.good(), "}")+`, "scope": "playlists"}`), 400, "invalid_scope")
	f("wrong secret", w.ask(credentialsOf(w.client.ID, strange(t))), 401, "")
	f("malformed", w.ask("{"), 400, "")
	w.store.away.Store(true)
	f("the store is away", w.ask(w.good()), 503, "temporarily_unavailable")
}

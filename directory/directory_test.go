package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"postern/registry"
	"postern/token"
)

func TestClientIsReadOnce(t *testing.T) {
	w := newWorld(t)
	first := w.client("a")
	if first.ID != "a" || first.OrganizationID != "organization-a" || first.AgreementID != "agreement-a" || first.Dead() || first.Refused() {
		t.Errorf("got %+v", first)
	}
	if again := w.client("a"); again != first || w.store.reads != 1 || w.Held() != 1 {
		t.Errorf("%d reads, %d held", w.store.reads, w.Held())
	}
	if c, err := w.Client(t.Context(), "x"); c != nil || !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestCatchUpAppliesChanges(t *testing.T) {
	f := func(name string, change func(*memory), wantDead string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			held := map[string]*Client{"a": w.client("a"), "b": w.client("b"), "c": w.client("c")}
			change(w.store)
			w.catchUp()
			for id, c := range held {
				want := strings.Contains(wantDead, id)
				if c.Dead() != want {
					t.Errorf("client %s: dead %v, want %v", id, c.Dead(), want)
				}
				if now := w.client(id); (now == c) == want {
					t.Errorf("client %s: same state %v, want %v", id, now == c, !want)
				}
			}
		})
	}
	f("nothing", func(*memory) {}, "")
	f("client", func(m *memory) { m.changeClient("a", func(g *registry.Grant) { g.Client.DisabledAt = 1 }) }, "a")
	f("client, nothing about it changed", func(m *memory) { m.change(registry.KindClient, "b", nil) }, "b")
	f("unknown client", func(m *memory) { m.change(registry.KindClient, "x", nil) }, "")
	f("organization", func(m *memory) { m.change(registry.KindOrganization, "organization-b", nil) }, "b")
	f("agreement", func(m *memory) { m.change(registry.KindAgreement, "agreement-c", nil) }, "c")
	f("catalog", func(m *memory) { m.change(registry.KindCatalog, "a", nil) }, "")
	f("token", func(m *memory) { m.change(registry.KindToken, "a", nil) }, "")
	f("key", func(m *memory) { m.change(registry.KindKey, "a", nil) }, "")
	f("several", func(m *memory) {
		m.change(registry.KindOrganization, "organization-a", nil)
		m.change(registry.KindClient, "c", nil)
	}, "ac")
	f("reset", func(m *memory) { m.reset = true }, "abc")
}

func TestClientStates(t *testing.T) {
	f := func(name string, change func(*registry.Grant), check func(c *Client) bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.client("a")
			w.store.changeClient("a", change)
			w.catchUp()
			if c := w.client("a"); !check(c) {
				t.Errorf("got %+v", c)
			}
		})
	}
	f("client disabled", func(g *registry.Grant) { g.Client.DisabledAt = 1 }, func(c *Client) bool { return c.Refused() && !c.Accepts(2) })
	f("client removed", func(g *registry.Grant) { g.Client.RemovedAt = 1 }, (*Client).Refused)
	f("organization disabled", func(g *registry.Grant) { g.Organization.DisabledAt = 1 }, (*Client).Refused)
	f("organization removed", func(g *registry.Grant) { g.Organization.RemovedAt = 1 }, (*Client).Refused)
	f("client's tokens revoked", func(g *registry.Grant) { g.Client.TokensValidFrom = 5 },
		func(c *Client) bool { return !c.Refused() && !c.Accepts(5) && c.Accepts(6) && c.ValidFrom() == 5 })
	f("organization's tokens revoked", func(g *registry.Grant) { g.Client.TokensValidFrom, g.Organization.TokensValidFrom = 5, 7 },
		func(c *Client) bool { return !c.Accepts(7) && c.Accepts(8) })
	f("agreement ended", func(g *registry.Grant) { g.Agreement = &registry.Agreement{ID: "agreement-a", StartsAt: 3, EndsAt: 9} },
		func(c *Client) bool {
			return !c.InForce(2) && c.InForce(3) && c.InForce(8) && !c.InForce(9) && c.EndsAt() == 9
		})
	f("agreement removed", func(g *registry.Grant) { g.Agreement = &registry.Agreement{ID: "agreement-a", RemovedAt: 1} },
		func(c *Client) bool { return !c.InForce(2) })
	f("agreement missing", func(g *registry.Grant) { g.Agreement = nil }, func(c *Client) bool { return !c.InForce(2) && c.EndsAt() == 0 })
	f("no agreement", func(g *registry.Grant) { g.Agreement, g.Client.AgreementID = nil, "" }, func(c *Client) bool { return c.InForce(2) })
	mode := func(m registry.Mode, removed registry.Time) func(*registry.Grant) {
		return func(g *registry.Grant) {
			g.Agreement = &registry.Agreement{ID: "agreement-a", Enforce: m, RemovedAt: removed}
		}
	}
	f("enforced", mode(registry.Enforce, 0), func(c *Client) bool { return !c.Shadow() })
	f("in shadow", mode(registry.Shadow, 0), func(c *Client) bool { return c.Shadow() && c.InForce(1) })
	f("in shadow, removed", mode(registry.Shadow, 1), func(c *Client) bool { return !c.Shadow() && !c.InForce(2) })
	f("in no mode that is known", mode("other", 0), func(c *Client) bool { return !c.Shadow() })
	f("in shadow, missing", func(g *registry.Grant) { g.Agreement = nil }, func(c *Client) bool { return !c.Shadow() })
	f("terms", func(g *registry.Grant) {
		g.Organization.Terms = registry.Terms{RequestRate: registry.Limit{State: registry.Value, Value: 1}, QuotaDay: registry.Limit{State: registry.Value, Value: 2}}
		g.Agreement = &registry.Agreement{ID: "agreement-a", Terms: registry.Terms{RequestRate: registry.Limit{State: registry.Unlimited}}}
	}, func(c *Client) bool {
		return c.Terms.RequestRate == registry.Limit{State: registry.Unlimited} && c.Terms.QuotaDay == registry.Limit{State: registry.Value, Value: 2} &&
			c.OrganizationTerms.RequestRate == registry.Limit{State: registry.Value, Value: 1}
	})
}

// A change that is applied between the read of a client and its being held must not
// leave the old state held.
func TestChangeOvertakesRead(t *testing.T) {
	f := func(name string, change func(w *world)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.store.onGrant = func() {
				w.store.onGrant = nil
				change(w)
				w.catchUp()
			}
			c := w.client("a")
			if !c.Refused() || c.Dead() || w.store.reads != 2 {
				t.Errorf("refused %v, dead %v, %d reads", c.Refused(), c.Dead(), w.store.reads)
			}
			if again := w.client("a"); again != c {
				t.Error("another state is held")
			}
		})
	}
	disable := func(w *world, kind registry.Kind, id string) {
		w.store.change(kind, id, func() {
			g := w.store.grants["a"]
			g.Organization.DisabledAt = 1
			w.store.grants["a"] = g
		})
	}
	f("client", func(w *world) { disable(w, registry.KindClient, "a") })
	f("organization", func(w *world) { disable(w, registry.KindOrganization, "organization-a") })
	f("agreement", func(w *world) { disable(w, registry.KindAgreement, "agreement-a") })
	f("reset", func(w *world) {
		disable(w, registry.KindCatalog, "")
		w.store.reset = true
	})
}

func TestChangesWithoutEndEndTheLookUp(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.store.onGrant = func() {
		w.store.change(registry.KindClient, "b", nil)
		w.catchUp()
		if w.store.reads == 10 {
			w.store.onGrant = func() {}
			w.store.change(registry.KindClient, "b", nil)
			w.catchUp()
			cancel()
		}
	}
	if c, err := w.Client(ctx, "a"); c != nil || !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("got %v, %v", c, err)
	}
}

func TestReread(t *testing.T) {
	w := newWorld(t)
	held := w.client("a")
	// Nothing changed: whoever holds the state need not ask again, whatever the limiter keeps there.
	held.Account.Store(new(int))
	same, err := w.Reread(t.Context(), "a")
	if err != nil || same != held || held.Dead() || w.store.reads != 2 {
		t.Errorf("got another state, or %v; dead %v, %d reads", err, held.Dead(), w.store.reads)
	}
	// A change that the feed has not brought yet.
	w.store.changeClient("a", func(g *registry.Grant) { g.Client.Secrets = []registry.ClientSecret{{ID: "new"}} })
	c, err := w.Reread(t.Context(), "a")
	if err != nil || c == held || len(c.Secrets) != 1 || !held.Dead() || c.Dead() {
		t.Errorf("got %+v, %v; the old one dead %v", c, err, held.Dead())
	}
	if w.client("a") != c {
		t.Error("another state is held")
	}
}

func TestEvictionMarksDead(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Clients = 2 })
	a, b := w.client("a"), w.client("b")
	w.client("a")
	c := w.client("c")
	if !b.Dead() || a.Dead() || c.Dead() || w.Held() != 2 {
		t.Errorf("dead: a %v, b %v, c %v; %d held", a.Dead(), b.Dead(), c.Dead(), w.Held())
	}
	if again := w.client("b"); again == b || again.Dead() {
		t.Error("the evicted state came back")
	}
}

func TestFailureOfTheFeed(t *testing.T) {
	w := newWorld(t)
	id := uuid.New()
	away := errors.New("away")
	w.store.failPoll = away
	if err := w.CatchUp(t.Context()); err != away {
		t.Errorf("got %v", err)
	}
	w.store.failPoll = nil
	held := w.client("a")
	generation := w.Generation()

	// The feed has moved on, but what it said could not be read: nothing may be lost.
	w.store.change(registry.KindToken, id.String(), func() {
		w.store.revoked = append(w.store.revoked, registry.Revocation{TokenID: id.String(), Until: registry.At(start.Add(time.Hour))})
	})
	w.store.failRevocation = away
	w.clock = start.Add(time.Minute)
	if err := w.CatchUp(t.Context()); err != away || w.Revoked(id) || w.Age(w.clock) != time.Minute || held.Dead() {
		t.Errorf("got %v; revoked %v, age %s, dead %v", err, w.Revoked(id), w.Age(w.clock), held.Dead())
	}
	w.store.failRevocation = nil
	loads := w.store.loads
	w.catchUp()
	if !w.Revoked(id) || w.Age(w.clock) != 0 || !held.Dead() || w.Generation() == generation || w.store.loads != loads+1 {
		t.Errorf("revoked %v, age %s, dead %v, %d loads", w.Revoked(id), w.Age(w.clock), held.Dead(), w.store.loads-loads)
	}
	// Once: then it follows the feed again.
	w.catchUp()
	if w.store.loads != loads+1 {
		t.Errorf("%d loads", w.store.loads-loads)
	}
	// The same when the keys cannot be read, and when the reload itself fails.
	w.store.change(registry.KindKey, "", nil)
	w.store.failKeys = away
	for range 2 {
		if err := w.CatchUp(t.Context()); err != away {
			t.Errorf("got %v", err)
		}
	}
	w.store.failKeys = nil
	w.catchUp()
	if w.store.loads != loads+3 { // of which one was in vain
		t.Errorf("%d loads", w.store.loads-loads)
	}
}

func TestFresh(t *testing.T) {
	f := func(name string, serveStale bool, after time.Duration, want bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.MaxStaleness, o.ServeStale = time.Minute, serveStale })
			if got := w.Fresh(start.Add(after)); got != want {
				t.Errorf("got %v", got)
			}
			if got := w.Age(start.Add(after)); got != max(0, after) {
				t.Errorf("age %s", got)
			}
		})
	}
	f("at once", false, 0, true)
	f("at the limit", false, time.Minute, true)
	f("past it", false, time.Minute+1, false)
	f("past it, serving", true, time.Hour, true)
	f("clock set back", false, -time.Hour, true)

	var never Directory
	if never.Fresh(start) || never.Age(start) < 24*time.Hour {
		t.Error("fresh before anything was read")
	}
	never.options.ServeStale = true
	if never.Fresh(start) {
		t.Error("serves before anything was read")
	}
}

// setBack is t as time.Now would say it after the wall clock was set back: the monotonic
// reading stays. The time package has no way to make one.
func setBack(test *testing.T, t time.Time, d time.Duration) time.Time {
	test.Helper()
	moved := t
	*(*uint64)(unsafe.Pointer(&moved)) -= uint64(d/time.Second) << 30
	if moved.Sub(t) != 0 || moved.Round(0).Sub(t.Round(0)) != -d {
		test.Skip("the layout of time.Time is another one here")
	}
	return moved
}

// A clock that is set back must not make a silent feed look new.
func TestRow050ClockSetBackWhileTheFeedIsSilent(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxStaleness = 5 * time.Minute })
	w.clock = time.Now()
	w.catchUp()
	later := w.clock.Add(10 * time.Minute)
	if back := setBack(t, later, time.Hour); w.Age(back) != 10*time.Minute || w.Fresh(back) {
		t.Errorf("set back: age %s, fresh %v", w.Age(back), w.Fresh(back))
	}
	// A machine that slept: its monotonic clock stood still.
	if slept := setBack(t, w.clock, -time.Hour); w.Age(slept) != time.Hour || w.Fresh(slept) {
		t.Errorf("slept: age %s, fresh %v", w.Age(slept), w.Fresh(slept))
	}
}

func TestKeys(t *testing.T) {
	w := newWorld(t)
	if set, generation := w.Keys(); set.Len() != 0 || generation != w.Generation() {
		t.Errorf("%d keys", set.Len())
	}
	if k, err := w.SigningKey(start); k != nil || !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("got %v, %v", k, err)
	}
	generation := w.Generation()
	old := key(t, token.ES256, start.Add(-time.Hour), start.Add(time.Hour))
	current := key(t, token.EdDSA, start, time.Time{})
	next := key(t, token.ES256, start.Add(time.Minute), time.Time{})
	broken := registry.Key{ID: "broken", Algorithm: "ES256", Private: "not a key at all", SignsFrom: registry.At(start)}
	w.store.change(registry.KindKey, "", func() { w.store.keys = []registry.Key{old, broken, current, next} })
	w.catchUp()
	set, at := w.Keys()
	if set.Len() != 3 || at != generation+1 || at != w.Generation() {
		t.Errorf("%d keys, generation %d after %d", set.Len(), at, generation)
	}
	if k, ok := set.Lookup(old.ID); !ok || k.NotAfter != start.Add(time.Hour).Unix() {
		t.Errorf("got %+v, %v", k, ok)
	}
	if k, ok := set.Lookup(current.ID); !ok || k.NotAfter != 0 {
		t.Errorf("got %+v, %v", k, ok)
	}
	if log := w.log.String(); !strings.Contains(log, "kid=broken") || strings.Contains(log, "not a key at all") {
		t.Errorf("logged %s", log)
	}
	f := func(now time.Time, want string) {
		t.Helper()
		if k, err := w.SigningKey(now); err != nil || k.ID() != want {
			t.Errorf("at %s: got %v, %v; want %s", now.Sub(start), k, err, want)
		}
	}
	f(start.Add(-time.Second), old.ID)
	f(start, current.ID)
	f(start.Add(time.Minute-1), current.ID)
	f(start.Add(time.Minute), next.ID)
}

func TestOpenFails(t *testing.T) {
	m := &memory{failPoll: registry.ErrUnavailable}
	o := Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	if d, err := Open(t.Context(), m, m, o); d != nil || !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("got %v, %v", d, err)
	}
	o.Clients = -1
	if d, err := Open(t.Context(), m, m, o); d != nil || err == nil {
		t.Errorf("got %v, %v", d, err)
	}
}

// A directory that is opened Late knows nothing until the store answers, and then all.
func TestOpenLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{failPoll: registry.ErrUnavailable, reset: true, keys: []registry.Key{key(t, token.ES256, time.Now(), time.Time{})}}
		log := &strings.Builder{}
		o := Options{Late: true, ServeStale: true, Now: time.Now, Log: slog.New(slog.NewTextHandler(log, nil))}
		d, err := Open(t.Context(), m, m, o)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if _, err := d.SigningKey(time.Now()); d.Loaded() || d.Fresh(time.Now()) || !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("loaded %v, fresh %v, %v", d.Loaded(), d.Fresh(time.Now()), err)
		}
		m.mu.Lock()
		m.failPoll = nil
		m.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		d.Close()
		if _, err := d.SigningKey(time.Now()); !d.Loaded() || !d.Fresh(time.Now()) || err != nil {
			t.Errorf("loaded %v, fresh %v, %v", d.Loaded(), d.Fresh(time.Now()), err)
		}
		if !strings.Contains(log.String(), "loaded keys") || strings.Contains(log.String(), "again") {
			t.Errorf("logged %s", log)
		}
		// Anything but an absent store is told at once.
		m.failPoll = errors.New("bad")
		if d, err := Open(t.Context(), m, m, o); d != nil || err == nil {
			t.Errorf("got %v, %v", d, err)
		}
	})
}

// News is looked at at once, and what it brought is timed.
func TestNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &memory{reset: true, news: make(chan struct{}, 1)}
		d, err := Open(t.Context(), m, m, Options{Poll: time.Hour, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		m.mu.Lock()
		m.changes = []registry.Change{{Kind: registry.KindCatalog, At: registry.At(time.Now())}, {Kind: registry.KindCatalog, At: registry.At(time.Now().Add(time.Hour))}}
		m.mu.Unlock()
		time.Sleep(300 * time.Millisecond)
		m.news <- struct{}{}
		synctest.Wait()
		metrics := prometheus.NewRegistry()
		metrics.MustRegister(d.metrics.delay)
		got, err := metrics.Gather()
		if err != nil {
			t.Fatal(err)
		}
		if h := got[0].GetMetric()[0].GetHistogram(); h.GetSampleCount() != 2 || h.GetSampleSum() != 0.3 {
			t.Errorf("%d changes took %v s", h.GetSampleCount(), h.GetSampleSum())
		}
	})
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Poll, o.Now = 100*time.Millisecond, time.Now })
		a := w.client("a")
		w.store.changeClient("a", func(g *registry.Grant) { g.Client.DisabledAt = 1 })
		time.Sleep(101 * time.Millisecond)
		synctest.Wait()
		if !a.Dead() || !w.client("a").Refused() {
			t.Error("the change is not in effect")
		}
		w.store.mu.Lock()
		w.store.failPoll = registry.ErrUnavailable
		w.store.mu.Unlock()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if age := w.Age(time.Now()); age < 9*time.Second || age > 11*time.Second {
			t.Errorf("age %s", age)
		}
		w.store.mu.Lock()
		w.store.failPoll = nil
		w.store.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		w.Close()
		w.Close() // again does no harm
		// One line when it begins, one when it ends, not ten a second.
		if log := w.log.String(); strings.Count(log, "cannot read the change feed") != 1 || strings.Count(log, "reading the change feed again") != 1 {
			t.Errorf("logged %s", log)
		}
		if age := w.Age(time.Now()); age > 200*time.Millisecond {
			t.Errorf("age %s", age)
		}
	})
}

func TestRevocations(t *testing.T) {
	w := newWorld(t)
	until := registry.At(start.Add(10 * time.Minute))
	first, second, longer := uuid.New(), uuid.New(), uuid.New()
	w.store.revoked = []registry.Revocation{
		{TokenID: first.String(), Until: until}, {TokenID: "no uuid", Until: until}, {TokenID: longer.String(), Until: until},
	}
	w.store.reset = true
	w.catchUp()
	if !w.Revoked(first) || !w.Revoked(longer) || w.Revoked(second) || w.revocations.count.Load() != 2 {
		t.Errorf("%d held", w.revocations.count.Load())
	}
	if !strings.Contains(w.log.String(), "dropped revocations that name no token") {
		t.Errorf("logged %s", w.log)
	}
	w.store.change(registry.KindToken, second.String(), func() {
		w.store.revoked = append(w.store.revoked, registry.Revocation{TokenID: second.String(), Until: until})
		w.store.revoked[2].Until = until + 60_000
	})
	w.store.change(registry.KindToken, longer.String(), nil)
	w.store.change(registry.KindToken, uuid.NewString(), nil) // not revoked, or pruned since
	w.catchUp()
	if !w.Revoked(first) || !w.Revoked(second) || w.revocations.count.Load() != 3 {
		t.Errorf("%d held", w.revocations.count.Load())
	}
	w.clock = until.Time()
	w.catchUp()
	if !w.Revoked(first) || !w.Revoked(second) || !w.Revoked(longer) {
		t.Error("forgot a revocation at its last moment")
	}
	w.clock = until.Time().Add(time.Minute)
	w.catchUp()
	if w.Revoked(first) || w.Revoked(second) || !w.Revoked(longer) || w.revocations.count.Load() != 1 {
		t.Errorf("%d held", w.revocations.count.Load())
	}
}

// A shorter end never replaces a longer one.
func TestRevocationsKeepTheLongerEnd(t *testing.T) {
	var r revocations
	id := uuid.New()
	for _, until := range []registry.Time{5, 9, 7} {
		if err := r.add(registry.Revocation{TokenID: id.String(), Until: until}); err != nil {
			t.Fatal(err)
		}
	}
	r.prune(60_000)
	if r.has(id) {
		t.Error("kept for ever")
	}
	if err := r.add(registry.Revocation{TokenID: id.String(), Until: 130_000}, registry.Revocation{TokenID: id.String(), Until: 1}); err != nil {
		t.Fatal(err)
	}
	r.prune(130_000)
	if !r.has(id) || r.count.Load() != 1 {
		t.Error("the shorter end won")
	}
}

func TestRevocationsWhileRead(t *testing.T) {
	var r revocations
	const writers, each = 4, 500
	ids := make([]uuid.UUID, writers*each)
	for i := range ids {
		ids[i] = uuid.New()
	}
	var added atomic.Int64 // each id below it was added
	var wait sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for i := range added.Load() {
					if !r.has(ids[i]) {
						t.Errorf("token %d is not revoked any more", i)
						return
					}
				}
			}
		})
	}
	wait.Go(func() {
		for now := registry.Time(60_000); ; now += 60_000 {
			select {
			case <-stop:
				return
			default:
				r.prune(now)
			}
		}
	})
	for i := 0; i < len(ids); i += 5 {
		batch := make([]registry.Revocation, 5)
		for j := range batch {
			batch[j] = registry.Revocation{TokenID: ids[i+j].String(), Until: 1 << 60}
		}
		if err := r.add(batch...); err != nil {
			t.Fatal(err)
		}
		added.Store(int64(i + 5))
	}
	close(stop)
	wait.Wait()
	if n := r.count.Load(); n != writers*each {
		t.Errorf("%d held", n)
	}
}

// Under -race: readers of every kind beside changes of every kind.
func TestReadersBesideChanges(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Clients = 2 })
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for n := range 4 {
		wait.Go(func() {
			for i := n; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := string(rune('a' + i%3))
				c, err := w.Client(t.Context(), id)
				if err != nil || c.ID != id {
					t.Errorf("got %v, %v", c, err)
					return
				}
				_, _ = c.Dead(), c.Accepts(1)
				_, _ = w.Keys()
				_, _ = w.Fresh(start), w.Revoked(uuid.Nil)
				if i%10 == 0 {
					_, _ = w.Reread(t.Context(), id)
				}
			}
		})
	}
	for i := range 300 {
		id := string(rune('a' + i%3))
		w.store.changeClient(id, func(g *registry.Grant) { g.Client.Application = fmt.Sprint(i) })
		w.store.change(registry.KindKey, "", nil)
		w.store.change(registry.KindOrganization, "organization-"+id, nil)
		w.catchUp()
		if got := w.client(id).Application; got != fmt.Sprint(i) {
			t.Errorf("got %s after change %d", got, i)
		}
	}
	close(stop)
	wait.Wait()
}

func BenchmarkLoadRevocations(b *testing.B) {
	all := make([]registry.Revocation, 100_000)
	for i := range all {
		all[i] = registry.Revocation{TokenID: uuid.NewString(), Until: 1}
	}
	b.ReportAllocs()
	for b.Loop() {
		var r revocations
		if err := r.add(all...); err != nil {
			b.Fatal(err)
		}
	}
}

package limiter

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"time"

	"postern/answer"
	"postern/registry"
)

func TestSpentBefore(t *testing.T) {
	var day, month time.Time
	spent := func(_ context.Context, d, m registry.Time, use func(string, string, int64, int64)) error {
		day, month = d.Time(), m.Time()
		use("a", "o", 6, 40)
		use("b", "o", 3, 30)
		return nil
	}
	w := newWorld(t, func(o *Options) { o.Spent = spent })
	if !day.Equal(time.Date(2026, 6, 30, 0, 0, 0, 0, time.UTC)) || !month.Equal(time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("asked for %s and %s", day, month)
	}
	w.wantTake(client("a", "o", registry.Terms{QuotaDay: value(10)}, registry.Terms{}), 5, 4, answer.QuotaExceeded, 14*time.Hour)
	w.wantTake(client("b", "o", registry.Terms{}, registry.Terms{QuotaMonth: value(80)}), 10, 6, answer.QuotaExceeded, 14*time.Hour)
	w.now = start.Add(14 * time.Hour)
	w.wantTake(client("b", "o", registry.Terms{}, registry.Terms{QuotaMonth: value(80), QuotaDay: value(80)}), 81, 80, answer.QuotaExceeded, 31*24*time.Hour)
}

// As long as the store does not say what was spent, a hundredth of a quota is let through.
func TestSpentUnknown(t *testing.T) {
	var fail error = errors.New("away")
	w := newWorld(t, func(o *Options) {
		o.Spent = func(_ context.Context, _, _ registry.Time, use func(string, string, int64, int64)) error {
			use("a", "o", 100, 100)
			return fail
		}
	})
	c := client("a", "o", registry.Terms{QuotaDay: value(250)}, registry.Terms{})
	small := client("s", "p", registry.Terms{QuotaMonth: value(2)}, registry.Terms{})
	w.wantTake(c, 10, 3, answer.QuotaExceeded, 5*time.Second)
	w.wantTake(small, 2, 1, answer.QuotaExceeded, 5*time.Second)
	if text := w.logs.String(); !bytes.Contains([]byte(text), []byte("cannot read what was spent")) {
		t.Errorf("logged %q", text)
	}
	fail = nil
	if err := w.load(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.wantTake(c, 250, 147, answer.QuotaExceeded, 14*time.Hour)
	w.wantTake(small, 2, 1, answer.QuotaExceeded, 14*time.Hour)
}

// Accounts that nothing would be different without are dropped; a quota outlives them, and
// a state of a client that holds one gets the new one.
func TestDropped(t *testing.T) {
	w := newWorld(t)
	terms := registry.Terms{RequestRate: value(1), RequestBurst: value(1000), QuotaDay: value(1500), QuotaMonth: value(1500)}
	c := client("a", "o", terms, terms)
	w.wantTake(c, 1001, 1000, answer.RateLimited, time.Second)
	held := func(clients, organizations int) {
		t.Helper()
		w.sweep(w.now)
		if len(w.clients) != clients || len(w.organizations) != organizations {
			t.Errorf("after %s: %d clients, %d organizations held; want %d, %d", w.now.Sub(start), len(w.clients), len(w.organizations), clients, organizations)
		}
	}
	held(1, 1)
	w.now = start.Add(10 * time.Minute)
	held(1, 1) // its burst is not back
	w.now = start.Add(1000 * time.Second)
	held(0, 0)
	// The same state, and another one, lead to one account.
	w.wantTake(c, 400, 400, "", 0)
	w.wantTake(client("a", "o", terms, terms), 200, 100, answer.QuotaExceeded, 14*time.Hour-1000*time.Second)
	w.now = w.now.Add(time.Hour)
	held(0, 0)
	if n := len(w.kept); n != 2 {
		t.Errorf("%d kept", n)
	}
	w.now = start.Add(14 * time.Hour)
	held(0, 0)
	if n := len(w.kept); n != 0 {
		t.Errorf("%d kept in the next month", n)
	}

	g, _ := w.Take(c, w.now)
	w.now = w.now.Add(time.Hour)
	held(1, 1) // it runs
	g.Release()
	held(0, 0)
}

func TestClientMoves(t *testing.T) {
	w := newWorld(t)
	terms := registry.Terms{QuotaDay: value(10)}
	a := client("a", "o", terms, terms)
	w.wantTake(a, 4, 4, "", 0)
	g, _ := w.Take(a, w.now)
	w.wantTake(client("a", "p", terms, terms), 20, 5, answer.QuotaExceeded, 14*time.Hour)
	g.Release()
	if n := w.organizations["o"].running; n != 0 {
		t.Errorf("%d run in the old organization", n)
	}
}

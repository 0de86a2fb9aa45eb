package limiter

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"postern/answer"
	"postern/directory"
	"postern/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start is a moment within a second, a day and a month: 10:00:00.5 on 30 June.
var start = time.Date(2026, 6, 30, 10, 0, 0, 5e8, time.UTC)

// world is a limiter with a clock of the test's.
type world struct {
	*Limiter
	t    *testing.T
	now  time.Time
	logs *logs
}

// logs takes log lines; safe for concurrent use.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	return newWorldAt(t, start, change...)
}

func newWorldAt(t *testing.T, now time.Time, change ...func(*Options)) *world {
	t.Helper()
	w := &world{t: t, now: now, logs: &logs{}}
	o := Options{Now: func() time.Time { return w.now }, Random: rand.Reader, Log: slog.New(slog.NewTextHandler(w.logs, nil))}
	for _, f := range change {
		f(&o)
	}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	w.Limiter = l
	return w
}

func value(n int64) registry.Limit { return registry.Limit{State: registry.Value, Value: n} }

// client is the state of a client as the directory would hold it.
func client(id, organization string, own, all registry.Terms) *directory.Client {
	c := new(directory.Client)
	c.ID, c.OrganizationID, c.Terms, c.OrganizationTerms = id, organization, own, all
	return c
}

// take asks for n requests that end at once, and returns how many were granted and what the
// last refusal was.
func (w *world) take(c *directory.Client, n int) (granted int, last answer.Refusal) {
	w.t.Helper()
	for range n {
		g, ok := w.Take(c, w.now)
		if ok {
			granted++
		} else {
			last = g.Refusal()
		}
		g.Release()
	}
	return granted, last
}

func (w *world) wantTake(c *directory.Client, n, want int, reason answer.Reason, wait time.Duration) {
	w.t.Helper()
	got, last := w.take(c, n)
	if got != want || last.Reason != reason || last.RetryAfter != wait {
		w.t.Errorf("at %s: %d of %d granted, refused with %q for %s; want %d, %q for %s", w.now.Sub(start), got, n, last.Reason, last.RetryAfter, want, reason, wait)
	}
}

// TestBoundaries has each limit alone, for a client and for an organization: what is
// granted at once, what is said then, and both sides of the moment when it is granted again.
func TestBoundaries(t *testing.T) {
	midnight := 13*time.Hour + 59*time.Minute + 59*time.Second + 500*time.Millisecond // also the month's end
	f := func(name string, terms registry.Terms, granted int, reason answer.Reason, wait, again time.Duration, grantedAgain int) {
		t.Helper()
		for whose, c := range map[string]*directory.Client{
			"client":       client("a", "o", terms, registry.Terms{}),
			"organization": client("a", "o", registry.Terms{}, terms),
		} {
			t.Run(name+"/"+whose, func(t *testing.T) {
				t.Helper()
				w := newWorld(t)
				w.wantTake(c, granted+2, granted, reason, wait)
				w.now = start.Add(again - 1)
				w.wantTake(c, 1, 0, reason, time.Second)
				w.now = start.Add(again)
				got, _ := w.take(c, grantedAgain+1)
				if got != grantedAgain {
					t.Errorf("after %s: %d granted, want %d", again, got, grantedAgain)
				}
			})
		}
	}
	f("rate", registry.Terms{RequestRate: value(10)}, 10, answer.RateLimited, time.Second, 100*time.Millisecond, 1)
	f("rate that divides nothing", registry.Terms{RequestRate: value(3)}, 3, answer.RateLimited, time.Second, 333333334, 1)
	f("rate and burst", registry.Terms{RequestRate: value(10), RequestBurst: value(25)}, 25, answer.RateLimited, time.Second, 100*time.Millisecond, 1)
	f("burst below a second's worth", registry.Terms{RequestRate: value(10), RequestBurst: value(2)}, 2, answer.RateLimited, time.Second, 100*time.Millisecond, 1)
	f("burst comes back", registry.Terms{RequestRate: value(10), RequestBurst: value(2)}, 2, answer.RateLimited, time.Second, 100*time.Millisecond, 1)
	f("day", registry.Terms{QuotaDay: value(5)}, 5, answer.QuotaExceeded, 14*time.Hour, midnight, 5)
	f("month", registry.Terms{QuotaMonth: value(5)}, 5, answer.QuotaExceeded, 14*time.Hour, midnight, 5)
	f("day within month", registry.Terms{QuotaDay: value(3), QuotaMonth: value(5)}, 3, answer.QuotaExceeded, 14*time.Hour, midnight, 3)
}

func TestNoLimit(t *testing.T) {
	f := func(name string, terms registry.Terms) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := client("a", "o", terms, terms)
			w.wantTake(c, 10_000, 10_000, "", 0)
			g, ok := w.Issue(c, w.now)
			if !ok || g.Policy() != "" || len(g.AppendPolicy(nil)) != 0 || len(g.AppendState(nil)) != 0 {
				t.Errorf("issue: %v, %q, %q, %q", ok, g.Policy(), g.AppendPolicy(nil), g.AppendState(nil))
			}
		})
	}
	unlimited := registry.Limit{State: registry.Unlimited}
	f("unset", registry.Terms{})
	f("unlimited", registry.Terms{RequestRate: unlimited, RequestBurst: unlimited, Concurrent: unlimited, QuotaDay: unlimited, QuotaMonth: unlimited, IssueRate: unlimited})
	f("burst without a rate", registry.Terms{RequestBurst: value(0)})
	f("unlimited burst", registry.Terms{RequestRate: value(1), RequestBurst: unlimited})

	var g Grant
	g.Release()
	if g.Policy() != "" || g.AppendPolicy(nil) != nil || g.AppendState(nil) != nil {
		t.Error("the zero grant limits something")
	}
}

func TestZeroAllowsNothing(t *testing.T) {
	f := func(name string, terms registry.Terms, reason answer.Reason, wait time.Duration) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.wantTake(client("a", "o", terms, registry.Terms{}), 2, 0, reason, wait)
		})
	}
	f("rate", registry.Terms{RequestRate: value(0)}, answer.RateLimited, time.Hour)
	f("burst", registry.Terms{RequestRate: value(5), RequestBurst: value(0)}, answer.RateLimited, time.Hour)
	f("concurrent", registry.Terms{Concurrent: value(0)}, answer.ConcurrencyLimited, time.Hour)
	f("day", registry.Terms{QuotaDay: value(0)}, answer.QuotaExceeded, 14*time.Hour)
	f("month", registry.Terms{QuotaMonth: value(0)}, answer.QuotaExceeded, 14*time.Hour)
	w := newWorld(t)
	if g, ok := w.Issue(client("a", "o", registry.Terms{IssueRate: value(0)}, registry.Terms{}), w.now); ok || g.Refusal().RetryAfter != time.Hour {
		t.Errorf("issue: %v, %v", ok, g.Refusal())
	}
}

func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	a := client("a", "o", registry.Terms{Concurrent: value(2)}, registry.Terms{Concurrent: value(3)})
	b := client("b", "o", registry.Terms{}, registry.Terms{Concurrent: value(3)})
	one, ok1 := w.Take(a, w.now)
	two, ok2 := w.Take(a, w.now)
	if !ok1 || !ok2 {
		t.Fatal("two at once were refused")
	}
	refused, ok := w.Take(a, w.now)
	if ok || refused.Refusal() != (answer.Refusal{Reason: answer.ConcurrencyLimited, RetryAfter: time.Second}) || refused.Policy() != "client-concurrent" {
		t.Errorf("third: %v, %+v by %s", ok, refused.Refusal(), refused.Policy())
	}
	refused.Release() // gives nothing back
	three, ok := w.Take(b, w.now)
	if !ok {
		t.Error("another client of the organization was refused")
	}
	if g, ok := w.Take(b, w.now); ok || g.Policy() != "org-concurrent" {
		t.Errorf("fourth: %v by %s", ok, g.Policy())
	}
	one.Release()
	one.Release() // twice is once
	if _, ok := w.Take(a, w.now); !ok {
		t.Error("a place that was given back was refused")
	}
	if _, ok := w.Take(b, w.now); ok {
		t.Error("one more than the organization may")
	}
	two.Release()
	three.Release()
	if a := w.organizations["o"]; a.running != 1 {
		t.Errorf("%d run", a.running)
	}
}

// A refused request spends nothing, of no limit and of nobody.
func TestAllOrNothing(t *testing.T) {
	w := newWorld(t)
	full := registry.Terms{RequestRate: value(1000), Concurrent: value(1000), QuotaDay: value(1000), QuotaMonth: value(1000)}
	tight := full
	tight.RequestRate = value(1)
	a, b := client("a", "o", tight, full), client("b", "o", full, full)
	if n, _ := w.take(a, 500); n != 1 {
		t.Fatalf("%d granted", n)
	}
	if n, _ := w.take(b, 2000); n != 999 {
		t.Errorf("the organization's limits had %d left, want 999", n)
	}
	if n, _ := w.take(b, 10); n != 0 {
		t.Errorf("%d granted beyond the organization's limits", n)
	}
	for _, s := range w.Explain(b, w.now) {
		if want := map[string]int64{"client-rate": 1, "client-day": 1, "client-month": 1, "client-concurrent": 1000, "org-concurrent": 1000}[s.Policy]; s.Left != want {
			t.Errorf("%s: %d left, want %d", s.Policy, s.Left, want)
		}
	}
}

// Where several limits refuse, the longest wait is said.
func TestLongestWait(t *testing.T) {
	w := newWorld(t)
	c := client("a", "o", registry.Terms{RequestRate: value(1), QuotaDay: value(1)}, registry.Terms{Concurrent: value(0)})
	g, ok := w.Take(c, w.now)
	if ok || g.Policy() != "org-concurrent" {
		t.Errorf("%v by %s", ok, g.Policy())
	}
	c = client("b", "p", registry.Terms{RequestRate: value(1), QuotaDay: value(1)}, registry.Terms{})
	w.wantTake(c, 2, 1, answer.QuotaExceeded, 14*time.Hour)
	c = client("c", "p", registry.Terms{RequestRate: value(1), RequestBurst: value(1)}, registry.Terms{RequestRate: value(1), RequestBurst: value(1)})
	w.wantTake(c, 1, 1, "", 0)
	w.now = w.now.Add(500 * time.Millisecond)
	d := client("d", "p", registry.Terms{}, registry.Terms{RequestRate: value(1), RequestBurst: value(1)})
	w.wantTake(d, 1, 0, answer.RateLimited, time.Second)
}

func TestIssue(t *testing.T) {
	w := newWorld(t)
	c := client("a", "o", registry.Terms{IssueRate: value(3)}, registry.Terms{IssueRate: value(5)})
	issue := func(c *directory.Client, n int) (granted int, last Grant) {
		for range n {
			g, ok := w.Issue(c, w.now)
			if ok {
				granted++
			}
			last = g
		}
		return granted, last
	}
	n, last := issue(c, 4)
	if n != 3 || last.Refusal() != (answer.Refusal{Reason: answer.RateLimited, RetryAfter: 20 * time.Second}) || last.Policy() != "client-issue" {
		t.Errorf("%d granted, %+v by %s", n, last.Refusal(), last.Policy())
	}
	if got := string(last.AppendPolicy(nil)); got != `"client-issue";q=3;w=60, "org-issue";q=5;w=60` {
		t.Error(got)
	}
	if n, last := issue(client("b", "o", registry.Terms{}, registry.Terms{IssueRate: value(5)}), 3); n != 2 || last.Policy() != "org-issue" {
		t.Errorf("%d granted to another client, by %s", n, last.Policy())
	}
	w.now = w.now.Add(20*time.Second - 1)
	if n, _ := issue(c, 1); n != 0 {
		t.Error("granted too early")
	}
	w.now = w.now.Add(1)
	if n, _ := issue(c, 2); n != 1 {
		t.Errorf("%d granted", n)
	}
	w.wantTake(c, 100, 100, "", 0) // requests are another matter
}

// A change of terms is a new state of the client: it acts at once and forgets nothing.
func TestTermsChange(t *testing.T) {
	w := newWorld(t)
	terms := registry.Terms{RequestRate: value(10), RequestBurst: value(100), QuotaDay: value(200)}
	old := client("a", "o", terms, registry.Terms{})
	w.wantTake(old, 100, 100, "", 0)
	terms.RequestRate, terms.RequestBurst = value(1000), value(150)
	c := client("a", "o", terms, registry.Terms{})
	w.wantTake(c, 51, 50, answer.RateLimited, time.Second)
	w.now = w.now.Add(500 * time.Millisecond)
	w.wantTake(c, 60, 50, answer.QuotaExceeded, 14*time.Hour-time.Second)
	terms.QuotaDay = value(210)
	c = client("a", "o", terms, registry.Terms{})
	w.wantTake(c, 20, 10, answer.QuotaExceeded, 14*time.Hour-time.Second)
	terms.QuotaDay = value(100)
	w.wantTake(client("a", "o", terms, registry.Terms{}), 1, 0, answer.QuotaExceeded, 14*time.Hour-time.Second)
	terms.QuotaDay = registry.Limit{}
	w.wantTake(client("a", "o", terms, registry.Terms{}), 20, 20, "", 0)

	// What runs goes on, and counts under the new terms too.
	running := client("r", "o", registry.Terms{}, registry.Terms{})
	g, _ := w.Take(running, w.now)
	one := client("r", "o", registry.Terms{Concurrent: value(1)}, registry.Terms{})
	w.wantTake(one, 1, 0, answer.ConcurrencyLimited, time.Second)
	g.Release()
	w.wantTake(one, 1, 1, "", 0)
}

func TestClockGoesBack(t *testing.T) {
	w := newWorld(t)
	c := client("a", "o", registry.Terms{RequestRate: value(10)}, registry.Terms{})
	w.wantTake(c, 10, 10, "", 0)
	w.now = start.Add(-time.Hour)
	w.wantTake(c, 10, 0, answer.RateLimited, time.Second)
	w.now = w.now.Add(time.Second)
	w.wantTake(c, 20, 10, answer.RateLimited, time.Second)
	// A little back and forth, as goroutines bring their times, grants nothing.
	for range 100 {
		w.now = w.now.Add(-900 * time.Millisecond)
		w.wantTake(c, 1, 0, answer.RateLimited, time.Second)
		w.now = w.now.Add(900 * time.Millisecond)
		w.wantTake(c, 1, 0, answer.RateLimited, time.Second)
	}

	quota := client("b", "o", registry.Terms{QuotaDay: value(5)}, registry.Terms{})
	w.now = start
	w.wantTake(quota, 3, 3, "", 0)
	w.now = start.Add(14 * time.Hour) // the next day
	w.wantTake(quota, 4, 4, "", 0)
	w.now = start // and back: what was spent that day is spent
	w.wantTake(quota, 3, 2, answer.QuotaExceeded, 14*time.Hour)
	w.now = start.Add(14 * time.Hour)
	w.wantTake(quota, 2, 1, answer.QuotaExceeded, 24*time.Hour)
	w.now = start.AddDate(0, 0, -9) // to a day that nobody counted: not a new quota
	w.wantTake(quota, 1, 0, answer.QuotaExceeded, 14*time.Hour)
}

// Replicas that nothing joins have an equal part of each limit, one request at least.
func TestReplicasAlone(t *testing.T) {
	f := func(name string, terms registry.Terms, replicas, want int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := newWorld(t, func(o *Options) { o.Replicas = replicas })
			c := client("a", "o", terms, registry.Terms{})
			said := w.Explain(c, w.now)[0]
			if part := cmp.Or(float64(said.PartBurst), said.Part); part != float64(want) || said.Replicas != int64(replicas) {
				t.Errorf("explained as %v of %d replicas, want %d", part, said.Replicas, want)
			}
			granted := 0
			for range want + 3 {
				if _, ok := w.Take(c, w.now); ok {
					granted++
				}
			}
			if granted != want {
				t.Errorf("%d granted, want %d", granted, want)
			}
		})
	}
	f("rate", registry.Terms{RequestRate: value(30)}, 3, 10)
	f("rate of one", registry.Terms{RequestRate: value(1)}, 3, 1)
	f("burst", registry.Terms{RequestRate: value(1), RequestBurst: value(100)}, 4, 25)
	f("concurrent", registry.Terms{Concurrent: value(10)}, 3, 4)
	f("day", registry.Terms{QuotaDay: value(10)}, 3, 4)
	f("month of one", registry.Terms{QuotaMonth: value(1)}, 5, 1)

	w := newWorld(t, func(o *Options) { o.Replicas = 4 })
	c := client("a", "o", registry.Terms{RequestRate: value(40)}, registry.Terms{})
	w.take(c, 100)
	n := 0
	for range 1000 {
		w.now = w.now.Add(10 * time.Millisecond)
		got, _ := w.take(c, 2)
		n += got
	}
	if said := w.Explain(c, w.now)[0]; n != 100 || said.Part != 10 {
		t.Errorf("%d granted in 10 s to one of four replicas, explained as %v a second, want 100 of 400", n, said.Part)
	}
}

// Requests at once are never more than allowed, and all places come back.
func TestConcurrentNeverExceeded(t *testing.T) {
	l, err := Open(t.Context(), Options{Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	const own, all = 3, 5
	terms := func(n int64) registry.Terms { return registry.Terms{Concurrent: value(n)} }
	var mu sync.Mutex
	running := map[string]int{}
	granted := 0
	var group sync.WaitGroup
	for i := range 8 {
		id := fmt.Sprint(i % 3)
		group.Go(func() {
			for n := range 2000 {
				c := client(id, "o", terms(own), terms(all)) // a new state each time
				g, ok := l.Take(c, time.Now())
				if !ok {
					continue
				}
				mu.Lock()
				granted++
				running[id]++
				running["all"]++
				if running[id] > own || running["all"] > all {
					t.Errorf("%d of client, %d of the organization run", running[id], running["all"])
				}
				mu.Unlock()
				if n%64 == 0 {
					l.sweep(time.Now().Add(time.Hour)) // drops all that does not run
				}
				mu.Lock()
				running[id]--
				running["all"]--
				mu.Unlock()
				g.Release()
			}
		})
	}
	group.Wait()
	if granted == 0 || l.organizations["o"].running != 0 {
		t.Errorf("%d granted, %d run at the end", granted, l.organizations["o"].running)
	}
	for _, a := range l.clients {
		if a.running != 0 {
			t.Errorf("%d of client %s run at the end", a.running, a.id)
		}
	}
}

func TestCollectors(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Replicas = 3 })
	w.take(client("a", "o", registry.Terms{RequestRate: value(0)}, registry.Terms{}), 2)
	r := prometheus.NewRegistry()
	r.MustRegister(w.Collectors()...)
	all, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, family := range all {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, label := range m.Label {
				name += " " + label.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"postern_limits_refused_total client-rate": 2, "postern_limits_refused_total org-day": 0,
		"postern_limits_shared": 0, "postern_limits_replicas": 3, "postern_limits_loaded": 1,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (%v), want %v", name, value, ok, want)
		}
	}
}

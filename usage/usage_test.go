package usage

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

// ledger is a store in memory. Safe for concurrent use.
type ledger struct {
	mu      sync.Mutex
	last    map[string]int64 // batch, by writer
	all     map[string]*registry.Counts
	batches int
	largest int
	away    bool // nothing is stored
	silent  bool // it is stored, and the answer is lost
}

func (l *ledger) AddUsage(_ context.Context, b registry.UsageBatch) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return registry.ErrUnavailable
	}
	if b.Number > l.last[b.Writer] {
		l.last[b.Writer] = b.Number
		l.batches++
		l.largest = max(l.largest, len(b.Usage))
		for _, u := range b.Usage {
			k := u.ClientID + " " + u.Hour.Time().Format("2006-01-02T15:04")
			if l.all[k] == nil {
				l.all[k] = &registry.Counts{}
			}
			l.all[k].Add(u.Counts)
		}
	}
	if l.silent {
		return errors.New("connection reset")
	}
	return nil
}

func (l *ledger) PruneUsage(context.Context, registry.Time) (int, error) { return 0, nil }

func (l *ledger) is(away, silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away, l.silent = away, silent
}

// figures are lines of client, hour, requests, tokens, bytes in and out, refusals.
func (l *ledger) figures() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var lines []string
	for k, c := range l.all {
		line := fmt.Sprint(k, ": ", c.Requests, " ", c.Tokens, " ", c.BytesIn, " ", c.BytesOut)
		if len(c.Refused) > 0 {
			line += fmt.Sprint(" ", c.Refused)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (l *ledger) requests() (n int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.all {
		n += c.Requests
	}
	return n
}

// clients of a directory whose store knows everybody.
type everybody struct{}

func (everybody) Grant(_ context.Context, id string) (registry.Grant, error) {
	return registry.Grant{Client: registry.Client{ID: id, OrganizationID: "o"}, Organization: registry.Organization{ID: "o"}}, nil
}
func (everybody) Keys(context.Context) ([]registry.Key, error)               { return nil, nil }
func (everybody) Revocations(context.Context) ([]registry.Revocation, error) { return nil, nil }
func (everybody) EachCatalog(context.Context, func(registry.Catalog)) error  { return nil }
func (everybody) Catalog(context.Context, string) (registry.Catalog, error) {
	return registry.Catalog{}, registry.ErrNotFound
}
func (everybody) Revocation(context.Context, string) (registry.Revocation, error) {
	return registry.Revocation{}, registry.ErrNotFound
}
func (everybody) Poll(context.Context) ([]registry.Change, bool, error) { return nil, false, nil }
func (everybody) News() (<-chan struct{}, time.Duration)                { return nil, time.Hour }

// stateOf is a new state of a client, as after a change of it.
func stateOf(t testing.TB, id string) *directory.Client {
	t.Helper()
	d, err := directory.Open(t.Context(), everybody{}, everybody{}, directory.Options{Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := d.Client(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// open makes a meter that writes when the test says so, and at Close.
func open(t testing.TB, interval time.Duration, log *bytes.Buffer) (*Meter, *ledger) {
	t.Helper()
	l := &ledger{last: map[string]int64{}, all: map[string]*registry.Counts{}}
	o := Options{Interval: interval, Keep: time.Hour, Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)}
	if log != nil {
		o.Log = slog.New(slog.NewTextHandler(log, nil))
	}
	m, err := Open(l, o)
	if err != nil {
		t.Fatal(err)
	}
	return m, l
}

// never is an interval after which nothing happens in a test: it writes itself, as the
// goroutine would, which waits.
const never = time.Hour

func (m *Meter) round() error {
	m.collect()
	return m.write(context.Background())
}

func want(t *testing.T, what string, l *ledger, lines ...string) {
	t.Helper()
	if got := l.figures(); got != strings.Join(lines, "\n") {
		t.Errorf("%s: stored is\n%s\nwant\n%s", what, got, strings.Join(lines, "\n"))
	}
}

// TestHours: each count is in the hour of its moment, on both sides of the boundaries of an
// hour, a day and a month, whatever order they come in.
func TestHours(t *testing.T) {
	m, l := open(t, never, nil)
	defer m.Close()
	c := stateOf(t, "c")
	turn := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	m.Request(c, turn.Add(-time.Nanosecond))
	m.Request(c, turn)
	m.Request(c, turn.Add(-time.Nanosecond)) // began before, and comes late
	m.Request(c, turn.Add(time.Hour-time.Nanosecond))
	m.Request(c, turn.Add(time.Hour).In(time.FixedZone("east", 5*3600+1800)))
	m.Content(c, turn, 3, 0)
	m.Content(c, turn, 0, 5)
	m.Issued(c, turn)
	m.Refused(c, turn, answer.RateLimited)
	m.Refused(c, turn, answer.RateLimited)
	m.Refused(c, turn.Add(time.Hour), answer.QuotaExceeded)
	if err := m.round(); err != nil {
		t.Fatal(err)
	}
	want(t, "all", l,
		"c 2026-11-30T23:00: 2 0 0 0",
		"c 2026-12-01T00:00: 2 1 3 5 map[rate_limited:2]",
		"c 2026-12-01T01:00: 1 0 0 0 map[quota_exceeded:1]")
	m.Request(c, turn)
	if err := m.round(); err != nil {
		t.Fatal(err)
	}
	if got := l.requests(); got != 6 {
		t.Errorf("%d requests after one more, want 6", got)
	}
	if n := l.batches; n != 2 {
		t.Errorf("%d batches, want 2", n)
	}
	if err := m.round(); err != nil || l.batches != 2 {
		t.Errorf("nothing was counted, and there are %d batches (%v)", l.batches, err)
	}
}

// TestCountsExactly what many count at once, while it is collected and while the client's
// state is replaced.
func TestCountsExactly(t *testing.T) {
	m, l := open(t, time.Millisecond, nil)
	states := []*directory.Client{stateOf(t, "c"), stateOf(t, "c"), stateOf(t, "c")}
	begun := time.Date(2026, 11, 24, 12, 59, 59, 0, time.UTC)
	const many, each = 8, 20_000
	var counting sync.WaitGroup
	for w := range many {
		counting.Go(func() {
			for i := range each {
				c, now := states[i*len(states)/each], begun.Add(time.Duration(i%3*w)*time.Second) // over the boundary, and back
				m.Request(c, now)
				m.Content(c, now, 2, 3)
				if i%10 == 0 {
					m.Refused(c, now, answer.RateLimited)
					m.Issued(c, now)
				}
			}
		})
	}
	counting.Wait()
	m.Close()
	var sum registry.Counts
	for _, c := range l.all {
		sum.Add(*c)
	}
	const all = many * each
	if sum.Requests != all || sum.Tokens != all/10 || sum.BytesIn != 2*all || sum.BytesOut != 3*all || sum.Refused["rate_limited"] != all/10 {
		t.Errorf("stored %+v of %d requests", sum, all)
	}
	if len(l.all) != 2 || l.batches < 2 {
		t.Errorf("%d hours in %d batches", len(l.all), l.batches)
	}
}

// TestStoreAway: counts wait for the store, and one whose answer is lost counts once.
func TestStoreAway(t *testing.T) {
	m, l := open(t, never, nil)
	defer m.Close()
	c, now := stateOf(t, "c"), time.Date(2026, 11, 24, 12, 30, 0, 0, time.UTC)
	l.is(true, false)
	for range 3 {
		m.Request(c, now)
		if err := m.round(); !errors.Is(err, registry.ErrUnavailable) {
			t.Errorf("away: %v", err)
		}
	}
	if l.batches != 0 || gathered(t, m, "postern_usage_unwritten") != 2 || gathered(t, m, "postern_usage_unwritten_age_seconds") <= 0 {
		t.Errorf("%d batches, %v unwritten, for %v s", l.batches, gathered(t, m, "postern_usage_unwritten"), gathered(t, m, "postern_usage_unwritten_age_seconds"))
	}
	l.is(false, true)
	for range 3 { // the batch is in the store after the first of these
		m.Request(c, now)
		if err := m.round(); err == nil {
			t.Error("no answer, and no error")
		}
	}
	want(t, "without an answer", l, "c 2026-11-24T12:00: 1 0 0 0")
	l.is(false, false)
	m.Request(c, now.Add(time.Hour))
	if err := m.round(); err != nil {
		t.Fatal(err)
	}
	want(t, "back again", l, "c 2026-11-24T12:00: 6 0 0 0", "c 2026-11-24T13:00: 1 0 0 0")
	if gathered(t, m, "postern_usage_unwritten") != 0 || gathered(t, m, "postern_usage_unwritten_age_seconds") != 0 {
		t.Error("something is unwritten")
	}
}

// TestMemoryIsBounded: a store that is away for very long costs the hours within a day, then
// counts, and never more memory.
func TestMemoryIsBounded(t *testing.T) {
	var log bytes.Buffer
	m, l := open(t, never, &log)
	l.is(true, false)
	day := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC).Unix() / hour
	keep := func(clients, hours int) {
		m.coarse = false
		for c := range clients {
			for h := range hours {
				m.keep(key{fmt.Sprint("client-", c), day + int64(h)}, registry.Counts{Requests: 1})
			}
		}
	}
	keep(maxWaiting/20, 20)
	if len(m.waiting) != maxWaiting || m.coarse {
		t.Fatalf("%d wait", len(m.waiting))
	}
	keep(maxWaiting/20, 24) // more hours of the same clients
	if len(m.waiting) != maxWaiting/20 || log.Len() > 0 {
		t.Errorf("%d wait, want one for each client: %s", len(m.waiting), &log)
	}
	if c := m.waiting[key{"client-7", day}]; c == nil || c.Requests != 44 {
		t.Errorf("a client's day has %+v", c)
	}
	keep(maxWaiting+10, 1) // more clients
	if len(m.waiting) != maxWaiting || gathered(t, m, "postern_usage_lost_total") != 10 || strings.Count(log.String(), "usage is lost") != 1 {
		t.Errorf("%d wait, %v lost: %s", len(m.waiting), gathered(t, m, "postern_usage_lost_total"), &log)
	}
	l.is(false, false)
	m.Close()
	if n := l.requests(); n != maxWaiting/20*44+maxWaiting || l.largest != batchSize || l.batches != maxWaiting/batchSize {
		t.Errorf("%d requests in %d batches of %d at most", n, l.batches, l.largest)
	}
}

// TestCloseWritesTheRest, and says what it cannot.
func TestCloseWritesTheRest(t *testing.T) {
	for _, away := range []bool{false, true} {
		var log bytes.Buffer
		m, l := open(t, never, &log)
		l.is(away, false)
		m.Request(stateOf(t, "c"), time.Date(2026, 11, 24, 12, 30, 0, 0, time.UTC))
		m.Close()
		lost := strings.Contains(log.String(), "cannot write the last usage; it is lost")
		if got := l.requests(); got != 1 && !away || lost != away {
			t.Errorf("away %v: %d requests, log: %s", away, got, &log)
		}
	}
}

func gathered(t *testing.T, m *Meter, name string) float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(m.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.Metric[0].GetGauge().GetValue() + f.Metric[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// TestCountingAllocatesNothing once an hour has begun.
func TestCountingAllocatesNothing(t *testing.T) {
	m, _ := open(t, never, nil)
	defer m.Close()
	c, now := stateOf(t, "c"), time.Now()
	m.Refused(c, now, answer.RateLimited)
	if n := testing.AllocsPerRun(1000, func() {
		m.Request(c, now)
		m.Content(c, now, 10, 10)
		m.Issued(c, now)
		m.Refused(c, now, answer.RateLimited)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCount(b *testing.B) {
	count := func(b *testing.B, clients int) {
		m, _ := open(b, 10*time.Millisecond, nil)
		defer m.Close()
		var all []*directory.Client
		for i := range clients {
			all = append(all, stateOf(b, fmt.Sprint("client-", i)))
		}
		now := time.Now()
		b.ReportAllocs()
		b.RunParallel(func(p *testing.PB) {
			for i := 0; p.Next(); i++ {
				c := all[i%clients]
				m.Request(c, now)
				m.Content(c, now, 0, 100)
			}
		})
	}
	b.Run("one client", func(b *testing.B) { count(b, 1) })
	b.Run("100 clients", func(b *testing.B) { count(b, 100) })
}

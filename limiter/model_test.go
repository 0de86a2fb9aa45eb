package limiter

import (
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/registry"
)

// model is a limiter that is too slow and too simple to be wrong: levels are fractions,
// counts are by name of their window, nothing is dropped.
type model struct {
	levels  map[string]*big.Rat // what was spent and has not leaked, by "whose what"
	at      map[string]time.Time
	counts  map[string]int64
	running map[string]int64
}

// limits are those that one request asks, each with its key in the model.
type modelLimit struct {
	name, whose  string
	rate, burst  int64
	per          time.Duration
	most         int64
	window       string
	ends         time.Time
	atOnce, flow bool
}

func modelLimits(whose, prefix string, t registry.Terms, issuing bool, now time.Time) (all []modelLimit) {
	set := func(l registry.Limit) bool { return l.State == registry.Value }
	if issuing {
		if set(t.IssueRate) {
			all = append(all, modelLimit{name: prefix + "issue", whose: whose + " issue", rate: t.IssueRate.Value, burst: t.IssueRate.Value, per: time.Minute, flow: true})
		}
		return all
	}
	if set(t.RequestRate) && t.RequestBurst.State != registry.Unlimited {
		burst := max(1, t.RequestRate.Value)
		if set(t.RequestBurst) {
			burst = t.RequestBurst.Value
		}
		all = append(all, modelLimit{name: prefix + "rate", whose: whose + " rate", rate: t.RequestRate.Value, burst: burst, per: time.Second, flow: true})
	}
	if set(t.Concurrent) {
		all = append(all, modelLimit{name: prefix + "concurrent", whose: whose, most: t.Concurrent.Value, atOnce: true})
	}
	y, m, d := now.Date()
	if set(t.QuotaDay) {
		all = append(all, modelLimit{name: prefix + "day", whose: whose, most: t.QuotaDay.Value, window: now.Format("2006-01-02"), ends: time.Date(y, m, d+1, 0, 0, 0, 0, time.UTC)})
	}
	if set(t.QuotaMonth) {
		all = append(all, modelLimit{name: prefix + "month", whose: whose, most: t.QuotaMonth.Value, window: now.Format("2006-01"), ends: time.Date(y, m+1, 1, 0, 0, 0, 0, time.UTC)})
	}
	return all
}

// wait is how long the limit makes the next one wait at now; 0: not at all.
func (m *model) wait(l modelLimit, now time.Time) time.Duration {
	switch {
	case l.atOnce && l.most == 0:
		return time.Hour
	case l.atOnce && m.running[l.whose] >= l.most:
		return time.Second
	case l.atOnce:
		return 0
	case !l.flow && m.counts[l.whose+" "+l.window] >= l.most:
		return l.ends.Sub(now)
	case !l.flow:
		return 0
	case l.rate == 0 || l.burst == 0:
		return time.Hour
	}
	level := m.levels[l.whose]
	if level == nil {
		return 0
	}
	speed := big.NewRat(l.rate, int64(l.per)) // requests in a nanosecond
	level.Sub(level, new(big.Rat).Mul(speed, big.NewRat(int64(now.Sub(m.at[l.whose])), 1)))
	if level.Sign() < 0 {
		level.SetInt64(0)
	}
	m.at[l.whose] = now
	over := new(big.Rat).Sub(new(big.Rat).Add(level, big.NewRat(1, 1)), big.NewRat(l.burst, 1))
	if over.Sign() <= 0 {
		return 0
	}
	ns := new(big.Rat).Quo(over, speed)
	up := new(big.Int).Add(ns.Num(), new(big.Int).Sub(ns.Denom(), big.NewInt(1)))
	return time.Duration(up.Div(up, ns.Denom()).Int64())
}

// ask is Take or Issue: the name of the limit that refuses and for how long, or "".
func (m *model) ask(c *directory.Client, issuing bool, now time.Time) (refused string, wait time.Duration) {
	limits := append(modelLimits("client "+c.ID, "client-", c.Terms, issuing, now), modelLimits("org "+c.OrganizationID, "org-", c.OrganizationTerms, issuing, now)...)
	for _, l := range limits {
		if w := m.wait(l, now); w > wait {
			refused, wait = l.name, w
		}
	}
	if refused != "" {
		return refused, wait
	}
	for _, l := range limits {
		if l.flow {
			if m.levels[l.whose] == nil {
				m.levels[l.whose], m.at[l.whose] = new(big.Rat), now
			}
			m.levels[l.whose].Add(m.levels[l.whose], big.NewRat(1, 1))
		}
	}
	if !issuing {
		for _, whose := range []string{"client " + c.ID, "org " + c.OrganizationID} {
			m.running[whose]++
			m.counts[whose+" "+now.Format("2006-01-02")]++
			m.counts[whose+" "+now.Format("2006-01")]++
		}
	}
	return "", 0
}

// TestModel holds the limiter to the model on random traces with changes of terms, pauses
// from a nanosecond to months, boundaries, sweeps and several clients of one organization.
func TestModel(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	for trace := range uint64(150) {
		if !agrees(t, seed+trace) {
			t.Fatalf("seed %d", seed+trace)
		}
	}
}

// agrees runs one trace. A rate's level counts only what was granted while there was a
// rate, in both: so terms change among values, and never come or go within a trace.
func agrees(t *testing.T, seed uint64) bool {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorldAt(t, time.Date(2026, 1+time.Month(r.IntN(12)), 1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1e9), time.UTC))
	defer w.Close()
	m := &model{levels: map[string]*big.Rat{}, at: map[string]time.Time{}, counts: map[string]int64{}, running: map[string]int64{}}
	shape := r.Uint32() // which limits there are
	terms := func(shape uint32) (t registry.Terms) {
		small := func() registry.Limit { return value(r.Int64N(1 << r.IntN(8))) }
		for bit, l := range []*registry.Limit{&t.RequestRate, &t.RequestBurst, &t.Concurrent, &t.QuotaDay, &t.QuotaMonth, &t.IssueRate} {
			if shape>>bit&1 == 1 {
				*l = small()
			}
		}
		if shape>>6&1 == 1 && t.RequestRate.State == registry.Value {
			t.RequestRate = value(r.Int64N(1e10))
		}
		return t
	}
	all := terms(shape >> 8)
	held := map[string]*directory.Client{}
	var open []Grant
	var who []*directory.Client
	for step := range 300 {
		id := string('a' + rune(r.IntN(3)))
		if r.IntN(20) == 0 { // a change: of the client's terms, of the organization's
			delete(held, id)
			if r.IntN(2) == 0 {
				all = terms(shape >> 8)
				clear(held)
			}
		}
		c := held[id]
		if c == nil {
			c = client(id, "o", terms(shape), all)
			held[id] = c
		}
		switch r.IntN(12) {
		case 0:
			w.now = w.now.Add(time.Duration(r.Int64N(1 << r.IntN(52))))
		case 1:
			y, mo, d := w.now.Date()
			w.now = time.Date(y, mo, d+1, 0, 0, 0, -r.IntN(2), time.UTC)
		case 2:
			w.now = w.now.Add(time.Duration(r.Int64N(1 << r.IntN(36))))
		case 3:
			w.sweep(w.now)
		case 4, 5:
			if len(open) > 0 {
				i := r.IntN(len(open))
				open[i].Release()
				m.running["client "+who[i].ID]--
				m.running["org o"]--
				open, who = append(open[:i], open[i+1:]...), append(who[:i], who[i+1:]...)
			}
		default:
			issuing := r.IntN(4) == 0
			ask := w.Take
			if issuing {
				ask = w.Issue
			}
			g, ok := ask(c, w.now)
			refused, wait := m.ask(c, issuing, w.now)
			if ok != (refused == "") || !ok && (g.Policy() != refused || g.resets != int64(wait)) {
				t.Errorf("step %d at %s, issuing %v: granted %v, by %q for %d; the model says %q for %d", step, w.now, issuing, ok, g.Policy(), g.resets, refused, wait)
				return false
			}
			if !ok && g.Refusal().Reason == answer.ConcurrencyLimited != (g.Policy() == "client-concurrent" || g.Policy() == "org-concurrent") {
				t.Errorf("step %d: %+v by %s", step, g.Refusal(), g.Policy())
				return false
			}
			if ok && !issuing {
				open, who = append(open, g), append(who, c)
			}
		}
	}
	return true
}

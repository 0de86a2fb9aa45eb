//go:build unix

package limiter

import (
	"crypto/rand"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/directory"
	"postern/registry"
	"postern/secret"
)

// replica is one of several limiters on one Redis, by the real clock.
type replica struct {
	*Limiter
	logs *logs
}

func newReplicas(t *testing.T, n int, redis string, change ...func(*Options)) []*replica {
	t.Helper()
	all := make([]*replica, n)
	for i := range all {
		r := &replica{logs: &logs{}}
		o := Options{Now: time.Now, Random: rand.Reader, Log: slog.New(slog.NewTextHandler(r.logs, nil)), Redis: secret.Secret(redis), Replicas: n}
		for _, f := range change {
			f(&o)
		}
		l, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if !closed(l) {
				l.Close()
			}
		})
		r.Limiter = l
		all[i] = r
	}
	return all
}

// closed reports whether l was closed by the test itself.
func closed(l *Limiter) bool { return l.stop == nil }

func (r *replica) close() {
	r.Close()
	r.stop = nil
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !f(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

// together waits until each replica counts so many and shares with them.
func together(t *testing.T, all []*replica, n int64) {
	t.Helper()
	for _, r := range all {
		eventually(t, "all replicas are counted", func() bool { return r.share.fresh() && r.replicas.Load() == n })
	}
}

// demand asks each replica for so many requests a second, evenly, that each take as long as
// hold, and returns how many were granted at each.
func demand(all []*replica, c func() *directory.Client, perSecond []int, hold, length time.Duration) []int64 {
	granted := make([]int64, len(all))
	var group sync.WaitGroup
	for i, r := range all {
		group.Go(func() {
			began, asked := time.Now(), 0
			mine := c()
			for {
				now := time.Now()
				if now.Sub(began) >= length {
					return
				}
				for ; asked < int(now.Sub(began).Seconds()*float64(perSecond[i])); asked++ {
					g, ok := r.Take(mine, time.Now())
					if !ok {
						continue
					}
					granted[i]++
					if hold == 0 {
						g.Release()
					} else {
						group.Go(func() { time.Sleep(hold); g.Release() })
					}
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	group.Wait()
	return granted
}

func sum(all []int64) (n int64) {
	for _, one := range all {
		n += one
	}
	return n
}

// bound is what the documentation says: what all replicas may let through in so long.
func bound(rate, burst, n float64, length time.Duration) int64 {
	i := 2 * every.Seconds()
	return int64(burst + rate*length.Seconds() + (2-1/n)*(burst+rate*i))
}

// of is the client of an organization with limits of its own.
func of(id string, all registry.Terms) func() *directory.Client {
	return func() *directory.Client { return client(id, "o", registry.Terms{}, all) }
}

// Three replicas with uneven demand, that shifts, let through the organization's rate: not
// more than is said, and most of it.
func TestRateIsShared(t *testing.T) {
	r := startRedis(t)
	all := newReplicas(t, 3, r.url())
	together(t, all, 3)
	const rate, burst = 200, 50
	c := of("a", registry.Terms{RequestRate: value(rate), RequestBurst: value(burst)})
	const length = 3 * time.Second
	one := demand(all, c, []int{600, 150, 20}, 0, length)
	two := demand(all, c, []int{10, 100, 500}, 0, length)
	total, most := sum(one)+sum(two), bound(rate, burst, 3, 2*length)
	t.Logf("granted %v, then %v: %d; the limit says %d, at most %d are documented", one, two, total, int64(burst+rate*2*length.Seconds()), most)
	if total > most {
		t.Errorf("%d granted, at most %d are documented", total, most)
	}
	if least := int64(rate * 2 * length.Seconds() * 0.8); total < least {
		t.Errorf("%d granted, want %d at least", total, least)
	}
	if one[0] < one[1] || two[2] < two[1] || one[2] == 0 || two[0] == 0 {
		t.Errorf("%v, then %v granted: not by demand", one, two)
	}
}

// Three replicas have one quota, and all of it is used.
func TestQuotaIsShared(t *testing.T) {
	r := startRedis(t)
	all := newReplicas(t, 3, r.url(), func(o *Options) { o.Replicas = 1 })
	together(t, all, 3)
	const quota = 1000
	c := of("a", registry.Terms{QuotaDay: value(quota), QuotaMonth: value(quota + 500)})
	granted := demand(all, c, []int{900, 200, 20}, 0, 2*time.Second)
	t.Logf("granted %v: %d of %d", granted, sum(granted), quota)
	if n := sum(granted); n < quota*98/100 || n > quota*102/100 {
		t.Errorf("%d granted of a quota of %d", n, quota)
	}
	// Wherever one asks, it is over; and a replica that comes new knows it soon.
	granted = demand(newReplicas(t, 1, r.url()), c, []int{100}, 0, time.Second)
	t.Logf("a new replica granted %d", granted[0])
	if granted[0] > quota/3 {
		t.Errorf("a new replica granted %d", granted[0])
	}
}

// Three replicas have one limit on requests at once.
func TestConcurrentIsShared(t *testing.T) {
	r := startRedis(t)
	all := newReplicas(t, 3, r.url())
	together(t, all, 3)
	const limit = 12
	c := of("a", registry.Terms{Concurrent: value(limit)})
	var running, peak atomic.Int64
	var group sync.WaitGroup
	for i, r := range all {
		for range []int{20, 5, 2}[i] {
			group.Go(func() {
				mine := c()
				for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
					g, ok := r.Take(mine, time.Now())
					if !ok {
						time.Sleep(10 * time.Millisecond)
						continue
					}
					n := running.Add(1)
					for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
					}
					time.Sleep(30 * time.Millisecond)
					running.Add(-1)
					g.Release()
				}
			})
		}
	}
	group.Wait()
	t.Logf("%d at once, of %d", peak.Load(), limit)
	if n := peak.Load(); n > limit+2*4 || n < limit/2 {
		t.Errorf("%d at once, of %d", n, limit)
	}
}

// What was known of replicas that are gone is of no use on another day.
func TestReplicasThatAreGoneAreForgotten(t *testing.T) {
	s := &share{peers: map[string]*peer{"here": {since: int64(time.Hour)}, "gone": {}}}
	v := &view{known: map[string]*known{}}
	all := map[string]*state{"here": {requests: 1}, "gone": {requests: 1}}
	s.compare(v, 1, all, &outcome{}, int64(time.Hour))
	if len(v.known) != 2 {
		t.Errorf("%d are known", len(v.known))
	}
	s.compare(v, 2, nil, &outcome{}, int64(time.Hour))
	if k := v.known["here"]; len(v.known) != 1 || k == nil || k.requests != 0 {
		t.Errorf("then %d are known: %v", len(v.known), k)
	}
}

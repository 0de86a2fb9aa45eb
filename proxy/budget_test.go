package proxy

import (
	"sync"
	"sync/atomic"
	"testing"
)

func TestRetryBudget(t *testing.T) {
	f := func(name string, b *budget, now int64, requests, asked, want int) {
		t.Helper()
		for range requests {
			b.request(now)
		}
		got := 0
		for range asked {
			if b.retry(now) {
				got++
			}
		}
		if got != want {
			t.Errorf("%s: %d retries of %d, not %d", name, got, asked, want)
		}
	}
	const now = 1_000_000
	f("none is allowed", &budget{}, now, 100, 10, 0)
	b := &budget{percent: 20}
	f("few requests", b, now, 1, 10, 3)
	f("the floor is for 10 s", b, now+9, 0, 10, 0)
	f("which are over", b, now+10, 0, 10, 3)
	b = &budget{percent: 20}
	f("a fifth", b, now, 1000, 1000, 200)
	f("more requests, more retries", b, now+1, 500, 1000, 100)
	f("no more", b, now+9, 0, 10, 0)
	f("the first second is forgotten: 500 requests and 100 retries are left", b, now+10, 0, 100, 0)
	f("both are", b, now+11, 0, 10, 3)
	f("after a long time", b, now+1000, 100, 100, 20)
	f("the clock goes back", b, now, 0, 10, 0)
}

func TestRetryBudgetAtOnce(t *testing.T) {
	b := &budget{percent: 10}
	for range 1000 {
		b.request(7)
	}
	var group sync.WaitGroup
	var got atomic.Int64
	for range 8 {
		group.Go(func() {
			for range 100 {
				b.request(7)
				if b.retry(7) {
					got.Add(1)
				}
			}
		})
	}
	group.Wait()
	if n := got.Load(); n < 100 || n > 180 {
		t.Errorf("%d retries", n)
	}
}

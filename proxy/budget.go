package proxy

import (
	"sync"
	"sync/atomic"
)

const (
	budgetSeconds = 10
	budgetFloor   = 3 // retries that are allowed in that time whatever the number of requests
)

// budget bounds retries to a share of the requests of the last 10 s, so that an upstream
// in trouble is not asked for everything twice.
type budget struct {
	percent int // 0: no retries

	seconds [budgetSeconds]budgetSecond // a ring

	mu sync.Mutex // retries are rare: they count one after the other, and so exactly
}

// budgetSecond counts within one second of the clock.
type budgetSecond struct {
	second   atomic.Int64
	requests atomic.Int64
	retries  atomic.Int64
}

// at returns the counters of the second. What counts at the very moment in which they
// are taken over from an older second may be lost: that is a few at most.
func (b *budget) at(second int64) *budgetSecond {
	s := &b.seconds[uint64(second)%budgetSeconds]
	if old := s.second.Load(); old != second && s.second.CompareAndSwap(old, second) {
		s.requests.Store(0)
		s.retries.Store(0)
	}
	return s
}

func (b *budget) request(now int64) { b.at(now).requests.Add(1) }

func (b *budget) retry(now int64) bool {
	if b.percent <= 0 {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var requests, retries int64
	for i := range b.seconds {
		if s := &b.seconds[i]; now-s.second.Load() < budgetSeconds {
			requests += s.requests.Load()
			retries += s.retries.Load()
		}
	}
	if retries >= max(budgetFloor, requests*int64(b.percent)/100) {
		return false
	}
	b.at(now).retries.Add(1)
	return true
}

package limiter

import (
	"math"
	"math/bits"
	"time"
)

// whole is the share of a replica that has a limit for itself: shares are in 2^-20.
const (
	shareBits = 20
	whole     = 1 << shareBits
)

// never is said where a limit of 0 allows nothing: only a change of terms helps, and
// nobody knows when that comes.
const never = int64(time.Hour)

// backwards is how far the clock may go back before it counts as set back. Requests bring
// the time that they took somewhat earlier, so a little is usual and gives nothing.
const backwards = int64(time.Second)

// Bounds of a flow, far above what a machine can do, so that products fit: a rate times a
// share 63 bits, a bucket 62.
const (
	maxRate  = 1 << 43
	maxUnits = 1 << 62
)

// flow is a rate with its burst: rate requests in per nanoseconds, burst at once.
type flow struct {
	limited     bool
	rate, burst uint64
	per         uint64 // a request is so many units, and a bucket leaks rate units in a nanosecond
	size        uint64 // of the bucket: burst, in units
}

func newFlow(rate, burst, per uint64) flow {
	f := flow{limited: true, rate: min(rate, maxRate), burst: burst, per: per}
	f.size = saturated(burst, per)
	return f
}

// part is the size of the bucket of a replica with that share: one request fits at least,
// or a small limit would be none for everybody.
func (f *flow) part(share uint32) uint64 {
	hi, lo := bits.Mul64(f.size, uint64(share))
	return max(min(f.per, f.size), hi<<(64-shareBits)|lo>>shareBits)
}

// admits is how many requests fit an empty bucket of a replica with that share.
func (f *flow) admits(share uint32) int64 { return int64(f.part(share) / f.per) }

// wait is how long a bucket takes to lose units, rounded up.
func (f *flow) wait(units uint64, share uint32) int64 {
	speed := f.rate * uint64(share)
	if speed == 0 {
		return never
	}
	hi, lo := units>>(64-shareBits), units<<shareBits
	if hi >= speed {
		return math.MaxInt64
	}
	ns, rest := bits.Div64(hi, lo, speed)
	if rest > 0 {
		ns++
	}
	return int64(min(ns, math.MaxInt64))
}

// saturated is a*b, or maxUnits where that is less.
func saturated(a, b uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi != 0 {
		return maxUnits
	}
	return min(lo, maxUnits)
}

// bucket is the state of GCRA kept as a level: what was spent and has not leaked out yet.
// A level means the same under every rate, where GCRA's theoretical arrival time would
// turn into another number of requests when the terms change.
type bucket struct {
	level uint64 // units
	at    int64  // nanoseconds; up to when it has leaked
	rest  uint64 // 2^-20 of a unit that have leaked beyond level
}

// leak brings b to t with that share of the flow.
func (b *bucket) leak(t int64, f *flow, share uint32) {
	elapsed := t - b.at
	if elapsed <= 0 {
		if elapsed < -backwards {
			b.at = t // set back: what was spent stays, and leaks from here on
		}
		return
	}
	b.at = t
	if b.level == 0 {
		return
	}
	hi, lo := bits.Mul64(uint64(elapsed), f.rate*uint64(share))
	lo, carry := bits.Add64(lo, b.rest, 0)
	hi += carry
	leaked := hi<<(64-shareBits) | lo>>shareBits
	if hi>>shareBits != 0 || leaked >= b.level {
		b.level, b.rest = 0, 0
		return
	}
	b.level -= leaked
	b.rest = lo & (whole - 1)
}

// meter is what one account spent of one flow.
type meter struct {
	all bucket // by every replica, as far as known
	own bucket // by this one, where it has only a share
}

// check says whether one more fits at t: how many, and else how long to wait.
func (m *meter) check(t int64, f *flow, share uint32) (left uint64, wait int64) {
	if f.rate == 0 || f.burst == 0 {
		return 0, never
	}
	m.all.leak(t, f, whole)
	left, wait = m.all.room(f, f.size, whole)
	if share < whole {
		m.own.leak(t, f, share)
		ownLeft, ownWait := m.own.room(f, f.part(share), share)
		left, wait = min(left, ownLeft), max(wait, ownWait)
	}
	return left, wait
}

func (b *bucket) room(f *flow, size uint64, share uint32) (left uint64, wait int64) {
	if b.level+f.per <= size {
		return (size - b.level) / f.per, 0
	}
	return 0, max(1, f.wait(b.level+f.per-size, share))
}

// spend takes one, after check has said that it fits.
func (m *meter) spend(f *flow, share uint32) {
	m.all.level += f.per
	if share < whole {
		m.own.level += f.per
	}
}

// add takes in what other replicas spent, most of it in the last moments, and what they
// spent earlier as if it had leaked for so long. A second's worth is the most that stays as
// a debt.
func (m *meter) add(requests uint64, earlier time.Duration, t int64, f *flow) {
	m.all.leak(t, f, whole)
	units := saturated(requests, f.per)
	units -= min(units, saturated(f.rate, uint64(earlier)))
	debt := f.size + saturated(f.rate, uint64(time.Second))
	m.all.level = max(m.all.level, min(m.all.level+units, debt))
}

// empty reports whether nothing is left at t of what was spent. Under a rate of 0 nothing
// ever leaks and nothing is granted: there is nothing to remember.
func (m *meter) empty(t int64, f *flow) bool {
	m.all.leak(t, f, whole)
	return !f.limited || f.rate == 0 || m.all.level == 0
}

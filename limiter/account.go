package limiter

import (
	"math/bits"
	"sync"
	"time"
)

// organization is an organization's account with the lock of all accounts of its clients.
// The lock is held for arithmetic alone: no allocation, no log line, no I/O, no other lock
// inside.
type organization struct {
	mu sync.Mutex
	account
	clients int // accounts that lead here; under the limiter's lock
}

// account is what one client, or one organization, spent. All but id, home and whose is
// under the home's lock.
type account struct {
	id    string
	home  *organization
	whose policy // 0 or organizations

	terms    *allowance // the latest; decides what may be forgotten
	requests meter
	issues   meter
	running  int64
	peak     int64 // of running, since the last report
	day      quota
	month    quota
	used     int64 // when something was last asked
	gone     bool  // forgotten: resolve anew

	sharing // with other replicas
}

// sharing is what an account knows of the other replicas.
type sharing struct {
	learned                    int64 // when shares were set; 0: never
	requestShare, issueShare   uint32
	first                      bool  // this replica gets what is left over by rounding
	othersRunning, runningMark int64 // at most since the report before, at others and here, when learned
	asked, askedIssues         int64 // since the last report, refused ones too
	issued                     int64 // access tokens, by this process, in a day
	issuedIn                   int32
	queued                     bool  // the next report has it
	followed                   int32 // the day until which the month has what others spent, and
	followedBase               int64 // what it has of that day
	next                       *account
}

// moment is when something is asked.
type moment struct {
	*calendar
	t   int64     // nanoseconds of the limiter's clock, which is not set back where now has a monotonic reading
	now time.Time // wall clock
}

// portion is what this replica may take of an account's limits.
type portion struct {
	requests, issues uint32
	replicas         int64 // the shares are equal ones of so many; 0: they follow demand
	fixed            bool  // there is no Redis that could change them
}

// part is the portion's part of n that are left, rounded so that the replicas' parts
// together are n; equal ones are rounded up, for nobody knows of the others.
func (a *account) part(n int64, p portion) int64 {
	if n <= 0 || p.requests >= whole {
		return n
	}
	if p.replicas > 0 {
		return (n-1)/p.replicas + 1
	}
	hi, lo := bits.Mul64(uint64(n), uint64(p.requests))
	k := int64(hi<<(64-shareBits) | lo>>shareBits)
	if a.first && k < n {
		k++
	}
	return k
}

// verdict gathers what the limits say. The longest wait is the refusal's, the smallest
// number left is what the client is told.
type verdict struct {
	wait    int64 // 0: granted
	refused policy
	any     bool // a limit applies
	tight   policy
	left    int64
	resets  int64 // nanoseconds until more is left; unless there is a meter to compute it from
	meter   *meter
	flow    *flow
}

func (v *verdict) refuse(p policy, wait int64) {
	if wait > v.wait {
		v.wait, v.refused = wait, p
	}
}

func (v *verdict) leaves(p policy, left int64) bool {
	if v.any && left >= v.left {
		return false
	}
	v.any, v.tight, v.left, v.meter, v.resets = true, p, left, nil, 0
	return true
}

// check asks the limits on requests of a; nothing is spent yet.
func (a *account) check(v *verdict, allowed *allowance, p portion, at *moment, loaded bool) {
	if allowed.requests.limited {
		v.flowed(a.whose+rate, &a.requests, at.t, &allowed.requests, p.requests)
	}
	if allowed.concurrent != none {
		a.checkRunning(v, allowed.concurrent, p)
	}
	if allowed.day != none {
		a.checkQuota(v, a.whose+day, a.day.in(at.day), allowed.day, p, at, at.ends, loaded)
	}
	if allowed.month != none {
		a.checkQuota(v, a.whose+month, a.month.in(at.month), allowed.month, p, at, at.turnsAt, loaded)
	}
}

// flowed asks a rate.
func (v *verdict) flowed(p policy, m *meter, t int64, f *flow, share uint32) {
	left, wait := m.check(t, f, share)
	if wait > 0 {
		v.refuse(p, wait)
	} else if v.leaves(p, int64(left)-1) {
		v.meter, v.flow = m, f
	}
}

func (a *account) checkRunning(v *verdict, limit int64, p portion) {
	most := limit
	switch {
	case p.replicas > 0:
		most = a.part(limit, p)
	case p.requests < whole || a.othersRunning > 0:
		most = a.runningMark + a.part(limit-a.othersRunning-a.runningMark, p)
	}
	switch {
	case a.running < most:
		v.leaves(a.whose+concurrent, most-a.running-1)
	case limit == 0:
		v.refuse(a.whose+concurrent, never)
	default:
		v.refuse(a.whose+concurrent, int64(time.Second))
	}
}

// unloaded is the part of a quota that may be spent while nobody knows what was spent
// before: one in so many.
const unloaded = 100

func (a *account) checkQuota(v *verdict, policy policy, s *spent, limit int64, p portion, at *moment, ends int64, loaded bool) {
	left := limit - s.total()
	mine := left
	if p.requests < whole {
		known := limit - s.base - s.mark
		if p.replicas == 0 {
			known = (known + 1) / 2 // the others still count on what was spent since they heard
		}
		mine = a.part(known, p) - (s.own - s.mark)
	}
	until := time.Unix(ends, 0).Sub(at.now)
	switch {
	case left <= 0:
		v.refuse(policy, int64(until))
	case mine <= 0 && p.fixed:
		v.refuse(policy, int64(until)) // the rest is the others'
	case mine <= 0:
		v.refuse(policy, int64(time.Second))
	case !loaded && s.own >= (limit-1)/unloaded+1:
		v.refuse(policy, int64(loadAgain))
	default:
		if v.leaves(policy, left-1) {
			v.resets = int64(until)
		}
	}
}

// spend takes one request of the rate.
func (a *account) spend(allowed *allowance, p portion) {
	if allowed.requests.limited {
		a.requests.spend(&allowed.requests, p.requests)
	}
}

// count counts a request that is let through.
func (a *account) count(at *moment) {
	a.running++
	a.peak = max(a.peak, a.running)
	a.day.in(at.day).own++
	a.month.in(at.month).own++
}

// issue counts an access token, for the other replicas.
func (a *account) issue(day int32) {
	if a.issuedIn != day {
		a.issuedIn, a.issued = day, 0
	}
	a.issued++
}

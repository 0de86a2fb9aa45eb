package limiter

import (
	"strconv"

	"postern/answer"
	"postern/registry"
)

// policy names a limit: what, and whose. It is a closed set: fields, metric labels.
type policy uint8

// The policies of a client; those of an organization are so many further on.
const (
	rate policy = iota
	concurrent
	day
	month
	issue
	organizations
	policies = 2 * organizations
)

// names says how RateLimit fields, metrics and Explain call each policy.
var names = [policies]string{
	"client-rate", "client-concurrent", "client-day", "client-month", "client-issue",
	"org-rate", "org-concurrent", "org-day", "org-month", "org-issue",
}

func (p policy) String() string { return names[p] }

// of is p without whose it is.
func (p policy) of() policy { return p % organizations }

func (p policy) reason() answer.Reason {
	switch p.of() {
	case concurrent:
		return answer.ConcurrencyLimited
	case day, month:
		return answer.QuotaExceeded
	}
	return answer.RateLimited
}

// none is the value of a limit that is not set.
const none = -1

// allowance is what Terms allow, in the shape that a request needs.
type allowance struct {
	requests, issues       flow
	concurrent, day, month int64 // or none
}

func allow(t registry.Terms) *allowance {
	a := &allowance{concurrent: number(t.Concurrent), day: number(t.QuotaDay), month: number(t.QuotaMonth)}
	if r := number(t.RequestRate); r != none && t.RequestBurst.State != registry.Unlimited {
		burst := number(t.RequestBurst)
		if burst == none { // one second's worth; rate 0 allows nothing all the same
			burst = max(1, r)
		}
		a.requests = newFlow(uint64(r), uint64(burst), 1e9)
	}
	if r := number(t.IssueRate); r != none {
		a.issues = newFlow(uint64(r), uint64(r), 60e9)
	}
	return a
}

func number(l registry.Limit) int64 {
	if l.State != registry.Value {
		return none
	}
	return max(0, l.Value)
}

// limited reports whether there is any limit, so that there is something to share.
func (a *allowance) limited() bool {
	return a.requests.limited || a.issues.limited || a.concurrent != none || a.quotas()
}

func (a *allowance) quotas() bool { return a.day != none || a.month != none }

// largest is the largest Integer of a structured field (RFC 9651 §3.3.1).
const largest = 999_999_999_999_999

// appendPolicies appends the items of RateLimit-Policy for requests, or for issuing, to dst
// (draft-ietf-httpapi-ratelimit-headers-10 §3): q requests in w seconds. A calendar month
// has no fixed length, so it has no window here; and requests at once have a unit instead.
func (a *allowance) appendPolicies(dst []byte, whose policy, issuing bool) []byte {
	item := func(p policy, q uint64) {
		if len(dst) > 0 {
			dst = append(dst, ", "...)
		}
		dst = append(dst, '"')
		dst = append(dst, names[whose+p]...)
		dst = append(dst, `";q=`...)
		dst = strconv.AppendUint(dst, min(q, largest), 10)
	}
	window := func(seconds uint64) {
		dst = append(dst, ";w="...)
		dst = strconv.AppendUint(dst, seconds, 10)
	}
	if issuing {
		if a.issues.limited {
			item(issue, a.issues.burst)
			window(60)
		}
		return dst
	}
	if f := a.requests; f.limited {
		// The window in which the burst comes back; a second at least, the field's unit.
		q, w := f.burst, uint64(1)
		if f.rate == 0 {
			q = 0
		} else if q = max(q, f.rate); q > f.rate {
			w = (q-1)/f.rate + 1
		}
		item(rate, q)
		window(min(w, largest))
	}
	if a.concurrent != none {
		item(concurrent, uint64(a.concurrent))
		dst = append(dst, `;qu="concurrent-requests"`...)
	}
	if a.day != none {
		item(day, uint64(a.day))
		window(86400)
	}
	if a.month != none {
		item(month, uint64(a.month))
	}
	return dst
}

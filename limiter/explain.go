package limiter

import (
	"time"

	"postern/answer"
	"postern/directory"
)

// Standing is one limit, the part of it that this replica judges by, and what is left.
type Standing struct {
	Policy string        // "client-rate", "org-day", …: whose and what
	Reason answer.Reason // of a refusal
	Limit  int64         // requests; of a rate: a second, or access tokens a minute
	Burst  int64         // of a rate
	// Replicas have an equal part each, and no way to hear of each other; 1: this one has it whole.
	Replicas  int64
	Part      float64       // of Limit
	PartBurst int64         // of Burst
	Left      int64         // what may still be spent now, here
	Wait      time.Duration // until one more would be granted; 0: now
	Resets    time.Duration // until all of it is back; 0: it is, or nobody knows
}

// Explain says how each limit of c stands at now. It spends nothing.
func (l *Limiter) Explain(c *directory.Client, now time.Time) []Standing {
	at, loaded := l.at(now), l.loaded.Load()
	all := make([]Standing, 0, policies) // before the lock
	b := l.lock(c)
	defer b.client.home.mu.Unlock()
	for _, one := range []struct {
		*account
		*allowance
	}{{b.client, b.own}, {&b.client.home.account, b.all}} {
		p := l.portion(one.account, at.t)
		all = one.stand(all, one.allowance, p, &at, loaded)
	}
	return all
}

// stand is check, one limit at a time, appended to all.
func (a *account) stand(all []Standing, allowed *allowance, p portion, at *moment, loaded bool) []Standing {
	add := func(policy policy, limit, burst int64, only allowance) {
		var v verdict
		if policy == issue {
			v.flowed(a.whose+issue, &a.issues, at.t, &only.issues, p.issues)
		} else {
			a.check(&v, &only, p, at, loaded)
		}
		s := Standing{Policy: names[a.whose+policy], Reason: policy.reason(), Limit: limit, Burst: burst, Wait: time.Duration(v.wait), Resets: time.Duration(v.resets)}
		s.Replicas = max(1, p.replicas)
		switch {
		case s.Replicas == 1:
			s.Part, s.PartBurst = float64(limit), burst
		case policy == rate:
			s.Part, s.PartBurst = float64(limit)/float64(s.Replicas), only.requests.admits(p.requests)
		case policy == issue:
			s.Part, s.PartBurst = float64(limit)/float64(s.Replicas), only.issues.admits(p.issues)
		default:
			s.Part = float64(a.part(limit, p))
		}
		if v.wait == 0 {
			s.Left = v.left + 1 // as long as nobody takes it
		}
		if v.meter != nil {
			s.Resets = time.Duration(v.flow.wait(v.meter.all.level, whole))
		}
		all = append(all, s)
	}
	nothing := allowance{concurrent: none, day: none, month: none}
	if f := allowed.requests; f.limited {
		only := nothing
		only.requests = f
		add(rate, int64(f.rate), int64(f.burst), only)
	}
	if allowed.concurrent != none {
		only := nothing
		only.concurrent = allowed.concurrent
		add(concurrent, allowed.concurrent, 0, only)
	}
	if allowed.day != none {
		only := nothing
		only.day = allowed.day
		add(day, allowed.day, 0, only)
	}
	if allowed.month != none {
		only := nothing
		only.month = allowed.month
		add(month, allowed.month, 0, only)
	}
	if f := allowed.issues; f.limited {
		only := nothing
		only.issues = f
		add(issue, int64(f.rate), int64(f.burst), only)
	}
	return all
}

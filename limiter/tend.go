package limiter

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"postern/registry"
)

const (
	loadPatience = 5 * time.Second  // with the store, at the start
	readPatience = time.Minute      // with the store later: a month of many busy clients takes it some seconds
	loadAgain    = 5 * time.Second  // until the next look, when one failed
	sweepEvery   = time.Minute      // looks for accounts to drop
	idle         = 10 * time.Minute // an account is not dropped before
)

// load reads what was spent in this day and month and adds it to what was spent here since.
// What the store has of that by now is counted twice; while nothing was loaded that is a
// hundredth of a quota at most.
func (l *Limiter) load(ctx context.Context) error {
	if l.options.Spent == nil {
		l.loaded.Store(true)
		return nil
	}
	at := l.at(l.options.Now())
	day := time.Unix(at.begins, 0).UTC()
	month := time.Date(day.Year(), day.Month(), 1, 0, 0, 0, 0, time.UTC)
	found := map[name]kept{}
	add := func(n name, inDay, inMonth int64) {
		k := found[n]
		k.day, k.month = k.day+inDay, k.month+inMonth
		k.dayWindow, k.monthWindow, k.followed, k.followedBase = at.calendar.day, at.calendar.month, at.calendar.day, k.day
		found[n] = k
	}
	err := l.options.Spent(ctx, registry.At(day), registry.At(month), func(clientID, organizationID string, inDay, inMonth int64) {
		add(name{0, clientID}, inDay, inMonth)
		add(name{organizations, organizationID}, inDay, inMonth)
	})
	if err != nil {
		return fmt.Errorf("read what was spent: %w", err)
	}
	for n, k := range found { // one at a time: requests must not wait for all of them
		l.mu.Lock()
		if a := l.account(n); a != nil {
			a.home.mu.Lock()
			a.begin(k)
			a.home.mu.Unlock()
		} else {
			l.kept[n] = k.plus(l.kept[n])
		}
		l.mu.Unlock()
	}
	l.loadedOn.Store(at.calendar.day)
	l.loaded.Store(true)
	return nil
}

// account finds what is held under the name; nil when nothing is. Under l.mu.
func (l *Limiter) account(n name) *account {
	if n.whose == organizations {
		if o := l.organizations[n.id]; o != nil {
			return &o.account
		}
		return nil
	}
	return l.clients[n.id]
}

// plus adds what is of the same windows.
func (k kept) plus(other kept) kept {
	if other.dayWindow == k.dayWindow {
		k.day += other.day
	}
	if other.monthWindow == k.monthWindow {
		k.month += other.month
	}
	return k
}

// begin takes in what the store knows. Other replicas may have told more of the day already.
func (a *account) begin(k kept) {
	news := a.day.in(k.dayWindow).learn(k.day)
	s := a.month.in(k.monthWindow)
	// Of this day whatever is known by now, of the days before what the store knows.
	today := a.day.in(k.dayWindow).base
	s.base = max(s.base+news, k.month-k.day+today)
	s.mark = s.own
	a.followed, a.followedBase = k.dayWindow, today
}

// restore takes back what was kept. Under the limiter's lock; a is not in use yet.
func (a *account) restore(all map[name]kept, at moment) {
	n := name{a.whose, a.id}
	k, ok := all[n]
	if !ok {
		return
	}
	delete(all, n)
	a.followed, a.followedBase = k.followed, k.followedBase
	if k.dayWindow == at.calendar.day {
		a.day.in(k.dayWindow).base = k.day
	}
	if k.monthWindow == at.calendar.month {
		a.month.in(k.monthWindow).base = k.month
	}
}

// forget drops a's account and keeps what quotas need. Under the limiter's lock.
func (l *Limiter) forget(a *account, at moment) {
	a.home.mu.Lock()
	a.gone = true
	k := kept{
		dayWindow: at.calendar.day, day: a.day.in(at.calendar.day).total(),
		monthWindow: at.calendar.month, month: a.month.in(at.calendar.month).total(),
		followed: a.followed, followedBase: a.followedBase,
	}
	a.home.mu.Unlock()
	if k.day > 0 || k.month > 0 {
		l.kept[name{a.whose, a.id}] = k
	}
	if a.whose == organizations {
		delete(l.organizations, a.id)
		return
	}
	a.home.clients--
	delete(l.clients, a.id)
}

// tend drops idle accounts, and loads what could not be loaded, until ctx ends.
func (l *Limiter) tend(ctx context.Context) {
	wait := sweepEvery
	swept := l.epoch
	for {
		if !l.loaded.Load() {
			wait = loadAgain
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if !l.loaded.Load() {
			look, cancel := context.WithTimeout(ctx, readPatience)
			if err := l.load(look); err == nil {
				l.options.Log.Info("read what was spent; quotas are whole again")
			}
			cancel()
		}
		if now := l.options.Now(); now.Sub(swept).Abs() >= sweepEvery {
			l.sweep(now)
			swept = now
		}
		wait = sweepEvery
	}
}

// sweep drops the accounts that nothing would be different without.
func (l *Limiter) sweep(now time.Time) {
	at := l.at(now)
	l.mu.Lock()
	clients := slices.Collect(maps.Values(l.clients))
	l.mu.Unlock()
	// One at a time: requests must not wait for all of them.
	for _, a := range clients {
		l.mu.Lock()
		if l.clients[a.id] == a && l.droppable(a, at) {
			l.forget(a, at)
		}
		l.mu.Unlock()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.organizations {
		if o.clients == 0 && l.droppable(&o.account, at) {
			l.forget(&o.account, at)
		}
	}
	for n, k := range l.kept {
		if k.monthWindow < at.calendar.month && k.dayWindow < at.calendar.day {
			delete(l.kept, n)
		}
	}
}

// droppable reports whether a new account would be the same as a but for its quotas.
func (l *Limiter) droppable(a *account, at moment) bool {
	a.home.mu.Lock()
	defer a.home.mu.Unlock()
	if a.running > 0 || a.queued || at.t-a.used < int64(idle) {
		return false
	}
	// Other replicas know this process' part of the day by its own count, which must not
	// begin again at zero.
	if l.share != nil && a.terms.quotas() && a.day.in(at.calendar.day).own > 0 {
		return false
	}
	return a.requests.empty(at.t, &a.terms.requests) && a.issues.empty(at.t, &a.terms.issues)
}

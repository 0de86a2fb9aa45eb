package limiter

import (
	"context"
	"crypto/x509"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"postern/directory"
	"postern/registry"
	"postern/secret"
)

// Options of a limiter.
type Options struct {
	Now    func() time.Time
	Random io.Reader // for the name of this replica
	Log    *slog.Logger
	// Replicas is how many share the limits as long as they were not counted in Redis; 1.
	Replicas int
	// Redis is redis://[user:password@]host:port[/db], or rediss:// for TLS; "": this
	// process has the limits for itself, or its equal part of them.
	Redis secret.Secret
	Roots *x509.CertPool // that rediss:// trusts; nil: the machine's
	// Spent calls use with the requests of each client that were let through since the
	// beginning of a UTC day, and since that of its month, as the store knows them. It may
	// block until ctx ends. nil: there were none.
	Spent func(ctx context.Context, day, month registry.Time, use func(clientID, organizationID string, inDay, inMonth int64)) error
}

// Limiter is safe for concurrent use. Close it to stop its goroutines.
type Limiter struct {
	options Options
	epoch   time.Time // of its clock
	today   atomic.Pointer[calendar]
	loaded  atomic.Bool // what was spent before is known
	// loadedOn is the day of that; 0: never, or nobody could say.
	loadedOn atomic.Int32
	metrics  *metrics

	share    *share // with other replicas through Redis; nil: there is none
	replicas atomic.Int64

	mu            sync.Mutex // held for map work only; before an organization's
	organizations map[string]*organization
	clients       map[string]*account
	kept          map[name]kept // of accounts that were dropped, or not used since Open

	stop context.CancelFunc
	done sync.WaitGroup
}

// name is what an account is kept under.
type name struct {
	whose policy
	id    string
}

// kept is what stays of an account.
type kept struct {
	dayWindow, monthWindow, followed int32
	day, month, followedBase         int64
}

// binding is what the limiter resolved for one state of a client: a place on that state
// keeps it, so that the next request looks nothing up. Its own terms are there too: a
// request that began under the old ones must not bring them back.
type binding struct {
	client              *account
	own, all            *allowance // of the client; of its organization
	policy, issuePolicy []byte     // RateLimit-Policy
	// Whether there is anything to share with other replicas.
	ownLimited, allLimited bool
}

// Open reads what was spent and begins to share the limits. A store or a Redis that is
// away is no error: it is tried again until Close.
func Open(ctx context.Context, o Options) (*Limiter, error) {
	l := &Limiter{
		options: o, epoch: o.Now(), metrics: newMetrics(),
		organizations: map[string]*organization{}, clients: map[string]*account{}, kept: map[name]kept{},
	}
	l.today.Store(calendarOf(l.epoch))
	l.replicas.Store(int64(max(1, o.Replicas)))
	if o.Redis != "" {
		s, err := newShare(l)
		if err != nil {
			return nil, err
		}
		l.share = s
	}
	first, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	if err := l.load(first); err != nil {
		o.Log.Error("cannot read what was spent; a hundredth of each quota is let through until it can be", "error", err)
	}
	running, stop := context.WithCancel(context.Background())
	l.stop = stop
	l.done.Go(func() { l.tend(running) })
	if l.share != nil {
		l.done.Go(func() { l.share.run(running) })
	}
	return l, nil
}

// Close stops the limiter's goroutines and waits for them. The other replicas are told
// what was spent last, if they can be told at once.
func (l *Limiter) Close() {
	l.stop()
	l.done.Wait()
}

// Alone is what a process says at its start whose store others may use and that knows no
// Redis: how its limits are to be understood.
func Alone(replicas int) string {
	if replicas > 1 {
		return "limits are not shared: each replica lets through its equal part of every limit, and no more, however " +
			"the requests are spread; set redis to share them"
	}
	return "limits are not shared: this process holds every limit for itself, so that each further replica on this store lets " +
		"through as much again; set redis to share them, or say how many replicas there are"
}

// at is now in the terms of limits.
func (l *Limiter) at(now time.Time) moment {
	today := l.today.Load()
	if s := now.Unix(); s < today.begins || s >= today.ends {
		today = calendarOf(now)
		l.today.Store(today)
	}
	return moment{calendar: today, t: int64(now.Sub(l.epoch)), now: now}
}

// Take asks for one request of c: rate, requests at once and quotas, of the client and of
// its organization, all or nothing. Release the grant when the request is over.
//
// An agreement in shadow does not loosen its organization's own limits. They are asked first
// for such a client: only where they allow the request does a refusal come from its own, and
// then the caller lets it through, and it counts.
func (l *Limiter) Take(c *directory.Client, now time.Time) (Grant, bool) {
	at, loaded := l.at(now), l.loaded.Load()
	b := l.lock(c)
	a, o := b.client, b.client.home
	mine, theirs := l.portion(a, at.t), l.portion(&o.account, at.t)
	var v verdict
	shadow := c.Shadow()
	if !shadow {
		a.check(&v, b.own, mine, &at, loaded)
	}
	o.check(&v, b.all, theirs, &at, loaded)
	if shadow && v.wait == 0 {
		a.check(&v, b.own, mine, &at, loaded)
	}
	passes := v.wait == 0 || shadow && v.refused < organizations
	if passes {
		if v.wait == 0 {
			a.spend(b.own, mine)
		}
		o.spend(b.all, theirs)
		a.count(&at)
		o.count(&at)
	}
	a.used, o.used = at.t, at.t
	a.asked++
	o.asked++
	tellA, tellO := l.tells(a, b.ownLimited), l.tells(&o.account, b.allLimited)
	g := v.grant(b)
	o.mu.Unlock()
	l.tell(a, tellA)
	l.tell(&o.account, tellO)
	g.running = passes
	if g.refused {
		l.metrics.refused[g.policy].Inc()
	}
	return g, !g.refused
}

// Issue asks for one access token of c, likewise. Nothing need be released.
func (l *Limiter) Issue(c *directory.Client, now time.Time) (Grant, bool) {
	at := l.at(now)
	b := l.lock(c)
	a, o := b.client, b.client.home
	mine, theirs := l.portion(a, at.t).issues, l.portion(&o.account, at.t).issues
	var v verdict
	shadow := c.Shadow()
	if b.own.issues.limited && !shadow {
		v.flowed(issue, &a.issues, at.t, &b.own.issues, mine)
	}
	if b.all.issues.limited {
		v.flowed(organizations+issue, &o.issues, at.t, &b.all.issues, theirs)
	}
	if b.own.issues.limited && shadow && v.wait == 0 {
		v.flowed(issue, &a.issues, at.t, &b.own.issues, mine)
	}
	if v.wait == 0 {
		a.issues.spend(&b.own.issues, mine)
	}
	if v.wait == 0 || shadow && v.refused < organizations {
		o.issues.spend(&b.all.issues, theirs)
		a.issue(at.calendar.day)
		o.issue(at.calendar.day)
	}
	a.used, o.used = at.t, at.t
	a.askedIssues++
	o.askedIssues++
	tellA, tellO := l.tells(a, b.ownLimited), l.tells(&o.account, b.allLimited)
	g := v.grant(b)
	g.issuing = true
	o.mu.Unlock()
	l.tell(a, tellA)
	l.tell(&o.account, tellO)
	if g.refused {
		l.metrics.refused[g.policy].Inc()
	}
	return g, !g.refused
}

// grant is what is told of v. Called under the lock: a meter may have to be read.
func (v *verdict) grant(b *binding) Grant {
	g := Grant{on: b, any: v.any, policy: v.tight, left: v.left, resets: v.resets}
	if v.wait > 0 {
		g.refused, g.any, g.policy, g.left, g.resets = true, true, v.refused, 0, v.wait
	} else if v.meter != nil {
		g.resets = v.flow.wait(v.meter.all.level, whole)
	}
	return g
}

// lock returns the binding of c with its organization locked. The caller unlocks.
func (l *Limiter) lock(c *directory.Client) *binding {
	b, ok := c.Account.Load().(*binding)
	for {
		if ok {
			b.client.home.mu.Lock()
			if !b.client.gone {
				return b
			}
			b.client.home.mu.Unlock()
		}
		b, ok = l.resolve(c), true
	}
}

// resolve finds or makes the accounts of c and keeps them on it.
func (l *Limiter) resolve(c *directory.Client) *binding {
	own, all := allow(c.Terms), allow(c.OrganizationTerms)
	b := &binding{own: own, all: all, ownLimited: own.limited(), allLimited: all.limited()}
	if !c.Shadow() { // else its own are told to nobody
		b.policy, b.issuePolicy = own.appendPolicies(nil, 0, false), own.appendPolicies(nil, 0, true)
	}
	b.policy, b.issuePolicy = all.appendPolicies(b.policy, organizations, false), all.appendPolicies(b.issuePolicy, organizations, true)
	at := l.at(l.options.Now())

	l.mu.Lock()
	defer l.mu.Unlock()
	o := l.organizations[c.OrganizationID]
	if o == nil {
		o = &organization{account: account{id: c.OrganizationID, whose: organizations}}
		o.home = o
		o.restore(l.kept, at)
		l.organizations[o.id] = o
	}
	a := l.clients[c.ID]
	if a == nil || a.home != o {
		if a != nil { // it went to another organization
			l.forget(a, at)
		}
		a = &account{id: c.ID, home: o}
		a.restore(l.kept, at)
		o.clients++
		l.clients[a.id] = a
	}
	b.client = a
	o.mu.Lock()
	if !c.Dead() || a.terms == nil { // a state that was replaced says nothing about later
		a.terms, o.terms = own, all
	}
	a.used, o.used = at.t, at.t
	o.mu.Unlock()
	c.Account.Store(b)
	return b
}

// portion is what this replica may take of a's limits at t.
func (l *Limiter) portion(a *account, t int64) portion {
	if a.learned != 0 && t-a.learned < int64(trust) {
		return portion{requests: a.requestShare, issues: a.issueShare}
	}
	n := l.replicas.Load()
	if n <= 1 {
		return portion{requests: whole, issues: whole}
	}
	share := uint32(equal(n))
	return portion{requests: share, issues: share, replicas: n, fixed: l.share == nil}
}

// equal is the share of one of n replicas, rounded up.
func equal(n int64) uint64 {
	return (whole + uint64(n) - 1) / uint64(n)
}

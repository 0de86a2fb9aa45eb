package limiter

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

const (
	every = 250 * time.Millisecond // between reports
	soon  = 20 * time.Millisecond  // between reports, where an account was idle
	late  = time.Second            // patience with Redis, for one report
	trust = 2 * time.Second        // in what was learned
	gone  = 2 * time.Second        // without a sign: a replica is not counted any more
	clean = time.Minute            // without a sign: it is removed
	quiet = 2 * time.Second        // without a request: an account is told no more

	// All keys have one hash tag: one node of a cluster has them.
	keyPrefix = "{postern:limits}:"
	present   = keyPrefix + "replicas"

	// How long keys stay, in seconds: of a day, longer than clocks differ; where there is a
	// quota for the month, a month.
	keepDay, keepMonth = 2 * 24 * 3600, 33 * 24 * 3600

	batch = 256 // accounts in one pipeline
	hops  = 3   // from node to node of a cluster, at once
)

// share is the part of a limiter that talks to Redis. All but heard, head and wake belongs
// to its goroutine.
type share struct {
	l       *Limiter
	id      string
	address place
	redis   *connection  // nil: not connected
	heard   atomic.Int64 // by the limiter's clock, when all was heard of last; 0: never

	head atomic.Pointer[account] // of those that are to be told anew, a stack
	wake chan struct{}

	number  uint64 // of the last message: each has its own
	active  []*view
	views   map[*account]*view // of the day, active or not
	peers   map[string]*peer
	failing bool
	leaving bool            // nothing runs or is asked here any more
	keys    map[string]bool // which have an expiry; of today
	keysDay int32
}

// peer is another replica.
type peer struct {
	sign  string
	since int64 // when it changed
}

var errMismatch = errors.New("the answer is not to what was asked: something between postern and Redis mixes answers up")

func newShare(l *Limiter) (*share, error) {
	address, err := parseAddress(l.options.Redis, l.options.Roots)
	if err != nil {
		return nil, err
	}
	id := make([]byte, 8)
	if _, err := io.ReadFull(l.options.Random, id); err != nil {
		return nil, fmt.Errorf("name this replica: %w", err)
	}
	return &share{l: l, id: hex.EncodeToString(id), address: address, wake: make(chan struct{}, 1),
		views: map[*account]*view{}, peers: map[string]*peer{}, keys: map[string]bool{}}, nil
}

// clock is now by the limiter's clock.
func (l *Limiter) clock() int64 { return l.at(l.options.Now()).t }

// fresh reports whether Redis told of the others lately.
func (s *share) fresh() bool {
	heard := s.heard.Load()
	return heard != 0 && s.l.clock()-heard < int64(trust)
}

// tells reports whether a is to be told to the others from now on. Under a's lock; tell
// comes after it.
func (l *Limiter) tells(a *account, limited bool) bool {
	if l.share == nil || a.queued || !limited {
		return false
	}
	a.queued = true
	return true
}

// tell hands a to the goroutine that talks to Redis, without waiting for it.
func (l *Limiter) tell(a *account, yes bool) {
	if !yes {
		return
	}
	for {
		head := l.share.head.Load()
		a.next = head
		if l.share.head.CompareAndSwap(head, a) {
			break
		}
	}
	select {
	case l.share.wake <- struct{}{}:
	default:
	}
}

// run reports until ctx ends, and then once more.
func (s *share) run(ctx context.Context) {
	next := time.Now()
	for {
		all := !time.Now().Before(next)
		if all {
			next = time.Now().Add(every)
		}
		err := s.round(ctx, all)
		if ctx.Err() == nil {
			s.note(err)
		}
		wake := s.wake
		if err != nil {
			next, wake = time.Now().Add(late), nil
		}
		select {
		case <-ctx.Done():
			s.leave()
			return
		case <-time.After(time.Until(next)):
		case <-wake:
			select {
			case <-ctx.Done():
			case <-time.After(min(soon, time.Until(next))):
			}
		}
	}
}

// leave tells what was spent last, and that this replica is gone.
func (s *share) leave() {
	if s.redis == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), late/2)
	defer cancel()
	s.leaving = true
	if err := s.round(ctx, true); err == nil {
		_, _ = s.ask(ctx, say("HDEL", present, s.id)) // the others find out
	}
	s.disconnect()
}

// note logs once per change.
func (s *share) note(err error) {
	log := s.l.options.Log
	switch {
	case err != nil && !s.failing:
		log.Error("cannot share limits through Redis; each replica lets through its equal part", "replicas", s.l.replicas.Load(), "error", err)
	case err == nil && s.failing:
		log.Info("sharing limits through Redis again", "replicas", s.l.replicas.Load())
	}
	s.failing = err != nil
}

func (s *share) disconnect() {
	if s.redis != nil {
		s.redis.end()
		s.redis = nil
	}
}

// ask sends the commands in one go and returns an answer to each, or the first error. A
// node of a cluster that does not have the keys names the one that does, and that is asked:
// all of it anew, since telling anything twice changes nothing.
func (s *share) ask(ctx context.Context, commands ...command) ([]any, error) {
	for range 1 + hops {
		answers, err := s.redis.ask(ctx, commands)
		to, moved := s.redis.moved(err)
		if !moved {
			return answers, err
		}
		s.disconnect()
		if s.redis, err = connect(ctx, to); err != nil {
			return nil, fmt.Errorf("connect to the node that has the keys: %w", err)
		}
	}
	return nil, errMoved
}

// round is one report with its answers: of all accounts, or of those alone that were idle.
func (s *share) round(ctx context.Context, all bool) (err error) {
	defer func() {
		if err != nil { // what comes late must not meet the next question
			s.disconnect()
		}
	}()
	known := len(s.active)
	s.collect()
	if s.redis == nil {
		if s.redis, err = connect(ctx, s.address); err != nil {
			return fmt.Errorf("connect to Redis: %w", err)
		}
	}
	ctx, cancel := patient(ctx)
	defer cancel()
	at := s.l.at(s.l.options.Now())
	if !all {
		_, err := s.exchangeSome(ctx, s.active[known:], at)
		return err
	}
	if err := s.meet(ctx, at); err != nil {
		return err
	}
	s.newDay(at.calendar.day)
	n, err := s.exchangeSome(ctx, s.active, at)
	if err != nil {
		return err
	}
	s.active = slices.Concat(s.active[n:], s.active[:n]) // the others are first next time
	s.active = slices.DeleteFunc(s.active, func(v *view) bool { return s.drop(v, at.t) })
	s.heard.Store(at.t)
	return nil
}

// exchangeSome tells as many of the accounts as there is time for, and says how many.
func (s *share) exchangeSome(ctx context.Context, views []*view, at moment) (n int, err error) {
	began := time.Now()
	for part := range slices.Chunk(views, batch) {
		if n > 0 && time.Since(began) > every {
			break
		}
		if err := s.exchange(ctx, part, at); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// collect takes over the accounts that asked to be told.
func (s *share) collect() {
	for a := s.head.Swap(nil); a != nil; {
		next := a.next
		a.next = nil
		v := s.views[a]
		if v == nil {
			v = &view{of: a, known: map[string]*known{}}
			s.views[a] = v
		}
		v.asked = s.l.clock()
		s.active = append(s.active, v)
		a = next
	}
}

// drop reports whether v need not be told any more for now.
func (s *share) drop(v *view, t int64) bool {
	a := v.of
	a.home.mu.Lock()
	defer a.home.mu.Unlock()
	if a.gone {
		delete(s.views, a)
		return true
	}
	if a.running > 0 || a.asked+a.askedIssues > 0 || v.demand+v.issueDemand > 0 || t-v.asked < int64(quiet) ||
		a.day.newest.own != a.day.newest.told || v.learned == 0 {
		return false
	}
	a.queued = false
	return true
}

// meet tells that this replica is there and counts the others.
func (s *share) meet(ctx context.Context, at moment) error {
	t := at.t
	s.number++
	sign := fmt.Sprint(s.number)
	answers, err := s.ask(ctx, say("HSET", present, s.id, sign), say("HGETALL", present), say("EXPIRE", present, keepDay))
	if err != nil {
		return fmt.Errorf("tell Redis that this replica is there: %w", err)
	}
	all, err := redis.StringMap(answers[1], nil)
	if err != nil {
		return fmt.Errorf("read the replicas from Redis: %w", err)
	}
	if all[s.id] != sign {
		return errMismatch
	}
	delete(all, s.id)
	for id, sign := range all {
		if p := s.peers[id]; p == nil || p.sign != sign {
			s.peers[id] = &peer{sign: sign, since: t}
		}
	}
	n := int64(1)
	for id, p := range s.peers { // one that Redis lost is there until it gave no sign for long enough
		if s.live(id, t) {
			n++
		} else if t-p.since > int64(clean) {
			if _, err := s.ask(ctx, say("HDEL", present, id)); err != nil {
				return fmt.Errorf("remove a replica that is gone from Redis: %w", err)
			}
			delete(s.peers, id)
		}
	}
	s.l.replicas.Store(n)
	if answers[0] == int64(1) {
		s.tellAll(at.calendar.day) // Redis is new to this replica, or lost its data
	}
	return nil
}

// live reports whether the other replica gave a sign lately.
func (s *share) live(id string, t int64) bool {
	p := s.peers[id]
	return p != nil && t-p.since < int64(gone)
}

// tellAll makes every account be told anew that anything is known of.
func (s *share) tellAll(today int32) {
	l := s.l
	l.mu.Lock()
	all := slices.Collect(maps.Values(l.clients))
	for _, o := range l.organizations {
		all = append(all, &o.account)
	}
	l.mu.Unlock()
	clear(s.keys)
	for _, a := range all {
		v := s.views[a]
		a.home.mu.Lock()
		spent := a.day.in(today)
		spent.told = 0
		yes := l.tells(a, !a.gone && a.terms.limited() && (spent.own > 0 || v != nil && v.window == today))
		a.home.mu.Unlock()
		l.tell(a, yes)
	}
}

// newDay forgets what is of use on one day only.
func (s *share) newDay(today int32) {
	if s.keysDay == today {
		return
	}
	s.keysDay = today
	clear(s.keys)
	maps.DeleteFunc(s.views, func(a *account, _ *view) bool {
		a.home.mu.Lock()
		defer a.home.mu.Unlock()
		return a.gone || !a.queued && !a.terms.quotas()
	})
}

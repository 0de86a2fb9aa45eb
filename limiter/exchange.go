package limiter

import (
	"context"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/gomodule/redigo/redis"
)

// message is one account's report for one day.
type message struct {
	view *view
	key  string
	keep int64 // seconds
	day  int32
	state
}

// exchange tells the accounts and takes in the answers.
func (s *share) exchange(ctx context.Context, part []*view, at moment) error {
	var messages []*message
	for _, v := range part {
		messages = s.write(messages, v, at)
	}
	commands := make([]command, 0, 3*len(messages))
	for _, m := range messages {
		commands = append(commands, say("HSET", m.key, s.id, m.state.String()), say("HGETALL", m.key))
	}
	for _, m := range messages {
		if !s.keys[m.key] {
			commands = append(commands, say("EXPIRE", m.key, m.keep))
		}
	}
	answers, err := s.ask(ctx, commands...)
	if err != nil {
		return fmt.Errorf("tell Redis what was spent: %w", err)
	}
	heard := make([]map[string]string, len(messages))
	for i, m := range messages {
		texts, err := redis.StringMap(answers[2*i+1], nil)
		if err != nil {
			return fmt.Errorf("read what was spent from Redis: %w", err)
		}
		if texts[s.id] != m.state.String() {
			return errMismatch
		}
		s.keys[m.key] = true
		delete(texts, s.id)
		heard[i] = texts
	}
	if err := s.catchUp(ctx, messages, at); err != nil { // first, for a share is taken of what is left
		return err
	}
	for i, m := range messages {
		if lost := s.learn(m, heard[i], at); lost != nil {
			if err := s.giveBack(ctx, m.key, lost); err != nil {
				return err
			}
		}
	}
	return nil
}

// write appends v's messages: of the day, and of the day before what was not told of it yet.
func (s *share) write(messages []*message, v *view, at moment) []*message {
	a := v.of
	a.home.mu.Lock()
	defer a.home.mu.Unlock()
	if a.gone {
		return messages
	}
	if a.asked+a.askedIssues > 0 {
		v.asked = at.t
	}
	// Refused requests are demand too; half of it is forgotten at each report.
	const scale = 16
	v.demand = v.demand/2 + a.asked*scale
	v.issueDemand = v.issueDemand/2 + a.askedIssues*scale
	now := state{running: a.peak, demand: v.demand, issueDemand: v.issueDemand}
	a.asked, a.askedIssues, a.peak = 0, 0, a.running
	if s.leaving {
		now.running, now.demand, now.issueDemand = 0, 0, 0
	}
	add := func(spent *spent) {
		s.number++
		m := &message{view: v, day: spent.window, state: now, key: keyOf(a, spent.window), keep: keepDay}
		if a.terms.month != none {
			m.keep = keepMonth
		}
		m.number, m.at, m.requests = s.number, at.t/int64(time.Millisecond), spent.own
		if a.issuedIn == spent.window {
			m.issued = a.issued
		}
		messages = append(messages, m)
	}
	if b := &a.day.before; b.own != b.told && b.window == at.calendar.day-1 {
		add(b)
	}
	add(a.day.in(at.calendar.day))
	return messages
}

// keyOf is the key of an account's day.
func keyOf(a *account, day int32) string {
	kind := "client:"
	if a.whose == organizations {
		kind = "organization:"
	}
	return keyPrefix + kind + a.id + ":" + strconv.Itoa(int(day))
}

// settles is how long after midnight the last replica has told all of the day before.
const settles = 5 * time.Second

// missed are days before today that this replica did not follow to their end.
type missed struct {
	view            *view
	first, followed int32 // of first to yesterday; of followed something is known
	known           int64
}

// missing says which days are missing for v's quota of the month.
func (s *share) missing(v *view, at moment, final bool) (days missed, any bool) {
	today, a := at.calendar.day, v.of
	a.home.mu.Lock()
	days = missed{view: v, followed: a.followed, known: a.followedBase}
	a.home.mu.Unlock()
	if days.followed == today {
		if !v.unsettled || !final {
			return days, false
		}
		days.followed, days.known = today-1, v.yesterday
	}
	// The month began on the first, and what was before it was loaded the store told.
	days.first = max(today-int32(at.now.UTC().Day())+1, days.followed, s.l.loadedOn.Load())
	return days, true
}

// catchUp reads, for the month's quota, what others spent on the days that are missing.
func (s *share) catchUp(ctx context.Context, messages []*message, at moment) error {
	final := at.now.Unix()-at.begins >= int64(settles/time.Second)
	today := at.calendar.day
	var all []missed
	var commands []command
	for _, m := range messages {
		if m.day != today || m.keep != keepMonth {
			continue
		}
		if days, any := s.missing(m.view, at, final); any {
			all = append(all, days)
			for day := days.first; day < today; day++ {
				commands = append(commands, say("HGETALL", keyOf(m.view.of, day)))
			}
		}
	}
	answers, err := s.ask(ctx, commands...)
	if err != nil {
		return fmt.Errorf("read what was spent from Redis: %w", err)
	}
	for _, days := range all {
		news, v := int64(0), days.view
		for day := days.first; day < today; day++ {
			texts, err := redis.StringMap(answers[0], nil)
			if err != nil {
				return fmt.Errorf("read what was spent from Redis: %w", err)
			}
			answers = answers[1:]
			v.yesterday = s.sum(texts)
			if day == days.followed {
				v.yesterday = max(v.yesterday, days.known)
				news -= days.known
			}
			news += v.yesterday
		}
		v.unsettled = !final && days.first < today
		v.of.learnBefore(news, today, at.calendar.month)
	}
	return nil
}

// sum is what all others spent by what they say.
func (s *share) sum(texts map[string]string) (spent int64) {
	for id, text := range texts {
		if o, ok := parseState(text); ok && id != s.id {
			spent += o.requests
		}
	}
	return spent
}

// learnBefore adds to the month what others spent before today.
func (a *account) learnBefore(news int64, today, month int32) {
	a.home.mu.Lock()
	defer a.home.mu.Unlock()
	if m := a.month.peek(month); m != nil {
		m.base += news
	}
	if d := a.day.peek(today); d != nil {
		a.followed, a.followedBase = today, d.base
	}
}

// learn takes in what all others say in answer to m. It returns what Redis no longer has
// of replicas that are gone.
func (s *share) learn(m *message, texts map[string]string, at moment) (lost map[string]*known) {
	o := outcome{first: true}
	others := make(map[string]*state, len(texts))
	for id, text := range texts {
		other, ok := parseState(text)
		if !ok {
			continue // not ours; what it would say nobody knows
		}
		others[id] = &other
		o.requests += other.requests
		if s.live(id, at.t) {
			o.demand += other.demand
			o.issueDemand += other.issueDemand
			o.running += other.running
			if other.demand > m.demand || other.demand == m.demand && id < s.id {
				o.first = false
			}
		}
	}
	if m.day == at.calendar.day {
		lost = s.compare(m.view, m.day, others, &o, at.t)
	}
	m.view.of.learn(m, o, at.t, s.l.replicas.Load())
	if m.day == at.calendar.day {
		m.view.learned = at.t
	}
	return lost
}

// compare finds what is news, and what was known and is not there any more; that still
// counts.
func (s *share) compare(v *view, today int32, others map[string]*state, o *outcome, t int64) (lost map[string]*known) {
	if v.window != today { // a new day counts from zero
		maps.DeleteFunc(v.known, func(id string, k *known) bool {
			k.requests, k.issued = 0, 0
			return !s.live(id, t) // each restart leaves one behind
		})
		v.window = today
	}
	for id, k := range v.known {
		if others[id] != nil || k.requests == 0 {
			continue
		}
		o.requests += k.requests
		if s.live(id, t) {
			continue // it is about to tell it again
		}
		if lost == nil {
			lost = map[string]*known{}
		}
		lost[id] = k
	}
	for id, other := range others {
		k := v.known[id]
		if k == nil {
			k = &known{at: other.at}
			v.known[id] = k
		}
		requests, issued := max(0, other.requests-k.requests), max(0, other.issued-k.issued)
		if v.learned != 0 && requests+issued > 0 {
			o.news += requests
			o.issueNews += issued
			if k.busy {
				o.beyond = max(o.beyond, time.Duration(other.at-k.at)*time.Millisecond-every)
			}
		}
		k.requests, k.issued = k.requests+requests, k.issued+issued
		k.at, k.busy = other.at, other.demand+other.issueDemand > 0
	}
	return lost
}

// learn puts into effect what the others say in answer to m, for the windows that it is
// about and for no other.
func (a *account) learn(m *message, o outcome, t, replicas int64) {
	a.home.mu.Lock()
	defer a.home.mu.Unlock()
	spent := a.day.peek(m.day)
	if spent == nil || a.gone {
		return
	}
	since := spent.own - m.requests // spent here after it was told
	news := spent.learn(o.requests)
	spent.mark = m.requests
	spent.told = m.requests
	if a.followed == m.day {
		a.followedBase = spent.base
	}
	if month := a.month.peek(monthOf(m.day)); month != nil {
		month.base += news
		month.mark = month.own - since
	}
	if a.day.newest.window != m.day {
		return
	}
	if f := &a.terms.requests; f.limited {
		a.requests.add(uint64(max(0, o.news)), o.beyond, t, f)
	}
	if f := &a.terms.issues; f.limited {
		a.issues.add(uint64(max(0, o.issueNews)), o.beyond, t, f)
	}
	a.learned = t
	a.requestShare = portionOf(m.demand, o.demand, replicas)
	a.issueShare = portionOf(m.issueDemand, o.issueDemand, replicas)
	a.first = o.first
	a.othersRunning, a.runningMark = o.running, m.running
}

// portionOf is this replica's share: its part of the demand. Without any, it keeps a small
// part for whoever comes before the next report.
func portionOf(mine, others, replicas int64) uint32 {
	switch {
	case replicas <= 1 || mine > 0 && others == 0:
		return whole
	case mine+others == 0:
		return uint32(equal(replicas))
	}
	part := float64(mine) / float64(mine+others) * whole
	return uint32(max(uint64(part)+1, equal(replicas)/4))
}

// giveBack writes what Redis lost of replicas that are gone. One that is not gone after all
// writes over it.
func (s *share) giveBack(ctx context.Context, key string, lost map[string]*known) error {
	for id, k := range lost {
		old := state{requests: k.requests, issued: k.issued}
		if _, err := s.ask(ctx, say("HSETNX", key, id, old.String())); err != nil {
			return fmt.Errorf("give back to Redis what it lost: %w", err)
		}
	}
	return nil
}

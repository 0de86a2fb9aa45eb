package limiter

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/rueidis"
)

// message is one account's report for one day.
type message struct {
	view *view
	key  string
	day  int32
	state
}

// exchange tells the accounts and takes in the answers.
func (s *share) exchange(ctx context.Context, part []*view, at moment, last bool) error {
	var messages []*message
	for _, v := range part {
		messages = s.write(messages, v, at, last)
	}
	if s.keysDay != at.calendar.day {
		s.keysDay, s.keys = at.calendar.day, map[string]bool{}
	}
	commands := make(rueidis.Commands, 0, 2*len(messages))
	b := s.client.B
	for _, m := range messages {
		commands = append(commands,
			b().Hset().Key(m.key).FieldValue().FieldValue(s.id, m.state.String()).Build(),
			b().Hgetall().Key(m.key).Build())
	}
	for _, m := range messages {
		if !s.keys[m.key] {
			commands = append(commands, b().Expire().Key(m.key).Seconds(keep).Build())
		}
	}
	answers := s.client.DoMulti(ctx, commands...)
	for _, a := range answers {
		if err := a.Error(); err != nil {
			return fmt.Errorf("tell Redis what was spent: %w", err)
		}
	}
	for i, m := range messages {
		texts, err := answers[2*i+1].AsStrMap()
		if err != nil {
			return fmt.Errorf("read what was spent from Redis: %w", err)
		}
		if texts[s.id] != m.state.String() {
			return errMismatch
		}
		s.keys[m.key] = true
		delete(texts, s.id)
		if lost := s.learn(m, texts, at); lost != nil {
			if err := s.giveBack(ctx, m.key, lost); err != nil {
				return err
			}
		}
	}
	return nil
}

// write appends v's messages: of the day, and of the day before what was not told of it yet.
func (s *share) write(messages []*message, v *view, at moment, last bool) []*message {
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
	a.asked, a.askedIssues, a.peak = 0, 0, a.running
	now := state{running: a.peak, demand: v.demand, issueDemand: v.issueDemand}
	if last {
		now.running, now.demand, now.issueDemand = 0, 0, 0
	}
	add := func(spent *spent) {
		s.number++
		m := &message{view: v, day: spent.window, state: now, key: keyPrefix + keyKind(a.whose) + a.id + ":" + strconv.Itoa(int(spent.window))}
		m.number, m.requests = s.number, spent.own
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

// keyKind tells organizations and clients apart in keys.
func keyKind(whose policy) string {
	if whose == organizations {
		return "organization:"
	}
	return "client:"
}

// learn takes in what all others say in answer to m. It returns what Redis no longer has
// of replicas that are gone.
func (s *share) learn(m *message, texts map[string]string, at moment) (lost map[string]*state) {
	v := m.view
	sum := outcome{first: true}
	others := make(map[string]*state, len(texts))
	for id, text := range texts {
		o, ok := parseState(text)
		if !ok {
			continue // not ours; what it would say nobody knows
		}
		others[id] = &o
		sum.requests += o.requests
		if s.live(id, at.t) {
			sum.demand += o.demand
			sum.issueDemand += o.issueDemand
			sum.running += o.running
			if o.demand > m.demand || o.demand == m.demand && id < s.id {
				sum.first = false
			}
		}
	}
	today := m.day == at.calendar.day
	if today {
		if v.window != m.day { // a new day counts from zero
			for _, k := range v.known {
				k.requests, k.issued = 0, 0
			}
			v.window = m.day
		}
		for id, k := range v.known {
			switch {
			case others[id] != nil || k.requests == 0:
			case s.live(id, at.t):
				sum.requests += k.requests // it is about to tell it again
			default:
				if lost == nil {
					lost = map[string]*state{}
				}
				lost[id] = k
				sum.requests += k.requests
			}
		}
		for id, o := range others {
			before := v.known[id]
			if before == nil {
				before = &state{}
				v.known[id] = before
			}
			if v.learned != 0 {
				sum.news += max(0, o.requests-before.requests)
				sum.issueNews += max(0, o.issued-before.issued)
			}
			before.requests, before.issued = max(before.requests, o.requests), max(before.issued, o.issued)
		}
	}
	v.of.learn(m, sum, at.t, s.l.replicas.Load())
	if today {
		v.learned = at.t
	}
	return lost
}

// outcome is what all other replicas together say of an account.
type outcome struct {
	requests            int64 // of the day
	news, issueNews     int64 // since the last answer
	demand, issueDemand int64
	running             int64
	first               bool // nobody's demand is greater
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
	if month := a.month.peek(monthOf(m.day)); month != nil {
		month.base += news
		month.mark = month.own - since
	}
	if a.day.newest.window != m.day {
		return
	}
	// What they spent before the last report has leaked since: only the newest is a debt.
	beyond := time.Duration(max(0, t-m.view.learned-int64(every)))
	if f := &a.terms.requests; f.limited {
		a.requests.add(uint64(max(0, o.news)), beyond, t, f)
	}
	if f := &a.terms.issues; f.limited {
		a.issues.add(uint64(max(0, o.issueNews)), beyond, t, f)
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
func (s *share) giveBack(ctx context.Context, key string, lost map[string]*state) error {
	for id, k := range lost {
		old := state{requests: k.requests, issued: k.issued}
		c := s.client.B().Hsetnx().Key(key).Field(id).Value(old.String()).Build()
		if err := s.client.Do(ctx, c).Error(); err != nil {
			return fmt.Errorf("give back to Redis what it lost: %w", err)
		}
	}
	return nil
}

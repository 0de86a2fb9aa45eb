//go:build unix

package limiter

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"postern/answer"
	"postern/registry"
)

// logged counts the log lines with that text.
func (r *replica) logged(text string) int { return strings.Count(r.logs.String(), text) }

// left is what Explain says is left of a limit.
func (r *replica) left(t *testing.T, id string, all registry.Terms, policy string) int64 {
	t.Helper()
	for _, s := range r.Explain(of(id, all)(), r.options.Now()) {
		if s.Policy == policy {
			return s.Left
		}
	}
	t.Fatalf("no limit %s", policy)
	return 0
}

// Without Redis each replica holds its equal part of every limit, no request waits, it is
// logged once, and all is shared again when Redis is back, though it lost everything.
func TestRow160RedisAway(t *testing.T) {
	f := func(name string, away, back func(*redisServer)) {
		t.Run(name, func(t *testing.T) {
			r := startRedis(t)
			all := newReplicas(t, 3, r.url(), func(o *Options) { o.Replicas = 1 })
			together(t, all, 3)
			const rate, burst, length = 150, 30, 1500 * time.Millisecond
			terms := registry.Terms{RequestRate: value(rate), RequestBurst: value(burst), QuotaDay: value(100_000)}
			c := of("a", terms)
			demand(all, c, []int{300, 10, 10}, 0, time.Second) // the first has most of it
			away(r)
			for _, one := range all {
				eventually(t, "it is noticed", func() bool { return !one.share.fresh() && one.logged("cannot share limits") == 1 })
			}
			slowest := time.Duration(0)
			began := time.Now()
			_, _ = all[0].Take(c(), time.Now())
			slowest = max(slowest, time.Since(began))
			granted := demand(all, c, []int{300, 300, 300}, 0, length)
			t.Logf("granted %v; an equal part is %v", granted, (burst+rate*length.Seconds())/3)
			for i, n := range granted {
				if most := int64((burst+rate*length.Seconds())/3*1.1) + 1; n > most || n < most*6/10 {
					t.Errorf("replica %d granted %d, its equal part is %d", i, n, most)
				}
			}
			if slowest > late/2 {
				t.Errorf("a request waited for %s", slowest)
			}
			back(r)
			together(t, all, 3)
			for _, one := range all {
				if one.logged("cannot share limits") != 1 || one.logged("sharing limits through Redis again") != 1 {
					t.Errorf("logged:\n%s", one.logs)
				}
			}
			total := demand(all, c, []int{600, 10, 10}, 0, time.Second)
			if n := sum(total); n > bound(rate, burst, 3, time.Second) || total[0] < rate/2 {
				t.Errorf("then %v granted", total)
			}
		})
	}
	f("stopped", (*redisServer).kill, (*redisServer).start)
	f("hangs", (*redisServer).freeze, (*redisServer).thaw)
}

// Close waits for no Redis that hangs, whether it was being asked or not.
func TestCloseWhileRedisHangs(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	all := newReplicas(t, 5, r.url())
	together(t, all, 5)
	r.freeze()
	defer r.thaw()
	for _, one := range all {
		began := time.Now()
		one.close()
		if took := time.Since(began); took > late*9/10 {
			t.Errorf("closed after %s", took)
		}
	}
}

// A Redis that comes back empty gets all back: from those that are there, and what they
// know of those that are gone. A replica that knows nothing else learns the total from it.
func TestRedisLosesAll(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	all := newReplicas(t, 3, r.url())
	together(t, all, 3)
	terms := registry.Terms{QuotaDay: value(1000), QuotaMonth: value(5000)}
	c := of("a", terms)
	granted := sum(demand(all, c, []int{200, 200, 200}, 0, time.Second))
	eventually(t, "all know of all", func() bool {
		return !slices.ContainsFunc(all, func(one *replica) bool { return one.left(t, "a", terms, "org-day") > 1000-granted })
	})
	all[2].close()
	together(t, all[:2], 2)
	// Where nothing is asked any more, nothing is told any more; it is given back all the same.
	eventually(t, "nothing is told", func() bool {
		for _, one := range all[:2] {
			o := one.organizations["o"]
			o.mu.Lock()
			queued := o.queued
			o.mu.Unlock()
			if queued {
				return false
			}
		}
		return true
	})
	r.kill()
	r.start()
	late := newReplicas(t, 1, r.url())
	together(t, append(late, all[:2]...), 3)
	_, _ = late[0].Take(c(), time.Now())
	eventually(t, "the new replica knows what was spent", func() bool {
		return late[0].share.fresh() && total(late[0]) >= granted+1
	})
	if n := total(late[0]); n > granted+1 {
		t.Errorf("%d counted, %d granted", n, granted+1)
	}
}

// total is what a replica knows was spent by organization o today.
func total(r *replica) int64 {
	r.mu.Lock()
	o := r.organizations["o"]
	r.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.day.newest.total()
}

// A replica that died is not counted any more, nor what ran on it; what it spent stays.
func TestReplicaDies(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	day := strconv.FormatInt(time.Now().Unix()/86400, 10)
	r.do("HSET", present, "dead", "7")
	r.do("HSET", keyPrefix+"organization:o:"+day, "dead", "1 0 400 0 160 0 7", "nonsense", "1 -5 x", "short", "1 2")
	one := newReplicas(t, 1, r.url())[0]
	eventually(t, "it is counted", func() bool { return one.replicas.Load() == 2 })
	terms := registry.Terms{QuotaDay: value(1000), Concurrent: value(10)}
	c := of("a", terms)
	running := 0
	eventually(t, "what it says is known", func() bool {
		g, ok := one.Take(c(), time.Now())
		if ok {
			running++
			if running > 5 {
				g.Release()
				running--
			}
		}
		return total(one) >= 400
	})
	eventually(t, "its requests count no more", func() bool {
		if _, ok := one.Take(c(), time.Now()); ok {
			running++
		}
		return running == 10
	})
	eventually(t, "it is not counted", func() bool { return one.replicas.Load() == 1 })
	if n := total(one); n < 410 {
		t.Errorf("%d spent", n)
	}
}

// A link that is slow, and one that gives an answer to another question: nothing that was
// said of one account is taken for another's, and the limits hold.
func TestRow161AnswersLate(t *testing.T) {
	r := startRedis(t)
	l := newLink(t, r.address())
	all := newReplicas(t, 3, "redis://"+l.address())
	together(t, all, 3)
	const rate, burst = 200, 20
	c := of("a", registry.Terms{RequestRate: value(rate), RequestBurst: value(burst)})
	l.delay.Store(int64(100 * time.Millisecond)) // a report has two answers: 450 ms instead of 250
	granted := demand(all, c, []int{400, 100, 50}, 0, 3*time.Second)
	i := every.Seconds() + 0.3
	most := int64(burst + rate*3 + (2-1./3)*(burst+rate*2*i))
	t.Logf("granted %v, at most %d", granted, most)
	if n := sum(granted); n > most || n < rate*2 {
		t.Errorf("%v granted, at most %d", granted, most)
	}
	// Beyond patience it is as if Redis was away.
	l.delay.Store(int64(3 * late))
	for _, one := range all {
		eventually(t, "it is noticed", func() bool { return !one.share.fresh() })
	}
	l.delay.Store(0)
	together(t, all, 3)
}

func TestRow161AnswersMixedUp(t *testing.T) {
	r := startRedis(t)
	l := newLink(t, r.address())
	other := newReplicas(t, 1, r.url())[0]
	terms := registry.Terms{QuotaDay: value(1000)}
	a, b := of("a", terms)(), client("b", "p", registry.Terms{}, terms)
	for range 600 {
		g, _ := other.Take(a, time.Now())
		g.Release()
	}
	g, _ := other.Take(b, time.Now())
	g.Release()
	l.mix.Store(true)
	one := newReplicas(t, 1, "redis://"+l.address())[0]
	ask := func() {
		for _, c := range []*registry.Terms{&terms} {
			g, _ := one.Take(of("a", *c)(), time.Now())
			g.Release()
			g, _ = one.Take(client("b", "p", registry.Terms{}, *c), time.Now())
			g.Release()
		}
	}
	ask()
	eventually(t, "it is noticed", func() bool { ask(); return strings.Contains(one.logs.String(), errMismatch.Error()) })
	spent := func(organization string) int64 {
		one.mu.Lock()
		o := one.organizations[organization]
		one.mu.Unlock()
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.day.newest.base
	}
	if o, p := spent("o"), spent("p"); o > 600 || p > 1 {
		t.Errorf("others' spending: %d and %d, want 600 and 1 at most", o, p)
	}
	l.mix.Store(false)
	eventually(t, "each has its own", func() bool { ask(); return spent("o") == 600 && spent("p") == 1 })
}

// What is said of a day or an account that is over goes nowhere.
func TestRow161AnswerOfAnotherWindow(t *testing.T) {
	w := newWorld(t)
	terms := registry.Terms{QuotaDay: value(100), QuotaMonth: value(100)}
	w.take(client("a", "o", terms, terms), 3)
	a := w.clients["a"]
	today := w.at(w.now).calendar.day
	f := func(name string, day int32, wantDay, wantMonth int64) {
		t.Helper()
		before := a.newestBases()
		a.learn(&message{view: &view{of: a}, day: day, state: state{requests: 3}}, outcome{requests: 10}, 0, 2)
		if got := a.newestBases(); got != [2]int64{before[0] + wantDay, before[1] + wantMonth} {
			t.Errorf("%s: from %v to %v", name, before, got)
		}
	}
	f("the day before", today-1, 0, 0)
	f("a day to come", today+1, 0, 0)
	f("today", today, 10, 10)
	f("today again", today, 0, 0)
	w.now = start.Add(14 * time.Hour)
	w.take(client("a", "o", terms, terms), 1)
	f("late, of yesterday and the month before", today, 0, 0)
	a.gone = true
	f("account that is gone", today+1, 0, 0)
}

// What others spent of a rate is missing here, also beyond the burst; what they spent long
// ago is not.
func TestOthersSpend(t *testing.T) {
	f := func(name string, o outcome, want int, wait time.Duration) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := newWorld(t)
			c := client("a", "o", registry.Terms{RequestRate: value(10), RequestBurst: value(20), IssueRate: value(5)}, registry.Terms{})
			w.take(c, 5)
			a := w.clients["a"]
			at := w.at(w.now)
			a.learn(&message{view: &view{of: a}, day: at.calendar.day, state: state{requests: 5, demand: 1, issueDemand: 1}}, o, at.t, 1)
			reason := answer.RateLimited
			w.wantTake(c, 30, want, reason, wait)
		})
	}
	f("nothing", outcome{}, 15, time.Second)
	f("some", outcome{requests: 6, news: 6}, 9, time.Second)
	f("all", outcome{requests: 15, news: 15}, 0, time.Second)
	f("more than there was", outcome{requests: 24, news: 24}, 0, time.Second)
	f("much more: a second's worth is paid back", outcome{requests: 1000, news: 1000}, 0, 2*time.Second)
	f("of a long time", outcome{requests: 1000, news: 1000, beyond: 100 * time.Second}, 15, time.Second)
	f("of a second before the last", outcome{requests: 16, news: 16, beyond: time.Second}, 9, time.Second)
}

// Where nothing is asked any more, nothing is told any more.
func TestIdleIsNotTold(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	one := newReplicas(t, 1, r.url())[0]
	terms := registry.Terms{QuotaDay: value(1000)}
	g, _ := one.Take(of("a", terms)(), time.Now())
	o := &one.organizations["o"].account
	key := keyOf(o, one.at(time.Now()).calendar.day)
	eventually(t, "it is told", func() bool { return len(r.do("HGETALL", key)) == 1 })
	number := func() uint64 {
		s, ok := parseState(r.do("HGETALL", key)[one.share.id])
		if !ok {
			t.Fatal("nothing is told")
		}
		return s.number
	}
	time.Sleep(quiet + 4*every)
	before := number()
	eventually(t, "what runs is told on", func() bool { return number() > before })
	g.Release()
	eventually(t, "it is idle", func() bool {
		o.home.mu.Lock()
		defer o.home.mu.Unlock()
		return !o.queued
	})
	before = number()
	time.Sleep(4 * every)
	if n := number(); n != before {
		t.Errorf("told again: %d, then %d", before, n)
	}
	g, _ = one.Take(of("a", terms)(), time.Now())
	defer g.Release()
	eventually(t, "it is told again", func() bool { return number() > before })
}

func (a *account) newestBases() [2]int64 { return [2]int64{a.day.newest.base, a.month.newest.base} }

// A day's quota ends at midnight for all replicas, and the month goes on, also with what a
// replica did not follow because nothing was asked of it.
func TestMidnightIsShared(t *testing.T) {
	t.Parallel()
	r := startRedis(t)
	var jump atomic.Int64
	began := time.Now()
	now := func() time.Time {
		return time.Date(2026, 6, 10, 23, 59, 58, 0, time.UTC).Add(time.Since(began) + time.Duration(jump.Load()))
	}
	all := newReplicas(t, 2, r.url(), func(o *Options) { o.Now = now })
	together(t, all, 2)
	terms := registry.Terms{QuotaDay: value(100), QuotaMonth: value(250)}
	spend := func(one *replica, n int) (granted int) {
		c := of("a", terms)()
		for end := time.Now().Add(patience); granted < n && time.Now().Before(end); {
			g, ok := one.Take(c, now())
			g.Release()
			switch {
			case ok:
				granted++
			case g.Refusal().RetryAfter > time.Second:
				return granted
			default:
				time.Sleep(5 * time.Millisecond)
			}
		}
		return granted
	}
	if n := spend(all[0], 80); n != 80 {
		t.Fatalf("%d granted", n)
	}
	eventually(t, "the next day", func() bool { return now().Day() == 11 })
	if n := spend(all[0], 100); n != 100 {
		t.Errorf("%d granted on the next day", n)
	}
	// The third day: what the second replica never asked about is known to it.
	key := keyOf(&all[0].organizations["o"].account, all[0].at(now()).calendar.day)
	eventually(t, "it was told", func() bool { return strings.Contains(fmt.Sprint(r.do("HGETALL", key)), " 100 0 ") })
	jump.Add(int64(24 * time.Hour))
	together(t, all, 2)
	n := 0
	eventually(t, "the rest of the month is spent", func() bool {
		n += spend(all[1], 100)
		return all[1].left(t, "a", terms, "org-month") == 0
	})
	if n < 70 || n > 75 {
		t.Errorf("%d granted on the third day, 70 are left of the month", n)
	}
}

// link passes bytes to Redis and its answers back: late, or those of one pipeline in
// another order.
type link struct {
	net.Listener
	delay atomic.Int64
	mix   atomic.Bool
}

func newLink(t *testing.T, to string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{Listener: listener}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go l.pass(c, to)
		}
	}()
	return l
}

func (l *link) address() string { return l.Addr().String() }

func (l *link) pass(c net.Conn, to string) {
	defer c.Close()
	redis, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	go func() {
		defer redis.Close()
		_, _ = io.Copy(redis, c)
	}()
	in := bufio.NewReader(redis)
	for {
		var answers [][]byte
		for len(answers) == 0 || in.Buffered() > 0 {
			one, err := reply(in)
			if err != nil {
				return
			}
			answers = append(answers, one)
		}
		time.Sleep(time.Duration(l.delay.Load()))
		if l.mix.Load() {
			last := -1
			for i, one := range answers {
				if one[0] != '*' {
					continue
				}
				if last >= 0 {
					answers[i], answers[last] = answers[last], answers[i]
				}
				last = i
			}
		}
		if _, err := c.Write(bytes.Join(answers, nil)); err != nil {
			return
		}
	}
}

// reply reads one reply, whole.
func reply(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(line[1:])))
	parts := 0
	switch line[0] {
	case '$':
		if err != nil || n < 0 {
			return line, err
		}
		text := make([]byte, n+2)
		_, err := io.ReadFull(in, text)
		return append(line, text...), err
	case '*':
		parts = n
	default:
		return line, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reply %q: %w", line, err)
	}
	for range parts {
		part, err := reply(in)
		if err != nil {
			return nil, err
		}
		line = append(line, part...)
	}
	return line, nil
}

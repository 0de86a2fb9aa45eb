package main

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/registry"
	"postern/registry/pgtest"
	"postern/secret"
)

// usedOf is the total that the command line tells of a client: one of its members.
func (s *shared) usedOf(c credentials, member string) int64 {
	s.t.Helper()
	answer := s.configured("client", "usage", c.id, "--from", "always")
	return int64(answer["total"].(map[string]any)[member].(float64))
}

// TestUsage from the wire to the command line: what is forwarded, what is not and why, and
// what a stop leaves behind. It writes when it ends.
func TestUsage(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "usage: {interval: 1h}\nroutes:\n  - {path: /, upstream: [\"{upstream}\"]}\n  - {path: /reports, upstream: [\"{upstream}\"], scopes: [reports]}\n")
	organization := s.command("organization", "create", "--name", "Acme", "--products", "tracks")["id"].(string)
	c, other := s.client(organization), s.client(organization)
	token := s.goodToken(c)
	var out int
	for range 3 {
		r := s.do("POST", "/tracks", "12345", "Authorization", "Bearer "+token)
		if r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		out += len(r.body)
	}
	if r := s.get("/reports", token); r.status != 403 {
		t.Errorf("without the scope: %d", r.status)
	}
	if r := s.get("/tracks", "a.b.c"); r.status != 401 {
		t.Errorf("without a token: %d", r.status)
	}
	if r := s.get("/tracks", s.goodToken(other)); r.status != 200 {
		t.Errorf("the other client: %d", r.status)
	}
	s.command("client", "remove", other.id)
	if n := s.metric("postern_usage_unwritten "); n != 0 {
		t.Errorf("%v hours are unwritten, and nothing had to be written yet", n)
	}
	if code := s.stop(); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	client := s.command("client", "usage", c.id)
	total := client["total"].(map[string]any)
	for member, want := range map[string]int{"requests": 3, "tokens": 1, "bytes_in": 15, "bytes_out": out} {
		if got := int(total[member].(float64)); got != want {
			t.Errorf("%s: %d, want %d", member, got, want)
		}
	}
	refused := total["refused"].(map[string]any)
	if len(refused) != 1 || refused["insufficient_scope"] != 1.0 {
		t.Errorf("refused: %v", refused)
	}
	all := s.command("organization", "usage", organization)["total"].(map[string]any)
	if all["requests"] != 4.0 || all["tokens"] != 2.0 {
		t.Errorf("the organization used %v", all)
	}
	var table bytes.Buffer
	if code := run(t.Context(), []string{"organization", "usage", organization, "--csv", "--store", s.store}, nil, &table, s.logs); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	lines, err := csv.NewReader(&table).ReadAll()
	if err != nil || len(lines) < 2 || lines[1][1] != organization {
		t.Errorf("%v: %v", err, lines)
	}
}

// TestQuotasOverARestart: what was spent before counts after it.
func TestQuotasOverARestart(t *testing.T) {
	up := startUpstream(t)
	const more = "issuer: {url: \"https://api.example.com\"}\nroutes: [{path: /, upstream: [\"{upstream}\"]}]\n"
	s := serve(t, up, more)
	c, _ := s.contract("--quota-day", "10", "--quota-month", "20")
	organization := s.command("organization", "create", "--name", "Two", "--quota-day", "10")["id"].(string)
	token, one, other := s.goodToken(c), s.goodToken(s.client(organization)), s.goodToken(s.client(organization))
	passes := func(times int, tokens ...string) {
		t.Helper()
		for _, token := range tokens {
			for n := range times {
				if r := s.get("/a", token); r.status != 200 {
					t.Errorf("request %d: %d %s", n+1, r.status, r.body)
				}
			}
		}
	}
	passes(6, token, one)
	if code := s.stop(); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	s = serveOn(t, up, s.store, more)
	passes(4, token, other) // the organization's quota is for both of its clients
	for policy, token := range map[string]string{"client-day": token, "org-day": other} {
		if r := s.get("/a", token); r.status != 429 || r.code() != "quota_exceeded" || !strings.Contains(r.header.Get("RateLimit"), policy) {
			t.Errorf("%s: the eleventh: %d %v %s", policy, r.status, r.header, r.body)
		}
	}
	s.stop()
	used := s.command("client", "usage", c.id)["total"].(map[string]any)
	if used["requests"] != 10.0 || used["refused"].(map[string]any)["quota_exceeded"] != 1.0 {
		t.Errorf("used: %v", used)
	}
}

// TestQuotaOfTheMonth at the wire: what it says until it is used up and then, and that after a
// restart all of this month counts, also of days before, and nothing of the month before.
func TestQuotaOfTheMonth(t *testing.T) {
	up := startUpstream(t)
	const more = "issuer: {url: \"https://api.example.com\"}\nroutes: [{name: api, path: /, upstream: [\"{upstream}\"]}]\n"
	s := serve(t, up, more)
	c, _ := s.contract("--quota-month", "3")
	other, _ := s.contract("--quota-month", "5")
	token, others := s.goodToken(c), s.goodToken(other)
	now := time.Now().UTC()
	begins := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	turns := begins.AddDate(0, 1, 0)
	asks := func(token string, quota, left int) {
		t.Helper()
		refused := left < 0
		status, code := 200, ""
		if refused {
			status, code = 429, "quota_exceeded"
		}
		latest := int(time.Until(turns).Seconds()) + 1
		r := s.get("/a", token)
		earliest := int(time.Until(turns).Seconds())
		if r.status != status || refused && r.code() != code || r.header.Get("RateLimit-Policy") != fmt.Sprintf(`"client-month";q=%d`, quota) {
			t.Errorf("%d left: %d %v %s", left, r.status, r.header, r.body)
		}
		wait, ok := strings.CutPrefix(r.header.Get("RateLimit"), fmt.Sprintf(`"client-month";r=%d;t=`, max(0, left)))
		if seconds, err := strconv.Atoi(wait); !ok || err != nil || seconds < earliest || seconds > latest {
			t.Errorf("%d left: RateLimit %q, want between %d and %d seconds", left, r.header.Get("RateLimit"), earliest, latest)
		}
		if again := r.header.Get("Retry-After"); refused && again != wait || !refused && again != "" {
			t.Errorf("%d left: Retry-After %q, and RateLimit says %q", left, again, wait)
		}
	}
	for left := 2; left >= -1; left-- {
		asks(token, 3, left)
	}
	for left := 4; left >= 2; left-- {
		asks(others, 5, left)
	}
	if n := s.metric(`postern_refusals_total{reason="quota_exceeded"}`); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	if code := s.stop(); code != exitDone {
		t.Fatalf("exit code %d", code)
	}
	addUsage(t, s.store,
		registry.Usage{ClientID: other.id, Hour: registry.At(begins), Counts: registry.Counts{Requests: 1}},
		registry.Usage{ClientID: other.id, Hour: registry.At(begins.Add(-time.Hour)), Counts: registry.Counts{Requests: 100}})

	s = serveOn(t, up, s.store, more)
	asks(token, 3, -1)
	asks(others, 5, 0)
	asks(others, 5, -1)
	s.stop()
	used := s.command("client", "usage", c.id)["total"].(map[string]any)
	if used["requests"] != 3.0 || used["refused"].(map[string]any)["quota_exceeded"] != 2.0 {
		t.Errorf("used: %v", used)
	}
}

// addUsage writes to a store that nobody serves what was used long ago.
func addUsage(t *testing.T, store string, used ...registry.Usage) {
	t.Helper()
	r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret(store)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.AddUsage(t.Context(), registry.UsageBatch{Writer: "long ago", Number: 1, Usage: used}); err != nil {
		t.Fatal(err)
	}
}

// TestUsageOfAKilledPostern: kill -9 costs what was counted in the last interval, and nothing
// that is older; nothing is counted twice.
func TestUsageOfAKilledPostern(t *testing.T) {
	const interval, slack = time.Second, time.Second // until a busy machine has committed
	t.Setenv("POSTERN_USAGE_INTERVAL", interval.String())
	s := startShared(t, nil, 1, "")
	c := s.newClient()
	s.settle()
	token := s.mustIssue(0, c)
	var before int64 // stored
	for round := range 3 {
		var answered []time.Time
		for begun, lasts := time.Now(), 2*interval+rand.N(interval); time.Since(begun) < lasts; time.Sleep(5 * time.Millisecond) {
			if status := s.use(0, token); status != 200 {
				t.Fatalf("round %d: %d", round, status)
			}
			answered = append(answered, time.Now())
		}
		killed := time.Now()
		s.nodes[0].signal(9)
		s.nodes[0].ends(time.Second)
		old := int64(0)
		for _, at := range answered {
			if killed.Sub(at) > interval+slack {
				old++
			}
		}
		now := s.usedOf(c, "requests")
		t.Logf("round %d: of %d requests, %d of them old, %d are stored", round, len(answered), old, now-before)
		if stored := now - before; old == 0 || stored < old || stored > int64(len(answered)) {
			t.Errorf("round %d: of %d requests, %d of them old, %d are stored", round, len(answered), old, stored)
		}
		before = now
		s.again(0)
	}
	for range 5 {
		if status := s.use(0, token); status != 200 {
			t.Fatalf("%d", status)
		}
	}
	s.stop(0)
	if now := s.usedOf(c, "requests"); now != before+5 {
		t.Errorf("%d requests are stored after a stop, want %d more than %d", now, 5, before)
	}
}

// TestUsageWhileLinksFail: three replicas add to the same rows while their links to the store
// are cut and hang, in the middle of commits too. When they have ended, every request is
// stored, once.
func TestUsageWhileLinksFail(t *testing.T) {
	t.Setenv("POSTERN_USAGE_INTERVAL", "1s")
	s := startShared(t, pgtest.Start(t), 3, "")
	c, token, _, _ := s.warm()
	var sent, wrong atomic.Int64
	sent.Store(int64(len(s.nodes))) // by warm
	var calling sync.WaitGroup
	until := time.Now().Add(12 * time.Second)
	for i := range s.nodes {
		calling.Go(func() {
			for time.Now().Before(until) {
				if s.use(i, token) == 200 {
					sent.Add(1)
				} else {
					wrong.Add(1)
				}
				time.Sleep(2 * time.Millisecond)
			}
		})
	}
	for time.Now().Before(until.Add(-time.Second)) {
		l := s.links[rand.N(2)] // the third one is well all the time
		time.Sleep(rand.N(300 * time.Millisecond))
		if rand.N(4) == 0 {
			l.hang()
			time.Sleep(rand.N(2 * time.Second))
			l.cut()
		} else {
			l.reset() // whatever is under way
		}
		l.heal()
	}
	calling.Wait()
	if n := wrong.Load(); n > 0 {
		t.Errorf("%d requests failed", n)
	}
	for i := range s.nodes {
		s.stop(i)
	}
	if got := s.usedOf(c, "requests"); got != sent.Load() {
		t.Errorf("%d requests are stored of %d", got, sent.Load())
	}
	if rows := s.query("SELECT CAST(count(*) AS TEXT) FROM usage WHERE client_id = $1", c.id); rows != "1" && rows != "2" {
		t.Errorf("%s rows for an hour or two", rows)
	}
}

package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// revoked is one revocation as a test saw it.
type revoked struct {
	token string
	at    time.Time   // acknowledged
	last  []time.Time // when each node still took the token; zero: never after at
	first []time.Time // when each node first answered without taking it
}

// TestRevocationsWhileLinksFail: three posterns revoke under load while their links to the
// store are cut, hung, slowed and healed. A connected one refuses what another revoked
// within a second; one that is cut off takes it no longer than verify.max_staleness; and
// once all is healed none takes any.
func TestRevocationsWhileLinksFail(t *testing.T) {
	const staleness, load = 3 * time.Second, 20 * time.Second
	server := pgtest.Start(t)
	s := startShared(t, server, 3, fmt.Sprintf("max_staleness: %s, on_stale: refuse", staleness))
	var clients []credentials
	for range 8 {
		clients = append(clients, s.newClient())
	}
	s.settle()

	end := time.Now().Add(load)
	var mu sync.Mutex
	var all []*revoked
	var workers sync.WaitGroup
	for _, c := range clients {
		workers.Go(func() {
			for time.Now().Before(end) {
				if r := s.revokeAndWatch(c, staleness+2*time.Second); r != nil {
					mu.Lock()
					all = append(all, r)
					mu.Unlock()
				}
			}
		})
	}
	s.disturb(end)
	workers.Wait()
	for _, l := range s.links {
		l.heal()
	}
	healed := time.Now()
	for i := range s.nodes {
		s.recovers(i, clients[0], healed)
	}
	s.settle()
	for _, r := range all {
		for i := range s.nodes {
			if status := s.use(i, r.token); status != 401 {
				t.Errorf("after healing node %d answers %d to a revoked token", i, status)
			}
		}
	}
	s.judge(all, staleness)
}

// disturb breaks one link after another until end, and leaves times in which all are sound.
func (s *shared) disturb(end time.Time) {
	for i := 0; time.Now().Before(end.Add(-3 * time.Second)); i++ {
		l := s.links[rand.IntN(len(s.links))]
		switch i % 3 {
		case 0:
			l.cut()
		case 1:
			l.hang()
		case 2:
			l.slow(20 * time.Millisecond)
		}
		time.Sleep(500*time.Millisecond + rand.N(3500*time.Millisecond))
		l.heal()
		time.Sleep(time.Second + rand.N(time.Second))
	}
	time.Sleep(time.Until(end))
}

// revokeAndWatch gets a token, has it revoked, and watches every node for at most watch;
// nil: this time one or the other could not be.
func (s *shared) revokeAndWatch(c credentials, watch time.Duration) *revoked {
	by := rand.IntN(len(s.nodes))
	token, _, r := s.issue(by, c)
	if r.status != 201 {
		time.Sleep(10 * time.Millisecond)
		return nil
	}
	for i := range s.nodes {
		s.use(i, token) // now each that can knows it well
	}
	if s.revoke(by, c, token).status != 200 {
		return nil // whether it is revoked nobody was told
	}
	seen := &revoked{token: token, at: time.Now(), last: make([]time.Time, len(s.nodes)), first: make([]time.Time, len(s.nodes))}
	for waiting := true; waiting && time.Since(seen.at) < watch; {
		waiting = false
		for i := range s.nodes {
			if !seen.first[i].IsZero() && s.links[i].sound(seen.at, time.Now()) {
				continue
			}
			asked := time.Now()
			switch status := s.use(i, token); {
			case status == 200:
				seen.last[i], waiting = asked, true
			case seen.first[i].IsZero():
				seen.first[i] = time.Now()
			}
		}
		time.Sleep(2 * time.Millisecond)
	}
	return seen
}

// judge holds what was seen to the bounds, and tells the times.
func (s *shared) judge(all []*revoked, staleness time.Duration) {
	s.t.Helper()
	var own, others, broken []time.Duration
	for _, r := range all {
		for i := range s.nodes {
			after := time.Duration(0)
			if !r.last[i].IsZero() {
				after = r.last[i].Sub(r.at)
			}
			// One whose link has just healed may still be about to connect.
			if sound := s.links[i].sound(r.at.Add(-5*time.Second), r.at.Add(after+time.Second)); !sound {
				broken = append(broken, after)
			} else if after == 0 {
				own = append(own, r.first[i].Sub(r.at))
			} else {
				others = append(others, r.first[i].Sub(r.at))
			}
		}
	}
	if len(all) < 50 || len(others) < 10 || len(broken) < 10 {
		s.t.Errorf("%d revocations, %d seen late by connected nodes, %d by others: too few to judge", len(all), len(others), len(broken))
		return
	}
	connected := append(own, others...)
	for name, times := range map[string][]time.Duration{"connected": connected, "connected, not at once": others, "link broken": broken} {
		slices.Sort(times)
		s.t.Logf("%-24s %5d times: p50 %8s, p99 %8s, worst %8s", name, len(times), times[len(times)/2].Round(time.Millisecond/10),
			times[len(times)*99/100].Round(time.Millisecond/10), times[len(times)-1].Round(time.Millisecond/10))
	}
	slices.Sort(connected)
	if p99 := connected[len(connected)*99/100]; p99 > time.Second {
		s.t.Errorf("of the revocations one in a hundred took connected nodes more than %s", p99)
	}
	if worst := connected[len(connected)-1]; worst > 10*time.Second {
		s.t.Errorf("a connected node took a revoked token for %s", worst)
	}
	if worst := slices.Max(broken); worst > staleness+time.Second {
		s.t.Errorf("a node that was cut off took a revoked token for %s, longer than verify.max_staleness", worst)
	}
}

package main

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// TestRow157PostgresAwayAtStart: a postern that starts while PostgreSQL is away, or hangs,
// waits for it: alive and not ready, and refusing what it cannot judge.
func TestRow157PostgresAwayAtStart(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	s := startShared(t, server, 1, "")
	known, token, _, _ := s.warm()
	f := func(name string, away, back func()) {
		t.Run(name, func(t *testing.T) {
			s.stop(0)
			away()
			s.again(0)
			for range 3 {
				for path, want := range map[string]int{"/livez": 200, "/readyz": 503} {
					if r, err := send(t.Context(), "GET", s.nodes[0].admin+path, ""); err != nil || r.status != want {
						t.Errorf("%s: %d %s %v", path, r.status, r.body, err)
					}
				}
				_, _, r := s.issue(0, known)
				s.unavailable("issuing", r)
				s.unavailable("a token", s.nodes[0].get("/tracks", token))
				time.Sleep(200 * time.Millisecond)
			}
			back()
			s.recovers(0, known, time.Now())
			if status := s.use(0, token); status != 200 {
				t.Errorf("the token: %d", status)
			}
			if r, err := send(t.Context(), "GET", s.nodes[0].admin+"/readyz", ""); err != nil || r.status != 200 {
				t.Errorf("/readyz: %d %s %v", r.status, r.body, err)
			}
		})
	}
	f("killed", func() { server.Kill(t) }, func() { server.Restart(t) })
	f("frozen", func() { server.Freeze(t) }, func() { server.Thaw(t) })
	f("link", s.links[0].hang, s.links[0].heal)
}

// TestRow158PostgresAway: PostgreSQL is killed while posterns serve. Verifying goes on,
// the rest says 503, and all is well within five seconds after it is back.
func TestRow158PostgresAway(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	s := startShared(t, server, 2, "")
	known, token, unknown, unknownToken := s.warm()
	server.Kill(t)
	s.storeAway(known, token, unknownToken)
	server.Restart(t)
	back := time.Now()
	for i := range s.nodes {
		s.recovers(i, known, back)
	}
	if status := s.use(0, unknownToken); status != 200 {
		t.Errorf("the client that was not in memory: %d", status)
	}
	// A connection of before may fail once more. Whoever was in the middle of following follows on.
	eventually(t, 500*time.Millisecond, "it revokes again", func() bool { return s.revoke(1, unknown, unknownToken).status == 200 })
	eventually(t, time.Second, "the other one refuses it", func() bool { return s.use(0, unknownToken) == 401 })
}

// TestRow159PostgresHangs: every process of PostgreSQL is stopped, and answers nothing;
// then a link is.
func TestRow159PostgresHangs(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	s := startShared(t, server, 2, "")
	known, token, _, unknownToken := s.warm()
	f := func(name string, hang, heal func()) {
		t.Run(name, func(t *testing.T) {
			hang()
			s.storeAway(known, token, unknownToken)
			most := s.links[0].connections()
			heal()
			back := time.Now()
			for i := range s.nodes {
				s.recovers(i, known, back)
			}
			if most > maxStoreConnections || s.links[0].connections() > maxStoreConnections {
				t.Errorf("%d connections to the store while it hung, %d later", most, s.links[0].connections())
			}
			t.Logf("%d connections to the store while it hung, %d later", most, s.links[0].connections())
		})
	}
	f("frozen", func() { server.Freeze(t) }, func() { server.Thaw(t) })
	f("link", s.links[0].hang, s.links[0].heal)
}

// maxStoreConnections is how many connections one postern may hold: its pools and its feed.
const maxStoreConnections = 20

// TestRow158StoreRestarts: an ordinary restart, a link that is cut, and one that is slow.
func TestRow158StoreRestarts(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	s := startShared(t, server, 2, "")
	known, token, _, unknownToken := s.warm()
	t.Run("restart", func(t *testing.T) {
		server.Stop(t)
		server.Restart(t)
		back := time.Now()
		for i := range s.nodes {
			s.recovers(i, known, back)
		}
	})
	t.Run("cut", func(t *testing.T) {
		s.links[0].cut()
		s.storeAway(known, token, unknownToken)
		if _, _, r := s.issue(1, known); r.status != 201 {
			t.Errorf("the other one: %d %s", r.status, r.body)
		}
		s.links[0].heal()
		s.recovers(0, known, time.Now())
	})
	t.Run("slow", func(t *testing.T) {
		s.links[0].slow(50 * time.Millisecond)
		defer s.links[0].heal()
		started := time.Now()
		token := s.mustIssue(0, known)
		if took := time.Since(started); took > 2*time.Second {
			t.Errorf("issuing took %s", took)
		}
		if status := s.use(0, token); status != 200 {
			t.Errorf("%d", status)
		}
		if r := s.revoke(1, known, token); r.status != 200 {
			t.Errorf("revoke: %d %s", r.status, r.body)
		}
		eventually(t, time.Second, "the slow one refuses it", func() bool { return s.use(0, token) == 401 })
	})
}

// TestRow158StoreReadOnly: the store became read-only, as a standby is.
func TestRow158StoreReadOnly(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	s := startShared(t, server, 1, "")
	known, token, _, unknownToken := s.warm()
	set := func(value string) {
		s.server.Exec(t, "postgres", "ALTER SYSTEM SET default_transaction_read_only = "+value)
		s.server.Exec(t, "postgres", "SELECT pg_reload_conf()")
	}
	set("on")
	eventually(t, time.Second, "nothing is issued", func() bool { _, _, r := s.issue(0, known); return r.status != 201 })
	for range 5 {
		_, _, r := s.issue(0, known)
		s.unavailable("issuing", r)
		s.unavailable("revoking", s.revoke(0, known, token))
		if status := s.use(0, token); status != 200 {
			t.Errorf("a known token: %d", status)
		}
		if status := s.use(0, unknownToken); status != 200 { // reading is not writing
			t.Errorf("a client that is not in memory: %d", status)
		}
	}
	set("off")
	s.recovers(0, known, time.Now())
}

// TestRow164PostgresKilled: PostgreSQL is killed while tokens are issued and revoked:
// every token and every revocation that was acknowledged is there afterwards.
func TestRow164PostgresKilled(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	s := startShared(t, server, 1, "")
	known, _, _, _ := s.warm()
	var mu sync.Mutex
	acknowledged := map[string]bool{} // token ids, and whether their revocation was too
	for round := range 3 {
		var ended atomic.Bool
		var load sync.WaitGroup
		end := func() { ended.Store(true); load.Wait() }
		defer end()
		for range 8 {
			load.Go(func() {
				for i := 0; !ended.Load(); i++ {
					token, id, r := s.issue(0, known)
					if r.status != 201 {
						time.Sleep(5 * time.Millisecond)
						continue
					}
					revoked := i%2 == 0 && s.revoke(0, known, token).status == 200
					mu.Lock()
					acknowledged[id] = revoked
					mu.Unlock()
				}
			})
		}
		eventually(t, 3*time.Second, "the round issues its tokens", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(acknowledged) >= 20*(round+1)
		})
		server.Kill(t)
		time.Sleep(100 * time.Millisecond)
		end()
		server.Restart(t)
		s.recovers(0, known, time.Now())
	}
	lost, revoked := 0, 0
	for id, gone := range acknowledged {
		if !s.kept(id, gone) {
			lost++
		}
		if gone {
			revoked++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged tokens and revocations are lost", lost, len(acknowledged))
	}
	t.Logf("%d tokens and %d revocations were acknowledged", len(acknowledged), revoked)
}

package main

import (
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"postern/registry/pgtest"
	"postern/secret"
)

// manyClients says how many clients TestMemoryOfManyClients has; by default so many
// that the test is short.
const manyClients = "MANY_CLIENTS"

// TestMemoryOfManyClients: what a replica holds in memory follows from the clients that
// call, and not from those that there are: with a million of 10,000 organizations at most
// 50 MB more than with 10,000.
//
//	MANY_CLIENTS=1000000 go test -run TestMemoryOfManyClients -v .
func TestMemoryOfManyClients(t *testing.T) {
	const allowed = 50 << 20
	many := 100_000
	if text := os.Getenv(manyClients); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < many {
			t.Fatalf("%s: %q", manyClients, text)
		}
		many = n
	}
	few, touched := many/100, many/50
	same, err := secret.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := func(engine string, start func(*testing.T) *shared) {
		t.Run(engine, func(t *testing.T) {
			memory := map[int]float64{}
			for _, n := range []int{few, many} {
				s := start(t)
				began := time.Now()
				s.fill(n, max(100, n/100), same)
				filled := time.Now()
				s.touch(n, touched, same.Reveal())
				memory[n] = s.nodes[0].metric("process_resident_memory_bytes")
				t.Logf("%8d clients: filled in %s, %d touched in %s; %v clients in memory, %.1f MB resident", n,
					filled.Sub(began).Round(time.Millisecond), touched, time.Since(filled).Round(time.Millisecond),
					s.nodes[0].metric("postern_directory_clients"), memory[n]/(1<<20))
				s.stop(0)
			}
			if more := memory[many] - memory[few]; more > allowed || memory[few] == 0 {
				t.Errorf("%d clients take %.1f MB more than %d", many, more/(1<<20), few)
			}
		})
	}
	f("sqlite", func(t *testing.T) *shared { return startShared(t, nil, 1, "") })
	f("postgres", func(t *testing.T) *shared { return startShared(t, pgtest.Start(t), 1, "") })
}

// manyID is the id of one of many, in SQL too.
func manyID(kind string, n int) string {
	return fmt.Sprintf("%s-0000-7000-8000-%d", kind, 100_000_000_000+n)
}

// fill puts clients into the store, all with the same secret, by SQL and past all checks.
func (s *shared) fill(clients, organizations int, same secret.Secret) {
	s.t.Helper()
	digest := secret.DigestOf([]byte(same.Reveal()))
	id := func(kind, n string) string {
		return fmt.Sprintf("'%s-0000-7000-8000-' || (100000000000 + (%s))", kind, n)
	}
	from := func(n int) string {
		return fmt.Sprintf("FROM (WITH RECURSIVE r (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM r WHERE n < %d) SELECT n FROM r) AS r", n-1)
	}
	now := time.Now().UnixMilli()
	db, err := sql.Open(s.driver())
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	statements := []string{
		fmt.Sprintf("INSERT INTO organization (id, name, created_at) SELECT %s, 'Organization ' || n, %d %s",
			id("0000000a", "n"), now, from(organizations)),
		fmt.Sprintf("INSERT INTO client (id, organization_id, application, environment, created_at) SELECT %s, %s, 'Radio ' || n, 'production', %d %s",
			id("0000000b", "n"), id("0000000a", fmt.Sprintf("n %% %d", organizations)), now, from(clients)),
		fmt.Sprintf("INSERT INTO client_secret (id, client_id, digest, created_at) SELECT %s, %s, '%s', %d %s",
			id("0000000c", "n"), id("0000000b", "n"), hex.EncodeToString(digest[:]), now, from(clients)),
		"ANALYZE",
	}
	if s.server != nil { // foreign keys are checked row by row otherwise
		statements = append([]string{"SET session_replication_role = replica"}, statements...)
	}
	for _, text := range statements {
		if _, err := db.ExecContext(s.t.Context(), text); err != nil {
			s.t.Fatal(err)
		}
	}
}

// touch has node 0 read so many random clients: each asks about a token, with its secret.
func (s *shared) touch(clients, touched int, same string) {
	s.t.Helper()
	next := make(chan int)
	var workers sync.WaitGroup
	for range 16 {
		workers.Go(func() {
			for n := range next {
				form := url.Values{"client_id": {manyID("0000000b", n)}, "client_secret": {same}, "token": {"none"}}.Encode()
				r, err := s.call(0, "POST", "/oauth/token/introspect", form, "Content-Type", "application/x-www-form-urlencoded")
				if err != nil || r.status != 200 {
					s.t.Errorf("client %d: %d %s %v", n, r.status, r.body, err)
				}
			}
		})
	}
	for range touched {
		if s.t.Failed() {
			break
		}
		next <- mathrand.IntN(clients)
	}
	close(next)
	workers.Wait()
}

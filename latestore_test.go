package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/registry"
	"postern/registry/pgtest"
	"postern/secret"
)

// TestRow157StoreAwayAtStart: a postern whose store is locked by another process starts,
// answers what needs no store, refuses all else with 503, and serves once the lock is gone.
func TestRow157StoreAwayAtStart(t *testing.T) {
	up := startUpstream(t)
	const more = "issuer: {url: \"https://api.example.com\"}\nroutes: [{name: public, path: /public, upstream: [\"{upstream}\"], access: public}, {path: /, upstream: [\"{upstream}\"]}]\n"
	a := serve(t, up, more)
	c := a.client("")
	token := a.goodToken(c)
	revoked := a.goodToken(c)
	revokeToken(t, a, c, revoked)
	release := lockStore(t, a.store)
	b := serveOn(t, up, a.store, more)
	refusesAll(t, b, c, token)
	release()
	servesAll(t, b, c, token, revoked)
}

// TestRow157PostgresRefusesOrHangsAtStart: the same with a PostgreSQL that refuses connections, and
// with one that takes them and says nothing.
func TestRow157PostgresRefusesOrHangsAtStart(t *testing.T) {
	t.Parallel() // it waits most of the time
	server := pgtest.Start(t)
	f := func(name string, away, back func(testing.TB)) {
		t.Run(name, func(t *testing.T) {
			up := startUpstream(t)
			key := sha256.Sum256([]byte("the master key of " + name))
			more := "issuer: {url: \"https://api.example.com\"}\nkeys: {master_key: " + hex.EncodeToString(key[:]) +
				"}\nroutes: [{name: public, path: /public, upstream: [\"{upstream}\"], access: public}, {path: /, upstream: [\"{upstream}\"]}]\n"
			a := serveOn(t, up, server.Fresh(t), more)
			organization := a.configured("organization", "create", "--name", "Acme")["id"].(string)
			made := a.configured("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production")
			c := credentials{organization, made["client_id"].(string), made["client_secret"].(string)}
			token, revoked := a.goodToken(c), a.goodToken(c)
			revokeToken(t, a, c, revoked)
			if code := a.stop(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			away(t)
			isBack := false
			defer func() {
				if !isBack {
					back(t)
				}
			}()
			b := serveOn(t, up, a.store, more)
			refusesAll(t, b, c, token)
			back(t)
			isBack = true
			servesAll(t, b, c, token, revoked)
		})
	}
	f("stopped", server.Stop, server.Restart)
	f("frozen", server.Freeze, server.Thaw)
}

func revokeToken(t *testing.T, s *served, c credentials, token string) {
	t.Helper()
	r := s.do("POST", "/oauth/token/revoke", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "token": %q}`, c.id, c.secret, token), "Content-Type", "application/json")
	if r.status != 200 {
		t.Fatalf("revoke: %d %s", r.status, r.body)
	}
}

// refusesAll holds a postern that has never seen its store to what row 157 says.
func refusesAll(t *testing.T, s *served, c credentials, token string) {
	t.Helper()
	ask := func(path string) reply {
		t.Helper()
		r, err := send(t.Context(), "GET", s.admin+path, "")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := ask("/livez"); r.status != 200 {
		t.Errorf("/livez: %d %s", r.status, r.body)
	}
	if r := ask("/readyz"); r.status != 503 || !strings.Contains(r.body, `"starting: `) {
		t.Errorf("/readyz: %d %s", r.status, r.body)
	}
	if r := ask("/metrics"); r.status != 200 || !strings.Contains(r.body, "postern_feed_age_seconds +Inf") {
		t.Errorf("/metrics: %d %.300s", r.status, r.body)
	}
	f := func(name string, r reply, status int, code string) {
		t.Helper()
		if r.status != status || !strings.Contains(r.body, code) || status == 503 && r.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v %s", name, r.status, r.header, r.body)
		}
	}
	const json = "application/json"
	body := fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "token": %q}`, c.id, c.secret, token)
	f("a protected request", s.get("/", token), 503, `"code":"unavailable"`)
	f("a request that nobody may send", s.get("/", "bad"), 503, `"code":"unavailable"`)
	f("issuing", s.do("POST", "/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q}`, c.id, c.secret), "Content-Type", json), 503, `"code":"temporarily_unavailable"`)
	f("revoking", s.do("POST", "/oauth/token/revoke", body, "Content-Type", json), 503, "")
	f("introspecting", s.do("POST", "/oauth/token/introspect", body, "Content-Type", json), 503, "")
	f("the JWK Set", s.do("GET", "/.well-known/jwks.json", ""), 503, "")
	f("a public route", s.do("GET", "/public", ""), 200, "")
}

// servesAll holds it to what it does soon after the store is there.
func servesAll(t *testing.T, s *served, c credentials, token, revoked string) {
	t.Helper()
	eventually(t, 5*time.Second, "it is ready", func() bool {
		r, err := send(t.Context(), "GET", s.admin+"/readyz", "")
		return err == nil && r.status == 200
	})
	if r := s.get("/", token); r.status != 200 {
		t.Errorf("a protected request: %d %s", r.status, r.body)
	}
	if r := s.get("/", revoked); r.status != 401 {
		t.Errorf("a revoked token: %d %s", r.status, r.body)
	}
	s.goodToken(c)
	if s.metric("postern_store_duration_seconds_count") == 0 {
		t.Error("what the store takes is not counted")
	}
}

// TestStoreFaultsThatStayEndTheStart: what waiting does not mend is told at once.
func TestStoreFaultsThatStayEndTheStart(t *testing.T) {
	f := func(store, want string) {
		t.Helper()
		var out, errs buffer
		started := time.Now()
		code := run(t.Context(), []string{"serve", "--upstream", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--store", store}, nil, &out, &errs)
		if code == 0 || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: exit code %d, %s", store, code, errs.String())
		}
		if took := time.Since(started); took > 10*storeWait {
			t.Errorf("%s: it took %s", store, took)
		}
	}
	f("sqlite:"+t.TempDir()+"/none/postern.db", "does not exist; create it first")
	f("sqlite:"+t.TempDir(), "is not a regular file")
}

func TestLateStore(t *testing.T) {
	away := fmt.Errorf("away: %w", registry.ErrUnavailable)
	bad := errors.New("bad")
	f := func(name string, outcomes []error, hang time.Duration, want error, wantTries int64, wantLog string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				var tries atomic.Int64
				r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret("sqlite:" + t.TempDir() + "/postern.db")})
				if err != nil {
					t.Fatal(err)
				}
				feed, err := r.Feed(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				s := newLateStore(slog.New(slog.NewTextHandler(&log, nil)), func(context.Context, *registry.Metrics) (*connected, error) {
					n := int(tries.Add(1))
					if n == 1 {
						time.Sleep(hang)
					}
					if n <= len(outcomes) {
						return nil, outcomes[n-1]
					}
					return &connected{r, feed}, nil
				})
				if err := s.start(t.Context()); !errors.Is(err, want) {
					t.Errorf("start: %v, want %v", err, want)
				}
				if want == nil {
					if _, err := s.Keys(t.Context()); (err == nil) != (len(outcomes) == 0 && hang == 0) || err != nil && !errors.Is(err, registry.ErrUnavailable) {
						t.Errorf("Keys: %v", err)
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					if _, err := s.Keys(t.Context()); err != nil {
						t.Errorf("Keys, later: %v", err)
					}
				} else if err := errors.Join(feed.Close(), r.Close()); err != nil {
					t.Error(err)
				}
				if err := s.close(); err != nil {
					t.Error(err)
				}
				if tries.Load() != wantTries || !strings.Contains(log.String(), wantLog) || strings.Count(log.String(), "ERROR") > 2 {
					t.Errorf("%d tries, logged %s", tries.Load(), &log)
				}
			})
		})
	}
	f("at once", nil, 0, nil, 1, "")
	f("away", []error{away, away, away, away, away, away}, 0, nil, 7, "opened the store")
	f("hanging", []error{away}, 10*time.Second, nil, 2, "does not answer yet")
	f("hanging, then well", nil, 10*time.Second, nil, 1, "does not answer yet")
	f("bad", []error{bad}, 0, bad, 1, "")
	f("bad for good", []error{fmt.Errorf("%w: %w", registry.ErrUnwritable, registry.ErrUnavailable)}, 0, registry.ErrUnwritable, 1, "")
	f("bad later", []error{away, bad, bad}, 0, nil, 4, "error=bad")
}

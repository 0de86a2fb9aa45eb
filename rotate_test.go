package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// replicas are posterns, each a process of its own, on one store.
type replicas struct {
	*served // the command line, and the first one's front
	dir     string
	mu      sync.Mutex
	nodes   []*process
}

// onReplicas runs f with three replicas on one store of each kind. keys is what they have
// under keys, beside the master key.
func onReplicas(t *testing.T, keys string, f func(t *testing.T, s *replicas)) {
	t.Run("sqlite", func(t *testing.T) { f(t, startReplicas(t, "", keys)) })
	t.Run("postgres", func(t *testing.T) { f(t, startReplicas(t, pgtest.Start(t).Fresh(t), keys)) })
}

func startReplicas(t *testing.T, dsn, keys string) *replicas {
	t.Helper()
	dir, master := t.TempDir(), make([]byte, 32)
	_, _ = rand.Read(master)
	if dsn == "" {
		dsn = "sqlite:" + dir + "/postern.db"
	}
	file := filepath.Join(dir, "postern.yaml")
	writeFile(t, file, fmt.Sprintf("front: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\nstore: %q\nkeys: {master_key: %q, %s}\n"+
		"issuer: {url: \"https://api.example.com\"}\nroutes: [{name: api, path: /, upstream: [\"http://%s\"]}]\n",
		dsn, base64.StdEncoding.EncodeToString(master), keys, startUpstream(t).address))
	s := &replicas{served: &served{t: t, file: file, store: dsn, logs: &buffer{}}, dir: dir}
	for range 3 {
		s.nodes = append(s.nodes, start(t, dir, "--config", file))
	}
	s.front = s.nodes[0].front
	return s
}

// all are the replicas that run now.
func (s *replicas) all() []*process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.nodes)
}

// newClient makes one by the command line.
func (s *replicas) newClient() credentials {
	s.t.Helper()
	organization := s.configured("organization", "create", "--name", "Acme")["id"].(string)
	c := s.configured("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production")
	return credentials{organization, c["client_id"].(string), c["client_secret"].(string)}
}

// goodEverywhere waits until every replica takes a token.
func (s *replicas) goodEverywhere(token string, promise time.Duration) {
	s.t.Helper()
	for i, n := range s.all() {
		eventually(s.t, promise, fmt.Sprintf("replica %d takes the token", i), func() bool { return n.get("/", token).status == 200 })
	}
}

// keyOf is the kid of the key that signed a token.
func keyOf(t *testing.T, token string) string {
	t.Helper()
	head, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.DecodeString(head)
	var header struct{ Kid string }
	if err != nil || json.Unmarshal(raw, &header) != nil || header.Kid == "" {
		t.Fatalf("no kid in %s", raw)
	}
	return header.Kid
}

// published are the kids in the JWK Set of n, which must be whole.
func published(t *testing.T, n *process) (kids []string) {
	t.Helper()
	r := n.do("GET", "/.well-known/jwks.json", "")
	var set struct {
		Keys []struct{ Kid, Kty, Crv, X, Y string }
	}
	if err := json.Unmarshal([]byte(r.body), &set); err != nil || r.status != 200 || len(set.Keys) == 0 {
		t.Fatalf("the JWK Set: %d %s", r.status, r.body)
	}
	for _, k := range set.Keys {
		if k.Kid == "" || k.Kty != "EC" || k.X == "" || k.Y == "" {
			t.Errorf("a key in the JWK Set is not whole: %+v", k)
		}
		kids = append(kids, k.Kid)
	}
	return kids
}

// TestRow047KeyRotated: after a rotation each replica takes the old key's tokens and the new one's.
func TestRow047KeyRotated(t *testing.T) {
	onReplicas(t, "publish: 0s", func(t *testing.T, s *replicas) {
		c := s.newClient()
		old := s.goodToken(c)
		s.goodEverywhere(old, time.Second)
		kid := s.configured("key", "rotate")["kid"].(string)
		for i, n := range s.all() {
			eventually(t, time.Second, fmt.Sprintf("replica %d signs with the new key", i), func() bool {
				token := n.goodToken(c)
				if keyOf(t, token) != kid {
					return false
				}
				s.goodEverywhere(token, time.Second)
				return true
			})
			if r := n.get("/", old); r.status != 200 {
				t.Errorf("replica %d: the old key's token: %d", i, r.status)
			}
			if kids := published(t, n); len(kids) != 2 || !slices.Contains(kids, kid) || !slices.Contains(kids, keyOf(t, old)) {
				t.Errorf("replica %d: published are %v", i, kids)
			}
		}
	})
}

// TestRow048KeyRevoked: within a second every replica refuses what a revoked key signed,
// though it had verified it before, and another key signs.
func TestRow048KeyRevoked(t *testing.T) {
	onReplicas(t, "publish: 2h", func(t *testing.T, s *replicas) {
		c := s.newClient()
		old := s.goodToken(c)
		s.goodEverywhere(old, time.Second)
		s.configured("key", "revoke", keyOf(t, old), "--yes")
		began := time.Now()
		for i, n := range s.all() {
			eventually(t, time.Second, fmt.Sprintf("replica %d refuses it", i), func() bool { return n.get("/", old).status == 401 })
			t.Logf("replica %d after %s", i, time.Since(began).Round(time.Millisecond))
			eventually(t, time.Second, "it publishes another key alone", func() bool {
				kids := published(t, n)
				return len(kids) == 1 && kids[0] != keyOf(t, old)
			})
		}
		for _, n := range s.all() {
			s.goodEverywhere(n.goodToken(c), time.Second)
		}
	})
}

// TestRow166KillWhileKeysRotate: three replicas rotate by schedule and are killed at any
// moment. Exactly one makes each key, every set is whole, and every token ever issued is good
// everywhere.
func TestRow166KillWhileKeysRotate(t *testing.T) {
	t.Parallel() // it waits most of the time
	const rotate = 1500 * time.Millisecond
	onReplicas(t, "rotate: 1500ms, publish: 1s", func(t *testing.T, s *replicas) {
		c := s.newClient()
		var tokens []string
		ctx, stop := context.WithCancel(t.Context())
		var load sync.WaitGroup
		load.Go(func() {
			body := fmt.Sprintf(`{"client_id": %q, "client_secret": %q}`, c.id, c.secret)
			for i := 0; ctx.Err() == nil; i++ {
				n := s.all()[i%3]
				r, err := send(ctx, "POST", n.front+"/oauth/token", body, "Content-Type", "application/json")
				var envelope struct{ Data struct{ Token string } }
				if err == nil && r.status == 201 && json.Unmarshal([]byte(r.body), &envelope) == nil { // else it was killed
					tokens = append(tokens, envelope.Data.Token)
				} else if err == nil && r.status < 500 {
					t.Errorf("no token: %d %s", r.status, r.body)
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		for round := range 6 {
			time.Sleep(time.Duration(300+mathrand.IntN(900)) * time.Millisecond)
			i := round % 3
			_ = s.all()[i].command.Process.Kill()
			n := start(t, s.dir, "--config", s.file)
			s.mu.Lock()
			s.nodes[i] = n
			s.mu.Unlock()
			published(t, n)
		}
		stop()
		load.Wait()

		signed := map[string]int{}
		for _, token := range tokens {
			signed[keyOf(t, token)]++
			for i, n := range s.all() {
				eventually(t, time.Second, fmt.Sprintf("replica %d takes a token signed by %s", i, keyOf(t, token)), func() bool { return n.get("/", token).status == 200 })
			}
		}
		keys := s.keys()
		for i, k := range keys {
			if (k.VerifiesUntil == nil) != (i == len(keys)-1) {
				t.Errorf("key %d of %d verifies until %v", i, len(keys), k.VerifiesUntil)
			}
			if i > 0 && time.Duration(k.SignsFrom-keys[i-1].SignsFrom)*time.Millisecond < rotate {
				t.Errorf("key %d signs %d ms after the one before: two replicas rotated", i, k.SignsFrom-keys[i-1].SignsFrom)
			}
		}
		for i, n := range s.all() {
			kids := published(t, n)
			for kid := range signed {
				if !slices.Contains(kids, kid) {
					t.Errorf("replica %d does not publish %s, which signed %d tokens", i, kid, signed[kid])
				}
			}
		}
		t.Logf("%d tokens by %d keys of %d", len(tokens), len(signed), len(keys))
		if len(signed) < 2 || len(tokens) < 30 {
			t.Error("the test proves little")
		}
	})
}

type listedKey struct {
	Kid           string `json:"kid"`
	SignsFrom     int64  `json:"signs_from"`
	VerifiesUntil *int64 `json:"verifies_until"`
}

// keys are all keys there ever were, the first to sign first.
func (s *replicas) keys() (all []listedKey) {
	s.t.Helper()
	var out, errs buffer
	if code := run(s.t.Context(), []string{"key", "list", "--config", s.file, "--json"}, nil, &out, &errs); code != 0 {
		s.t.Fatalf("key list: %s", errs.String())
	}
	if err := json.Unmarshal([]byte(out.String()), &all); err != nil {
		s.t.Fatal(err)
	}
	slices.SortFunc(all, func(a, b listedKey) int { return int(a.SignsFrom - b.SignsFrom) })
	return all
}

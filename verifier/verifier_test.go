package verifier

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"postern/directory"
	"postern/registry"
	"postern/token"
)

func TestVerify(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.mustBe(w.accept(raw, start), c) // a miss
	if !w.held(raw) {
		t.Fatal("not in the cache")
	}
	w.mustBe(w.accept(raw, start), c) // a hit
	if hits, misses := w.counted("postern_cache_hits_total", ""), w.counted("postern_cache_misses_total", ""); hits != 1 || misses != 1 {
		t.Errorf("%v hits, %v misses", hits, misses)
	}
	if n := w.counted("postern_verifications_total", "ok"); n != 2 {
		t.Errorf("%v verifications", n)
	}
	if n := w.counted("postern_cache_bytes", ""); n != entryCost+float64(len(c.Scope)) {
		t.Errorf("%v bytes", n)
	}
}

func TestNewRefuses(t *testing.T) {
	f := func(name string, o Options, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			v, err := New(nil, o)
			if v != nil || err == nil || err.Error() != want {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	f("no issuer", Options{Audience: "a"}, "make verifier: issuer and audience are required")
	f("no audience", Options{Issuer: "a"}, "make verifier: issuer and audience are required")
	f("small cache", Options{Issuer: "a", Audience: "a", CacheBytes: 65535}, "make verifier: the cache has 65535 bytes, less than 65536")
	f("negative cache", Options{Issuer: "a", Audience: "a", CacheBytes: -1}, "make verifier: the cache has -1 bytes, less than 65536")
}

func TestRow019UnknownKeyFlood(t *testing.T) {
	w := newWorld(t)
	w.key = w.addKey(token.EdDSA, 0) // and nobody says so to the directory
	for range 1000 {
		w.refuse(w.sign(w.claims("client-a", "organization-a")), start, token.UnknownKey)
	}
	if w.store.reads != 0 {
		t.Errorf("the store was read %d times", w.store.reads)
	}
	if n := w.counted("postern_verifications_total", "unknown_key"); n != 1000 {
		t.Errorf("counted %v", n)
	}
}

// Our own fault is never the caller's: while the feed is stale the key may be one that
// was published since.
func TestUnknownKeyWhileStale(t *testing.T) {
	w := newWorld(t)
	known := w.key
	w.key = w.addKey(token.EdDSA, 0)
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.refuse(raw, start.Add(5*time.Second), token.UnknownKey)
	w.unavailable(raw, start.Add(5*time.Second+1))
	if n := w.counted("postern_verifications_total", "unavailable"); n != 1 {
		t.Errorf("counted %v", n)
	}
	w.catchUp()
	w.mustBe(w.accept(raw, start.Add(6*time.Second)), c)
	// Another issuer's token is refused however stale the feed is, and so is a broken one.
	c.Issuer = "https://elsewhere.example.com"
	w.refuse(w.sign(c), start.Add(time.Minute), token.WrongIssuer)
	w.refuse([]byte("x"), start.Add(time.Minute), token.Malformed)
	w.key = known
	w.accept(w.sign(w.claims("client-a", "organization-a")), start.Add(time.Minute))
}

func TestNoKeysAtAll(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.claims("client-a", "organization-a"))
	w.change(registry.KindKey, "", func(m *memory) { m.keys = nil })
	w.catchUp()
	w.unavailable(raw, start)
}

func TestNotFresh(t *testing.T) {
	w := newWorld(t, func(d *directory.Options, _ *Options) { d.MaxStaleness = time.Minute })
	raw := w.sign(w.claims("client-a", "organization-a"))
	w.accept(raw, start)
	w.accept(raw, start.Add(time.Minute))
	w.unavailable(raw, start.Add(time.Minute+1))
	w.unavailable([]byte("x"), start.Add(time.Minute+1))
}

func TestServeStale(t *testing.T) {
	w := newWorld(t, func(d *directory.Options, _ *Options) { d.MaxStaleness, d.ServeStale = time.Minute, true })
	raw := w.sign(w.claims("client-a", "organization-a"))
	w.accept(raw, start.Add(time.Hour))
	w.accept(raw, start.Add(time.Hour))
}

func TestStoreAway(t *testing.T) {
	w := newWorld(t)
	warm, cold := w.sign(w.claims("client-a", "organization-a")), w.sign(w.claims("client-b", "organization-b"))
	other := w.sign(w.claims("client-a", "organization-a"))
	w.accept(warm, start)
	f := func(name string, failure error) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w.store.fail = failure
			w.accept(warm, start)
			w.accept(other, start) // never seen, but its client is known
			w.unavailable(cold, start)
			w.store.fail = nil
		})
	}
	f("unavailable", registry.ErrUnavailable)
	f("a failure of another kind", errors.New("disk on fire"))
	w.accept(cold, start)
}

func TestStoreHangs(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.claims("client-a", "organization-a"))
	var patience time.Duration
	w.store.onGrant = func(ctx context.Context) error {
		if deadline, ok := ctx.Deadline(); ok {
			patience = time.Until(deadline)
		}
		return context.DeadlineExceeded // as a store that forgets to translate would
	}
	w.unavailable(raw, start)
	if patience <= time.Second || patience > 2*time.Second {
		t.Errorf("the look-up had %s", patience)
	}
}

func TestClientRefused(t *testing.T) {
	w := newWorld(t)
	w.refuse(w.sign(w.claims("client-x", "organization-a")), start, token.ClientRefused)
	w.refuse(w.sign(w.claims("client-a", "organization-b")), start, token.ClientRefused)
	f := func(name string, change func(*registry.Grant), want token.Invalid) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w.addClient("client-a", "organization-a")
			w.catchUp()
			warm, cold := w.sign(w.claims("client-a", "organization-a")), w.sign(w.claims("client-a", "organization-a"))
			w.accept(warm, start)
			w.changeClient("client-a", change)
			w.catchUp()
			w.refuse(warm, start, want)
			w.refuse(cold, start, want)
			if w.held(cold) {
				t.Error("the cache holds a refused token")
			}
			// It holds the warm one, whose signature is proved; that must not let it pass.
			w.refuse(warm, start, want)
		})
	}
	f("client disabled", func(g *registry.Grant) { g.Client.DisabledAt = 1 }, token.ClientRefused)
	f("client removed", func(g *registry.Grant) { g.Client.RemovedAt = 1 }, token.ClientRefused)
	f("organization disabled", func(g *registry.Grant) { g.Organization.DisabledAt = 1 }, token.ClientRefused)
	f("organization removed", func(g *registry.Grant) { g.Organization.RemovedAt = 1 }, token.ClientRefused)
	f("moved", func(g *registry.Grant) { g.Client.OrganizationID = "organization-b" }, token.ClientRefused)
	f("all tokens of the client revoked", func(g *registry.Grant) { g.Client.TokensValidFrom = registry.At(start) }, token.Revoked)
	f("all tokens of the organization revoked", func(g *registry.Grant) { g.Organization.TokensValidFrom = registry.At(start) }, token.Revoked)
	t.Run("tokens issued a millisecond later", func(t *testing.T) {
		w.addClient("client-a", "organization-a")
		w.changeClient("client-a", func(g *registry.Grant) { g.Client.TokensValidFrom = registry.At(start) - 1 })
		w.catchUp()
		c := w.claims("client-a", "organization-a")
		w.mustBe(w.accept(w.sign(c), start), c)
		c.ID = v7(start.Add(-time.Millisecond), 999)
		w.refuse(w.sign(c), start, token.Revoked)
	})
}

func TestRow041ClientDisabledAndBack(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.claims("client-a", "organization-a"))
	w.accept(raw, start)
	w.changeClient("client-a", func(g *registry.Grant) { g.Client.DisabledAt = 1 })
	w.catchUp()
	w.refuse(raw, start, token.ClientRefused)
	w.changeClient("client-a", func(g *registry.Grant) { g.Client.DisabledAt = 0 })
	w.catchUp()
	w.accept(raw, start)
	if misses := w.counted("postern_cache_misses_total", ""); misses != 1 {
		t.Errorf("the signature was checked %v times", misses)
	}
	if e, ok := w.verifier.cache.Get(w.verifier.hash(digest(raw))); !ok || e.client.Dead() {
		t.Error("the cache was not given the new state: each hit asks for it again")
	}
}

// Only our issuer's ids say when the record was issued.
func TestOtherVersionsOfUUID(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	c.ID = uuid.MustParse("232a15c2-2f34-47ef-968b-86c3290d1058")
	w.refuse(w.sign(c), start, token.Malformed)
}

func TestRow028LargeTokens(t *testing.T) {
	w := newWorld(t)
	for _, size := range []int{4 << 10, 8 << 10, 15 << 10} {
		c := w.claims("client-a", "organization-a")
		empty := c
		empty.Scope = "s"
		c.Scope = strings.Repeat("scope:read ", (size-len(w.sign(empty)))*3/4/11)
		c.Scope = c.Scope[:len(c.Scope)-1]
		raw := w.sign(c)
		if len(raw) > size || len(raw) < size-64 {
			t.Fatalf("%d bytes, want %d", len(raw), size)
		}
		w.mustBe(w.accept(raw, start), c)
		if !w.held(raw) {
			t.Errorf("%d bytes: not in the cache", size)
		}
		w.mustBe(w.accept(raw, start), c)
	}
	misses := w.counted("postern_cache_misses_total", "")
	w.refuse([]byte(strings.Repeat(".", token.MaxSize+1)), start, token.Malformed)
	if n := w.counted("postern_cache_misses_total", ""); n != misses {
		t.Error("what is too long for a token was hashed")
	}
}

func TestRow038Revoked(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	raw, other := w.sign(c), w.sign(w.claims("client-a", "organization-a"))
	w.accept(raw, start)
	w.revoke(c.ID)
	w.catchUp()
	w.refuse(raw, start, token.Revoked)
	w.accept(other, start)
	// A refreshed token is of the same record.
	c.IssuedAt += 60
	c.Expires += 60
	w.refuse(w.sign(c), start.Add(time.Minute), token.Revoked)
}

func TestRow040RevokedWhileCached(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.accept(raw, start)
	if !w.held(raw) {
		t.Fatal("not in the cache")
	}
	w.revoke(c.ID)
	w.catchUp()
	if !w.held(raw) {
		t.Fatal("the cache dropped it: the test proves nothing")
	}
	w.refuse(raw, start, token.Revoked)
}

func TestRow040RevokedWhileInFlight(t *testing.T) {
	f := func(name string, change func(w *world, c token.Claims), want token.Invalid) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := w.claims("client-a", "organization-a")
			raw := w.sign(c)
			// The signature was checked and the client's row read: what happens now is later.
			w.store.onGrant = func(context.Context) error {
				w.store.onGrant = nil
				change(w, c)
				w.catchUp()
				return nil
			}
			w.refuse(raw, start, want)
			if w.held(raw) {
				t.Error("the cache holds it")
			}
			w.refuse(raw, start, want)
		})
		t.Run(name+", renewing", func(t *testing.T) {
			w := newWorld(t)
			c := w.claims("client-a", "organization-a")
			raw := w.sign(c)
			w.accept(raw, start)
			w.changeClient("client-a", func(*registry.Grant) {})
			w.catchUp()
			w.store.onGrant = func(context.Context) error {
				w.store.onGrant = nil
				change(w, c)
				w.catchUp()
				return nil
			}
			w.refuse(raw, start, want)
			w.refuse(raw, start, want)
		})
	}
	f("token", func(w *world, c token.Claims) { w.revoke(c.ID) }, token.Revoked)
	f("client disabled", func(w *world, c token.Claims) {
		w.changeClient("client-a", func(g *registry.Grant) { g.Client.DisabledAt = 1 })
	}, token.ClientRefused)
	f("all tokens of the client", func(w *world, c token.Claims) {
		w.changeClient("client-a", func(g *registry.Grant) { g.Client.TokensValidFrom = registry.At(start) })
	}, token.Revoked)
	f("key removed", func(w *world, c token.Claims) {
		w.addKey(token.EdDSA, 0)
		w.change(registry.KindKey, "", func(m *memory) { m.keys = m.keys[1:] })
	}, token.UnknownKey)
}

func TestRow043OneBitFromACachedToken(t *testing.T) {
	w := newWorld(t)
	raw := w.sign(w.claims("client-a", "organization-a"))
	w.accept(raw, start)
	for n := range raw {
		if _, err := w.verifier.Verify(raw[:n], start); err == nil {
			t.Errorf("cut to %d bytes: accepted", n)
		}
	}
	for i := range raw {
		raw[i] ^= 1 << (i % 8)
		if p, err := w.verifier.Verify(raw, start); err == nil || p != (directory.Principal{}) {
			t.Errorf("byte %d: accepted", i)
		}
		raw[i] ^= 1 << (i % 8)
	}
	w.accept(raw, start)
}

func TestRow044HitAfterExpiry(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.accept(raw, start)
	end := time.Unix(c.Expires, 0)
	w.clock = end
	w.catchUp()
	w.accept(raw, end.Add(-1))
	if !w.held(raw) {
		t.Fatal("not in the cache")
	}
	w.refuse(raw, end, token.Expired)
	w.refuse(raw, end.Add(time.Second), token.Expired)
}

func TestRow045EqualHashes(t *testing.T) {
	w := newWorld(t)
	w.verifier.hash = func([32]byte) uint64 { return 7 }
	a, b := w.claims("client-a", "organization-a"), w.claims("client-b", "organization-b")
	b.Scope = "other"
	rawA, rawB := w.sign(a), w.sign(b)
	for range 3 {
		w.mustBe(w.accept(rawA, start), a)
		w.mustBe(w.accept(rawA, start), a)
		w.mustBe(w.accept(rawB, start), b)
	}
	if hits := w.counted("postern_cache_hits_total", ""); hits != 3 {
		t.Errorf("%v hits", hits)
	}
	forged := append([]byte{}, rawB...)
	if i := len(forged) - 2; forged[i] == 'A' {
		forged[i] = 'B'
	} else {
		forged[i] = 'A'
	}
	w.refuse(forged, start, token.BadSignature)
	w.mustBe(w.accept(rawB, start), b)
}

func TestRow046TwoTenants(t *testing.T) {
	f := func(name string, each int, hash func([32]byte) uint64) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.key = w.addKey(token.EdDSA, 0)
			w.catchUp()
			if hash != nil {
				w.verifier.hash = hash
			}
			const tokens, workers = 10_000, 64
			all := make([]token.Claims, tokens)
			raws := make([][]byte, tokens)
			for i := range all {
				c := w.claims("client-a", "organization-a")
				if i%2 == 1 {
					c = w.claims("client-b", "organization-b")
					c.Scope = "catalog:read"
				}
				all[i], raws[i] = c, w.sign(c)
			}
			var wait sync.WaitGroup
			for n := range workers {
				wait.Go(func() {
					random := rand.New(rand.NewPCG(1, uint64(n)))
					buffer := make([]byte, 0, 1024)
					for i := range each {
						// Every token once by someone, and some by all at once.
						at := (n*each + i) % tokens
						if i%2 == 0 {
							at = random.IntN(100)
						}
						buffer = append(buffer[:0], raws[at]...)
						p, err := w.verifier.Verify(buffer, start)
						for j := range buffer { // the next request's bytes
							buffer[j] = 'x'
						}
						if err != nil {
							t.Errorf("token %d: %v", at, err)
							return
						}
						w.mustBe(p, all[at])
					}
				})
			}
			wait.Wait()
			if n := w.counted("postern_verifications_total", "ok"); n != float64(workers*each) {
				t.Errorf("%v verifications", n)
			}
			if hits := w.counted("postern_cache_hits_total", ""); hash == nil && hits == 0 {
				t.Error("no hits: the test proves little")
			}
		})
	}
	f("real hash", 500, nil)
	f("hash of two bits", 50, func(sum [32]byte) uint64 { return uint64(sum[0] & 3) })
}

func TestRow047Rotation(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.accept(raw, start)
	end := start.Add(time.Hour) // the grace, here shorter than the token
	w.key = w.addKey(token.ES256, 0)
	w.change(registry.KindKey, "", func(m *memory) { m.keys[0].VerifiesUntil = registry.At(end) })
	w.clock = end
	w.catchUp()
	w.accept(raw, end.Add(-time.Second))
	p := w.accept(raw, end)
	if p.Expires != end.Unix()+1 {
		t.Errorf("good until %d, want the end of the key, %d", p.Expires, end.Unix()+1)
	}
	if !w.held(raw) {
		t.Fatal("not in the cache")
	}
	w.refuse(raw, end.Add(time.Second), token.UnknownKey)
	c = w.claims("client-a", "organization-a")
	w.mustBe(w.accept(w.sign(c), end.Add(time.Second)), c)
}

func TestRow048KeyRemoved(t *testing.T) {
	w := newWorld(t)
	old := w.sign(w.claims("client-a", "organization-a"))
	w.accept(old, start)
	w.key = w.addKey(token.EdDSA, 0)
	w.catchUp()
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.accept(old, start)
	w.accept(raw, start)
	misses := w.counted("postern_cache_misses_total", "")
	w.change(registry.KindKey, "", func(m *memory) { m.keys = m.keys[1:] })
	w.catchUp()
	w.refuse(old, start, token.UnknownKey)
	w.mustBe(w.accept(raw, start), c)
	if n := w.counted("postern_cache_misses_total", "") - misses; n != 2 {
		t.Errorf("%v misses: the cache was not purged", n)
	}
	w.mustBe(w.accept(raw, start), c)
}

func TestRow050Clock(t *testing.T) {
	w := newWorld(t, func(d *directory.Options, _ *Options) { d.ServeStale = true })
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	w.refuse(raw, start.Add(-time.Hour), token.NotYetValid)
	w.mustBe(w.accept(raw, start), c)
	w.mustBe(w.accept(raw, start.Add(time.Hour)), c)
	w.mustBe(w.accept(raw, start.Add(-time.Hour)), c) // verified before the clock went back
	w.refuse(raw, start.Add(2*time.Hour), token.Expired)
	w.mustBe(w.accept(raw, start), c)
	// A leap second is a second that happens twice.
	end := time.Unix(c.Expires, 0)
	w.mustBe(w.accept(raw, end.Add(-time.Millisecond)), c)
	w.refuse(raw, end, token.Expired)
	w.mustBe(w.accept(raw, end.Add(-time.Millisecond)), c)
	w.refuse(raw, end, token.Expired)
}

func TestRow051NothingBadIsCached(t *testing.T) {
	w := newWorld(t)
	good := w.sign(w.claims("client-a", "organization-a"))
	w.accept(good, start)
	before := w.counted("postern_cache_bytes", "")
	for i := range 2000 {
		bad := append([]byte{}, good...)
		bad[len(bad)-1-i%80] ^= 1 << (i % 7)
		bad[i%40] ^= byte(i)
		if _, err := w.verifier.Verify(bad, start); err == nil {
			continue // both flips were none
		}
	}
	w.verifier.cache.Wait()
	if after := w.counted("postern_cache_bytes", ""); after != before {
		t.Errorf("%v bytes, were %v", after, before)
	}
	if !w.held(good) {
		t.Error("the good one is gone")
	}
}

// A token that expires while its client is read is refused by the clock of the answer.
func TestExpiresWhileWaiting(t *testing.T) {
	now := start
	w := newWorld(t, func(_ *directory.Options, o *Options) { o.Now = func() time.Time { return now } })
	c := w.claims("client-a", "organization-a")
	c.Expires = start.Unix() + 1
	w.store.onGrant = func(context.Context) error {
		now = start.Add(time.Second)
		return nil
	}
	w.refuse(w.sign(c), start, token.Expired)
}

// Whose a token was is known as long as its key is, and of no token that others made.
func TestWhose(t *testing.T) {
	w := newWorld(t)
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	f := func(name string, raw []byte, want string) {
		t.Helper()
		if got := w.verifier.Whose(raw); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	f("good", raw, "client-a")
	w.revoke(c.ID)
	w.catchUp()
	f("revoked", raw, "client-a")
	expired := c
	expired.IssuedAt, expired.Expires = 1, 2
	f("expired", w.sign(expired), "client-a")
	elsewhere := c
	elsewhere.Audience = "https://other.example.com"
	f("for another audience", w.sign(elsewhere), "client-a")
	foreign := c
	foreign.Issuer = "https://other.example.com"
	f("of another issuer", w.sign(foreign), "")
	forged := append([]byte(nil), w.sign(expired)...)
	forged[len(forged)-10] ^= 1
	f("forged", forged, "")
	f("no token", []byte("a.b.c"), "")
	w.key = w.addKey(token.EdDSA, 0) // and the directory does not know it
	f("of an unknown key", w.sign(c), "")
}

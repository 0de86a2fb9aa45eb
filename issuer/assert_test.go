package issuer

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/directory"
	"postern/registry"
	"postern/token"
)

// asserted is what an assertion says; its signature is the business of package token's tests.
type asserted struct {
	header struct{ Alg, Kid, Typ string }
	claims map[string]any
}

func (w *world) read(jws string) (a asserted) {
	w.t.Helper()
	parts := strings.Split(jws, ".")
	if len(parts) != 3 {
		w.t.Fatalf("no JWS: %q", jws)
	}
	for i, to := range []any{&a.header, &a.claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		w.check(err)
		w.check(json.Unmarshal(text, to))
	}
	return a
}

func (a asserted) at(claim string) int64 { n, _ := a.claims[claim].(float64); return int64(n) }

// verified is the principal of a token of the world's client, as the front gets it.
func (w *world) verified(raw string) directory.Principal {
	w.t.Helper()
	var who directory.Principal
	for range 2 { // the second time from the cache
		var err error
		who, err = w.verifier.Verify([]byte(raw), w.now())
		w.check(err)
		time.Sleep(20 * time.Millisecond) // ristretto takes it in
	}
	return who
}

func (w *world) issuedToken() string {
	w.t.Helper()
	got, _ := w.wantIssued(w.ask(w.good()))
	return got.Data.Token
}

func (w *world) assert(a *Asserter, who directory.Principal, audience string, now time.Time) string {
	w.t.Helper()
	jws, err := a.Assert(who, audience, now)
	w.check(err)
	return jws
}

func TestAssert(t *testing.T) {
	w := start(t, registry.Terms{Products: products("search", "tracks")})
	asserter := NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	raw := w.issuedToken()
	who := w.verified(raw)
	now := w.now().Add(time.Minute) // the key signs for a while already

	first := w.assert(asserter, who, "tracks", now)
	said := w.read(first)
	key, err := w.directory.SigningKey(now)
	w.check(err)
	if said.header.Typ != "postern-assertion+jwt" || said.header.Kid != key.ID() || said.header.Alg != "ES256" {
		t.Errorf("header %+v", said.header)
	}
	for claim, want := range map[string]any{
		"iss": testIssuer, "aud": "tracks", "sub": "Client::" + w.client.ID, "client_id": w.client.ID, "oid": w.organization.ID,
		"environment": "production", "scope": "search tracks", "tid": who.Token.String(),
		"iat": float64(now.Unix()), "exp": float64(now.Unix() + 300),
	} {
		if said.claims[claim] != want {
			t.Errorf("%s: %v, want %v", claim, said.claims[claim], want)
		}
	}
	if _, ok := said.claims["agreement"]; ok || len(said.claims) != 11 {
		t.Errorf("claims %v", said.claims)
	}
	if _, err := w.verifier.Verify([]byte(first), now); err != error(token.Malformed) {
		t.Errorf("the verifier takes an assertion for an access token: %v", err)
	}

	f := func(name string, got string, same bool) {
		t.Helper()
		if (got == first) != same {
			t.Errorf("%s: the same assertion %t, want %t", name, got == first, same)
		}
	}
	f("at once", w.assert(asserter, who, "tracks", now), true)
	f("the same token again", w.assert(asserter, w.verified(raw), "tracks", now), true)
	f("before half of its life", w.assert(asserter, who, "tracks", now.Add(149*time.Second)), true)
	other := w.assert(asserter, who, "albums", now)
	f("another audience", other, false)
	f("after another audience", w.assert(asserter, who, "tracks", now), true)
	if aud := w.read(other).claims["aud"]; aud != "albums" {
		t.Errorf("aud %v, want albums", aud)
	}
	f("another token", w.assert(asserter, w.verified(w.issuedToken()), "tracks", now), false)
	renewed := w.assert(asserter, who, "tracks", now.Add(151*time.Second))
	f("after half of its life", renewed, false)
	if said := w.read(renewed); said.at("iat") != now.Unix()+151 || said.at("exp") != now.Unix()+451 || said.claims["jti"] == w.read(first).claims["jti"] {
		t.Errorf("renewed: %v", said.claims)
	}
	f("by a clock that was set back", w.assert(asserter, who, "tracks", now.Add(-time.Second)), false)
	forgotten := who
	forgotten.Memo = nil
	f("without a memo", w.assert(asserter, forgotten, "tracks", now), false)
}

// No assertion outlives the token, and the last one is not made anew over and over.
func TestAssertEndsWithTheToken(t *testing.T) {
	w := start(t, registry.Terms{})
	asserter := NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	who := w.verified(w.issuedToken())
	ends := time.Unix(who.Expires, 0)
	last := w.assert(asserter, who, "tracks", ends.Add(-time.Minute))
	if exp := w.read(last).at("exp"); exp != who.Expires {
		t.Errorf("exp %d, the token's %d", exp, who.Expires)
	}
	if w.assert(asserter, who, "tracks", ends.Add(-time.Second)) != last {
		t.Error("made anew, though it cannot live longer")
	}
	if jws, err := asserter.Assert(who, "tracks", ends); err == nil {
		t.Errorf("after the token: %s", jws)
	}
}

// What changes about the client changes what is asserted, from the next request on.
func TestAssertFollowsTheClient(t *testing.T) {
	w := start(t, registry.Terms{})
	asserter := NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	raw := w.issuedToken()
	f := func(want string) {
		t.Helper()
		if got := w.read(w.assert(asserter, w.verified(raw), "tracks", w.now())).claims["environment"]; got != want {
			t.Errorf("environment %v, want %s", got, want)
		}
	}
	f("production")
	staging := "staging"
	_, err := w.store.ChangeClient(t.Context(), operator, w.client.ID, registry.ClientChange{Environment: &staging})
	w.check(err)
	w.catchUp()
	f("staging")
}

// An assertion by a key that was removed is not handed out again, not even from memory.
func TestAssertByARemovedKey(t *testing.T) {
	w := start(t, registry.Terms{})
	asserter := NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	who := w.verified(w.issuedToken())
	now := w.now()
	who.Expires = now.Add(24 * time.Hour).Unix() // beyond the key's end, which is behind all tokens' in the store
	before := w.read(w.assert(asserter, who, "tracks", now))

	_, err := w.store.RotateKey(t.Context(), operator, *w.newKey(), 3*time.Hour, 0)
	w.check(err)
	w.catchUp()
	if a := w.read(w.assert(asserter, who, "tracks", now)); a.header.Kid != before.header.Kid || a.claims["jti"] == before.claims["jti"] {
		t.Errorf("while the next key is published: %+v, before %+v", a, before)
	}
	// Less than the assertion's life before the next key signs, and this one is of no use any more.
	soon := now.Add(3*time.Hour - time.Minute)
	if exp := w.read(w.assert(asserter, who, "tracks", soon)).at("exp"); exp < soon.Unix()+58 || exp > soon.Unix()+62 {
		t.Errorf("exp %d s ahead, the key ends in 60", exp-soon.Unix())
	}

	w.check(w.store.RemoveKey(t.Context(), operator, before.header.Kid, w.newKey()))
	w.catchUp()
	after := w.read(w.assert(asserter, who, "tracks", w.now()))
	keys, _ := w.directory.Keys()
	if _, known := keys.Lookup(after.header.Kid); !known || after.header.Kid == before.header.Kid {
		t.Errorf("signed by %s after %s was removed", after.header.Kid, before.header.Kid)
	}
}

func TestAssertWithoutAKey(t *testing.T) {
	w := start(t, registry.Terms{})
	who := w.verified(w.issuedToken())
	asserter := NewAsserter(noSigningKey{w.directory}, testIssuer, 5*time.Minute, rand.Reader)
	if jws, err := asserter.Assert(who, "tracks", w.now()); jws != "" || !errors.Is(err, registry.ErrUnavailable) {
		t.Errorf("%q, %v", jws, err)
	}
	asserter = NewAsserter(w.directory, testIssuer, 5*time.Minute, bytes.NewReader(nil))
	if jws, err := asserter.Assert(who, "tracks", w.now()); jws != "" || err == nil {
		t.Errorf("without randomness: %q, %v", jws, err)
	}
	asserter = NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	w.assert(asserter, who, "tracks", w.now()) // a failure is not remembered
}

type noSigningKey struct{ *directory.Directory }

func (noSigningKey) SigningKey(time.Time) (*token.SigningKey, error) {
	return nil, registry.ErrUnavailable
}

// countedKeys counts signatures.
type countedKeys struct {
	*directory.Directory
	mu      sync.Mutex
	asked   int
	started chan struct{} // closed when the first is being made
	gate    chan struct{} // the first waits for it
}

func (c *countedKeys) SigningKey(now time.Time) (*token.SigningKey, error) {
	c.mu.Lock()
	c.asked++
	first := c.asked == 1
	c.mu.Unlock()
	if first {
		close(c.started)
		<-c.gate
	}
	return c.Directory.SigningKey(now)
}

// Many requests with one token at once cost one signature, and while it is renewed
// nobody waits.
func TestAssertOnce(t *testing.T) {
	w := start(t, registry.Terms{})
	who := w.verified(w.issuedToken())
	now := w.now()
	keys := &countedKeys{Directory: w.directory, started: make(chan struct{}), gate: make(chan struct{})}
	asserter := NewAsserter(keys, testIssuer, 5*time.Minute, rand.Reader)
	var all sync.WaitGroup
	made := make([]string, 50)
	for i := range made {
		all.Go(func() { made[i], _ = asserter.Assert(who, "tracks", now) })
	}
	<-keys.started
	close(keys.gate)
	all.Wait()
	for _, jws := range made {
		if jws == "" || jws != made[0] {
			t.Fatal("not one assertion")
		}
	}
	if keys.asked != 1 {
		t.Errorf("%d signatures for one assertion", keys.asked)
	}

	later := now.Add(200 * time.Second)
	keys = &countedKeys{Directory: w.directory, started: make(chan struct{}), gate: make(chan struct{})}
	asserter = NewAsserter(keys, testIssuer, 5*time.Minute, rand.Reader)
	all.Go(func() { made[1], _ = asserter.Assert(who, "tracks", later) })
	<-keys.started
	if jws := w.assert(asserter, who, "tracks", later); jws != made[0] { // deadlocks where it waits
		t.Error("not the old one while a new one is made")
	}
	close(keys.gate)
	all.Wait()
	if made[1] == made[0] || w.assert(asserter, who, "tracks", later) != made[1] {
		t.Error("not renewed")
	}
}

func TestAssertAllocatesNothing(t *testing.T) {
	w := start(t, registry.Terms{})
	asserter := NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	who, now := w.verified(w.issuedToken()), w.now()
	w.assert(asserter, who, "tracks", now)
	w.assert(asserter, who, "albums", now)
	n := testing.AllocsPerRun(1000, func() {
		if _, err := asserter.Assert(who, "tracks", now); err != nil {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkAssert(b *testing.B) {
	w := start(b, registry.Terms{})
	asserter := NewAsserter(w.directory, testIssuer, 5*time.Minute, rand.Reader)
	who, now := w.verified(w.issuedToken()), w.now()
	b.Run("hit", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := asserter.Assert(who, "tracks", now); err != nil { // w.assert costs more than it
				b.Fatal(err)
			}
		}
	})
	b.Run("miss", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			who.Memo = nil
			w.assert(asserter, who, "tracks", now)
		}
	})
}

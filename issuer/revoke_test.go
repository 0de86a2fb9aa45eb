package issuer

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"postern/answer"
	"postern/directory"
	"postern/registry"
)

// wantRevoked asserts the one answer that revocation has.
func (w *world) wantRevoked(r reply) {
	w.t.Helper()
	if r.StatusCode != 200 || r.body != "{}" || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Cache-Control") != "no-store" {
		w.t.Fatalf("got %d %v %q", r.StatusCode, r.Header, r.body)
	}
	if got := <-w.served; got != answer.OK {
		w.t.Fatalf("the front was told %s, want ok", got)
	}
}

// revokedAt is when a token's record was revoked; zero: never.
func (w *world) revokedAt(id string) registry.Time {
	w.t.Helper()
	record, err := w.store.Token(w.t.Context(), id)
	w.check(err)
	return record.RevokedAt
}

func TestRevoke(t *testing.T) {
	w := start(t, registry.Terms{})
	f := func(name string, revoke func(jws string) reply) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			got, _ := w.wantIssued(w.ask(w.good()))
			other, _ := w.wantIssued(w.ask(w.good()))
			if !w.works(got.Data.Token) {
				t.Fatal("it never worked")
			}
			w.wantRevoked(revoke(got.Data.Token))
			if w.works(got.Data.Token) { // the directory follows no feed here: revoke made it look
				t.Error("it works on the next request")
			}
			if !w.works(other.Data.Token) || w.revokedAt(other.Data.ID) != 0 || w.revokedAt(got.Data.ID) == 0 {
				t.Error("another record was revoked")
			}
			at := w.revokedAt(got.Data.ID)
			w.wantRevoked(revoke(got.Data.Token)) // again: nothing changes
			if w.revokedAt(got.Data.ID) != at {
				t.Error("it was revoked twice")
			}
		})
	}
	credentials := []string{"client_id", w.client.ID, "client_secret", w.secret.Reveal()}
	f("form", func(jws string) reply { return w.submit("/revoke", form(append(credentials, "token", jws)...)) })
	f("a hint is ignored", func(jws string) reply {
		return w.submit("/revoke", form(append(credentials, "token", jws, "token_type_hint", "refresh_token")...))
	})
	f("Basic", func(jws string) reply { return w.submit("/revoke", form("token", jws), w.basic()) })
	f("JSON", func(jws string) reply { return w.below("/revoke", jws) })
	f("another client of the organization", func(jws string) reply {
		c, s := w.newClient("")
		return w.send(postTo(testPath+"/revoke", withToken(c.ID, s, jws), "Content-Type: application/json"))
	})
	events, err := w.store.Events(t.Context(), 1000)
	w.check(err)
	n := 0
	for _, e := range events {
		if e.Action == "revoke" && e.Kind == registry.KindToken && e.Actor.Kind == "client" && e.Actor.Address == "127.0.0.1" {
			n++
		}
	}
	if n != 5 {
		t.Errorf("%d events, want 5", n)
	}
}

// An expired token still says which record it is of: what was refreshed from it ends too.
func TestRevokeExpired(t *testing.T) {
	w := start(t, registry.Terms{TokenLifetime: value(600)})
	first, _ := w.wantIssued(w.ask(w.good()))
	w.skipTo(5 * time.Minute)
	second, _ := w.wantIssued(w.below("/refresh", first.Data.Token))
	w.skipTo(11 * time.Minute)
	if w.works(first.Data.Token) || !w.works(second.Data.Token) {
		t.Fatal("the first has expired, the second has not")
	}
	w.wantRevoked(w.below("/revoke", first.Data.Token))
	if w.works(second.Data.Token) {
		t.Error("the refreshed token works")
	}
	w.skipTo(48 * time.Hour)
	_, err := w.store.Prune(t.Context(), registry.At(w.now()))
	w.check(err)
	w.wantRevoked(w.below("/revoke", second.Data.Token)) // its record is gone
}

func TestRow077RevokeOfAnotherOrganization(t *testing.T) {
	w := start(t, registry.Terms{})
	_, _, foreign := w.stranger()
	before := w.store.revocations.Load()
	w.wantRevoked(w.below("/revoke", foreign))
	w.wantRevoked(w.submit("/revoke", form("token", foreign), w.basic()))
	if !w.works(foreign) || w.store.revocations.Load() != before {
		t.Error("it had an effect")
	}
}

func TestRow078RevokeGarbage(t *testing.T) {
	w := start(t, registry.Terms{})
	got, _ := w.wantIssued(w.ask(w.good()))
	jws := got.Data.Token
	first := ""
	for _, garbage := range []string{"x", "..", jws + "x", jws[:len(jws)-8] + "AAAAAAAA", jws[1:], got.Data.ID, "\x00", "é"} {
		r := w.submit("/revoke", form("token", garbage), w.basic())
		w.wantRevoked(r)
		if first == "" {
			first = canonical(r)
		}
		if canonical(r) != first {
			t.Errorf("%q: %s", garbage, canonical(r))
		}
	}
	if n := w.store.revocations.Load(); n != 0 || !w.works(jws) {
		t.Errorf("%d revocations", n)
	}
	own := w.submit("/revoke", form("token", jws), w.basic())
	w.wantRevoked(own)
	if canonical(own) != first {
		t.Error("a token of its own is answered in other words")
	}
	w.wantOAuth(w.submit("/revoke", "token=", w.basic()), 400, answer.InvalidRequest)
	w.wantOAuth(w.submit("/revoke", form("token", jws)), 401, answer.InvalidClient)
	w.want(w.send(postTo(testPath+"/revoke", `{"token":"x"}`, "Content-Type: application/json")), 401, answer.InvalidClient)
	w.want(w.send(postTo(testPath+"/revoke", withToken(w.client.ID, strange(t), jws), "Content-Type: application/json")), 401, answer.InvalidClient)
}

// deaf is a directory whose feed cannot be read.
type deaf struct{ *directory.Directory }

func (deaf) CatchUp(context.Context) error { return registry.ErrUnavailable }

func TestRow079RevokeStoreDown(t *testing.T) {
	w := start(t, registry.Terms{})
	got, _ := w.wantIssued(w.ask(w.good()))
	w.store.away.Store(true)
	w.want(w.below("/revoke", got.Data.Token), 503, answer.TemporarilyUnavailable)
	w.wantOAuth(w.submit("/revoke", form("token", got.Data.Token), w.basic()), 503, answer.TemporarilyUnavailable)
	w.store.away.Store(false)
	if w.revokedAt(got.Data.ID) != 0 {
		t.Error("it was revoked")
	}
	// It is kept, but not in effect here: not yet 200.
	w.issuer.directory = deaf{w.directory}
	w.want(w.below("/revoke", got.Data.Token), 503, answer.TemporarilyUnavailable)
	w.issuer.directory = w.directory
	w.wantRevoked(w.below("/revoke", got.Data.Token))
	if w.works(got.Data.Token) {
		t.Error("it works")
	}
	// A key that is not known here may be a new one: only the feed can tell.
	keys, err := w.store.KeyHistory(t.Context())
	w.check(err)
	w.check(w.store.RemoveKey(t.Context(), operator, keys[0].ID, w.newKey()))
	w.catchUp()
	w.issuer.directory = deaf{w.directory}
	w.want(w.below("/revoke", got.Data.Token), 503, answer.TemporarilyUnavailable)
	w.issuer.directory = w.directory
	w.wantRevoked(w.below("/revoke", got.Data.Token)) // it is not: the token is none
}

// inactive is all that is said about a token that is not the caller's to use.
const inactive = `{"active":false}`

func (w *world) wantIntrospected(r reply, body string) {
	w.t.Helper()
	if r.StatusCode != 200 || r.body != body || r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Cache-Control") != "no-store" {
		w.t.Fatalf("got %d %v\n%s\nwant %s", r.StatusCode, r.Header, r.body, body)
	}
	if got := <-w.served; got != answer.OK {
		w.t.Fatalf("the front was told %s, want ok", got)
	}
}

func TestRow080Introspect(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	got, claims := w.wantIssued(w.ask(w.good()))
	jws := got.Data.Token
	_, _, foreign := w.stranger()
	ask := func(jws string) reply { return w.submit("/introspect", form("token", jws), w.basic()) }

	w.wantOAuth(w.submit("/introspect", form("token", jws)), 401, answer.InvalidClient)
	w.wantOAuth(w.submit("/introspect", ""), 401, answer.InvalidClient)
	w.want(w.send(postTo(testPath+"/introspect", `{"token":"`+jws+`"}`, "Content-Type: application/json")), 401, answer.InvalidClient)
	w.want(w.send(postTo(testPath+"/introspect", withToken(w.client.ID, strange(t), jws), "Content-Type: application/json")), 401, answer.InvalidClient)
	w.wantOAuth(ask(""), 400, answer.InvalidRequest)

	active := fmt.Sprintf(`{"active":true,"scope":"a b","client_id":%q,"token_type":"Bearer","exp":%d,"iat":%d,"sub":"Client::%s","aud":%q,"iss":%q,"jti":%q,"oid":%q}`,
		w.client.ID, claims.Expires, claims.IssuedAt, w.client.ID, testIssuer, testIssuer, got.Data.ID, w.organization.ID)
	w.wantIntrospected(ask(jws), active)
	w.wantIntrospected(w.below("/introspect", jws), active)
	sibling, siblingSecret := w.newClient("")
	w.wantIntrospected(w.send(postTo(testPath+"/introspect", withToken(sibling.ID, siblingSecret, jws), "Content-Type: application/json")), active)

	for _, other := range []string{foreign, "x", jws[:len(jws)-8] + "AAAAAAAA", got.Data.ID, w.secret.Reveal()} {
		w.wantIntrospected(ask(other), inactive)
	}
	w.skipTo(3 * time.Hour)
	w.wantIntrospected(ask(jws), inactive)
	w.skipTo(0)
	w.wantIntrospected(ask(jws), active)
	w.wantRevoked(w.below("/revoke", jws))
	w.wantIntrospected(ask(jws), inactive)

	// With nbf, and without a scope: what is absent is absent.
	key, err := w.directory.SigningKey(w.now())
	w.check(err)
	id := uuid.Must(uuid.NewV7())
	c := w.issuer.claims(id, registry.Token{SubjectID: w.client.ID, OrganizationID: w.organization.ID, IssuedAt: firstIssue(id), ExpiresAt: firstIssue(id) + 60_000})
	c.NotBefore = c.IssuedAt
	early, err := key.Sign(c)
	w.check(err)
	var said map[string]any
	r := ask(early)
	w.check(json.Unmarshal([]byte(r.body), &said))
	if _, scoped := said["scope"]; <-w.served != answer.OK || scoped || said["nbf"] != float64(c.NotBefore) || len(said) != 11 {
		t.Errorf("%s", r.body)
	}

	// Nothing is known for sure: that is no answer about the token.
	w.skew.Store(int64(10 * time.Minute)) // and nobody looked at the feed
	w.wantOAuth(ask(jws), 503, answer.TemporarilyUnavailable)
	w.skew.Store(0)
	w.store.away.Store(true)
	other := credentialsOf(uuid.NewString(), strange(t))
	w.want(w.send(postTo(testPath+"/introspect", other[:len(other)-1]+`,"token":"x"}`, "Content-Type: application/json")), 503, answer.TemporarilyUnavailable)
}

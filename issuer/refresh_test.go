package issuer

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"postern/answer"
	"postern/registry"
	"postern/secret"
)

// withToken is the guide's content with a token in it.
func withToken(id string, s secret.Secret, jws string) string {
	return fmt.Sprintf(`{"client_id":%q,"client_secret":%q,"token":%q}`, id, s.Reveal(), jws)
}

// below sends the guide's content to a route below the token path, for the world's client.
func (w *world) below(suffix, jws string) reply {
	w.t.Helper()
	return w.send(postTo(testPath+suffix, withToken(w.client.ID, w.secret, jws), "Content-Type: application/json"))
}

// stranger is a client of another organization, with a token.
func (w *world) stranger() (id string, s secret.Secret, jws string) {
	w.t.Helper()
	o, err := w.store.CreateOrganization(w.t.Context(), operator, "Other", registry.Terms{})
	w.check(err)
	c, s, err := w.store.CreateClient(w.t.Context(), operator, registry.NewClient{OrganizationID: o.ID, Application: "a", Environment: "production"})
	w.check(err)
	got, _ := w.wantIssued(w.ask(credentialsOf(c.ID, s)))
	return c.ID, s, got.Data.Token
}

// skipTo sets all clocks ahead, and follows the feed as the front's directory would have.
func (w *world) skipTo(ahead time.Duration) {
	w.t.Helper()
	w.skew.Store(int64(ahead))
	w.catchUp()
}

// works reports whether the front would take a token now.
func (w *world) works(jws string) bool {
	_, err := w.verifier.Verify([]byte(jws), w.now())
	return err == nil
}

func TestRefresh(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	first, old := w.wantIssued(w.ask(w.good()[:len(w.good())-1] + `,"scope":"b"}`))
	w.skipTo(time.Hour)
	r := w.below("/refresh", first.Data.Token)
	got, claims := w.wantIssued(r)
	record, err := w.store.Token(t.Context(), first.Data.ID)
	w.check(err)
	want := fmt.Sprintf(`{"status":201,"timestamp":%d,"data":{"id":%q,"removed_at":null,"refreshed_at":%d,"revoked_at":null,"subject_type":"Client",`+
		`"subject_id":%q,"issued_at":%d,"expires_at":%d,"issuer_type":null,"issuer_id":null,"organization_id":%q,"token":%q}}`,
		got.Timestamp, first.Data.ID, record.RefreshedAt, w.client.ID, first.Data.IssuedAt, record.ExpiresAt, w.organization.ID, got.Data.Token)
	if r.body != want {
		t.Errorf("got  %s\nwant %s", r.body, want)
	}
	if cache := r.Header.Get("Cache-Control"); cache != "no-store" {
		t.Errorf("Cache-Control: %s", cache)
	}
	if claims.ID != old.ID || claims.Scope != "b" || claims.IssuedAt != int64(record.RefreshedAt)/1000 || got.Data.Token == first.Data.Token ||
		int64(record.ExpiresAt-record.RefreshedAt) != 7_200_000 || claims.Expires != int64(record.ExpiresAt)/1000 {
		t.Errorf("claims %+v, record %+v", claims, record)
	}
	if !w.works(first.Data.Token) || !w.works(got.Data.Token) {
		t.Error("both tokens work, each to its own end")
	}

	// By a form, with the form's answer; with HTTP Basic, in both dialects.
	again, third := w.wantGranted(w.submit("/refresh", form("client_id", w.client.ID, "client_secret", w.secret.Reveal(), "token", got.Data.Token, "grant_type", "x")))
	if third.ID != old.ID || again.ExpiresIn != "7200" || *again.Scope != "b" {
		t.Errorf("%+v, %+v", again, third)
	}
	w.wantGranted(w.submit("/refresh", form("token", got.Data.Token), w.basic()))
	w.wantIssued(w.send(postTo(testPath+"/refresh", `{"token":"`+got.Data.Token+`"}`, "Content-Type: application/json", w.basic())))

	// The old one ends when it said; the new one goes on, and the revocation of one is that of both.
	w.skipTo(2*time.Hour + time.Second)
	if w.works(first.Data.Token) || !w.works(got.Data.Token) {
		t.Error("the first token outlives its exp, or the second does not")
	}
	w.want(w.below("/refresh", first.Data.Token), 401, answer.InvalidToken)
	_, err = w.store.RevokeToken(t.Context(), operator, first.Data.ID)
	w.check(err)
	w.want(w.below("/refresh", got.Data.Token), 401, answer.InvalidToken) // though nothing here has heard of it yet
	w.catchUp()
	if w.works(got.Data.Token) {
		t.Error("a refreshed token survives the revocation of its record")
	}
	w.wantOAuth(w.submit("/refresh", form("token", got.Data.Token), w.basic()), 401, answer.InvalidToken)
}

func TestRefreshRefusals(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	mine, _ := w.wantIssued(w.ask(w.good()))
	jws := mine.Data.Token
	_, _, foreign := w.stranger()
	sibling, siblingSecret := w.newClient("")
	theirs, _ := w.wantIssued(w.ask(credentialsOf(sibling.ID, siblingSecret)))
	f := func(name, content string, status int, code answer.Reason) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			w.want(w.send(postTo(testPath+"/refresh", content, "Content-Type: application/json")), status, code)
		})
	}
	f("another organization's", withToken(w.client.ID, w.secret, foreign), 401, answer.InvalidToken)
	f("another client's of the organization", withToken(w.client.ID, w.secret, theirs.Data.Token), 401, answer.InvalidToken)
	f("garbage", withToken(w.client.ID, w.secret, "x"), 401, answer.InvalidToken)
	f("forged", withToken(w.client.ID, w.secret, jws[:len(jws)-8]+"AAAAAAAA"), 401, answer.InvalidToken)
	f("wrong secret", withToken(w.client.ID, strange(t), jws), 401, answer.InvalidClient)
	f("no token", w.good(), 400, answer.InvalidRequest)
	f("no string", w.good()[:len(w.good())-1]+`,"token":1}`, 400, answer.InvalidRequest)
	f("no credentials", `{"token":"`+jws+`"}`, 400, answer.InvalidRequest)
	w.wantOAuth(w.submit("/refresh", form("token", jws)), 401, answer.InvalidClient)

	// Minted by a user.
	key, err := w.directory.SigningKey(w.now())
	w.check(err)
	id := uuid.Must(uuid.NewV7())
	record := registry.Token{ID: id.String(), SubjectType: "Client", SubjectID: w.client.ID, OrganizationID: w.organization.ID,
		IssuedAt: firstIssue(id), ExpiresAt: firstIssue(id) + 7_200_000, IssuerType: "User", IssuerID: uuid.NewString(), KeyID: key.ID()}
	w.check(w.store.Registry.IssueToken(t.Context(), record, ""))
	minted, err := key.Sign(w.issuer.claims(id, record))
	w.check(err)
	if !w.works(minted) {
		t.Fatal("the minted token is no good")
	}
	f("minted by a user", withToken(w.client.ID, w.secret, minted), 401, answer.InvalidToken)

	w.store.away.Store(true)
	f("the store is away", withToken(w.client.ID, w.secret, jws), 503, answer.TemporarilyUnavailable)
	w.store.away.Store(false)

	// Its scope is not licensed any more: nothing prolongs it.
	_, err = w.store.ChangeOrganization(t.Context(), operator, w.organization.ID, registry.OrganizationChange{Terms: func(t *registry.Terms) { t.Products = products("a") }})
	w.check(err)
	w.catchUp()
	f("a scope that is gone", withToken(w.client.ID, w.secret, jws), 400, answer.InvalidScope)

	w.check(w.store.RevokeClientTokens(t.Context(), operator, w.client.ID))
	w.catchUp()
	f("all revoked", withToken(w.client.ID, w.secret, jws), 401, answer.InvalidToken)
}

// Each of the three ends of a refreshed token, and the moments on both sides of them.
func TestRefreshBoundaries(t *testing.T) {
	w := start(t, registry.Terms{TokenLifetime: registry.Limit{State: registry.Unlimited}}) // 24 h, the longest
	first, claims := w.wantIssued(w.ask(w.good()))
	at := func(ms int64) { w.skipTo(time.Until(time.UnixMilli(ms))) }
	last := first.Data.IssuedAt + (24 * time.Hour).Milliseconds()

	at(last - 10_000)
	got, end := w.wantIssued(w.below("/refresh", first.Data.Token))
	if got.Data.ExpiresAt != last || end.Expires != claims.Expires || end.IssuedAt <= claims.IssuedAt {
		t.Errorf("expires_at %d, want %d; exp %d, want %d", got.Data.ExpiresAt, last, end.Expires, claims.Expires)
	}
	at(claims.Expires * 1000)
	w.want(w.below("/refresh", got.Data.Token), 401, answer.InvalidToken)

	// The longest life was made shorter since: what is older is valid and cannot be refreshed.
	w.skipTo(0)
	w.issuer.options.MaxLifetime = time.Hour
	second, _ := w.wantIssued(w.ask(w.good()))
	w.issuer.options.MaxLifetime = 10 * time.Minute
	at(second.Data.IssuedAt + (10*time.Minute - 5*time.Second).Milliseconds())
	if got, _ := w.wantIssued(w.below("/refresh", second.Data.Token)); got.Data.ExpiresAt != second.Data.IssuedAt+600_000 {
		t.Errorf("expires_at %d, want %d", got.Data.ExpiresAt, second.Data.IssuedAt+600_000)
	}
	at(second.Data.IssuedAt + (10*time.Minute + time.Second).Milliseconds())
	if !w.works(second.Data.Token) {
		t.Fatal("the old token is valid still")
	}
	w.want(w.below("/refresh", second.Data.Token), 401, answer.InvalidToken)

	// now + lifetime, and the agreement's end.
	w.skipTo(0)
	w.issuer.options.MaxLifetime = 24 * time.Hour
	ends := registry.At(w.now()) + 3_600_000
	a, err := w.store.CreateAgreement(t.Context(), operator, registry.NewAgreement{OrganizationID: w.organization.ID, Name: "a", StartsAt: 1, EndsAt: ends,
		Terms: registry.Terms{TokenLifetime: value(1200)}})
	w.check(err)
	w.client, w.secret = w.newClient(a.ID)
	third, _ := w.wantIssued(w.ask(w.good()))
	at(third.Data.IssuedAt + 600_000)
	got, refreshed := w.wantIssued(w.below("/refresh", third.Data.Token))
	if refreshed.Expires-refreshed.IssuedAt != 1200 {
		t.Errorf("lives %d s, want 1,200", refreshed.Expires-refreshed.IssuedAt)
	}
	at(third.Data.IssuedAt + 1_700_000)
	got, _ = w.wantIssued(w.below("/refresh", got.Data.Token))
	at(int64(ends) - 900_000)
	if got, _ = w.wantIssued(w.below("/refresh", got.Data.Token)); got.Data.ExpiresAt != int64(ends) {
		t.Errorf("expires_at %d, want the agreement's end %d", got.Data.ExpiresAt, ends)
	}
	w.skipTo(0)
	_, err = w.store.ChangeAgreement(t.Context(), operator, a.ID, registry.AgreementChange{EndsAt: new(registry.At(w.now()))})
	w.check(err)
	w.catchUp()
	w.want(w.below("/refresh", third.Data.Token), 400, answer.UnauthorizedClient)
}

// A refresh that a revocation overtakes gets no token; whoever wins, none works afterwards.
func TestRefreshRacesRevoke(t *testing.T) {
	w := start(t, registry.Terms{})
	var refreshed, refused atomic.Int64
	for range 20 {
		issued, _ := w.wantIssued(w.ask(w.good()))
		var made []string
		var mu sync.Mutex
		var all sync.WaitGroup
		revoked := make(chan struct{})
		for range 4 {
			all.Go(func() {
				r, err := exchange(w.address, postTo(testPath+"/refresh", withToken(w.client.ID, w.secret, issued.Data.Token), "Content-Type: application/json"))
				if err != nil {
					t.Error(err)
					return
				}
				switch r.StatusCode {
				case 201:
					refreshed.Add(1)
					var got struct{ Data struct{ Token string } }
					if err := json.Unmarshal([]byte(r.body), &got); err != nil {
						t.Error(err)
					}
					mu.Lock()
					made = append(made, got.Data.Token)
					mu.Unlock()
				case 401:
					refused.Add(1)
				default:
					t.Errorf("%d %s", r.StatusCode, r.body)
				}
			})
		}
		all.Go(func() {
			defer close(revoked)
			r, err := exchange(w.address, postTo(testPath+"/revoke", withToken(w.client.ID, w.secret, issued.Data.Token), "Content-Type: application/json"))
			if err != nil || r.StatusCode != 200 {
				t.Errorf("%v %d", err, r.StatusCode)
			}
		})
		<-revoked
		if w.works(issued.Data.Token) {
			t.Error("revoke answered, and the token works")
		}
		all.Wait()
		for _, jws := range made {
			if w.works(jws) {
				t.Error("a refreshed token outlived the revocation")
			}
		}
		for range 5 {
			<-w.served
		}
	}
	t.Logf("%d refreshed, %d refused", refreshed.Load(), refused.Load())
	if refreshed.Load()+refused.Load() != 80 {
		t.Errorf("%d answers", refreshed.Load()+refused.Load())
	}

	// Forced: the revocation commits while the refresh is on its way to the store.
	issued, _ := w.wantIssued(w.ask(w.good()))
	revoke := func() {
		_, err := w.store.Registry.RevokeToken(t.Context(), operator, issued.Data.ID)
		w.check(err)
	}
	w.store.overtake(revoke)
	w.want(w.below("/refresh", issued.Data.Token), 401, answer.InvalidToken)
	record, err := w.store.Token(t.Context(), issued.Data.ID)
	w.check(err)
	if record.RefreshedAt != 0 || record.RevokedAt == 0 {
		t.Errorf("record %+v", record)
	}
}

func TestFirstIssue(t *testing.T) {
	id, err := registry.NewID(time.UnixMilli(1_605_548_750_779), zeros{})
	if err != nil || firstIssue(id) != 1_605_548_750_779 {
		t.Errorf("%d, %v", firstIssue(id), err)
	}
}

// zeros is randomness that is none.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

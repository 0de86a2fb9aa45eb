package registry

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/secret"
)

const (
	someBcrypt   = "$2b$12$abcdefghijklmnopqrstuuABCDEFGHIJKLMNOPQRSTUVWXYZ01234"
	someArgon2id = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21l$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

// imported is a client of organization with the digest of its own id as a secret.
func imported(organization, id string) ImportedClient {
	return ImportedClient{ID: id, OrganizationID: organization, Application: "application of " + id, Environment: "prod",
		Kind: SHA256, Digest: secret.DigestOf([]byte(id))}
}

func TestImportClients(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		if _, _, err := feed.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		digest, ours, slow, phc := imported(o.ID, "a~_.-Z9"), imported(o.ID, "ours"), imported(o.ID, "slow"), imported(o.ID, "phc")
		ours.WellFormed = true
		slow.Kind, slow.Digest, slow.Hash = Bcrypt, secret.Digest{}, someBcrypt
		phc.Kind, phc.Digest, phc.Hash = Argon2id, secret.Digest{}, someArgon2id
		var told []int
		if err := r.ImportClients(ctx, operator, []ImportedClient{digest, ours, slow, phc}, func(done int) { told = append(told, done) }); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(told, []int{4}) {
			t.Errorf("progress was %v", told)
		}
		for _, want := range []struct {
			client   ImportedClient
			imported bool
			weak     bool
		}{{digest, true, false}, {ours, false, false}, {slow, true, true}, {phc, true, true}} {
			g := must(r.Grant(ctx, want.client.ID))(t)
			got := must(r.Client(ctx, want.client.ID))(t)
			if len(g.Client.Secrets) != 1 || len(got.Secrets) != 1 || g.Client.Secrets[0] != got.Secrets[0] {
				t.Fatalf("%s: secrets %+v, %+v", want.client.ID, g.Client.Secrets, got.Secrets)
			}
			s := got.Secrets[0]
			if s.Kind != want.client.Kind || s.Digest != want.client.Digest || s.Hash != want.client.Hash || s.Imported != want.imported || s.Weak() != want.weak ||
				got.Environment != "production" || got.Application != want.client.Application || got.OrganizationID != o.ID || got.CreatedAt != At(c.now()) {
				t.Errorf("%s: client %+v, secret %+v", want.client.ID, got, s)
			}
		}
		events := must(r.Events(ctx, 10))(t)
		if len(events) != 5 || events[0].ID != "phc" || events[3].ID != digest.ID || events[0].Action != "import" || events[0].Kind != KindClient || events[0].Actor != operator {
			t.Errorf("events: %+v", events)
		}
		changes, reset, err := feed.Poll(ctx)
		if err != nil || reset || len(changes) != 1 || changes[0].Kind != KindOrganization || changes[0].ID != o.ID {
			t.Errorf("changes: %+v, %v, %v", changes, reset, err)
		}
		// Counters go on where the import left them.
		if err := r.DisableClient(ctx, operator, "slow"); err != nil {
			t.Fatal(err)
		}
		if changes, reset, err := feed.Poll(ctx); err != nil || reset || len(changes) != 1 || changes[0].ID != "slow" {
			t.Errorf("changes: %+v, %v, %v", changes, reset, err)
		}
		// Rotating ends the imported secret and gives one of ours.
		s := must(r.RotateClientSecret(ctx, operator, "phc", 0))(t)
		if got := must(r.Client(ctx, "phc"))(t); len(got.Secrets) != 1 || got.Secrets[0].Kind != SHA256 || got.Secrets[0].Imported || got.Secrets[0].Digest != secret.DigestOf([]byte(s.Reveal())) {
			t.Errorf("rotated: %+v", got.Secrets)
		}
		if err := r.IssueToken(ctx, newToken(t, c.now(), must(r.Client(ctx, "phc"))(t)), ""); err != nil {
			t.Error(err)
		}
	})
}

// TestImportClientsIsAllOrNothing: every bad row is told with its kind, a dry run tells the
// same, and neither leaves anything behind.
func TestImportClientsIsAllOrNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		gone := must(r.CreateOrganization(ctx, operator, "Gone", Terms{}))(t)
		if err := r.RemoveOrganization(ctx, operator, gone.ID); err != nil {
			t.Fatal(err)
		}
		there, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: o.ID, Application: "player", Environment: "prod"})
		if err != nil {
			t.Fatal(err)
		}
		before := len(must(r.Events(ctx, 100))(t))
		type change = func(*ImportedClient)
		var clients []ImportedClient
		var problems []string
		var kinds []error
		f := func(id string, kind error, problem string, change change) {
			c := imported(o.ID, id)
			if change != nil {
				change(&c)
			}
			clients, kinds, problems = append(clients, c), append(kinds, kind), append(problems, problem)
		}
		f("good", nil, "", nil)
		f("", ErrInvalid, "client_id: use 1 to 128", nil)
		f(strings.Repeat("a", 129), ErrInvalid, "client_id: use 1 to 128", nil)
		f("a b", ErrInvalid, "client_id: use 1 to 128", nil)
		f("a\x00", ErrInvalid, "client_id: use 1 to 128", nil)
		f("é", ErrInvalid, "client_id: use 1 to 128", nil)
		f(there.ID, ErrConflict, "a client with this client_id is there already", nil)
		f("good", ErrConflict, "an earlier one has the same client_id", nil)
		f("c1", ErrConflict, "client "+there.ID+" is this application's in production already", func(c *ImportedClient) { c.Application = "player" })
		f("c2", ErrConflict, "client good is this application's in production already", func(c *ImportedClient) { c.Application = "application of good" })
		f("c3", nil, "", func(c *ImportedClient) { c.Application, c.AllowDuplicate = "player", true })
		f("c4", ErrNotFound, "there is no such organization", func(c *ImportedClient) { c.OrganizationID = "nonsense" })
		f("c5", ErrConflict, "the organization was removed", func(c *ImportedClient) { c.OrganizationID = gone.ID })
		f("c6", ErrInvalid, "application: use 1 to 200 characters", func(c *ImportedClient) { c.Application = "" })
		f("c7", ErrInvalid, "environment: use 1 to 32", func(c *ImportedClient) { c.Environment = "Prod" })
		f("c8", ErrInvalid, "client_secret_sha256: there is no digest", func(c *ImportedClient) { c.Digest = secret.Digest{} })
		f("c9", ErrInvalid, "the kind of the client secret is unknown", func(c *ImportedClient) { c.Kind = "md5" })
		f("d1", ErrInvalid, "client_secret_bcrypt: its cost 15 is above 14", func(c *ImportedClient) {
			c.Kind, c.Hash = Bcrypt, secret.Secret(strings.Replace(someBcrypt, "$12$", "$15$", 1))
		})
		f("d2", ErrInvalid, "client_secret_argon2id: its parameter m=65537 is above 65536", func(c *ImportedClient) {
			c.Kind, c.Hash = Argon2id, secret.Secret(strings.Replace(someArgon2id, "m=19456", "m=65537", 1))
		})
		check := func(name string, err error) {
			t.Helper()
			var want, got []string
			for row, problem := range problems {
				if problem != "" {
					want = append(want, fmt.Sprintf("%d %s", row, problem))
				}
			}
			all, ok := errors.AsType[interface {
				error
				Unwrap() []error
			}](err)
			if !ok {
				t.Fatalf("%s: error is %v", name, err)
			}
			for _, one := range all.Unwrap() {
				fault, ok := errors.AsType[*ImportFault](one)
				if !ok || !errors.Is(one, kinds[fault.Row]) {
					t.Fatalf("%s: %v of kind %v", name, one, errors.Unwrap(one))
				}
				got = append(got, fmt.Sprintf("%d %s", fault.Row, fault.Problem))
			}
			if !slices.EqualFunc(got, want, strings.HasPrefix) {
				t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		check("dry run", r.CheckImport(ctx, clients))
		check("import", r.ImportClients(ctx, operator, clients, nil))
		if all := must(r.Clients(ctx, ""))(t); len(all) != 1 {
			t.Errorf("%d clients are there", len(all))
		}
		if after := len(must(r.Events(ctx, 100))(t)); after != before {
			t.Errorf("%d events were left", after-before)
		}
		if err := errors.Join(r.CheckImport(ctx, clients[:1]), r.ImportClients(ctx, operator, nil, nil)); err != nil {
			t.Error(err)
		}
		if _, err := r.Client(ctx, "good"); !errors.Is(err, ErrNotFound) {
			t.Errorf("a dry run wrote: %v", err)
		}
	})
}

// TestImportOfManyTakesSeconds: 5,000 here, which an idle machine writes in a fifth of a second. The
// deadline is for the race detector on a busy one.
func TestImportOfManyTakesSeconds(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		if testing.Short() {
			t.Skip("it writes 5,000 clients")
		}
		ctx := context.Background()
		r := open(t, file(t))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		clients := make([]ImportedClient, 5_000)
		for i := range clients {
			clients[i] = imported(o.ID, fmt.Sprint("client-", i))
		}
		started, told := time.Now(), 0
		if err := r.ImportClients(ctx, operator, clients, func(int) { told++ }); err != nil {
			t.Fatal(err)
		}
		took := time.Since(started)
		t.Logf("%d clients in %s", len(clients), took)
		if took > 20*time.Second || told != len(clients)/importStep {
			t.Errorf("it took %s and told its progress %d times", took, told)
		}
		if g, err := r.Grant(ctx, "client-4999"); err != nil || len(g.Client.Secrets) != 1 {
			t.Errorf("the last one: %+v, %v", g, err)
		}
	})
}

func TestRefreshToken(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clock := context.Background(), newClock()
		r := open(t, file(t), at(clock))
		c, _ := newClient(t, r)
		first := issued(t, r, c)
		clock.add(time.Hour)
		now := At(clock.now())

		got := must(r.RefreshToken(ctx, first.ID, c.ID, now, first.ExpiresAt+1000))(t)
		want := first
		want.RefreshedAt, want.ExpiresAt = now, first.ExpiresAt+1000
		if got != want || must(r.Token(ctx, first.ID))(t) != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
		// An older JWT of the record lives to its own expiry.
		if got := must(r.RefreshToken(ctx, first.ID, c.ID, now+1, now+2000))(t); got.ExpiresAt != want.ExpiresAt || got.RefreshedAt != now+1 {
			t.Errorf("shortened: %+v", got)
		}
		minted := newToken(t, clock.now(), c)
		minted.IssuerType, minted.IssuerID = "User", "someone"
		if err := r.IssueToken(ctx, minted, ""); err != nil {
			t.Fatal(err)
		}
		revoked := issued(t, r, c)
		if _, err := r.RevokeToken(ctx, operator, revoked.ID); err != nil {
			t.Fatal(err)
		}
		removed := issued(t, r, c)
		must(r.engine.write.Exec(`UPDATE token SET removed_at = 1 WHERE id = '` + removed.ID + `'`))(t)
		f := func(name, id, subject string, expires Time, want error) {
			t.Helper()
			before, _ := r.Token(ctx, id)
			if got, err := r.RefreshToken(ctx, id, subject, now, expires); !errors.Is(err, want) || got != (Token{}) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
			if after, _ := r.Token(ctx, id); after != before {
				t.Errorf("%s changed %+v to %+v", name, before, after)
			}
		}
		later := now.later(3 * time.Hour)
		f("minted by a user", minted.ID, c.ID, later, ErrNotFound)
		f("revoked", revoked.ID, c.ID, later, ErrNotFound)
		f("removed", removed.ID, c.ID, later, ErrNotFound)
		f("another subject", first.ID, "another", later, ErrNotFound)
		f("no such token", "nonsense", c.ID, later, ErrNotFound)
		f("unstorable", "\x00", c.ID, later, ErrNotFound)
		f("no lifetime", first.ID, c.ID, now, ErrInvalid)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.RefreshToken(ctx, first.ID, c.ID, now, later); !errors.Is(err, ErrUnavailable) {
			t.Errorf("closed: %v", err)
		}
	})
}

// TestRefreshNeverFollowsRevoke: of a refresh and a revocation at the same time on two
// connections either wins, but a token that was revoked first is never refreshed.
func TestRefreshNeverFollowsRevoke(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, path := context.Background(), file(t)
		r, other := open(t, path), open(t, path)
		c, _ := newClient(t, r)
		wins := map[bool]int{}
		for range 50 {
			token := issued(t, r, c)
			type result struct {
				token Token
				err   error
			}
			refreshed := make(chan result, 1)
			revokedFirst := make(chan struct{})
			go func() {
				now := At(time.Now())
				t, err := other.RefreshToken(ctx, token.ID, c.ID, now, now.later(9*time.Hour))
				refreshed <- result{t, err}
			}()
			go func() {
				defer close(revokedFirst)
				_, _ = r.RevokeToken(ctx, operator, token.ID)
			}()
			<-revokedFirst
			got := <-refreshed
			record := must(r.Token(ctx, token.ID))(t)
			wins[got.err == nil]++
			switch {
			case record.RevokedAt == 0:
				t.Fatalf("it is not revoked: %+v", record)
			case got.err == nil && (got.token.RevokedAt != 0 || record.RefreshedAt == 0):
				t.Fatalf("the refresh won and says %+v, the record %+v", got.token, record)
			case got.err != nil && (!errors.Is(got.err, ErrNotFound) || record.RefreshedAt != 0 || record.ExpiresAt != token.ExpiresAt):
				t.Fatalf("the refresh lost with %v, the record is %+v", got.err, record)
			}
			// Whoever comes later loses.
			if _, err := other.RefreshToken(ctx, token.ID, c.ID, At(time.Now()), At(time.Now()).later(9*time.Hour)); !errors.Is(err, ErrNotFound) {
				t.Fatalf("refreshed after it was revoked: %v", err)
			}
		}
		t.Logf("the refresh won %d times of 50", wins[true])
	})
}

func TestRecordToken(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		token := newToken(t, time.Now(), c)
		if err := r.RecordToken(ctx, operator, token); err != nil {
			t.Fatal(err)
		}
		if got := must(r.Token(ctx, token.ID))(t); got != token {
			t.Errorf("got %+v, want %+v", got, token)
		}
		if e := must(r.Events(ctx, 1))(t)[0]; e.Action != "issue" || e.Kind != KindToken || e.ID != token.ID || e.Actor != operator || e.Detail != "client "+c.ID {
			t.Errorf("event: %+v", e)
		}
		if err := r.RecordToken(ctx, operator, token); !errors.Is(err, ErrConflict) {
			t.Errorf("twice: %v", err)
		}
		token.ID = "nonsense"
		if err := r.RecordToken(ctx, operator, token); !errors.Is(err, ErrInvalid) {
			t.Errorf("no id: %v", err)
		}
	})
}

func TestHashArgon2idIsImportable(t *testing.T) {
	hash := must(secret.HashArgon2id([]byte("hunter2"), rand.Reader))(t)
	c := imported("o", "id")
	c.Kind, c.Hash = Argon2id, hash
	if err := checkImportedSecret(c); err != nil {
		t.Error(err)
	}
}

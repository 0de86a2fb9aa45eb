package registry

import (
	"context"
	"strings"
	"testing"
	"time"

	"postern/secret"
)

func TestClient(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		made, s := newClient(t, r)
		want := Client{ID: made.ID, OrganizationID: made.OrganizationID, Application: "player", Environment: "production", CreatedAt: At(c.now()),
			Secrets: []ClientSecret{{ID: made.Secrets[0].ID, Kind: SHA256, Digest: secret.DigestOf([]byte(s.Reveal())), CreatedAt: At(c.now())}}}
		same(t, "created", made, nil, want)
		if !secret.WellFormed([]byte(s.Reveal())) {
			t.Error("the secret is not well formed")
		}
		check := func(what string) {
			t.Helper()
			got, err := r.Client(ctx, made.ID)
			same(t, what, got, err, want)
		}
		check("read")

		agreement := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: made.OrganizationID, Name: "2020"}))(t)
		application, environment := "sampler", "dev"
		got, err := r.ChangeClient(ctx, operator, made.ID, ClientChange{Application: &application, Environment: &environment, AgreementID: &agreement.ID})
		want.Application, want.Environment, want.AgreementID = "sampler", "development", agreement.ID
		same(t, "changed", got, err, want)
		check("changed, read")
		none := ""
		got, err = r.ChangeClient(ctx, operator, made.ID, ClientChange{AgreementID: &none})
		want.AgreementID = ""
		same(t, "unlinked", got, err, want)
		check("unlinked, read")

		step := func(what string, do func(context.Context, Actor, string) error) {
			t.Helper()
			c.add(time.Second)
			if err := do(ctx, operator, made.ID); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		step("disable", r.DisableClient)
		want.DisabledAt = At(c.now())
		check("disabled")
		step("disable again", r.DisableClient)
		check("disabled again")
		step("enable", r.EnableClient)
		want.DisabledAt = 0
		check("enabled")
		step("revoke", r.RevokeClientTokens)
		want.TokensValidFrom = At(c.now())
		check("revoked")
		all, err := r.Clients(ctx, made.OrganizationID)
		same(t, "list", all, err, []Client{want})
		all, err = r.Clients(ctx, "")
		same(t, "list of all", all, err, []Client{want})
		step("remove", r.RemoveClient)
		want.RemovedAt = At(c.now())
		check("removed")
		step("remove again", r.RemoveClient)
		check("removed again")
		all, err = r.Clients(ctx, made.OrganizationID)
		same(t, "list without removed", all, err, nil)
		wants(t, "disable removed", r.DisableClient(ctx, operator, made.ID), ErrConflict, "was removed")
		_, err = r.RotateClientSecret(ctx, operator, made.ID, 0)
		wants(t, "rotate removed", err, ErrConflict, "was removed")
	})
}

func TestClientIsRefused(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		other := must(r.CreateOrganization(ctx, operator, "Impulse!", Terms{}))(t)
		gone := must(r.CreateOrganization(ctx, operator, "gone", Terms{}))(t)
		if err := r.RemoveOrganization(ctx, operator, gone.ID); err != nil {
			t.Fatal(err)
		}
		theirs := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: other.ID, Name: "theirs"}))(t)
		over := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: o.ID, Name: "over"}))(t)
		if err := r.RemoveAgreement(ctx, operator, over.ID); err != nil {
			t.Fatal(err)
		}
		f := func(name string, n NewClient, kind error, words string) {
			t.Helper()
			_, s, err := r.CreateClient(ctx, operator, n)
			wants(t, name, err, kind, words)
			if s != "" {
				t.Errorf("%s: there is a secret", name)
			}
		}
		f("unknown organization", NewClient{OrganizationID: "none", Application: "x", Environment: "dev"}, ErrNotFound, "no such organization")
		f("removed organization", NewClient{OrganizationID: gone.ID, Application: "x", Environment: "dev"}, ErrConflict, "was removed")
		f("another's agreement", NewClient{OrganizationID: o.ID, AgreementID: theirs.ID, Application: "x", Environment: "dev"}, ErrInvalid, "another organization's")
		f("unknown agreement", NewClient{OrganizationID: o.ID, AgreementID: "none", Application: "x", Environment: "dev"}, ErrNotFound, "no such agreement")
		f("removed agreement", NewClient{OrganizationID: o.ID, AgreementID: over.ID, Application: "x", Environment: "dev"}, ErrConflict, "was removed")
		f("no application", NewClient{OrganizationID: o.ID, Environment: "dev"}, ErrInvalid, "application: use 1 to 200")
		f("bad environment", NewClient{OrganizationID: o.ID, Application: "x", Environment: "Dev"}, ErrInvalid, "environment: use 1 to 32 of a-z")
		if all := must(r.Clients(ctx, ""))(t); len(all) != 0 {
			t.Errorf("%d clients were made", len(all))
		}
	})
}

func TestDuplicateClient(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		first, _ := newClient(t, r)
		same := NewClient{OrganizationID: first.OrganizationID, Application: "player", Environment: "production"}
		_, _, err := r.CreateClient(ctx, operator, same)
		wants(t, "a second one", err, ErrConflict, "client "+first.ID+" is this application's in production already")
		same.AllowDuplicate = true
		second, _, err := r.CreateClient(ctx, operator, same)
		if err != nil {
			t.Fatalf("allowed: %v", err)
		}
		third, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: first.OrganizationID, Application: "player", Environment: "staging"})
		if err != nil {
			t.Fatalf("another environment: %v", err)
		}
		production, player := "prod", "player"
		_, err = r.ChangeClient(ctx, operator, third.ID, ClientChange{Environment: &production})
		wants(t, "changed into one", err, ErrConflict, first.ID)
		// One that is a duplicate on purpose can be changed otherwise.
		if _, err := r.ChangeClient(ctx, operator, second.ID, ClientChange{Application: &player}); err != nil {
			t.Errorf("changed to itself: %v", err)
		}
		for _, id := range []string{first.ID, second.ID} {
			if err := r.RemoveClient(ctx, operator, id); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := r.ChangeClient(ctx, operator, third.ID, ClientChange{Environment: &production}); err != nil {
			t.Errorf("after removal: %v", err)
		}
		other, _ := newClient(t, r)
		if other.Application != "player" {
			t.Error("another organization has the same application")
		}
	})
}

func TestRotateClientSecret(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		c, first := newClient(t, r)
		start := At(clk.now())
		digest := func(s secret.Secret) secret.Digest { return secret.DigestOf([]byte(s.Reveal())) }
		// check compares the live secrets, oldest first: digest and end.
		type live struct {
			Digest secret.Digest
			Ends   Time
		}
		check := func(what string, want ...live) {
			t.Helper()
			g, err := r.Grant(ctx, c.ID)
			if err != nil {
				t.Fatal(err)
			}
			var got []live
			for _, s := range g.Client.Secrets {
				got = append(got, live{s.Digest, s.ExpiresAt})
			}
			same(t, what, got, nil, want)
		}
		check("first", live{digest(first), 0})

		second := must(r.RotateClientSecret(ctx, operator, c.ID, 24*time.Hour))(t)
		check("overlap", live{digest(first), start.later(24 * time.Hour)}, live{digest(second), 0})
		_, err := r.RotateClientSecret(ctx, operator, c.ID, time.Hour)
		wants(t, "a third", err, ErrConflict, "two secrets of this client are live, the older one until 2020-11-17T17:45:50Z: wait until then, or rotate with an overlap of 0")

		clk.add(24*time.Hour - time.Millisecond)
		check("a millisecond before the end", live{digest(first), start.later(24 * time.Hour)}, live{digest(second), 0})
		clk.add(time.Millisecond)
		check("at the end", live{digest(second), 0})

		now := At(clk.now())
		third := must(r.RotateClientSecret(ctx, operator, c.ID, time.Hour))(t)
		check("third", live{digest(second), now.later(time.Hour)}, live{digest(third), 0})
		fourth := must(r.RotateClientSecret(ctx, operator, c.ID, 0))(t)
		check("at once", live{digest(fourth), 0})
		_, err = r.RotateClientSecret(ctx, operator, c.ID, -time.Second)
		wants(t, "negative", err, ErrInvalid, "overlap")
		_, err = r.RotateClientSecret(ctx, operator, "none", 0)
		wants(t, "unknown", err, ErrNotFound, "no such client")
	})
}

func TestGrant(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", everyState()))(t)
		terms := Terms{RequestRate: Limit{State: Unlimited}, Products: Set{State: Value, Values: []string{"search"}}}
		a := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: o.ID, Name: "2020", StartsAt: 1, EndsAt: At(clk.now()).later(time.Hour), Terms: terms}))(t)
		c, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: o.ID, AgreementID: a.ID, Application: "player", Environment: "dev"})
		if err != nil {
			t.Fatal(err)
		}
		g, err := r.Grant(ctx, c.ID)
		same(t, "grant", g, err, Grant{Client: c, Organization: o, Agreement: &a})

		// Whatever the state of the three, they are there and say so.
		for _, err := range []error{
			r.RemoveAgreement(ctx, operator, a.ID), r.RevokeClientTokens(ctx, operator, c.ID), r.DisableClient(ctx, operator, c.ID), r.RemoveClient(ctx, operator, c.ID),
			r.RevokeOrganizationTokens(ctx, operator, o.ID), r.DisableOrganization(ctx, operator, o.ID), r.RemoveOrganization(ctx, operator, o.ID),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		now := At(clk.now())
		a.RemovedAt = now
		c.RemovedAt, c.DisabledAt, c.TokensValidFrom = now, now, now
		o.RemovedAt, o.DisabledAt, o.TokensValidFrom = now, now, now
		g, err = r.Grant(ctx, c.ID)
		same(t, "grant of what is gone", g, err, Grant{Client: c, Organization: o, Agreement: &a})

		linkless, _ := newClient(t, r)
		if g, err = r.Grant(ctx, linkless.ID); err != nil || g.Agreement != nil {
			t.Errorf("without an agreement: %+v, %v", g.Agreement, err)
		}
	})
}

func TestRow074StrangeClientID(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		f := func(name, id string) {
			t.Helper()
			_, err := r.Grant(ctx, id)
			wants(t, name+": Grant", err, ErrNotFound, "no such client")
			_, err = r.Client(ctx, id)
			wants(t, name+": Client", err, ErrNotFound, "no such client")
			_, err = r.Token(ctx, id)
			wants(t, name+": Token", err, ErrNotFound, "no such token")
			_, err = r.Revocation(ctx, id)
			wants(t, name+": Revocation", err, ErrNotFound, "no such token")
			_, err = r.RevokeToken(ctx, operator, id)
			wants(t, name+": RevokeToken", err, ErrNotFound, "no such token")
			wants(t, name+": DisableClient", r.DisableClient(ctx, operator, id), ErrNotFound, "no such client")
			if found, err := r.Clients(ctx, id); len(found) != 0 && id != "" || err != nil {
				t.Errorf("%s: Clients finds %d, %v", name, len(found), err)
			}
		}
		f("empty", "")
		f("quote", `' OR '1'='1`)
		f("comment", c.ID+`'--`)
		f("any", "%")
		f("any character", c.ID[:35]+"_")
		f("NUL", "\x00")
		f("NUL behind", c.ID+"\x00")
		f("NUL within", c.ID[:8]+"\x00"+c.ID[8:])
		f("not UTF-8", c.ID+"\xff")
		f("blank behind", c.ID+" ")
		f("upper case", "A"+c.ID[1:])
		f("a megabyte", string(make([]byte, 1<<20)))
		if _, err := r.Grant(ctx, c.ID); err != nil {
			t.Errorf("the client itself: %v", err)
		}
	})
}

func TestErrorsDoNotQuoteInput(t *testing.T) {
	ctx := context.Background()
	r := open(t, file(t))
	const planted = "planted-secret"
	_, err := r.Grant(ctx, planted)
	_, err2 := r.CreateOrganization(ctx, operator, planted+"\n", Terms{})
	_, _, err3 := r.CreateClient(ctx, operator, NewClient{Application: "x", Environment: planted + "!"})
	_, err4 := Open(ctx, Options{DSN: "mysql://root:" + planted + "@db"})
	for _, err := range []error{err, err2, err3, err4} {
		if err == nil || strings.Contains(err.Error(), planted) {
			t.Errorf("error is %v", err)
		}
	}
}

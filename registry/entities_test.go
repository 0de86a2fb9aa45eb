package registry

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// everyState has each of the three states in both kinds of field.
func everyState() Terms {
	return Terms{
		Products:     Set{State: Value, Values: []string{"tracks:read", "search"}},
		Catalogs:     Set{State: Unlimited},
		RequestRate:  Limit{State: Value, Value: 50},
		RequestBurst: Limit{State: Value, Value: 0},
		Concurrent:   Limit{State: Unlimited},
		QuotaMonth:   Limit{State: Value, Value: 1 << 40},
	}
}

// same compares what was stored with what is read.
func same[T any](t *testing.T, what string, got T, err error, want T) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, d)
	}
}

// wants checks the kind of an error, and words that help.
func wants(t *testing.T, what string, err, kind error, words string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), words) {
		t.Errorf("%s: error is %v, want %v that says %q", what, err, kind, words)
	}
}

func TestOrganization(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		made := must(r.CreateOrganization(ctx, operator, "Blue Note", everyState()))(t)
		want := Organization{ID: made.ID, Name: "Blue Note", Terms: everyState(), CreatedAt: At(c.now())}
		same(t, "created", made, nil, want)
		check := func(what string) {
			t.Helper()
			got, err := r.Organization(ctx, made.ID)
			same(t, what, got, err, want)
		}
		check("read")

		c.add(time.Second)
		name, none := "Impulse!", Terms{}
		want.Name = name
		got, err := r.ChangeOrganization(ctx, operator, made.ID, OrganizationChange{Name: &name})
		same(t, "renamed", got, err, want)
		check("renamed, read")
		want.Terms = none
		got, err = r.ChangeOrganization(ctx, operator, made.ID, OrganizationChange{Terms: func(t *Terms) { *t = none }})
		same(t, "without terms", got, err, want)
		check("without terms, read")
		got, err = r.ChangeOrganization(ctx, operator, made.ID, OrganizationChange{})
		same(t, "unchanged", got, err, want)

		step := func(what string, do func(context.Context, Actor, string) error) {
			t.Helper()
			c.add(time.Second)
			if err := do(ctx, operator, made.ID); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
		step("disable", r.DisableOrganization)
		want.DisabledAt = At(c.now())
		check("disabled")
		step("disable again", r.DisableOrganization)
		check("disabled again")
		step("enable", r.EnableOrganization)
		want.DisabledAt = 0
		check("enabled")
		step("enable again", r.EnableOrganization)
		step("revoke", r.RevokeOrganizationTokens)
		want.TokensValidFrom = At(c.now())
		check("revoked")
		c.add(-time.Hour) // the clock was set back: what is revoked stays so
		step("revoke earlier", r.RevokeOrganizationTokens)
		check("revoked earlier")
		all, err := r.Organizations(ctx)
		same(t, "list", all, err, []Organization{want})
		step("remove", r.RemoveOrganization)
		want.RemovedAt = At(c.now())
		check("removed")
		step("remove again", r.RemoveOrganization)
		check("removed again")
		all, err = r.Organizations(ctx)
		same(t, "list without removed", all, err, nil)

		wants(t, "disable removed", r.DisableOrganization(ctx, operator, made.ID), ErrConflict, "was removed")
		wants(t, "enable removed", r.EnableOrganization(ctx, operator, made.ID), ErrConflict, "was removed")
		wants(t, "remove unknown", r.RemoveOrganization(ctx, operator, "none"), ErrNotFound, "no such organization")
		_, err = r.ChangeOrganization(ctx, operator, made.ID, OrganizationChange{Name: &name})
		wants(t, "change removed", err, ErrConflict, "was removed")

		events, err := r.Events(ctx, 0)
		if err != nil {
			t.Fatal(err)
		}
		var actions []string
		for _, e := range events {
			actions = append(actions, e.Action+" "+e.Detail)
			if e.Actor != operator || e.Kind != KindOrganization || e.ID != made.ID {
				t.Errorf("event %+v", e)
			}
		}
		same(t, "events", actions, nil, []string{"remove ", "revoke all tokens", "revoke all tokens", "enable ", "disable ",
			"change terms", "change name", "create Blue Note"})
		if events, _ := r.Events(ctx, 2); len(events) != 2 || events[0].Action != "remove" || events[0].At != want.RemovedAt {
			t.Errorf("the last two events are %+v", events)
		}
	})
}

func TestNames(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		f := func(name, organization, words string) {
			t.Helper()
			t.Run(name, func(t *testing.T) {
				t.Helper()
				o, err := r.CreateOrganization(ctx, operator, organization, Terms{})
				if words == "" {
					if err != nil || o.Name != organization {
						t.Errorf("refused: %v", err)
					}
					return
				}
				wants(t, name, err, ErrInvalid, words)
			})
		}
		f("empty", "", "use 1 to 200 characters, not 0")
		f("one", "x", "")
		f("200 characters of two bytes", strings.Repeat("é", 200), "")
		f("201", strings.Repeat("é", 201), "use 1 to 200 characters, not 201")
		f("bad UTF-8", "a\xff", "not valid UTF-8")
		f("line feed", "a\nb", "control characters")
		f("NUL", "a\x00b", "control characters")
		f("C1", "a\u0085b", "control characters")
		f("line separator", "a\u2028b", "control characters")
		f("quotes and markup", `Robert'); DROP TABLE client;-- <b>&"%_`, "")

		all := must(r.Organizations(ctx))(t)
		if len(all) != 3 {
			t.Errorf("%d organizations, want 3", len(all))
		}
	})
}

func TestTermsAreChecked(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		f := func(name string, terms Terms, words string) {
			t.Helper()
			_, err := r.CreateOrganization(ctx, operator, "x", terms)
			wants(t, name, err, ErrInvalid, words)
		}
		names := func(all ...string) Set { return Set{State: Value, Values: all} }
		f("negative", Terms{QuotaDay: Limit{State: Value, Value: -1}}, "quota_day: use 0 or more")
		f("state", Terms{IssueRate: Limit{State: 9}}, "issue_rate")
		f("set state", Terms{Products: Set{State: 9}}, "products")
		f("scope with a blank", Terms{Products: names("a b")}, "products")
		f("scope with a quote", Terms{Products: names(`a"b`)}, "products")
		f("empty scope", Terms{Products: names("")}, "products")
		f("catalog with a line feed", Terms{Catalogs: names("a\nb")}, "catalogs")

		// A star among the names is a name and not everything.
		o := must(r.CreateOrganization(ctx, operator, "x", Terms{Products: names("*")}))(t)
		got, err := r.Organization(ctx, o.ID)
		same(t, "star", got.Terms, err, Terms{Products: names("*")})
		// No names at all allow nothing, which is not the same as unset.
		nothing := Terms{Products: names()}
		got, err = r.ChangeOrganization(ctx, operator, o.ID, OrganizationChange{Terms: func(t *Terms) { *t = nothing }})
		if err != nil || got.Terms.Products.State != Value {
			t.Errorf("nothing allowed is %+v, %v", got.Terms.Products, err)
		}
		got, err = r.Organization(ctx, o.ID)
		if err != nil || got.Terms.Products.State != Value || len(got.Terms.Products.Values) != 0 {
			t.Errorf("nothing allowed is read as %+v, %v", got.Terms.Products, err)
		}
	})
}

// Every field of Terms has a column, and the order of columns is that of fields.
func TestTermsColumnsAreComplete(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		r := open(t, file(t))
		var terms Terms
		v := reflect.ValueOf(&terms).Elem()
		for i := range v.NumField() {
			switch f := v.Field(i).Addr().Interface().(type) {
			case *Set:
				*f = Set{State: Value, Values: []string{v.Type().Field(i).Name}}
			case *Limit:
				*f = Limit{State: Value, Value: int64(i + 1)}
			}
		}
		must(r.CreateCatalog(context.Background(), operator, NewCatalog{ExternalID: "Catalogs", Public: true, Name: "x"}))(t)
		o := must(r.CreateOrganization(context.Background(), operator, "x", terms))(t)
		got, err := r.Organization(context.Background(), o.ID)
		same(t, "terms", got.Terms, err, terms)
		for i, name := range []string{"products", "catalogs", "request_rate", "request_burst", "concurrent", "quota_day", "quota_month", "token_lifetime", "issue_rate"} {
			if tag := v.Type().Field(i).Tag.Get("json"); tag != name {
				t.Errorf("field %d is %s, its column %s", i, tag, name)
			}
			var stored string
			if err := r.engine.read.QueryRow("SELECT " + name + " FROM terms").Scan(&stored); err != nil || stored == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestAgreement(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		start, end := At(c.now()), At(c.now()).later(24*time.Hour)
		made := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: o.ID, Name: "2020", StartsAt: start, EndsAt: end, Terms: everyState()}))(t)
		want := Agreement{ID: made.ID, OrganizationID: o.ID, Name: "2020", StartsAt: start, EndsAt: end, Terms: everyState(), Enforce: Enforce, CreatedAt: At(c.now())}
		same(t, "created", made, nil, want)
		got, err := r.Agreement(ctx, made.ID)
		same(t, "read", got, err, want)

		open, name, terms, shadow := Time(0), "2021", Terms{IssueRate: Limit{State: Value, Value: 60}}, Shadow
		got, err = r.ChangeAgreement(ctx, operator, made.ID, AgreementChange{Name: &name, EndsAt: &open, Terms: func(t *Terms) { *t = terms }, Enforce: &shadow})
		want.Name, want.EndsAt, want.Terms, want.Enforce = name, 0, terms, Shadow
		same(t, "changed", got, err, want)
		got, err = r.Agreement(ctx, made.ID)
		same(t, "changed, read", got, err, want)
		all, err := r.Agreements(ctx, o.ID)
		same(t, "list", all, err, []Agreement{want})
		all, err = r.Agreements(ctx, "")
		same(t, "list of all", all, err, []Agreement{want})
		all, err = r.Agreements(ctx, "another")
		same(t, "list of another", all, err, nil)

		_, err = r.ChangeAgreement(ctx, operator, made.ID, AgreementChange{EndsAt: &start})
		wants(t, "ends as it starts", err, ErrInvalid, "ends after it starts")
		_, err = r.ChangeAgreement(ctx, operator, made.ID, AgreementChange{Enforce: new(Mode("perhaps"))})
		wants(t, "unknown mode", err, ErrInvalid, "enforce: use enforce or shadow")
		_, err = r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: "none", Name: "x"})
		wants(t, "unknown organization", err, ErrNotFound, "no such organization")
		_, err = r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: o.ID})
		wants(t, "no name", err, ErrInvalid, "name")
		_, err = r.Agreement(ctx, "none")
		wants(t, "unknown", err, ErrNotFound, "no such agreement")

		for range 2 {
			if err := r.RemoveAgreement(ctx, operator, made.ID); err != nil {
				t.Error(err)
			}
		}
		want.RemovedAt = At(c.now())
		got, err = r.Agreement(ctx, made.ID)
		same(t, "removed", got, err, want)
		all, err = r.Agreements(ctx, o.ID)
		same(t, "list without removed", all, err, nil)
		_, err = r.ChangeAgreement(ctx, operator, made.ID, AgreementChange{Name: &name})
		wants(t, "change removed", err, ErrConflict, "was removed")
		if err := r.RemoveOrganization(ctx, operator, o.ID); err != nil {
			t.Error(err)
		}
		_, err = r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: o.ID, Name: "x"})
		wants(t, "removed organization", err, ErrConflict, "was removed")
	})
}

func TestCatalog(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		o := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		made := must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "bn-1500", OrganizationID: o.ID, Name: "1500 series"}))(t)
		private := Catalog{ID: made.ID, ExternalID: "bn-1500", OrganizationID: o.ID, Name: "1500 series", CreatedAt: At(c.now())}
		same(t, "created", made, nil, private)
		got, err := r.Catalog(ctx, made.ID)
		same(t, "read", got, err, private)
		c.add(time.Second)
		public := must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "free", Public: true, Name: "free"}))(t)
		got, err = r.Catalog(ctx, public.ID)
		same(t, "public", got, err, Catalog{ID: public.ID, ExternalID: "free", Public: true, Name: "free", CreatedAt: At(c.now())})
		all, err := r.Catalogs(ctx, "")
		same(t, "list", all, err, []Catalog{private, public})
		all, err = r.Catalogs(ctx, o.ID)
		same(t, "list of one", all, err, []Catalog{private})

		_, err = r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "bn-1500", Public: true, Name: "again"})
		wants(t, "external id taken", err, ErrConflict, "another catalog has this external id")
		_, err = r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "x", Name: "x"})
		wants(t, "private without owner", err, ErrInvalid, "has an owner")
		_, err = r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "a\r\nX-Client-Id: b", Public: true, Name: "x"})
		wants(t, "line feed", err, ErrInvalid, "external_id")
		_, err = r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "x", OrganizationID: "none", Name: "x"})
		wants(t, "unknown owner", err, ErrNotFound, "no such organization")
		for range 2 {
			if err := r.RemoveCatalog(ctx, operator, made.ID); err != nil {
				t.Error(err)
			}
		}
		if got, err := r.Catalog(ctx, made.ID); err != nil || got.RemovedAt != At(c.now()) {
			t.Errorf("removed: %+v, %v", got, err)
		}
		if _, err := r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "bn-1500", Public: true, Name: "again"}); err != nil {
			t.Errorf("an external id is free after removal: %v", err)
		}
		wants(t, "remove unknown", r.RemoveCatalog(ctx, operator, "none"), ErrNotFound, "no such catalog")
	})
}

package registry

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// TestGrantsAreOfOneCatalog: what is granted by an external id is the catalog that has it
// then, and never one that gets it later.
func TestGrantsAreOfOneCatalog(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		owner := must(r.CreateOrganization(ctx, operator, "Owner", Terms{}))(t)
		names := func(all ...string) Terms {
			return Terms{Catalogs: Set{State: Value, Values: all}, QuotaDay: Limit{State: Value, Value: 7}}
		}
		_, err := r.CreateOrganization(ctx, operator, "x", names("jazz"))
		wants(t, "organization with what is not there", err, ErrInvalid, "catalogs: there is no catalog jazz: make it first")
		catalogs := map[string]Catalog{}
		for _, id := range []string{"jazz", "JAZZ", "j_zz", `"j%zz\`, "jazz-2"} {
			catalogs[id] = must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: id, OrganizationID: owner.ID, Name: id}))(t)
		}
		user := must(r.CreateOrganization(ctx, operator, "User", names("jazz", "j_zz")))(t)
		_, err = r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: user.ID, Name: "gold", Terms: names("blues")})
		wants(t, "agreement with what is not there", err, ErrInvalid, "there is no catalog blues")
		gold := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: user.ID, Name: "gold", Terms: names("JAZZ", "jazz", `"j%zz\`)}))(t)
		silver := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: user.ID, Name: "silver", Terms: names("jazz-2")}))(t)
		_, err = r.ChangeAgreement(ctx, operator, gold.ID, AgreementChange{Terms: func(t *Terms) { t.Catalogs.Values = append(t.Catalogs.Values, "blues") }})
		wants(t, "changed to what is not there", err, ErrInvalid, "there is no catalog blues")
		_, err = r.ChangeOrganization(ctx, operator, user.ID, OrganizationChange{Terms: func(t *Terms) { t.Catalogs.Values = []string{"blues"} }})
		wants(t, "changed to what is not there", err, ErrInvalid, "there is no catalog blues")

		check := func(what string, ofUser, ofGold []string) {
			t.Helper()
			got, err := r.Organization(ctx, user.ID)
			same(t, what+", organization", got.Terms, err, names(ofUser...))
			g, err := r.Agreement(ctx, gold.ID)
			same(t, what+", agreement", g.Terms, err, names(ofGold...))
			g, err = r.Agreement(ctx, silver.ID)
			same(t, what+", another agreement", g.Terms, err, names("jazz-2"))
		}
		check("refused changes", []string{"jazz", "j_zz"}, []string{"JAZZ", "jazz", `"j%zz\`})
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)

		if err := r.RemoveCatalog(ctx, operator, catalogs["jazz"].ID); err != nil {
			t.Fatal(err)
		}
		check("removed", []string{"j_zz"}, []string{"JAZZ", `"j%zz\`})
		same(t, "feed", kinds(t, feed), nil, map[string]Kind{user.ID: KindOrganization, gold.ID: KindAgreement, catalogs["jazz"].ID: KindCatalog})
		events := must(r.Events(ctx, 3))(t)
		if events[0].Action != "remove" || events[1].Detail != "catalogs: jazz was removed" || events[2].Detail != "catalogs: jazz was removed" {
			t.Errorf("events are %+v", events)
		}
		must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "jazz", OrganizationID: owner.ID, Name: "another"}))(t)
		check("made again", []string{"j_zz"}, []string{"JAZZ", `"j%zz\`})

		rename := func(id, to string) error {
			_, err := r.ChangeCatalog(ctx, operator, catalogs[id].ID, CatalogChange{ExternalID: &to})
			return err
		}
		wants(t, "renamed to one that is there", rename("j_zz", "jazz"), ErrConflict, "another catalog has this external id")
		if err := rename(`"j%zz\`, "free"); err != nil {
			t.Fatal(err)
		}
		check("renamed", []string{"j_zz"}, []string{"JAZZ", "free"})

		// What was granted before anybody looked stays as it is, and does not stand in the way.
		execOn(t, r, `UPDATE terms SET catalogs = '["gone"]' WHERE owner_id = $1`, silver.ID)
		got, err := r.ChangeAgreement(ctx, operator, silver.ID, AgreementChange{Terms: func(t *Terms) { t.QuotaDay.Value = 8 }})
		if err != nil || fmt.Sprint(got.Terms.Catalogs.Values) != "[gone]" {
			t.Errorf("%+v, %v", got, err)
		}
	})
}

// kinds is what the feed has: kinds by id.
func kinds(t *testing.T, f *Feed) map[string]Kind {
	t.Helper()
	changes, reset, err := f.Poll(context.Background())
	if err != nil || reset {
		t.Fatal(reset, err)
	}
	found := map[string]Kind{}
	for _, c := range changes {
		found[c.ID] = c.Kind
	}
	return found
}

func execOn(t *testing.T, r *Registry, query string, args ...any) {
	t.Helper()
	if _, err := r.engine.write.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
}

func TestChangeCatalog(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		a, b := must(r.CreateOrganization(ctx, operator, "A", Terms{}))(t), must(r.CreateOrganization(ctx, operator, "B", Terms{}))(t)
		made := must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "jazz", OrganizationID: a.ID, Name: "Jazz"}))(t)
		want := made
		change := func(what string, c CatalogChange, kind error, words string) {
			t.Helper()
			got, err := r.ChangeCatalog(ctx, operator, made.ID, c)
			if kind != nil {
				wants(t, what, err, kind, words)
			} else {
				same(t, what, got, err, want)
			}
			got, err = r.Catalog(ctx, made.ID)
			same(t, what+", read", got, err, want)
			got, err = r.FindCatalog(ctx, want.ExternalID)
			same(t, what+", found", got, err, want)
		}
		events := len(must(r.Events(ctx, 0))(t))
		change("nothing", CatalogChange{}, nil, "")
		change("the same", CatalogChange{Name: new("Jazz"), Public: new(false)}, nil, "")
		if got := len(must(r.Events(ctx, 0))(t)); got != events {
			t.Errorf("%d events of nothing", got-events)
		}
		change("without owner", CatalogChange{OrganizationID: new("")}, ErrInvalid, "a private catalog has an owner")
		change("unknown owner", CatalogChange{OrganizationID: new("none")}, ErrNotFound, "no such organization")
		change("bad external id", CatalogChange{ExternalID: new("a b")}, ErrInvalid, "external_id")
		change("bad name", CatalogChange{Name: new("")}, ErrInvalid, "name")
		want.Public, want.OrganizationID, want.Name = true, "", "All jazz"
		change("public, nobody's", CatalogChange{Public: new(true), OrganizationID: new(""), Name: &want.Name}, nil, "")
		want.Public, want.OrganizationID = false, b.ID
		change("another's", CatalogChange{Public: new(false), OrganizationID: &b.ID}, nil, "")
		want.ExternalID = "jazz-2"
		change("renamed", CatalogChange{ExternalID: &want.ExternalID}, nil, "")
		if e := must(r.Events(ctx, 1))(t)[0]; e.Action != "change" || e.Kind != KindCatalog || e.ID != made.ID || e.Detail != "external_id" || e.Actor != operator {
			t.Errorf("event %+v", e)
		}
		_, err := r.FindCatalog(ctx, "jazz")
		wants(t, "the old external id", err, ErrNotFound, "no such catalog")
		_, err = r.FindCatalog(ctx, "a\x00b")
		wants(t, "what cannot be stored", err, ErrNotFound, "no such catalog")

		must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "free", Public: true, Name: "free"}))(t)
		each := map[string]Catalog{}
		if err := r.EachCatalog(ctx, func(c Catalog) { each[c.ExternalID] = c }); err != nil {
			t.Fatal(err)
		}
		if len(each) != 2 || !each["free"].Public || each["jazz-2"] != (Catalog{ID: made.ID, ExternalID: "jazz-2", OrganizationID: b.ID}) {
			t.Errorf("each is %+v", each)
		}
		if err := r.RemoveCatalog(ctx, operator, made.ID); err != nil {
			t.Fatal(err)
		}
		_, err = r.ChangeCatalog(ctx, operator, made.ID, CatalogChange{Name: new("x")})
		wants(t, "removed", err, ErrConflict, "the catalog was removed")
		_, err = r.FindCatalog(ctx, "jazz-2")
		wants(t, "removed", err, ErrNotFound, "no such catalog")
	})
}

// TestApplyGrants: a declaration can grant what is there when it is applied, and what it
// removes or renames is so in terms that it does not declare.
func TestApplyGrants(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		names := func(all ...string) Terms { return Terms{Catalogs: Set{State: Value, Values: all}} }
		catalog := func(id string) DeclaredCatalog { return DeclaredCatalog{Place: "f:c", ExternalID: id, Name: id} }
		d := Declaration{Organizations: []DeclaredOrganization{
			{Place: "f:1", Name: "User", Terms: names("jazz"), Agreements: []DeclaredAgreement{{Place: "f:2", Name: "gold", Terms: names("jazz", "blues"), Enforce: Shadow}}},
			{Place: "f:3", Name: "Owner", Catalogs: []DeclaredCatalog{catalog("jazz"), catalog("blues")}},
		}}
		mustApply(t, r, d, applyOptions())
		compareWith(t, r, d)
		if got := mustApply(t, r, d, applyOptions()); strings.Contains(got, "\n") {
			t.Errorf("the second time:\n%s", got)
		}
		refused := func(what string, d Declaration, o ApplyOptions, words string) {
			t.Helper()
			_, err := r.Apply(ctx, operator, d, o)
			wants(t, what, err, ErrInvalid, words)
		}
		user, owner := d.Organizations[0], d.Organizations[1]
		other := user
		other.Terms = names("soul")
		refused("what is not there", Declaration{Organizations: []DeclaredOrganization{other}}, applyOptions(), "f:1: catalogs: there is no catalog soul: declare it, here or before")
		less := owner
		less.Catalogs = []DeclaredCatalog{catalog("blues")}
		prune := applyOptions()
		prune.Prune = true
		refused("what is pruned", Declaration{Organizations: []DeclaredOrganization{user, less}}, prune, "f:1: catalogs: catalog jazz is removed")
		renamed := owner
		renamed.Catalogs = []DeclaredCatalog{{Place: "f:c", ID: must(r.FindCatalog(ctx, "jazz"))(t).ID, ExternalID: "jazz-2", Name: "jazz"}}
		refused("what is renamed", Declaration{Organizations: []DeclaredOrganization{user, renamed}}, applyOptions(), "f:1: catalogs: catalog jazz has the external id jazz-2 then")

		// The user is not declared now.
		for _, want := range []string{"User / gold", "User"} {
			plan := must(r.Plan(ctx, Declaration{Organizations: []DeclaredOrganization{renamed}}, applyOptions()))(t)
			if !strings.Contains(told(plan), want+" terms.catalogs:") {
				t.Errorf("the plan is\n%s", told(plan))
			}
		}
		mustApply(t, r, Declaration{Organizations: []DeclaredOrganization{renamed}}, applyOptions())
		check := func(what, organization, agreement string) {
			t.Helper()
			o, g := must(r.Organizations(ctx))(t), must(r.Agreements(ctx, ""))(t)
			if o[0].Name != "User" { // made in the same millisecond
				o[0] = o[1]
			}
			if len(g) != 1 || fmt.Sprint(o[0].Terms.Catalogs.Values) != organization || fmt.Sprint(g[0].Terms.Catalogs.Values) != agreement || g[0].Enforce != Shadow {
				t.Errorf("%s: granted are %v and %v", what, o[0].Terms.Catalogs.Values, g[0].Terms.Catalogs.Values)
			}
		}
		check("renamed", "[jazz-2]", "[jazz-2 blues]")
		less.Catalogs[0].Removed = true
		mustApply(t, r, Declaration{Organizations: []DeclaredOrganization{less}}, prune)
		check("all removed", "[]", "[]")
		mustApply(t, r, Declaration{Organizations: []DeclaredOrganization{owner}}, applyOptions())
		check("made again", "[]", "[]")
	})
}

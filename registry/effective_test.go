package registry

import (
	"context"
	"reflect"
	"sync"
	"testing"
)

func TestEffective(t *testing.T) {
	value := func(n int64) Limit { return Limit{State: Value, Value: n} }
	names := func(all ...string) Set { return Set{State: Value, Values: all} }
	organization := Terms{Products: names("tracks"), Catalogs: names("a"), RequestRate: value(1), RequestBurst: value(2), QuotaDay: Limit{State: Unlimited}}
	agreement := Terms{Catalogs: names(), RequestRate: value(0), Concurrent: Limit{State: Unlimited}, TokenLifetime: value(60)}
	fromAgreement, fromOrganization, byDefault := Source{FromAgreement, "g"}, Source{FromOrganization, "o"}, Source{From: FromDefault}

	grant := func(linked string, g *Agreement) Grant {
		return Grant{Client: Client{AgreementID: linked}, Organization: Organization{ID: "o", Terms: organization}, Agreement: g}
	}
	f := func(name string, g Grant, want Terms, from Sources) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			got, sources := g.Effective()
			same(t, "terms", got, nil, want)
			same(t, "sources", sources, nil, from)
		})
	}
	f("no agreement", grant("", nil), organization, Sources{
		Products: fromOrganization, Catalogs: fromOrganization, RequestRate: fromOrganization, RequestBurst: fromOrganization, QuotaDay: fromOrganization,
		Concurrent: byDefault, QuotaMonth: byDefault, TokenLifetime: byDefault, IssueRate: byDefault,
	})
	// A 0, an empty set and unlimited are set: they win as any value does.
	f("agreement", grant("g", &Agreement{ID: "g", Terms: agreement}),
		Terms{Products: names("tracks"), Catalogs: names(), RequestRate: value(0), RequestBurst: value(2), Concurrent: Limit{State: Unlimited},
			QuotaDay: Limit{State: Unlimited}, TokenLifetime: value(60)},
		Sources{
			Products: fromOrganization, Catalogs: fromAgreement, RequestRate: fromAgreement, RequestBurst: fromOrganization, Concurrent: fromAgreement,
			QuotaDay: fromOrganization, QuotaMonth: byDefault, TokenLifetime: fromAgreement, IssueRate: byDefault,
		})
	none := Terms{Products: names(), Catalogs: names(), RequestRate: value(0), RequestBurst: value(0), Concurrent: value(0), QuotaDay: value(0),
		QuotaMonth: value(0), TokenLifetime: value(0), IssueRate: value(0)}
	none.Products.Values, none.Catalogs.Values = nil, nil
	f("removed", grant("g", &Agreement{ID: "g", Terms: agreement, RemovedAt: 1}), none, everywhere(fromAgreement))
	f("not there", grant("g", nil), none, everywhere(fromAgreement))
}

// Every field of Terms has its source, under the same name and in the same order.
func TestFieldsAreComplete(t *testing.T) {
	var terms Terms
	v := reflect.ValueOf(&terms).Elem()
	sources := reflect.TypeOf(Sources{})
	var from Sources
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch f := v.Field(i).Addr().Interface().(type) {
		case *Set:
			*f = Set{State: Value, Values: []string{name}}
		case *Limit:
			*f = Limit{State: Value, Value: int64(i)}
		}
		if sources.Field(i).Name != name {
			t.Errorf("field %d is %s, its source %s", i, name, sources.Field(i).Name)
		}
		reflect.ValueOf(&from).Elem().Field(i).Set(reflect.ValueOf(Source{From: name}))
	}
	fields := Fields(terms, from)
	if len(fields) != v.NumField() {
		t.Fatalf("%d fields, want %d", len(fields), v.NumField())
	}
	for i, f := range fields {
		if f.Name != v.Type().Field(i).Tag.Get("json") || !reflect.DeepEqual(f.Value, v.Field(i).Interface()) || f.Source.From != v.Type().Field(i).Name {
			t.Errorf("field %d is %+v", i, f)
		}
	}
}

// TestTermsChangedAtOnce: of two that change different fields neither undoes what the other did.
func TestTermsChangedAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, path := context.Background(), file(t)
		stores := []*Registry{open(t, path), open(t, path)}
		o := must(stores[0].CreateOrganization(ctx, operator, "x", Terms{}))(t)
		const n = 10
		var done sync.WaitGroup
		for i, change := range []func(*Terms){func(t *Terms) { t.QuotaDay.Value++ }, func(t *Terms) { t.QuotaMonth.Value++ }} {
			done.Go(func() {
				for range n {
					_, err := stores[i].ChangeOrganization(ctx, operator, o.ID, OrganizationChange{Terms: func(t *Terms) {
						t.QuotaDay.State, t.QuotaMonth.State = Value, Value
						change(t)
					}})
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		done.Wait()
		got, err := stores[0].Organization(ctx, o.ID)
		same(t, "terms", got.Terms, err, Terms{QuotaDay: Limit{Value, n}, QuotaMonth: Limit{Value, n}})
	})
}

// TestCoveredAndRefused: the boundaries of an agreement, and what goes before it.
func TestCoveredAndRefused(t *testing.T) {
	f := func(name string, change func(*Grant), now Time, covered bool, refused string) {
		t.Helper()
		g := Grant{Client: Client{AgreementID: "g"}, Agreement: &Agreement{ID: "g", StartsAt: 10, EndsAt: 20, Enforce: Enforce}}
		change(&g)
		if got := g.Covered(now); got != covered {
			t.Errorf("%s: covered %v", name, got)
		}
		if got := g.Refused(now); got != refused {
			t.Errorf("%s: refused %q, want %q", name, got, refused)
		}
	}
	as := func(*Grant) {}
	f("before", as, 9, false, "the agreement is not in force yet")
	f("first", as, 10, true, "")
	f("last", as, 19, true, "")
	f("end", as, 20, false, "the agreement has ended")
	f("in shadow", func(g *Grant) { g.Agreement.Enforce = Shadow }, 20, true, "")
	f("removed", func(g *Grant) { g.Agreement.RemovedAt = 1 }, 15, false, "the agreement was removed")
	f("removed, in shadow", func(g *Grant) { g.Agreement.RemovedAt, g.Agreement.Enforce = 1, Shadow }, 15, false, "the agreement was removed")
	f("not there", func(g *Grant) { g.Agreement = nil }, 15, false, "the agreement was removed")
	f("linked to none", func(g *Grant) { g.Agreement, g.Client.AgreementID = nil, "" }, 15, true, "")
	f("client removed", func(g *Grant) { g.Client.RemovedAt, g.Client.DisabledAt = 1, 1 }, 15, true, "the client was removed")
	f("client disabled", func(g *Grant) { g.Client.DisabledAt, g.Organization.DisabledAt = 1, 1 }, 15, true, "the client is disabled")
	f("organization removed", func(g *Grant) { g.Organization.RemovedAt = 1 }, 20, false, "the organization was removed")
	f("organization disabled", func(g *Grant) { g.Organization.DisabledAt = 1 }, 15, true, "the organization is disabled")
}

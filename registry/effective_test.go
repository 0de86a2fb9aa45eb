package registry

import (
	"reflect"
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

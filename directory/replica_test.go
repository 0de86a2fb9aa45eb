package directory

import (
	"context"
	"crypto/rand"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"postern/registry"
	"postern/registry/pgtest"
	"postern/secret"
)

// shared is the PostgreSQL server of all tests.
var shared pgtest.Shared

// bound is the promise: what one replica changes is in effect on every other one by then.
const bound = time.Second

// replicas are a registry that changes things, and directories of others on the same store.
type replicas struct {
	*testing.T
	registry *registry.Registry
	others   []*Directory
	client   registry.Client
	delays   []time.Duration
}

// onBoth runs a test with three replicas on each engine.
func onBoth(t *testing.T, f func(r *replicas)) {
	t.Run("sqlite", func(t *testing.T) { f(newReplicas(t, "sqlite:"+t.TempDir()+"/postern.db")) })
	t.Run("postgres", func(t *testing.T) { f(newReplicas(t, shared.Fresh(t))) })
}

func newReplicas(t *testing.T, dsn string) *replicas {
	t.Helper()
	open := func() *registry.Registry {
		t.Helper()
		r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret(dsn), MasterKey: secret.Secret(strings.Repeat("k", 32))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	w := &replicas{T: t, registry: open()}
	for range 2 {
		r := open()
		feed, err := r.Feed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = feed.Close() })
		d, err := Open(t.Context(), r, feed, Options{Now: time.Now, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(d.Close)
		w.others = append(w.others, d)
	}
	o, err := w.registry.CreateOrganization(t.Context(), operator, "Blue Note", registry.Terms{})
	w.check(err)
	w.client, _, err = w.registry.CreateClient(t.Context(), operator, registry.NewClient{OrganizationID: o.ID, Application: "player", Environment: "prod"})
	w.check(err)
	return w
}

var operator = registry.Actor{Kind: "operator", ID: "root"}

func (r *replicas) check(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// everywhere waits until ok is true on each other replica: ten times the promise at most.
// The delay counts from now on, when the change was committed.
func (r *replicas) everywhere(what string, ok func(d *Directory) bool) {
	r.Helper()
	began := time.Now()
	for _, d := range r.others {
		for !ok(d) {
			if time.Since(began) > 10*bound {
				r.Fatalf("%s: not in effect after %s", what, time.Since(began))
			}
			time.Sleep(time.Millisecond)
		}
		r.delays = append(r.delays, time.Since(began))
	}
}

// figures logs how long it took.
func (r *replicas) figures() {
	slices.Sort(r.delays)
	at := func(share float64) time.Duration { return r.delays[int(share*float64(len(r.delays)-1))] }
	r.Logf("%d changes seen: p50 %s, p99 %s, worst %s", len(r.delays), at(.5), at(.99), at(1))
}

func (r *replicas) held(d *Directory) *Client {
	r.Helper()
	c, err := d.Client(context.Background(), r.client.ID)
	r.check(err)
	return c
}

// TestRow039RevokedOnEveryReplica: a token that one replica revokes is known to be revoked
// on every other one within the bound.
func TestRow039RevokedOnEveryReplica(t *testing.T) {
	onBoth(t, func(r *replicas) {
		for range 30 {
			now := time.Now()
			id, err := registry.NewID(now, rand.Reader)
			r.check(err)
			r.check(r.registry.IssueToken(r.Context(), registry.Token{
				ID: id.String(), SubjectType: "Client", SubjectID: r.client.ID, OrganizationID: r.client.OrganizationID, KeyID: "key",
				IssuedAt: registry.At(now), ExpiresAt: registry.At(now.Add(time.Hour)),
			}, ""))
			for _, d := range r.others {
				if d.Revoked(id) {
					r.Fatal("revoked before it is")
				}
			}
			_, err = r.registry.RevokeToken(r.Context(), operator, id.String())
			r.check(err)
			r.everywhere("the revocation", func(d *Directory) bool { return d.Revoked(id) })
		}
		r.figures()
	})
}

// TestRow041DisabledOnEveryReplica: the same of a client, of its organization, and of what
// is turned on again.
func TestRow041DisabledOnEveryReplica(t *testing.T) {
	onBoth(t, func(r *replicas) {
		f := func(what string, change func(context.Context, registry.Actor, string) error, id string, want bool) {
			r.Helper()
			for _, d := range r.others {
				if r.held(d).Refused() == want {
					r.Fatalf("%s: nothing to change", what)
				}
			}
			r.check(change(r.Context(), operator, id))
			r.everywhere(what, func(d *Directory) bool { return r.held(d).Refused() == want })
		}
		for range 5 {
			f("client disabled", r.registry.DisableClient, r.client.ID, true)
			f("client enabled", r.registry.EnableClient, r.client.ID, false)
			f("organization disabled", r.registry.DisableOrganization, r.client.OrganizationID, true)
			f("organization enabled", r.registry.EnableOrganization, r.client.OrganizationID, false)
		}
		r.figures()
	})
}

// TestCatalogsOnEveryReplica: a catalog that is made, changed, removed or imported, and what is
// granted of it, is so on every replica within the bound.
func TestCatalogsOnEveryReplica(t *testing.T) {
	onBoth(t, func(r *replicas) {
		owner, err := r.registry.CreateOrganization(r.Context(), operator, "Owner", registry.Terms{})
		r.check(err)
		may := func(d *Directory, external string) bool {
			c, ok := d.Catalog([]byte(external))
			return ok && r.held(d).MayUse(c)
		}
		for _, d := range r.others {
			if may(d, "jazz") {
				r.Fatal("there is a catalog before it is made")
			}
		}
		jazz, err := r.registry.CreateCatalog(r.Context(), operator, registry.NewCatalog{ExternalID: "jazz", OrganizationID: owner.ID, Name: "Jazz"})
		r.check(err)
		r.everywhere("made", func(d *Directory) bool { _, ok := d.Catalog([]byte("jazz")); return ok && !may(d, "jazz") })
		grant := func(names ...string) {
			r.Helper()
			_, err := r.registry.ChangeOrganization(r.Context(), operator, r.client.OrganizationID, registry.OrganizationChange{Terms: func(t *registry.Terms) {
				t.Catalogs = registry.Set{State: registry.Value, Values: names}
			}})
			r.check(err)
		}
		grant("jazz")
		r.everywhere("granted", func(d *Directory) bool { return may(d, "jazz") })
		_, err = r.registry.ChangeCatalog(r.Context(), operator, jazz.ID, registry.CatalogChange{ExternalID: new("bebop")})
		r.check(err)
		r.everywhere("renamed", func(d *Directory) bool { _, old := d.Catalog([]byte("jazz")); return may(d, "bebop") && !old })
		r.check(r.registry.RemoveCatalog(r.Context(), operator, jazz.ID))
		r.everywhere("removed", func(d *Directory) bool { _, ok := d.Catalog([]byte("bebop")); return !ok })
		many := []registry.ImportedCatalog{{ExternalID: "bebop", OrganizationID: owner.ID, Name: "another"}, {ExternalID: "charts", Public: true, Name: "Charts"}}
		_, err = r.registry.ImportCatalogs(r.Context(), operator, many, nil)
		r.check(err)
		r.everywhere("imported", func(d *Directory) bool { return may(d, "charts") && d.HeldCatalogs() == 2 })
		for _, d := range r.others {
			if may(d, "bebop") {
				r.Error("a grant outlived its catalog, and is of another one")
			}
		}
		r.check(r.registry.RevokeClientTokens(r.Context(), operator, r.client.ID)) // something else: the catalogs stay
		r.everywhere("another change", func(d *Directory) bool { return r.held(d).ValidFrom() != 0 && d.HeldCatalogs() == 2 })
		r.figures()
	})
}

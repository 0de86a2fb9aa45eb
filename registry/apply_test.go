package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/secret"
)

// plainWeak stands in for slow hashes: the hash of a text is "slow:" and the text.
type plainWeak struct{}

func (plainWeak) Matches(s ClientSecret, text secret.Secret) bool { return s.Hash == "slow:"+text }
func (plainWeak) Hash(text secret.Secret) (secret.Secret, error)  { return "slow:" + text, nil }

func applyOptions() ApplyOptions { return ApplyOptions{Overlap: time.Hour, Weak: plainWeak{}} }

func strongSecret(text string) DeclaredSecret {
	return DeclaredSecret{Kind: SHA256, Digest: secret.DigestOf([]byte(text)), WellFormed: true}
}

func weakSecret(text string) DeclaredSecret {
	return DeclaredSecret{Kind: Argon2id, Digest: secret.DigestOf([]byte(text)), Text: secret.Secret(text)}
}

// label is Blue Note with one thing of each kind.
func label() Declaration {
	return Declaration{
		Organizations: []DeclaredOrganization{{
			Place: "f:1", Name: "Blue Note",
			Terms:      Terms{Products: Set{Value, []string{"tracks", "playlists"}}, Catalogs: Set{State: Unlimited}, QuotaDay: Limit{State: Value}, TokenLifetime: Limit{Value, 3600}},
			Agreements: []DeclaredAgreement{{Place: "f:2", Name: "Basic", StartsAt: 1_000, EndsAt: 9_000_000_000_000, Terms: Terms{RequestRate: Limit{State: Unlimited}}}},
			Catalogs:   []DeclaredCatalog{{Place: "f:3", ExternalID: "blue", Name: "Blue"}},
			Clients: []DeclaredClient{
				{Place: "f:4", Application: "player", Environment: "prod", Agreement: "Basic", Secrets: []DeclaredSecret{strongSecret("one")}},
				{Place: "f:5", ID: "legacy.1", Application: "radio", Environment: "dev", Disabled: true, Secrets: []DeclaredSecret{weakSecret("hunter2"), strongSecret("two")}},
			},
		}},
		Catalogs: []DeclaredCatalog{{Place: "f:6", ExternalID: "all", Name: "All", Public: true}},
	}
}

// mustApply applies and says in one line what it did.
func mustApply(t *testing.T, r *Registry, d Declaration, o ApplyOptions) string {
	t.Helper()
	plan, err := r.Apply(t.Context(), operator, d, o)
	if err != nil {
		t.Fatal(err)
	}
	return told(plan)
}

func told(p Plan) string {
	var all []string
	for _, s := range p.Steps {
		one := s.Action + " " + string(s.Kind) + " " + s.Name
		for _, f := range s.Fields {
			one += fmt.Sprintf(" %s:%q→%q", f.Field, f.Old, f.New)
		}
		all = append(all, one)
	}
	return strings.Join(append(all, fmt.Sprintf("%d unchanged, %d undeclared", p.Unchanged, p.Undeclared)), "\n")
}

// TestApply: what is declared is there, each thing has its event and its change, and the
// second time nothing is written, nor by a plan.
func TestApply(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		if _, _, err := feed.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		plan, err := r.Plan(ctx, label(), applyOptions())
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range plan.Steps {
			if want := map[bool]string{true: "legacy.1"}[s.Name == "Blue Note / radio / development"]; s.ID != want {
				t.Errorf("the plan of %s has the id %q", s.Name, s.ID)
			}
		}
		if n := len(must(r.Events(ctx, 0))(t)); n != 0 {
			t.Fatalf("a plan wrote %d events", n)
		}
		want := `create organization Blue Note terms.products:""→"playlists tracks" terms.catalogs:""→"unlimited" terms.quota_day:""→"0" terms.token_lifetime:""→"1h0m0s"
create agreement Blue Note / Basic starts_at:""→"1970-01-01T00:00:01Z" ends_at:""→"2255-03-14T16:00:00Z" terms.request_rate:""→"unlimited"
create catalog blue name:""→"Blue" public:""→"false"
create catalog all name:""→"All" public:""→"true"
create client Blue Note / player / production agreement:""→"Basic" secret:""→"added, sha256"
create client Blue Note / radio / development disabled:"false"→"true" secret:""→"added, argon2id" secret:""→"added, sha256"
0 unchanged, 0 undeclared`
		if got := told(plan); got != want {
			t.Errorf("planned:\n%s\nwant:\n%s", got, want)
		}
		if got := mustApply(t, r, label(), applyOptions()); got != want {
			t.Errorf("did:\n%s\nwant:\n%s", got, want)
		}
		compareWith(t, r, label())
		changes, reset, err := feed.Poll(ctx)
		if err != nil || reset || len(changes) != 6 {
			t.Errorf("changes: %+v, %v, %v", changes, reset, err)
		}
		events := must(r.Events(ctx, 0))(t)
		var actions []string
		for _, e := range events {
			if e.Actor != operator {
				t.Errorf("event of %+v", e.Actor)
			}
			actions = append(actions, e.Action+" "+string(e.Kind))
		}
		if got := strings.Join(actions, ", "); got != "import client, import client, disable client, create client, import client, create client, create catalog, create catalog, create agreement, create organization" {
			t.Errorf("events: %s", got)
		}
		c.add(time.Minute)
		if got := mustApply(t, r, label(), applyOptions()); got != "6 unchanged, 0 undeclared" {
			t.Errorf("the second time: %s", got)
		}
		if changes, reset, err := feed.Poll(ctx); err != nil || reset || len(changes) != 0 || len(must(r.Events(ctx, 0))(t)) != len(events) {
			t.Errorf("the second time wrote: %+v, %v, %v", changes, reset, err)
		}
		// Counters go on where apply left them.
		if err := r.EnableClient(ctx, operator, "legacy.1"); err != nil {
			t.Fatal(err)
		}
		if changes, _, err := feed.Poll(ctx); err != nil || len(changes) != 1 {
			t.Errorf("changes: %+v, %v", changes, err)
		}
	})
}

// compareWith holds the store against a declaration of all that is in it.
func compareWith(t *testing.T, r *Registry, d Declaration) {
	t.Helper()
	ctx := t.Context()
	got, want := map[string]string{}, map[string]string{}
	terms := func(t Terms) string {
		s := &Step{}
		s.terms(Terms{}, t)
		return fmt.Sprint(s.Fields)
	}
	names := map[string]string{"": ""}
	for _, o := range must(r.Organizations(ctx))(t) {
		names[o.ID] = o.Name
		got["organization "+o.Name] = fmt.Sprint(o.DisabledAt != 0, terms(o.Terms))
	}
	for _, g := range must(r.Agreements(ctx, ""))(t) {
		names[g.ID] = g.Name
		got["agreement "+names[g.OrganizationID]+"/"+g.Name] = fmt.Sprint(g.StartsAt, g.EndsAt, terms(g.Terms), g.Enforce)
	}
	for _, c := range must(r.Catalogs(ctx, ""))(t) {
		got["catalog "+c.ExternalID] = fmt.Sprint(c.Name, c.Public, names[c.OrganizationID])
	}
	for _, c := range must(r.Clients(ctx, ""))(t) {
		var secrets []string
		for _, s := range c.Secrets {
			if s.ExpiresAt == 0 {
				secrets = append(secrets, fmt.Sprintf("%s %x %s", s.Kind, s.Digest, s.Hash.Reveal()))
			}
		}
		key := "client " + names[c.OrganizationID] + "/" + c.Application + "/" + c.Environment
		if got[key] != "" {
			t.Errorf("%s is there twice", key)
		}
		got[key] = fmt.Sprint(c.DisabledAt != 0, names[c.AgreementID], len(secrets))
		for _, s := range secrets {
			got[key+" "+s] = "live"
		}
	}
	catalogs := func(owner string, all []DeclaredCatalog) {
		for _, c := range all {
			want["catalog "+c.ExternalID] = fmt.Sprint(c.Name, c.Public, owner)
		}
	}
	for _, o := range d.Organizations {
		want["organization "+o.Name] = fmt.Sprint(o.Disabled, terms(o.Terms))
		for _, g := range o.Agreements {
			mode := g.Enforce
			if mode == "" {
				mode = Enforce
			}
			want["agreement "+o.Name+"/"+g.Name] = fmt.Sprint(g.StartsAt, g.EndsAt, terms(g.Terms), mode)
		}
		catalogs(o.Name, o.Catalogs)
		for _, c := range o.Clients {
			environment := must(Environment(c.Environment))(t)
			key := "client " + o.Name + "/" + c.Application + "/" + environment
			want[key] = fmt.Sprint(c.Disabled, c.Agreement, len(c.Secrets))
			for _, s := range c.Secrets {
				digest, hash := s.Digest, ""
				if s.Kind != SHA256 {
					digest, hash = secret.Digest{}, "slow:"+s.Text.Reveal()
				}
				want[fmt.Sprintf("%s %s %x %s", key, s.Kind, digest, hash)] = "live"
			}
		}
	}
	catalogs("", d.Catalogs)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the store is not what is declared (-want +got):\n%s", diff)
	}
}

// TestApplyChanges: a field that is left out goes back to its default, ids rename, and
// nothing is removed unless that is asked for.
func TestApplyChanges(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := t.Context(), newClock()
		r := open(t, file(t), at(c))
		mustApply(t, r, label(), applyOptions())
		organization := must(r.Organizations(ctx))(t)[0].ID
		stranger, _ := newClient(t, r) // of another organization that is called the same
		agreement := must(r.Agreements(ctx, ""))(t)[0].ID
		player, catalog := "", ""
		for _, one := range must(r.Clients(ctx, organization))(t) {
			if one.Application == "player" {
				player = one.ID
			}
		}
		for _, one := range must(r.Catalogs(ctx, organization))(t) {
			catalog = one.ID
		}
		f := func(name, want string, change func(d *Declaration, o *DeclaredOrganization), options ...func(*ApplyOptions)) {
			t.Helper()
			c.add(time.Minute)
			d, o := label(), applyOptions()
			d.Organizations[0].ID = organization
			change(&d, &d.Organizations[0])
			for _, f := range options {
				f(&o)
			}
			plan, err := r.Plan(ctx, d, o)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := told(plan); got != want {
				t.Errorf("%s: planned:\n%s\nwant:\n%s", name, got, want)
			}
			if got := mustApply(t, r, d, o); got != want {
				t.Errorf("%s: did:\n%s\nwant:\n%s", name, got, want)
			}
			if got := mustApply(t, r, d, o); strings.Contains(got, "\n") {
				t.Errorf("%s: the second time:\n%s", name, got)
			}
		}
		prune := func(o *ApplyOptions) { o.Prune = true }
		f("as it is", "6 unchanged, 0 undeclared", func(*Declaration, *DeclaredOrganization) {})
		f("left out", `change organization Blue Note terms.products:"playlists tracks"→"" terms.catalogs:"unlimited"→"" terms.quota_day:"0"→"" terms.token_lifetime:"1h0m0s"→""
change agreement Blue Note / Basic starts_at:"1970-01-01T00:00:01Z"→"" ends_at:"2255-03-14T16:00:00Z"→"" terms.request_rate:"unlimited"→""
change client Blue Note / player / production agreement:"Basic"→""
change client Blue Note / radio / development disabled:"true"→"false"
2 unchanged, 0 undeclared`, func(d *Declaration, o *DeclaredOrganization) {
			o.Terms = Terms{}
			o.Agreements[0] = DeclaredAgreement{Place: "f:2", Name: "Basic"}
			o.Clients[0].Agreement, o.Clients[0].Secrets = "", nil
			o.Clients[1].Disabled, o.Clients[1].Secrets = false, nil
		})
		f("renamed by their ids", `change organization Green Note name:"Blue Note"→"Green Note" terms.products:""→"playlists tracks" terms.catalogs:""→"unlimited" terms.quota_day:""→"0" terms.token_lifetime:""→"1h0m0s" disabled:"false"→"true"
change agreement Green Note / Gold name:"Basic"→"Gold" starts_at:""→"1970-01-01T00:00:01Z" ends_at:""→"2255-03-14T16:00:00Z" terms.request_rate:""→"unlimited"
change catalog green external_id:"blue"→"green" public:"false"→"true"
change client Green Note / gramophone / staging application:"player"→"gramophone" environment:"production"→"staging" agreement:""→"Gold"
change client Green Note / radio / development disabled:"false"→"true"
1 unchanged, 0 undeclared`, func(d *Declaration, o *DeclaredOrganization) {
			o.Name, o.Disabled = "Green Note", true
			o.Agreements[0].ID, o.Agreements[0].Name = agreement, "Gold"
			o.Catalogs[0].ID, o.Catalogs[0].ExternalID, o.Catalogs[0].Public = catalog, "green", true
			o.Clients[0].ID, o.Clients[0].Application, o.Clients[0].Environment, o.Clients[0].Agreement = player, "gramophone", "staging", agreement
		})
		back := `change organization Blue Note name:"Green Note"→"Blue Note" disabled:"true"→"false"
change agreement Blue Note / Basic name:"Gold"→"Basic"
change catalog blue external_id:"green"→"blue" public:"true"→"false"
change client Blue Note / player / production application:"gramophone"→"player" environment:"staging"→"production"
2 unchanged, 0 undeclared`
		f("and back", back, func(d *Declaration, o *DeclaredOrganization) {
			o.Agreements[0].ID, o.Catalogs[0].ID, o.Clients[0].ID = agreement, catalog, player
		})
		nothing := func(d *Declaration, o *DeclaredOrganization) {
			o.Agreements, o.Catalogs, o.Clients, d.Catalogs = nil, nil, nil, nil
		}
		f("not declared", "1 unchanged, 4 undeclared", nothing)
		f("moved to nobody", `change catalog blue name:"Blue"→"blue" organization:"`+organization+`"→"" public:"false"→"true"
5 unchanged, 0 undeclared`, func(d *Declaration, o *DeclaredOrganization) {
			d.Catalogs = append(d.Catalogs, DeclaredCatalog{Place: "f:9", ExternalID: "blue", Name: "blue", Public: true})
			o.Catalogs = nil
		})
		f("removed", `remove client Blue Note / radio / development
remove catalog blue
4 unchanged, 0 undeclared`, func(d *Declaration, o *DeclaredOrganization) {
			o.Catalogs[0].Removed, o.Clients[1].Removed = true, true
		})
		f("pruned", `remove agreement Blue Note / Basic
remove client Blue Note / player / production
1 unchanged, 0 undeclared`, nothing, prune)
		f("removed whole", "remove organization Blue Note\n0 unchanged, 0 undeclared", func(d *Declaration, o *DeclaredOrganization) { nothing(d, o); o.Removed = true })
		if all := must(r.Clients(ctx, stranger.OrganizationID))(t); len(all) != 1 || all[0].DisabledAt != 0 {
			t.Errorf("another organization was touched: %+v", all)
		}
		if all := must(r.Catalogs(ctx, ""))(t); len(all) != 1 {
			t.Errorf("catalogs of nobody were touched: %+v", all)
		}
	})
}

// TestApplySecrets: a secret that is live changes nothing, one that is replaced goes on for the
// overlap, and one that was never declared goes on unless pruning is asked for.
func TestApplySecrets(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := t.Context(), newClock()
		r := open(t, file(t), at(c))
		// live says which secrets are good now, and which of them end.
		f := func(name, want, live string, secrets []DeclaredSecret, change ...func(*ApplyOptions)) {
			t.Helper()
			d, o := label(), applyOptions()
			d.Organizations[0].Clients = d.Organizations[0].Clients[:1]
			d.Organizations[0].Clients[0].Secrets = secrets
			for _, f := range change {
				f(&o)
			}
			plan, err := r.Apply(ctx, operator, d, o)
			got := fmt.Sprint(err)
			if err == nil {
				steps := []string{}
				for _, s := range plan.Steps {
					if s.Kind == KindClient {
						for _, f := range s.Fields {
							if f.Field == "secret" {
								steps = append(steps, strings.Trim(strings.Fields(f.New)[0], ","))
							}
						}
					}
				}
				got = strings.Join(steps, " ")
			}
			if got != want {
				t.Errorf("%s: got %s, want %s", name, got, want)
			}
			var all []string
			for _, s := range must(r.Clients(ctx, ""))(t)[0].Secrets {
				one := map[string]string{}
				for _, text := range []string{"one", "two", "three"} {
					one[secret.Secret("slow:"+text).Reveal()] = text
					digest := secret.DigestOf([]byte(text))
					one[string(digest[:])] = text
				}
				text := one[string(s.Digest[:])] + one[s.Hash.Reveal()]
				if s.ExpiresAt != 0 {
					text += " ends"
				}
				all = append(all, text)
			}
			if got := strings.Join(all, ", "); got != live {
				t.Errorf("%s: live are %s, want %s", name, got, live)
			}
			c.add(time.Minute)
		}
		list := func(all ...DeclaredSecret) []DeclaredSecret { return all }
		prune := func(o *ApplyOptions) { o.Prune = true }
		atOnce := func(o *ApplyOptions) { o.Overlap = 0 }
		one, two, three := strongSecret("one"), weakSecret("two"), strongSecret("three")
		f("first", "added", "one", list(one))
		f("the same", "", "one", list(one))
		f("none declared", "", "one", nil)
		f("followed", "added", "one, two", list(one, two))
		f("both", "", "one, two", list(two, one))
		f("one is not declared any more", "", "one, two", list(two))
		f("a third while two are live", "f:4: the client would have more than two live secrets: declare those that it has, or end what is not declared at once with --overlap 0", "one, two", list(three))
		f("pruned", "ends", "one ends, two", list(two), prune)
		f("pruned again", "", "one ends, two", list(two), prune)
		f("it is declared again", "does", "one, two", list(two, one))
		f("replaced at once", "ends ends added", "three", list(three), atOnce)
		f("replaced with an overlap", "ends added", "three ends, one", list(one))
		c.add(2 * time.Hour)
		f("later", "", "one", list(one))
		f("back to one that ended", "ends added", "one ends, three", list(three))
		f("twice the same", "f:4: the same secret is declared twice", "one ends, three", list(three, three))
	})
}

// TestApplyFaults: every fault is told, with its place and its kind, by a plan too, and nothing
// is written.
func TestApplyFaults(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := t.Context()
		r := open(t, file(t))
		mustApply(t, r, label(), applyOptions())
		organization := must(r.Organizations(ctx))(t)[0].ID
		other, _ := newClient(t, r)
		gone := must(r.CreateOrganization(ctx, operator, "Gone", Terms{}))(t)
		foreign := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: other.OrganizationID, Name: "Foreign"}))(t)
		owned := must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "theirs", OrganizationID: other.OrganizationID, Name: "x"}))(t)
		for range 2 {
			_, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: organization, Application: "twin", Environment: "prod", AllowDuplicate: true})
			must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: organization, Name: "Twin"}))(t)
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(r.RemoveOrganization(ctx, operator, gone.ID)); err != nil {
			t.Fatal(err)
		}
		removed, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: organization, Application: "old", Environment: "prod"})
		if err := errors.Join(err, r.RemoveClient(ctx, operator, removed.ID)); err != nil {
			t.Fatal(err)
		}
		before := len(must(r.Events(ctx, 0))(t))
		f := func(kind error, want string, change func(d *Declaration, o *DeclaredOrganization)) {
			t.Helper()
			d := label()
			d.Organizations[0].ID = organization
			change(&d, &d.Organizations[0])
			for name, err := range map[string]error{
				"plan":  func() error { _, err := r.Plan(ctx, d, applyOptions()); return err }(),
				"apply": func() error { _, err := r.Apply(ctx, operator, d, applyOptions()); return err }(),
			} {
				if err == nil || !errors.Is(err, kind) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
					t.Errorf("%s: %v, want %q", name, err, want)
				}
			}
		}
		client := func(c DeclaredClient) func(d *Declaration, o *DeclaredOrganization) {
			return func(_ *Declaration, o *DeclaredOrganization) {
				c.Place = "f:9"
				if c.Secrets == nil {
					c.Secrets = []DeclaredSecret{strongSecret("nine")}
				}
				o.Clients = append(o.Clients, c)
			}
		}
		f(ErrConflict, "f:1: 2 organizations have this name: say which with its id: "+organization+", "+other.OrganizationID, func(d *Declaration, o *DeclaredOrganization) { o.ID = "" })
		f(ErrNotFound, "f:1: there is no such organization", func(d *Declaration, o *DeclaredOrganization) { o.ID = "nonsense" })
		f(ErrConflict, "f:1: the organization was removed: leave out its id", func(d *Declaration, o *DeclaredOrganization) { o.ID = gone.ID })
		f(ErrConflict, "f:8: it is declared twice, first at f:1", func(d *Declaration, o *DeclaredOrganization) {
			d.Organizations = append(d.Organizations, DeclaredOrganization{Place: "f:8", ID: organization, Name: "x"})
		})
		f(ErrConflict, "f:9: it is declared twice, first at f:8", func(d *Declaration, o *DeclaredOrganization) {
			d.Organizations = append(d.Organizations, DeclaredOrganization{Place: "f:8", Name: "x"}, DeclaredOrganization{Place: "f:9", Name: "x"})
		})
		f(ErrInvalid, "f:1: name: use 1 to 200 characters", func(d *Declaration, o *DeclaredOrganization) { o.Name = "" })
		f(ErrInvalid, "f:1: products: each is 1 to 200 visible", func(d *Declaration, o *DeclaredOrganization) { o.Terms.Products.Values = []string{"a b"} })
		f(ErrInvalid, "f:2: ends_at: an agreement ends after it starts", func(d *Declaration, o *DeclaredOrganization) { o.Agreements[0].EndsAt = 10 })
		f(ErrConflict, "f:2: the agreement is another organization's", func(d *Declaration, o *DeclaredOrganization) { o.Agreements[0].ID = foreign.ID })
		f(ErrConflict, "f:2: 2 agreements of the organization have this name", func(d *Declaration, o *DeclaredOrganization) { o.Agreements[0].Name = "Twin" })
		f(ErrConflict, "f:9: it is declared twice, first at f:2", func(d *Declaration, o *DeclaredOrganization) {
			o.Agreements = append(o.Agreements, DeclaredAgreement{Place: "f:9", Name: "Basic"})
		})
		f(ErrConflict, "f:9: the catalog is that of organization "+other.OrganizationID, func(d *Declaration, o *DeclaredOrganization) {
			o.Catalogs = append(o.Catalogs, DeclaredCatalog{Place: "f:9", ExternalID: "theirs", Name: "mine"})
		})
		f(ErrConflict, "f:3: catalog "+owned.ID+" has this external id", func(d *Declaration, o *DeclaredOrganization) {
			all := must(r.Catalogs(ctx, organization))(t)
			o.Catalogs[0].ID, o.Catalogs[0].ExternalID = all[0].ID, "theirs"
		})
		f(ErrConflict, "f:6: it is declared twice, first at f:3", func(d *Declaration, o *DeclaredOrganization) { d.Catalogs[0].ExternalID = "blue" })
		f(ErrInvalid, "f:6: public: a private catalog has an owner", func(d *Declaration, o *DeclaredOrganization) { d.Catalogs[0].Public = false })
		f(ErrInvalid, "f:3: external_id: use 1 to 200", func(d *Declaration, o *DeclaredOrganization) { o.Catalogs[0].ExternalID = "a b" })
		f(ErrInvalid, "f:9: the client has no secret: declare its secret_file or secret_sha256", client(DeclaredClient{Application: "n", Environment: "prod", Secrets: []DeclaredSecret{}}))
		f(ErrInvalid, "f:9: environment: use 1 to 32", client(DeclaredClient{Application: "n", Environment: "Prod"}))
		f(ErrInvalid, "f:9: client_id: use 1 to 128", client(DeclaredClient{ID: "a b", Application: "n", Environment: "prod"}))
		f(ErrConflict, "f:9: client_id: a client that was removed has it", client(DeclaredClient{ID: removed.ID, Application: "n", Environment: "prod"}))
		f(ErrConflict, "f:9: client_id: another organization's client has it", client(DeclaredClient{ID: other.ID, Application: "n", Environment: "prod"}))
		f(ErrConflict, "f:9: 2 clients are this application's in production: say which with its client_id", client(DeclaredClient{Application: "twin", Environment: "prod"}))
		f(ErrConflict, "f:9: several clients would be this application's in production: declare each with its client_id", client(DeclaredClient{ID: "third", Application: "twin", Environment: "prod"}))
		f(ErrConflict, "f:9: several clients would be this application's in development", func(d *Declaration, o *DeclaredOrganization) {
			client(DeclaredClient{Application: "radio", Environment: "dev"})(d, o)
		})
		f(ErrConflict, "f:9: it is declared twice, first at f:4", client(DeclaredClient{Application: "player", Environment: "production"}))
		f(ErrConflict, "f:9: it is declared twice, first at f:8", func(d *Declaration, o *DeclaredOrganization) {
			o.Clients = append(o.Clients, DeclaredClient{Place: "f:8", Application: "n", Environment: "prod", Removed: true})
			client(DeclaredClient{Application: "n", Environment: "prod"})(d, o)
		})
		f(ErrConflict, "f:9: it is declared twice, first at f:8", func(d *Declaration, o *DeclaredOrganization) {
			d.Organizations = append(d.Organizations, DeclaredOrganization{Place: "f:8", Name: "x", Removed: true}, DeclaredOrganization{Place: "f:9", Name: "x"})
		})
		f(ErrConflict, "f:9: it is declared twice, first at f:3", func(d *Declaration, o *DeclaredOrganization) {
			o.Catalogs[0].Removed = true
			o.Catalogs = append(o.Catalogs, DeclaredCatalog{Place: "f:9", ExternalID: "blue", Name: "blue"})
		})
		f(ErrConflict, "f:9: it is declared twice, first at f:5", client(DeclaredClient{ID: "legacy.1", Application: "n", Environment: "prod"}))
		f(ErrConflict, "f:9: it is declared twice, first at f:5", func(d *Declaration, o *DeclaredOrganization) {
			o.Clients[1].ID, o.Clients[1].Application = "new.1", "new"
			d.Organizations = append(d.Organizations, DeclaredOrganization{Place: "f:8", Name: "x", Clients: []DeclaredClient{
				{Place: "f:9", ID: "new.1", Application: "n", Environment: "prod", Secrets: []DeclaredSecret{strongSecret("nine")}}}})
		})
		f(ErrConflict, "f:9: what is declared at f:1 will have this name too", func(d *Declaration, o *DeclaredOrganization) {
			o.ID, o.Name = organization, "y"
			d.Organizations = append(d.Organizations, DeclaredOrganization{Place: "f:9", Name: "y"})
		})
		f(ErrConflict, "f:9: what is declared at f:2 will have this name too", func(d *Declaration, o *DeclaredOrganization) {
			o.Agreements[0].ID, o.Agreements[0].Name = must(r.Agreements(ctx, organization))(t)[0].ID, "y"
			o.Agreements = append(o.Agreements, DeclaredAgreement{Place: "f:9", Name: "y"})
			o.Clients[0].Agreement = ""
		})
		f(ErrNotFound, "f:9: agreement: the organization will have no such agreement", client(DeclaredClient{Application: "n", Environment: "prod", Agreement: "Foreign"}))
		f(ErrConflict, "f:9: agreement: the organization has 2 agreements of this name", client(DeclaredClient{Application: "n", Environment: "prod", Agreement: "Twin"}))
		f(ErrInvalid, "f:1: name: use 1 to 200 characters, not 0\nf:2: name: use 1 to 200 characters, not 0\nf:4: application: use 1 to 200 characters, not 0\nf:3: name: use", func(d *Declaration, o *DeclaredOrganization) {
			o.Name, o.Agreements[0].Name, o.Clients[0].Application, o.Catalogs[0].Name = "", "", "", ""
		})
		if after := len(must(r.Events(ctx, 0))(t)); after != before {
			t.Errorf("%d events were written", after-before)
		}
	})
}

// TestApplyAnything goes from one random declaration to another: each time the store is what
// is declared, and the second time nothing is written.
func TestApplyAnything(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		c := newClock()
		r := open(t, file(t), at(c))
		seed := uint64(time.Now().UnixNano())
		random := rand.New(rand.NewPCG(seed, 0))
		for round := range 40 {
			d := randomDeclaration(random)
			o := applyOptions()
			o.Prune, o.Overlap = true, 0
			for _, want := range []string{"", "\n"} {
				got := mustApply(t, r, d, o)
				compareWith(t, r, d)
				if want != "" && strings.Contains(got, want) {
					t.Errorf("the second time:\n%s", got)
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d, round %d", seed, round)
			}
			c.add(time.Second)
		}
	})
}

// randomDeclaration has two organizations whose things are of a small world, so that from one
// to the next all happens: making, changing, moving, removing.
func randomDeclaration(random *rand.Rand) (d Declaration) {
	maybe := func() bool { return random.IntN(2) == 0 }
	limit := func() Limit {
		return []Limit{{}, {Value, 0}, {Value, random.Int64N(5)}, {State: Unlimited}}[random.IntN(4)]
	}
	set := func(names []string) Set {
		return []Set{{}, {Value, nil}, {Value, names}, {State: Unlimited}}[random.IntN(4)]
	}
	var granted []string // of those that are there
	terms := func() (t Terms) {
		t.Products, t.Catalogs = set([]string{"b", "a"}), set(granted[:random.IntN(len(granted)+1)])
		for _, l := range t.limits() {
			*l = limit()
		}
		return t
	}
	n := 0
	place := func() string { n++; return fmt.Sprintf("f:%d", n) }
	owners := [][]DeclaredCatalog{nil, nil}
	for _, id := range []string{"c1", "c2", "c3"} {
		if i := random.IntN(3); i < 2 {
			owners[i] = append(owners[i], DeclaredCatalog{Place: place(), ExternalID: id, Name: []string{"x", "y"}[random.IntN(2)], Public: maybe()})
			granted = append(granted, id)
		}
	}
	for i, name := range []string{"Acme", "Blue"} {
		o := DeclaredOrganization{Place: place(), Name: name, Terms: terms(), Disabled: maybe(), Catalogs: owners[i]}
		links := []string{""}
		for _, name := range []string{"Gold", "Basic"} {
			if maybe() {
				o.Agreements = append(o.Agreements, DeclaredAgreement{Place: place(), Name: name, StartsAt: Time(random.IntN(3)), EndsAt: Time(10 * random.IntN(2)), Terms: terms(),
					Enforce: []Mode{"", Enforce, Shadow}[random.IntN(3)]})
				links = append(links, name)
			}
		}
		for _, application := range []string{"player", "radio"} {
			for _, environment := range []string{"prod", "dev"} {
				if maybe() {
					continue
				}
				c := DeclaredClient{Place: place(), Application: application, Environment: environment, Agreement: links[random.IntN(len(links))], Disabled: maybe()}
				all := []DeclaredSecret{strongSecret("one"), weakSecret("two"), strongSecret("three"), weakSecret("four")}
				random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
				c.Secrets = all[:1+random.IntN(2)]
				o.Clients = append(o.Clients, c)
			}
		}
		d.Organizations = append(d.Organizations, o)
	}
	return d
}

// TestApplyAtOnce: several that apply at once end in the state that all of them declare.
func TestApplyAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		path := file(t)
		stores := []*Registry{open(t, path), open(t, path)}
		var done sync.WaitGroup
		for i := range 6 {
			done.Go(func() {
				if _, err := stores[i%2].Apply(t.Context(), operator, label(), applyOptions()); err != nil {
					t.Error(err)
				}
			})
		}
		done.Wait()
		compareWith(t, stores[0], label())
		if n := len(must(stores[0].Events(t.Context(), 0))(t)); n != 10 {
			t.Errorf("%d events, want those of one", n)
		}
	})
}

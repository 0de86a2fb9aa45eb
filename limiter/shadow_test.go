package limiter

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"postern/directory"
	"postern/registry"
)

// store is a store of one client, as the directory needs it.
type store struct{ grant registry.Grant }

func (s *store) Grant(context.Context, string) (registry.Grant, error)      { return s.grant, nil }
func (s *store) Keys(context.Context) ([]registry.Key, error)               { return nil, nil }
func (s *store) Revocations(context.Context) ([]registry.Revocation, error) { return nil, nil }
func (s *store) EachCatalog(context.Context, func(registry.Catalog)) error  { return nil }
func (s *store) Catalog(context.Context, string) (registry.Catalog, error) {
	return registry.Catalog{}, registry.ErrNotFound
}
func (s *store) Revocation(context.Context, string) (registry.Revocation, error) {
	return registry.Revocation{}, registry.ErrNotFound
}
func (s *store) Poll(context.Context) ([]registry.Change, bool, error) { return nil, true, nil }
func (s *store) News() (<-chan struct{}, time.Duration)                { return nil, time.Hour }

// The limits of an agreement in shadow refuse, so that it can be noted, but the request
// passes and counts; the organization's own limits hold.
func TestShadow(t *testing.T) {
	w := newWorld(t)
	s := &store{registry.Grant{
		Client:       registry.Client{ID: "a", OrganizationID: "o", AgreementID: "g"},
		Organization: registry.Organization{ID: "o", Terms: registry.Terms{QuotaDay: value(5), Concurrent: value(3), IssueRate: value(2)}},
		Agreement: &registry.Agreement{ID: "g", Enforce: registry.Shadow,
			Terms: registry.Terms{QuotaDay: value(1), Concurrent: value(1), RequestRate: value(1), IssueRate: value(1)}},
	}}
	d, err := directory.Open(t.Context(), s, s, directory.Options{Now: func() time.Time { return start }, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	c, err := d.Client(t.Context(), "a")
	if err != nil || !c.Shadow() {
		t.Fatal(err, "or no shadow")
	}
	var open []Grant
	f := func(granted bool, policy string, shared bool) {
		t.Helper()
		g, ok := w.Take(c, w.now)
		if ok != granted || g.Policy() != policy || g.Shared() != shared {
			t.Errorf("granted %v by %s, shared %v; want %s, %v", ok, g.Policy(), g.Shared(), policy, shared)
		}
		open = append(open, g)
	}
	f(true, "client-rate", false)
	f(false, "client-day", false)
	f(false, "client-day", false)
	f(false, "org-concurrent", true)
	for i := range open {
		open[i].Release()
	}
	if n := w.organizations["o"].running; n != 0 {
		t.Errorf("%d run", n)
	}
	f(false, "client-day", false)
	f(false, "client-day", false)
	f(false, "org-day", true) // five passed
	for _, want := range []string{"client-issue", "client-issue", "org-issue"} {
		if g, _ := w.Issue(c, w.now); g.Policy() != want {
			t.Errorf("issuing by %s, want %s", g.Policy(), want)
		}
	}
}

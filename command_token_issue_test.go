package main

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"postern/registry"
	"postern/secret"
	"postern/token"
)

// TestTokenIssueFollowsTheAgreement: an operator gets no token that the client would not
// get, and a refusal leaves no record and no event behind.
func TestTokenIssueFollowsTheAgreement(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "postern.db")
	r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret(dsn)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	operator, now := registry.Actor{Kind: "operator"}, time.Now()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	o, err := r.CreateOrganization(t.Context(), operator, "Acme", registry.Terms{})
	check(err)
	_, err = r.EnsureKey(t.Context(), operator, "ES256", 0, time.Hour, func() (registry.Key, error) {
		return newKey(token.ES256, newEnvironment(nil, nil, nil).Random)
	})
	check(err)
	f := func(name string, starts, ends time.Time, want string, wantExpires registry.Time) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			g, err := r.CreateAgreement(t.Context(), operator, registry.NewAgreement{
				OrganizationID: o.ID, Name: name, StartsAt: registry.At(starts), EndsAt: registry.At(ends)})
			check(err)
			c, _, err := r.CreateClient(t.Context(), operator, registry.NewClient{
				OrganizationID: o.ID, AgreementID: g.ID, Application: name, Environment: "prod"})
			check(err)
			before, err := r.Events(t.Context(), 1000)
			check(err)
			var stdout, stderr bytes.Buffer
			code := run(t.Context(), []string{"token", "issue", "--client", c.ID, "--store", dsn, "--json"}, nil, &stdout, &stderr)
			after, err := r.Events(t.Context(), 1000)
			check(err)
			records, err := r.Tokens(t.Context(), registry.TokenFilter{ClientID: c.ID, All: true})
			check(err)
			if want != "" {
				if code != exitFailed || stdout.Len() > 0 || !strings.Contains(stderr.String(), want) || len(after) != len(before) || len(records) != 0 {
					t.Errorf("exit code %d, stdout %q, stderr %q, %d events more, records %+v", code, &stdout, &stderr, len(after)-len(before), records)
				}
				return
			}
			if code != exitDone || len(records) != 1 || records[0].ExpiresAt != wantExpires || len(after) != len(before)+1 ||
				after[0].Action != "issue" || after[0].Actor.Kind != "operator" || after[0].ID != records[0].ID {
				t.Errorf("exit code %d, stderr %q, event %+v, records %+v", code, &stderr, after[0], records)
			}
		})
	}
	ends := now.Add(time.Hour).Truncate(time.Second)
	f("in force", now.Add(-time.Hour), ends, "", registry.At(ends))
	f("over", now.Add(-2*time.Hour), now.Add(-time.Hour), "its agreement is not in force", 0)
	f("to come", now.Add(time.Hour), now.Add(2*time.Hour), "its agreement is not in force", 0)
}

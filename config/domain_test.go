package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"gopkg.in/yaml.v3"

	"postern/secret"
)

const domainSchemaFile = "domain.schema.json"

// TestSchemaOfDomain holds the shipped JSON Schema of declarations equal to the types.
func TestSchemaOfDomain(t *testing.T) {
	schema := schemaOf(t, reflect.TypeFor[Domain]())
	schema.Title, schema.Description = "domain.yaml", "what postern apply brings the store to"
	sameSchema(t, domainSchemaFile, schema)
}

// The schema accepts what LoadDomain accepts, and refuses what a schema can refuse.
func TestSchemaAgreesWithLoadDomain(t *testing.T) {
	schema := shipped(t, domainSchemaFile)
	f := func(text, want string) {
		t.Helper()
		var value any
		if err := yaml.Unmarshal([]byte(text), &value); err != nil {
			t.Fatal(err)
		}
		if got := conform(schema, schema, value, ""); got != want {
			t.Errorf("%s: the schema says %q, want %q", text, got, want)
		}
	}
	text, err := os.ReadFile("../testdata/domain.yaml")
	if err != nil {
		t.Fatal(err)
	}
	f(strings.ReplaceAll(strings.ReplaceAll(string(text), "2026-01-01", "'2026-01-01'"), "2036-01-01", "'2036-01-01'"), "")
	f("organizations: [{name: a, disabled: true, terms: {products: unlimited, quota_day: 0, token_lifetime: unlimited}}]", "")
	f("organizations: [{disabled: true}]", ".organizations[0].name is missing")
	f("organizations: [{name: a, terms: {products: some}}]", ".organizations[0].terms.products fits nothing")
	f("organizations: [{name: a, terms: {quota_day: -1}}]", ".organizations[0].terms.quota_day fits nothing")
	f("organizations: [{name: a, terms: {token_lifetime: 90}}]", ".organizations[0].terms.token_lifetime fits nothing")
	f("organizations: [{name: a, client: []}]", ".organizations[0].client is unknown")
}

// TestLoadDomain: each field of a declaration is read as it is meant.
func TestLoadDomain(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("hunter2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	text := `
organizations:
  - name: A & B
    id: one
    disabled: true
    terms:
      products: [b, a]
      catalogs: []
      request_rate: 0
      request_burst: 7
      concurrent: unlimited
      token_lifetime: 1h30m
    agreements:
      - {name: Basic, starts_at: 2026-01-31, ends_at: "2026-02-01T00:00:00+02:00", terms: {products: unlimited}}
    catalogs:
      - external_id: x
    clients:
      - {application: r, environment: dev, agreement: Basic, secret_file: "${DIR}/secret", secret_sha256: 12}
      - {application: s, environment: dev, removed: true, secret_file: [nowhere]}
`
	file := filepath.Join(dir, "domain.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := Domain{Organizations: []DomainOrganization{{
		Name: "A & B", ID: "one", Disabled: true,
		Terms: DomainTerms{
			Products: Names{Given: true, Values: []string{"b", "a"}}, Catalogs: Names{Given: true}, RequestRate: Allowance{Given: true},
			RequestBurst: Allowance{Given: true, Value: 7}, Concurrent: Allowance{Given: true, Unlimited: true}, TokenLifetime: Span{Given: true, Value: 5400},
		},
		Agreements: []DomainAgreement{{
			Name: "Basic", StartsAt: Moment{time.Date(2026, 1, 31, 0, 0, 0, 0, time.UTC)}, EndsAt: Moment{time.Date(2026, 1, 31, 22, 0, 0, 0, time.UTC)},
			Terms: DomainTerms{Products: Names{Given: true, Unlimited: true}}, Enforce: "enforce",
		}},
		Catalogs: []DomainCatalog{{ExternalID: "x", Name: "x"}},
		Clients: []DomainClient{
			{Application: "r", Environment: "dev", Agreement: "Basic", SecretFile: []string{dir + "/secret"}, SecretSHA256: []secret.Secret{"12"}, SecretText: []secret.Secret{"hunter2"}},
			{Application: "s", Environment: "dev", Removed: true, SecretFile: []string{"nowhere"}},
		},
	}}}
	got, err := LoadDomain(file, nil, []string{"DIR=" + dir})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Domain{}), cmpopts.IgnoreFields(Domain{}, "Warnings")); diff != "" {
		t.Error(diff)
	}
	if want := file + ":18: organizations[0].clients[0].secret_file[0]: " + readableProblem + ": " + readableFix; len(got.Warnings) != 1 || got.Warnings[0] != want {
		t.Errorf("warned %q, want %q", got.Warnings, want)
	}
	if got := got.Fault("organizations[0].clients[1]", "p", "f").Error(); got != file+":19: organizations[0].clients[1]: p: f" {
		t.Error(got)
	}
	if _, err := LoadDomain("-", strings.NewReader("organizations: {}"), nil); err == nil || err.Error() != "-:1: organizations: is a mapping, not a list: write it in brackets: [...], or each element on a line of its own after a dash" {
		t.Error(err)
	}
	many := "catalogs: [" + strings.Repeat("{},", maxDomainMarks/2) + "]"
	if _, err := LoadDomain("-", strings.NewReader(many), nil); err == nil || err.Error() != "-: holds too many values: split the file: several are applied as one" {
		t.Error(err)
	}
}

// FuzzLoadDomain: whatever a file holds, LoadDomain neither panics nor takes long, and what only
// the environment knows is in none of its messages.
func FuzzLoadDomain(f *testing.F) {
	text, err := os.ReadFile("../testdata/domain.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(strings.Replace(string(text), "secret_file", "x", 1))
	const planted = "hunter2-correct-horse"
	for _, key := range []string{"name", "id", "disabled"} {
		f.Add("organizations: [{" + key + ": \"${PLANTED}\"}]")
	}
	f.Add("organizations: [{terms: {products: \"${PLANTED}\", catalogs: [\"${PLANTED}\"], quota_day: \"${PLANTED}\", token_lifetime: \"${PLANTED}\"}}]")
	f.Add("organizations: [{agreements: [{starts_at: \"${PLANTED}\"}], clients: [{secret_sha256: [\"${PLANTED}\", x], application: \"${PLANTED}\"}]}]")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "_file") {
			t.Skip() // a fuzzer must not open what it likes
		}
		start := time.Now()
		d, err := LoadDomain("-", strings.NewReader(text), []string{"PLANTED=" + planted})
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("took %v for %d bytes", took, len(text))
		}
		if err != nil && strings.Contains(err.Error(), planted) {
			t.Errorf("shows a secret: %v", err)
		}
		for _, o := range d.Organizations {
			if o.Name == "" {
				t.Errorf("accepted an organization without a name: %q", text)
			}
		}
	})
}

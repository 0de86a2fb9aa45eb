package config

import (
	"fmt"
	"io"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"postern/secret"
)

// Domain is what a file declares of a store: organizations and all that is theirs. Its tags
// are those of Config.
type Domain struct {
	Organizations []DomainOrganization `yaml:"organizations" doc:"the organizations, each with its terms, agreements, catalogs and clients"`
	Catalogs      []DomainCatalog      `yaml:"catalogs" doc:"public catalogs that no organization owns"`

	Warnings []string // what is allowed and yet worth a warning

	origins map[string]origin
	file    string
}

// DomainOrganization is one organization.
type DomainOrganization struct {
	Name       string            `yaml:"name" required:"true" doc:"for people, and what it is found by where there is no id"`
	ID         string            `yaml:"id" default:"" doc:"finds the organization whatever its name is: needed to rename it"`
	Disabled   bool              `yaml:"disabled" default:"false" doc:"none of its clients may call"`
	Removed    bool              `yaml:"removed" default:"false" doc:"it is removed for good, if it is there"`
	Terms      DomainTerms       `yaml:"terms" doc:"what it is licensed; what is left out has the default"`
	Agreements []DomainAgreement `yaml:"agreements" doc:"its licence contracts"`
	Catalogs   []DomainCatalog   `yaml:"catalogs" doc:"the catalogs that it owns"`
	Clients    []DomainClient    `yaml:"clients" doc:"its clients: one for each application and environment"`
}

// DomainAgreement is one agreement of an organization.
type DomainAgreement struct {
	Name     string      `yaml:"name" required:"true" doc:"for people, and what it is found by where there is no id"`
	ID       string      `yaml:"id" default:"" doc:"finds the agreement whatever its name is: needed to rename it"`
	StartsAt Moment      `yaml:"starts_at" default:"" doc:"when it comes into force; empty: it is"`
	EndsAt   Moment      `yaml:"ends_at" default:"" doc:"when it ends; empty: never"`
	Terms    DomainTerms `yaml:"terms" doc:"what it licenses; what is left out is the organization's"`
	Enforce  string      `yaml:"enforce" enum:"enforce,shadow" default:"enforce" doc:"enforce; or shadow: what it does not allow is let through, and counted"`
	Removed  bool        `yaml:"removed" default:"false" doc:"it is removed for good, if it is there"`
}

// DomainCatalog is one catalog, of an organization or of nobody.
type DomainCatalog struct {
	ExternalID string `yaml:"external_id" required:"true" doc:"the upstream's own name for it, which no other catalog has, and what it is found by where there is no id"`
	ID         string `yaml:"id" default:"" doc:"finds the catalog whatever its external_id is: needed to change that"`
	Name       string `yaml:"name" default:"" doc:"for people; empty: the external_id"`
	Public     bool   `yaml:"public" default:"false" doc:"every client may target it"`
	Removed    bool   `yaml:"removed" default:"false" doc:"it is removed for good, if it is there"`
}

// DomainClient is one client of an organization.
type DomainClient struct {
	Application  string          `yaml:"application" required:"true" doc:"the application; it and the environment are what the client is found by where there is no client_id"`
	Environment  string          `yaml:"environment" required:"true" doc:"the application's stage, for example production; prod and dev are short for production and development"`
	ClientID     string          `yaml:"client_id" default:"" doc:"finds the client whatever its application and environment are; a client that is not there yet is made with it"`
	Agreement    string          `yaml:"agreement" default:"" doc:"the name or the id of the organization's agreement that it is linked to; empty: none"`
	Disabled     bool            `yaml:"disabled" default:"false" doc:"it may not call"`
	Removed      bool            `yaml:"removed" default:"false" doc:"it is removed for good, if it is there"`
	SecretFile   []string        `yaml:"secret_file" file:"true" single:"true" doc:"a file that holds its client secret, relative to this one; or two of them"`
	SecretSHA256 []secret.Secret `yaml:"secret_sha256" single:"true" doc:"the SHA-256 of its client secret, in hexadecimal or base64, for a secret that nobody can guess; or two of them"`

	SecretText []secret.Secret // what the files of SecretFile hold
}

// DomainTerms is what an organization or an agreement is licensed.
type DomainTerms struct {
	Products      Names     `yaml:"products" default:"" doc:"the scopes that its clients may ask for: a list, or unlimited"`
	Catalogs      Names     `yaml:"catalogs" default:"" doc:"external ids of catalogs beyond its own and the public ones: a list, or unlimited"`
	RequestRate   Allowance `yaml:"request_rate" default:"" doc:"requests a second: a number, or unlimited"`
	RequestBurst  Allowance `yaml:"request_burst" default:"" doc:"requests: a number, or unlimited"`
	Concurrent    Allowance `yaml:"concurrent" default:"" doc:"requests at once: a number, or unlimited"`
	QuotaDay      Allowance `yaml:"quota_day" default:"" doc:"requests in a day, UTC: a number, or unlimited"`
	QuotaMonth    Allowance `yaml:"quota_month" default:"" doc:"requests in a calendar month, UTC: a number, or unlimited"`
	TokenLifetime Span      `yaml:"token_lifetime" default:"" doc:"how long its access tokens live: a duration such as 1h, or unlimited for as long as the issuer allows"`
	IssueRate     Allowance `yaml:"issue_rate" default:"" doc:"tokens a minute: a number, or unlimited"`
}

// What the fields of terms may be, beside left out (the zero value).
type (
	// Allowance is a number, or unlimited.
	Allowance struct {
		Given, Unlimited bool
		Value            int64
	}
	// Span is an Allowance of whole seconds that is written as a duration.
	Span Allowance
	// Names is a set of names, or unlimited.
	Names struct {
		Given, Unlimited bool
		Values           []string
	}
	// Moment is a point in time: a day (its first moment in UTC), or RFC 3339.
	Moment struct{ time.Time }
)

const unlimited = "unlimited"

func parseAllowance(text string) (Allowance, wrong) {
	if text == "" || text == unlimited {
		return Allowance{Given: text != "", Unlimited: text != ""}, wrong{}
	}
	n, err := strconv.ParseUint(text, 10, 53)
	if err != nil {
		return Allowance{}, wrong{"is neither a whole number nor unlimited", "use digits alone, such as 100, or unlimited"}
	}
	return Allowance{Given: true, Value: int64(n)}, wrong{}
}

func parseSpan(text string) (Span, wrong) {
	if text == "" || text == unlimited {
		return Span{Given: text != "", Unlimited: text != ""}, wrong{}
	}
	const fix = "use whole seconds with their unit, such as 90m or 2h, or unlimited"
	d, w := parseDuration(text)
	if w == (wrong{}) && time.Duration(d)%time.Second != 0 {
		w.problem = "is no whole number of seconds"
	}
	if w != (wrong{}) {
		return Span{}, wrong{w.problem, fix}
	}
	return Span{Given: true, Value: int64(time.Duration(d) / time.Second)}, wrong{}
}

func parseMoment(text string) (Moment, wrong) {
	if text == "" {
		return Moment{}, wrong{}
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, text); err == nil && at.Year() >= 1971 {
			return Moment{at.UTC()}, wrong{}
		}
	}
	return Moment{}, wrong{"is neither a day nor a time from 1971 on", "write it as 2026-01-31 or 2026-01-31T12:00:00Z"}
}

// Bounds of a file of declarations: some 100,000 clients.
const (
	maxDomainFile  = 32 << 20
	maxDomainMarks = 1 << 20
	maxSecrets     = 2 // of one client
)

// LoadDomain reads the declarations in file, or in stdin when file is -, and the files of
// secrets that they name, relative to file. In scalar values ${NAME} stands for what environ
// has, as in a configuration. The error joins every Fault that it found.
func LoadDomain(file string, stdin io.Reader, environ []string) (d Domain, err error) {
	l := newLoader(Source{File: file, Environ: environ})
	l.into, l.marks, l.split = reflect.ValueOf(&d).Elem(), maxDomainMarks, "split the file: several are applied as one"
	d.origins, d.file, l.beside = l.origins, file, file != "-"
	var text []byte
	if file == "-" {
		text, err = readAll(stdin, maxDomainFile)
	} else {
		text, _, err = read(file, maxDomainFile)
	}
	if err != nil {
		l.fault("", err.Error(), "")
	} else if l.decode(text) {
		l.domain(&d)
	}
	if err := join(l.faults, l.unnoted); err != nil {
		return Domain{}, err
	}
	d.Warnings = l.config.warnings
	return d, nil
}

// Fault is one about the value of key, or without a key about the file as a whole.
func (d *Domain) Fault(key, problem, fix string) Fault {
	l := loader{source: Source{File: d.file}, origins: d.origins}
	o := l.origin(key)
	return Fault{o.where, o.line, key, problem, fix}
}

// domain checks what single values do not show.
func (l *loader) domain(d *Domain) {
	for i := range d.Organizations {
		o, key := &d.Organizations[i], fmt.Sprintf("organizations[%d]", i)
		l.missing(key, "name", o.Name)
		if o.Removed && len(o.Agreements)+len(o.Catalogs)+len(o.Clients) > 0 {
			l.fault(key+".removed", "is true, and the organization has something below it", "remove one of the two: its clients end with it")
		}
		for j, g := range o.Agreements {
			l.missing(fmt.Sprintf("%s.agreements[%d]", key, j), "name", g.Name)
		}
		l.domainCatalogs(key+".catalogs", o.Catalogs)
		for j := range o.Clients {
			l.domainClient(fmt.Sprintf("%s.clients[%d]", key, j), &o.Clients[j])
		}
	}
	l.domainCatalogs("catalogs", d.Catalogs)
	for i, c := range d.Catalogs {
		if key := fmt.Sprintf("catalogs[%d]", i); !c.Public && !c.Removed && l.ok(key+".public") {
			l.fault(key, "is private and nobody's", "say public: true, or declare it below its organization")
		}
	}
}

// missing refuses an entry of a list without the name that it is found by.
func (l *loader) missing(key, name, value string) {
	if value == "" && l.ok(key+"."+name) {
		l.fault(dotted(key, name), "is missing", "give it one")
	}
}

// domainCatalogs checks catalogs and gives them their names.
func (l *loader) domainCatalogs(key string, catalogs []DomainCatalog) {
	for i := range catalogs {
		c := &catalogs[i]
		l.missing(fmt.Sprintf("%s[%d]", key, i), "external_id", c.ExternalID)
		if c.Name == "" {
			c.Name = c.ExternalID
		}
	}
}

// domainClient checks a client and reads the files of its secrets.
func (l *loader) domainClient(key string, c *DomainClient) {
	l.missing(key, "application", c.Application)
	l.missing(key, "environment", c.Environment)
	if n := len(c.SecretFile) + len(c.SecretSHA256); n > maxSecrets {
		l.fault(key, fmt.Sprintf("has %d secrets", n), "keep two: the one in use, and the one that follows it")
		return
	}
	for i, path := range c.SecretFile {
		at := fmt.Sprintf("%s.secret_file[%d]", key, i)
		if path == "" && l.ok(at) {
			l.fault(at, "is empty", "name the file that holds the client secret")
		}
		if !l.ok(at) || c.Removed {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(filepath.Dir(l.source.File), path)
		}
		c.SecretText = append(c.SecretText, l.pick(at+".text", at, "", path))
	}
}

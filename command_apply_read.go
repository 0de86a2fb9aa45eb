package main

import (
	"fmt"

	"postern/config"
	"postern/registry"
	"postern/secret"
)

// declarationOf is a file's content as the registry takes it, and what is wrong with its
// secrets.
func declarationOf(d *config.Domain) (all registry.Declaration, bad []error) {
	for i, o := range d.Organizations {
		key := fmt.Sprintf("organizations[%d]", i)
		one := registry.DeclaredOrganization{
			Place: declaredAt(d, key), ID: o.ID, Name: o.Name, Terms: termsOf(o.Terms), Disabled: o.Disabled, Removed: o.Removed,
			Catalogs: catalogsOf(d, key+".catalogs", o.Catalogs),
		}
		for j, g := range o.Agreements {
			one.Agreements = append(one.Agreements, registry.DeclaredAgreement{
				Place: declaredAt(d, fmt.Sprintf("%s.agreements[%d]", key, j)), ID: g.ID, Name: g.Name, Terms: termsOf(g.Terms), Removed: g.Removed,
				StartsAt: momentOf(g.StartsAt), EndsAt: momentOf(g.EndsAt), Enforce: registry.Mode(g.Enforce),
			})
		}
		for j, c := range o.Clients {
			at := fmt.Sprintf("%s.clients[%d]", key, j)
			secrets, wrong := secretsOf(d, at, c)
			bad = append(bad, wrong...)
			one.Clients = append(one.Clients, registry.DeclaredClient{
				Place: declaredAt(d, at), ID: c.ClientID, Application: c.Application, Environment: c.Environment, Agreement: c.Agreement,
				Disabled: c.Disabled, Removed: c.Removed, Secrets: secrets,
			})
		}
		all.Organizations = append(all.Organizations, one)
	}
	all.Catalogs = catalogsOf(d, "catalogs", d.Catalogs)
	return all, bad
}

// declaredAt is file:line: key.
func declaredAt(d *config.Domain, key string) string { return d.Fault(key, "", "").Error() }

func catalogsOf(d *config.Domain, key string, catalogs []config.DomainCatalog) (all []registry.DeclaredCatalog) {
	for i, c := range catalogs {
		all = append(all, registry.DeclaredCatalog{
			Place: declaredAt(d, fmt.Sprintf("%s[%d]", key, i)), ID: c.ID, ExternalID: c.ExternalID, Name: c.Name, Public: c.Public, Removed: c.Removed,
		})
	}
	return all
}

// secretsOf are the secrets of a client. One in clear that has not our form is weak.
func secretsOf(d *config.Domain, key string, c config.DomainClient) (all []registry.DeclaredSecret, bad []error) {
	for i, value := range c.SecretText {
		text := value.Reveal()
		s := registry.DeclaredSecret{Kind: registry.SHA256, Digest: secret.DigestOf([]byte(text)), WellFormed: true}
		wellFormed, problem := judgeSecret(text)
		switch {
		case problem != "":
			bad = append(bad, d.Fault(fmt.Sprintf("%s.secret_file[%d]", key, i), "names a file whose content "+problem, ""))
		case !wellFormed:
			s.Kind, s.WellFormed, s.Text = registry.Argon2id, false, value
		}
		all = append(all, s)
	}
	for i, value := range c.SecretSHA256 {
		digest, ok := digestFrom(value.Reveal())
		at, fix := fmt.Sprintf("%s.secret_sha256[%d]", key, i), "write the 64 digits that sha256sum prints of a file with the secret and no line end"
		switch {
		case !ok:
			bad = append(bad, d.Fault(at, "is no SHA-256 digest in hexadecimal or base64", fix))
		case ofNothing(digest):
			bad = append(bad, d.Fault(at, "is the digest of nothing, or of a line end", fix))
		}
		all = append(all, registry.DeclaredSecret{Kind: registry.SHA256, Digest: digest})
	}
	return all, bad
}

func termsOf(t config.DomainTerms) registry.Terms {
	return registry.Terms{
		Products: namesOf(t.Products), Catalogs: namesOf(t.Catalogs),
		RequestRate: limitOf(t.RequestRate), RequestBurst: limitOf(t.RequestBurst), Concurrent: limitOf(t.Concurrent),
		QuotaDay: limitOf(t.QuotaDay), QuotaMonth: limitOf(t.QuotaMonth),
		TokenLifetime: limitOf(config.Allowance(t.TokenLifetime)), IssueRate: limitOf(t.IssueRate),
	}
}

func limitOf(a config.Allowance) registry.Limit {
	return registry.Limit{State: stateOf(a.Given, a.Unlimited), Value: a.Value}
}

func namesOf(n config.Names) registry.Set {
	return registry.Set{State: stateOf(n.Given, n.Unlimited), Values: n.Values}
}

func stateOf(given, unlimited bool) registry.State {
	switch {
	case unlimited:
		return registry.Unlimited
	case given:
		return registry.Value
	}
	return registry.Unset
}

func momentOf(m config.Moment) registry.Time {
	if m.IsZero() {
		return 0
	}
	return registry.At(m.Time)
}

// weakSecrets computes slow hashes and remembers them: the store is locked when they are
// asked for again.
type weakSecrets struct {
	e       *environment
	matches map[[2]secret.Secret]bool // by the stored hash and the text
	hashes  map[secret.Secret]secret.Secret
}

func newWeakSecrets(e *environment) *weakSecrets {
	return &weakSecrets{e, map[[2]secret.Secret]bool{}, map[secret.Secret]secret.Secret{}}
}

// Matches implements registry.WeakSecrets.
func (w *weakSecrets) Matches(stored registry.ClientSecret, text secret.Secret) bool {
	key := [2]secret.Secret{stored.Hash, text}
	known, ok := w.matches[key]
	if !ok {
		switch raw := []byte(text.Reveal()); stored.Kind {
		case registry.Bcrypt:
			known = secret.MatchesBcrypt(stored.Hash, raw)
		case registry.Argon2id:
			known = secret.MatchesArgon2id(stored.Hash, raw)
		}
		w.matches[key] = known
	}
	return known
}

// Hash implements registry.WeakSecrets.
func (w *weakSecrets) Hash(text secret.Secret) (secret.Secret, error) {
	if hash := w.hashes[text]; hash != "" {
		return hash, nil
	}
	hash, err := secret.HashArgon2id([]byte(text.Reveal()), w.e.Random)
	if err == nil {
		w.hashes[text] = hash
		if n := len(w.hashes); n%100 == 0 {
			w.e.note("hashed %d weak secrets", n)
		}
	}
	return hash, err
}

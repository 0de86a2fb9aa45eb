package registry

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// checkName accepts 1 to 200 characters that can be shown on one line.
func checkName(what, name string) error {
	if !utf8.ValidString(name) {
		return invalid("%s: it is not valid UTF-8", what)
	}
	if n := utf8.RuneCountInString(name); n < 1 || n > 200 {
		return invalid("%s: use 1 to 200 characters, not %d", what, n)
	}
	if strings.ContainsFunc(name, func(c rune) bool { return unicode.In(c, unicode.Cc, unicode.Zl, unicode.Zp) }) {
		return invalid("%s: it has control characters", what)
	}
	return nil
}

// checkClientID accepts what the claim client_id and X-Client-Id can carry: RFC 3986's
// unreserved characters. Ours are UUIDs; imported ones are not.
func checkClientID(id string) error {
	if len(id) < 1 || len(id) > 128 || strings.ContainsFunc(id, func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '_' || c == '~' || c == '-')
	}) {
		return invalid("client_id: use 1 to 128 of A-Z, a-z, 0-9, ., _, ~ and -")
	}
	return nil
}

// checkExternalID accepts what can be the value of X-Catalog-Id: visible ASCII.
func checkExternalID(what, id string) error {
	if len(id) < 1 || len(id) > 200 || strings.ContainsFunc(id, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return invalid("%s: use 1 to 200 visible ASCII characters without blanks", what)
	}
	return nil
}

// checkScope accepts a scope-token of RFC 6749 §3.3.
func checkScope(what, name string) error {
	if len(name) < 1 || len(name) > 200 || strings.ContainsFunc(name, func(c rune) bool { return c <= ' ' || c > '~' || c == '"' || c == '\\' }) {
		return invalid(`%s: each is 1 to 200 visible ASCII characters without blanks, " and \`, what)
	}
	return nil
}

func checkTerms(t Terms) error {
	for _, set := range []struct {
		what  string
		set   Set
		check func(what, name string) error
	}{{"products", t.Products, checkScope}, {"catalogs", t.Catalogs, checkExternalID}} {
		if set.set.State > Unlimited {
			return invalid("%s: unknown state", set.what)
		}
		if set.set.State != Value {
			continue
		}
		for _, name := range set.set.Values {
			if err := set.check(set.what, name); err != nil {
				return err
			}
		}
	}
	for i, what := range limitNames() {
		l := *t.limits()[i]
		if l.State > Unlimited || l.State == Value && l.Value < 0 {
			return invalid("%s: use 0 or more, or unlimited", what)
		}
	}
	return nil
}

// checkEnvironment is Environment with an error of this package's kind.
func checkEnvironment(label string) (string, error) {
	folded, err := Environment(label)
	if err != nil {
		return "", invalid("environment: use 1 to 32 of a-z, 0-9 and -, for example production")
	}
	return folded, nil
}

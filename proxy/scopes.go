package proxy

import (
	"fmt"
	"slices"
	"strings"
)

// scopes are what a route demands of a token (RFC 6749 §3.3). The zero value: nothing.
type scopes struct {
	all []string // the token has each of them
	any []string // and one of these, where there are any

	challenge string // of the refusal (RFC 6750 §3.1)
}

func newScopes(all, any []string) (s scopes, err error) {
	named := slices.Concat(all, any)
	for _, scope := range named {
		if !isScope(scope) {
			return s, fmt.Errorf("scope %q is no scope-token (RFC 6749 §3.3)", scope)
		}
	}
	// The attribute has no way to say "one of": it names all that would help.
	return scopes{all: all, any: any, challenge: `error="insufficient_scope", scope="` + strings.Join(named, " ") + `"`}, nil
}

// isScope reports whether scope is a scope-token: visible ASCII, no quote, no backslash.
func isScope(scope string) bool {
	for i := range len(scope) {
		if c := scope[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return scope != ""
}

// cover reports whether a token with these space-separated scopes has what is demanded.
func (s *scopes) cover(granted string) bool {
	for _, scope := range s.all {
		if !hasScope(granted, scope) {
			return false
		}
	}
	for _, scope := range s.any {
		if hasScope(granted, scope) {
			return true
		}
	}
	return len(s.any) == 0
}

func hasScope(granted, scope string) bool {
	for len(granted) > 0 {
		var one string
		if one, granted, _ = strings.Cut(granted, " "); one == scope {
			return true
		}
	}
	return false
}

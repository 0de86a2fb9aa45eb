package issuer

import (
	"slices"
	"strings"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/registry"
)

// maxScope bounds a scope in bytes: a token must fit in one header field later on.
const maxScope = 4096

// grant is what was decided for one issue.
type grant struct {
	issued   registry.Time
	expires  registry.Time
	scope    string
	shadowed answer.Reason // why it would have been refused, were the agreement not in shadow; "": it would not
}

// note keeps why the issue would be refused, unless there was a reason before.
func (g *grant) note(r answer.Reason) {
	if g.shadowed == "" {
		g.shadowed = r
	}
}

// decide is what the client's terms and agreement make of a request at now. It returns
// the grant with answer.OK, or the reason to refuse.
func (i *Issuer) decide(client *directory.Client, asked string, now registry.Time) (grant, answer.Reason) {
	// A token that is not newer than ValidFrom would be born revoked.
	g := grant{issued: max(now, client.ValidFrom()+1)}
	if reason := i.decideTime(&g, client, now); reason != answer.OK {
		return grant{}, reason
	}
	var ok bool
	if g.scope, ok = g.scopeFor(client, asked); !ok {
		return grant{}, answer.InvalidScope
	}
	return g, answer.OK
}

// decideTime decides whether the client may have an access token that is issued at
// g.issued, and when it ends. An agreement in shadow refuses none.
func (i *Issuer) decideTime(g *grant, client *directory.Client, now registry.Time) answer.Reason {
	if !client.InForce(now) {
		if !client.Shadow() {
			return answer.UnauthorizedClient
		}
		g.note(answer.UnauthorizedClient)
	}
	g.expires = i.expiry(client, g.issued)
	if g.expires/1000 > g.issued/1000 { // in seconds, as exp and iat tell it
		return answer.OK
	}
	if client.ShadowTerms().TokenLifetime.State == registry.Unset {
		return answer.UnauthorizedClient
	}
	g.note(answer.UnauthorizedClient) // a lifetime of 0: it gets the usual one
	g.expires = g.issued + registry.Time(min(i.options.Lifetime, i.options.MaxLifetime).Milliseconds())
	return answer.OK
}

// scopeFor is scopeOf by the client's terms. Products of an agreement in shadow refuse none
// that is well-formed.
func (g *grant) scopeFor(client *directory.Client, asked string) (scope string, ok bool) {
	if scope, ok = scopeOf(client.Terms.Products, asked); ok || client.ShadowTerms().Products.State == registry.Unset {
		return scope, ok
	}
	if scope, ok = scopeOf(registry.Set{State: registry.Unlimited}, asked); ok {
		g.note(answer.InvalidScope)
	}
	return scope, ok
}

// expiry is when a token issued at issued ends: after the lifetime of the terms, where
// they set one (unlimited: the longest allowed), else the default; never after the
// longest allowed, nor after the agreement, unless that refuses nothing.
func (i *Issuer) expiry(client *directory.Client, issued registry.Time) registry.Time {
	lifetime := i.options.Lifetime
	switch terms := client.Terms.TokenLifetime; terms.State {
	case registry.Value:
		// Compared in seconds: a huge number of them does not fit in a Duration.
		lifetime = time.Duration(min(int64(i.options.MaxLifetime/time.Second), terms.Value)) * time.Second
	case registry.Unlimited:
		lifetime = i.options.MaxLifetime
	}
	expires := issued + registry.Time(min(lifetime, i.options.MaxLifetime).Milliseconds())
	if ends := client.EndsAt(); ends != 0 && !client.Shadow() {
		expires = min(expires, ends)
	}
	return expires
}

// scopeOf is the scope of a token: what was asked, each of it licensed, once; or, with
// nothing asked, everything that is licensed by name. !ok: malformed or not licensed.
func scopeOf(licensed registry.Set, asked string) (scope string, ok bool) {
	if asked == "" {
		if licensed.State != registry.Value {
			return "", true
		}
		return strings.Join(licensed.Values, " "), true
	}
	if len(asked) > maxScope {
		return "", false
	}
	var names []string
	for name := range strings.SplitSeq(asked, " ") {
		if !scopeToken(name) || !licensed.Has(name) {
			return "", false
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return strings.Join(names, " "), true
}

// scopeToken reports whether name is one (RFC 6749 §3.3).
func scopeToken(name string) bool {
	for _, c := range []byte(name) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return name != ""
}

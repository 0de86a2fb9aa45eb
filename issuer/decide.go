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
	issued  registry.Time
	expires registry.Time
	scope   string
}

// decide is what the client's terms and agreement make of a request at now. It returns
// the grant with answer.OK, or the reason to refuse.
func (i *Issuer) decide(client *directory.Client, asked string, now registry.Time) (grant, answer.Reason) {
	if !i.inForce(client, now) {
		return grant{}, answer.UnauthorizedClient
	}
	// A token that is not newer than ValidFrom would be born revoked.
	issued := max(now, client.ValidFrom()+1)
	expires := i.expiry(client, issued)
	if expires/1000 <= issued/1000 { // in seconds, as exp and iat tell it
		return grant{}, answer.UnauthorizedClient
	}
	scope, ok := scopeOf(client.Terms.Products, asked)
	if !ok {
		return grant{}, answer.InvalidScope
	}
	return grant{issued: issued, expires: expires, scope: scope}, answer.OK
}

// inForce reports whether the client's agreement lets it have an access token at now. One
// in shadow does whatever its dates; that it would not is counted.
func (i *Issuer) inForce(client *directory.Client, now registry.Time) bool {
	if client.InForce(now) {
		return true
	}
	if !client.Shadow() {
		return false
	}
	i.metrics.shadowed.WithLabelValues(string(answer.UnauthorizedClient)).Inc()
	return true
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

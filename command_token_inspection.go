package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/registry"
	"postern/token"
)

// inspection is what is known about a token.
type inspection struct {
	Valid  bool                       `json:"valid"`
	Checks []finding                  `json:"checks"`
	Header map[string]json.RawMessage `json:"header"` // null where it cannot be read
	Claims map[string]json.RawMessage `json:"claims"`
	Record *registry.Token            `json:"record"` // null without a store, and when it is not there
	Client *registry.Client           `json:"client"`
}

// finding is one thing that was looked at. Result is ok, failed, warning or skipped.
type finding struct {
	Name   string `json:"check"`
	Result string `json:"result"`
	Detail string `json:"detail"`
}

func (i *inspection) add(name, result, format string, args ...any) {
	i.Checks = append(i.Checks, finding{name, result, fmt.Sprintf(format, args...)})
}

// takeApart does the checks that need the token and the keys alone. What e leaves open is
// not checked: the expectation that it returns has the token's own words there.
func takeApart(raw []byte, keys *token.KeySet, e token.Expect, now time.Time) (inspection, token.Expect) {
	var i inspection
	parts := strings.Split(string(raw), ".")
	i.Header = decoded(parts[0])
	if len(parts) > 1 {
		i.Claims = decoded(parts[1])
	}
	// No token has this issuer: all that is wrong before that is its form.
	if _, err := token.Verify(raw, keys, token.Expect{Issuer: "\x00"}, now); err == error(token.Malformed) {
		i.add("form", "failed", "%s", malformation(parts, i.Header, i.Claims))
		return i, e
	}
	i.add("form", "ok", "a JWS with the header and the claims of an access token")
	issuer, audiences := i.claim("iss"), i.audiences()
	own := token.Expect{Issuer: issuer, Leeway: 100 * 365 * 24 * time.Hour}
	if len(audiences) > 0 {
		own.Audience = audiences[0]
	}
	i.signature(raw, keys, own)
	switch {
	case e.Issuer == "":
		e.Issuer = issuer
		i.add("issuer", "skipped", "--issuer does not say what iss must be; it is %s", issuer)
	case e.Issuer == issuer:
		i.add("issuer", "ok", "iss is %s", issuer)
	default:
		i.add("issuer", "failed", "iss is %s, not %s", issuer, e.Issuer)
	}
	switch {
	case e.Audience == "":
		e.Audience = own.Audience
		i.add("audience", "skipped", "--audience does not say what aud must name; it is %s", strings.Join(audiences, ", "))
	case slices.Contains(audiences, e.Audience):
		i.add("audience", "ok", "aud names %s", e.Audience)
	default:
		i.add("audience", "failed", "aud is %s, and does not name %s", cmp.Or(strings.Join(audiences, ", "), "missing"), e.Audience)
	}
	i.time(now, e.Leeway)
	return i, e
}

// signature checks it alone: as of the token's last second, and with its own words.
func (i *inspection) signature(raw []byte, keys *token.KeySet, own token.Expect) {
	_, err := token.Verify(raw, keys, own, time.Unix(i.date("exp")-1, 0))
	kid, _ := text(i.Header["kid"])
	switch err {
	case nil:
		i.add("signature", "ok", "it is that of the key %s", kid)
	case error(token.UnknownKey):
		i.add("signature", "failed", "there is no key %s", kid)
	case error(token.BadSignature):
		i.add("signature", "failed", "it is not that of the key %s", kid)
	case error(token.Malformed):
		i.add("signature", "failed", "the header's alg is not that of the key %s", kid)
	default:
		i.add("signature", "skipped", "%s", err)
	}
}

// time compares the dates with now, as Verify does.
func (i *inspection) time(now time.Time, leeway time.Duration) {
	show := func(seconds int64) string { return time.Unix(seconds, 0).UTC().Format(time.RFC3339) }
	issued, expires := max(i.date("iat"), i.date("nbf")), i.date("exp")
	switch {
	case now.Unix() >= expires:
		i.add("time", "failed", "it expired at %s, %s ago", show(expires), now.Sub(time.Unix(expires, 0)).Round(time.Second))
	case issued > now.Add(leeway).Unix():
		i.add("time", "failed", "it is good from %s only", show(issued))
	default:
		i.add("time", "ok", "it expires at %s, in %s", show(expires), time.Unix(expires, 0).Sub(now).Round(time.Second))
	}
}

// lookUp adds what the store knows: the record, its revocation, and the client.
func (i *inspection) lookUp(ctx context.Context, r *registry.Registry, now time.Time) error {
	if i.Checks[0].Result != "ok" {
		return nil // its ids are nobody's
	}
	t, err := r.Token(ctx, i.claim("jti"))
	switch {
	case errors.Is(err, registry.ErrNotFound):
		i.add("record", "warning", "the store has none: another store's, or pruned after the token expired")
	case err != nil:
		return err
	case t.RevokedAt != 0:
		i.Record = &t
		i.add("record", "failed", "it was revoked at %s", moment(t.RevokedAt))
	default:
		i.Record = &t
		i.add("record", "ok", "it is there, and not revoked")
	}
	g, err := r.Grant(ctx, i.claim("client_id"))
	if errors.Is(err, registry.ErrNotFound) {
		i.add("client", "failed", "the store has no such client")
		return nil
	}
	if err != nil {
		return err
	}
	g.Client = clientJSON(g.Client)
	i.Client = &g.Client
	from := max(g.Client.TokensValidFrom, g.Organization.TokensValidFrom)
	client, organization := state(g.Client.DisabledAt, g.Client.RemovedAt), state(g.Organization.DisabledAt, g.Organization.RemovedAt)
	switch {
	case g.Client.OrganizationID != i.claim("oid"):
		i.add("client", "failed", "it is another organization's than the claim oid says")
	case client != "active":
		i.add("client", "failed", "it is %s", client)
	case organization != "active":
		i.add("client", "failed", "its organization is %s", organization)
	case i.Record != nil && i.Record.IssuedAt <= from:
		i.add("client", "failed", "all its tokens up to %s were revoked", moment(from))
	default:
		i.add("client", "ok", "it is active, and its organization too")
	}
	if g.Agreement != nil && !g.Agreement.InForce(registry.At(now)) {
		i.add("agreement", "warning", "it is not in force: requests are answered 403")
	}
	return nil
}

// conclude takes over the verdict, and what it says that no check has said.
func (i *inspection) conclude(err error) {
	i.Valid = err == nil
	if err != nil && !slices.ContainsFunc(i.Checks, func(f finding) bool { return f.Result == "failed" }) {
		i.add("verdict", "failed", "%s", err)
	}
}

// decoded is the JSON object in one part of a token; nil when there is none.
func decoded(part string) map[string]json.RawMessage {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(part, "="))
	if err != nil {
		return nil
	}
	members, err := token.Object(raw)
	if err != nil {
		return nil
	}
	return members
}

// malformation says what is wrong with the form of a token, as exactly as it shows.
func malformation(parts []string, header, claims map[string]json.RawMessage) string {
	if len(parts) != 3 {
		return fmt.Sprintf("it has %s with a dot between, not 3", counted(len(parts), "part"))
	}
	if header == nil || claims == nil {
		return "its header or its claims are no JSON object in base64url"
	}
	if typ, _ := text(header["typ"]); typ != "at+jwt" {
		return "the header's typ is not at+jwt: it is no access token of RFC 9068"
	}
	var missing []string
	for _, name := range []string{"alg", "kid"} {
		if header[name] == nil {
			missing = append(missing, name)
		}
	}
	for _, name := range []string{"iss", "sub", "client_id", "oid", "jti", "iat", "exp"} {
		if claims[name] == nil {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return "it has no " + strings.Join(missing, ", ")
	}
	return "a header field or a claim is not of the form that postern issues"
}

// text is the string that raw is.
func text(raw json.RawMessage) (string, bool) {
	var s *string
	if raw == nil || json.Unmarshal(raw, &s) != nil || s == nil {
		return "", false
	}
	return *s, true
}

func (i *inspection) claim(name string) string {
	s, _ := text(i.Claims[name])
	return s
}

func (i *inspection) date(name string) (n int64) {
	_ = json.Unmarshal(i.Claims[name], &n) // 0 where there is none; the form was checked
	return n
}

func (i *inspection) audiences() (all []string) {
	if one, ok := text(i.Claims["aud"]); ok {
		return []string{one}
	}
	_ = json.Unmarshal(i.Claims["aud"], &all) // none where there is none; the form was checked
	return all
}

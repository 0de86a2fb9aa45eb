package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/answer"
	"postern/config"
	"postern/directory"
	"postern/limiter"
	"postern/proxy"
	"postern/registry"
	"postern/verifier"
)

// explaining is what one explanation rests on.
type explaining struct {
	ctx       context.Context
	now       time.Time
	store     *registry.Registry
	directory *directory.Directory
	settings  config.Config
	verifier  *verifier.Verifier
	limiter   *limiter.Limiter

	token    inspection        // the zero value: there is none
	presumed *directory.Client // stands in for a token; nil: nobody does
	clientID string            // whose the request is; "": nobody's that is known
	limits   []limiter.Standing
	found    proxy.Explanation
	grant    *registry.Grant // of clientID; nil: there is none

	steps []finding
}

// step adds a decision of the front: detail is what it rested on where it let the request
// through, and why is that where it did not.
func (u *explaining) step(s proxy.Step, detail, why string) {
	f := &u.found
	place := func(s proxy.Step) int { return slices.Index(proxy.Steps(), s) }
	switch {
	case f.Step == s:
		u.add(string(s), "failed", "%s", joined(message(f.Refusal), why))
	case f.Step != "" && place(f.Step) < place(s):
		u.add(string(s), "skipped", "%s", joined("not reached", detail))
	case f.Shadowed == s:
		u.add(string(s), "shadow", "%s", joined("would be refused: "+message(f.Shadow), why))
	case f.Shadowed != "" && f.Route.Shadow && place(f.Shadowed) < place(s) && place(s) <= place(proxy.StepLimits):
		u.add(string(s), "skipped", "%s", joined("the route is in shadow, and nothing more is judged", detail))
	default:
		u.add(string(s), "ok", "%s", detail)
	}
}

// message is what the answer of a refusal says.
func message(r answer.Refusal) string { return cmp.Or(r.Message, r.Reason.Message()) }

// joined is those texts that there are.
func joined(texts ...string) string {
	return strings.Join(slices.DeleteFunc(texts, func(t string) bool { return t == "" }), ": ")
}

func (u *explaining) add(name, result, format string, args ...any) {
	u.steps = append(u.steps, finding{name, result, fmt.Sprintf(format, args...)})
}

// say goes through all decisions in their order.
func (u *explaining) say() (explained, error) {
	if u.clientID != "" {
		g, err := u.store.Grant(u.ctx, u.clientID)
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return explained{}, err
		}
		if err == nil {
			u.grant = &g
		}
	}
	f := &u.found
	u.step(proxy.StepHead, "each line is well formed, and the target has one reading", "")
	switch {
	case f.Step == proxy.StepHead:
	case f.Own:
		u.add("route", "ok", "%s is postern's own, and never forwarded", f.Path)
	default:
		u.route()
		if f.WebSocket {
			u.step(proxy.StepWebSocket, "it is a handshake, from an origin that is allowed", "")
		}
		u.who()
	}
	return u.outcome(), nil
}

// route says which one, and why that.
func (u *explaining) route() {
	r := u.found.Route
	if r == nil {
		why := "no route has this host and path"
		if u.found.Decision {
			why = "it is the decision endpoint, for gateways among front.trusted_proxies: explain the request that is asked about"
		}
		u.step(proxy.StepRoute, "", why)
		return
	}
	host, below, methods := "any host", "it and everything below", "any method"
	if r.Host != "" {
		host = "host " + r.Host
	}
	if r.Exact {
		below = "it alone"
	}
	if len(r.Methods) > 0 {
		methods = "methods " + strings.Join(r.Methods, ", ")
	}
	text := fmt.Sprintf("%s (%s; path %s, %s, the longest that matches; %s)", r.Name, host, r.Path, below, methods)
	if u.found.Read != "" && u.found.Read != u.found.Path {
		text += "; read as " + u.found.Read
	}
	u.step(proxy.StepRoute, text, text)
	switch {
	case u.found.Preflight:
		u.add("access", "ok", "it is a preflight: postern answers it by the route's cors, and looks at no token")
	case r.Access == proxy.Public:
		u.add("access", "ok", "public: no token is looked at")
	case r.Access == proxy.Optional:
		u.add("access", "ok", "optional: a token that is sent must be good")
	default:
		u.add("access", "ok", "client: an access token is needed")
	}
}

// who goes through all that rests on who is asking.
func (u *explaining) who() {
	r := u.found.Route
	if r == nil || r.Access == proxy.Public || u.found.Preflight {
		return
	}
	if r.Catalog != (proxy.Catalog{}) {
		u.step(proxy.StepNamed, "it is named in "+placeOf(r.Catalog), "in "+placeOf(r.Catalog))
	}
	u.tokens()
	u.client()
	if u.found.Known || u.found.Step != "" { // else nobody has said a word, where that is allowed
		u.scopes()
		u.agreement()
	}
	if r.Catalog != (proxy.Catalog{}) {
		u.catalogs()
	}
	if u.found.Known || u.found.Step != "" {
		u.limited()
	}
	if r.Shadow {
		u.add("shadow", "ok", "the route is in shadow: what would refuse its access, scopes, catalog, agreements and limits is forwarded, and counted")
	}
	if u.grant != nil && u.grant.Agreement != nil && u.grant.Agreement.Enforce == registry.Shadow {
		u.add("shadow", "ok", "the agreement is in shadow: what its dates and terms would refuse is forwarded, and counted")
	}
	if r.Assertion != nil {
		u.step(proxy.StepAssertion, "who is asking is signed for "+r.Assertion.Audience, "there is no key that signs now")
	}
	if u.found.Step == proxy.StepContent {
		u.step(proxy.StepContent, "", fmt.Sprintf("the route takes %d bytes", r.MaxBody))
	}
}

// tokens says what the token says, and the front's verdict.
func (u *explaining) tokens() {
	for _, one := range u.token.Checks {
		if one.Result == "skipped" && (one.Name == "issuer" || one.Name == "audience") {
			one.Detail = "issuer." + map[string]string{"issuer": "url", "audience": "audience"}[one.Name] + " is not set here: what the token says is taken for right"
		}
		if one.Name != "client" && one.Name != "agreement" { // these have steps of their own
			u.add("token "+one.Name, one.Result, "%s", one.Detail)
		}
	}
	for _, name := range []string{"jti", "client_id", "oid", "scope"} {
		if value := u.token.claim(name); value != "" {
			u.add("token "+name, "ok", "%s", value)
		}
	}
	switch {
	case u.presumed != nil:
		u.step(proxy.StepToken, "taken for good: one that the client got just now", "")
	case u.found.Known:
		u.step(proxy.StepToken, "it is valid", "")
	case u.found.Step == "":
		u.step(proxy.StepToken, "there is none, and none is needed", "")
	default:
		u.step(proxy.StepToken, "", "")
	}
}

// client says in what state it and its organization are, and what holds for it.
func (u *explaining) client() {
	if u.grant == nil {
		return
	}
	c, o := u.grant.Client, u.grant.Organization
	for _, one := range []struct{ name, id, label, state string }{
		{"client", c.ID, c.Application + ", " + c.Environment, state(c.DisabledAt, c.RemovedAt)},
		{"organization", o.ID, o.Name, state(o.DisabledAt, o.RemovedAt)},
	} {
		result := "ok"
		if one.state != "active" {
			result = "failed"
		}
		u.add(one.name, result, "%s (%s) is %s", one.id, one.label, one.state)
	}
	if from := max(c.TokensValidFrom, o.TokensValidFrom); from != 0 {
		u.add("tokens", "ok", "all up to %s were revoked", moment(from))
	}
	terms, sources := u.grant.Effective()
	for _, field := range registry.Fields(terms, sources) {
		if field.Source.From != registry.FromDefault {
			u.add("terms "+termName(field), "ok", "%s, of %s %s", termText(field, "default"), field.Source.From, field.Source.ID)
		}
	}
}

func (u *explaining) scopes() {
	r := u.found.Route
	if len(r.Scopes)+len(r.ScopesAny) == 0 {
		u.step(proxy.StepScopes, "the route needs none", "")
		return
	}
	var needs []string
	if len(r.Scopes) > 0 {
		needs = append(needs, "all of "+strings.Join(r.Scopes, " "))
	}
	if len(r.ScopesAny) > 0 {
		needs = append(needs, "one of "+strings.Join(r.ScopesAny, " "))
	}
	text := "the route needs " + strings.Join(needs, " and ")
	if u.found.Known {
		had := u.found.Who.Scope
		if had == "" {
			had = "none"
		}
		text += "; the token has " + had
	}
	u.step(proxy.StepScopes, text, text)
}

func (u *explaining) agreement() {
	switch g := u.grant; {
	case g == nil:
		u.step(proxy.StepAgreement, "", "")
	case g.Client.AgreementID == "":
		u.step(proxy.StepAgreement, "the client is linked to none, so none can lapse", "")
	case g.Agreement == nil || g.Agreement.RemovedAt != 0:
		u.step(proxy.StepAgreement, "", g.Client.AgreementID+" was removed")
	default:
		a := g.Agreement
		starts, ends := "any time", "without an end"
		if a.StartsAt != 0 {
			starts = moment(a.StartsAt)
		}
		if a.EndsAt != 0 {
			ends = "to " + moment(a.EndsAt)
		}
		text := fmt.Sprintf("%s (%s) is in force from %s %s; it is %s", a.ID, a.Name, starts, ends, moment(registry.At(u.now)))
		u.step(proxy.StepAgreement, text, text)
	}
}

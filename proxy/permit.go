package proxy

import (
	"errors"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

// Grant is the room for what a limiter says about one request at a time. The front asks
// for it once and reuses it. It is used by one goroutine at a time.
type Grant interface {
	// Take asks for one request of c: all limits of the client and of its organization, all
	// or nothing. It waits for nobody. Where the request is let through, Release must follow.
	Take(c *directory.Client, now time.Time) bool
	// Release says that the request is over; without a Take that was granted it does nothing.
	Release()
	// Refusal is the answer after a Take that was not granted. shared: it is a limit that the
	// organization's clients have in common.
	Refusal() (refusal answer.Refusal, shared bool)
	// AppendPolicy and AppendState append the values of RateLimit-Policy and RateLimit after
	// the last Take; nothing where no limit applies.
	AppendPolicy(dst []byte) []byte
	AppendState(dst []byte) []byte
}

// permit finds out who is asking, and whether they may. On a route in shadow the first
// refusal that rests on who is asking is noted, nothing more is judged, and the request is
// forwarded. What is malformed, and what is a fault of ours, is refused there too.
func (f *Front) permit(x *exchange) (refusal answer.Refusal, ok bool) {
	if refusal, ok = x.readCatalogs(); !ok {
		return refusal, false
	}
	refusal, ok = f.authenticate(x)
	if ok {
		refusal, ok = f.authorize(x)
	}
	if ok {
		refusal, ok = f.limit(x)
	}
	if !ok && x.route.Shadow && shadowable(refusal.Reason) {
		noted := refusal
		if refusal, ok = x.requireCatalog(); ok {
			x.note(noted)
		}
	}
	if ok {
		refusal, ok = f.assert(x)
	}
	if !ok { // nothing is let through, whatever was noted on the way
		x.shadow, x.noted = "", ""
	}
	return refusal, ok
}

// shadowable reports whether a route in shadow forwards what would be refused so.
func shadowable(r answer.Reason) bool {
	switch r {
	case answer.MissingToken, answer.InvalidToken, answer.InsufficientScope, answer.ForbiddenAgreement, answer.ForbiddenCatalog,
		answer.RateLimited, answer.ConcurrencyLimited, answer.QuotaExceeded:
		return true
	}
	return false
}

// note keeps why the request would be refused. The first reason is the one that it would
// be refused with.
func (x *exchange) note(r answer.Refusal) {
	if x.shadow == "" {
		x.shadow, x.noted = r.Reason, r.Message
	}
}

// authenticate finds out who is asking. Nobody is known after ok where the route lets
// those through who say nothing.
func (f *Front) authenticate(x *exchange) (refusal answer.Refusal, ok bool) {
	raw, refusal, ok := f.bearer(x)
	if !ok {
		// Saying nothing is allowed there; saying something wrong is not.
		silent := refusal.Reason == answer.MissingToken && x.head.authorizations == 0
		return refusal, silent && x.route.Access == Optional
	}
	who, err := f.options.Verifier.Verify(raw, x.started)
	if err != nil {
		return f.unverified(err, x, raw), false
	}
	x.who, x.known, x.raw = who, true, raw
	return refusal, true
}

// authorize judges what a token's scope, the agreement and the organization's catalogs
// allow. An agreement in shadow refuses nothing of what it decides itself; what it leaves to
// its organization is not in shadow.
func (f *Front) authorize(x *exchange) (refusal answer.Refusal, ok bool) {
	if x.known {
		if !x.route.scopes.cover(x.who.Scope) {
			return answer.Refusal{Reason: answer.InsufficientScope, Challenge: x.challenge(x.route.scopes.challenge)}, false
		}
		if !x.who.Client.InForce(registry.At(x.started)) {
			if !x.who.Client.Shadow() {
				return answer.Refusal{Reason: answer.ForbiddenAgreement}, false
			}
			x.note(answer.Refusal{Reason: answer.ForbiddenAgreement})
		}
	}
	if refusal, ok = x.requireCatalog(); !ok {
		return refusal, false
	}
	if f.mayUse(x.who.Client, x.named.ids) && !x.named.unknown {
		x.catalog = x.named.ids
		return refusal, true
	}
	if !x.known || x.who.Client.ShadowTerms().Catalogs.State == registry.Unset {
		return answer.Refusal{Reason: answer.ForbiddenCatalog}, false
	}
	x.note(answer.Refusal{Reason: answer.ForbiddenCatalog})
	return refusal, true
}

// limit asks for one request of the client. What was granted is given back when the
// exchange ends. An organization's own limits hold for clients whose agreement is in
// shadow too.
func (f *Front) limit(x *exchange) (refusal answer.Refusal, ok bool) {
	if f.options.NewGrant == nil || !x.known {
		return refusal, true
	}
	if x.grant == nil {
		x.grant = f.options.NewGrant()
	}
	shadow := x.who.Client.Shadow()
	if x.grant.Take(x.who.Client, x.started) {
		x.tells = !shadow
		return refusal, true
	}
	refusal, shared := x.grant.Refusal()
	if shared || !shadow {
		x.tells = true
		return refusal, false
	}
	x.note(refusal)
	return answer.Refusal{}, true
}

// free gives back what was granted. It may be called again.
func (x *exchange) free() {
	if x.grant != nil {
		x.grant.Release()
	}
}

// limited reports whether limits apply of which the client is told; x.text is their policy.
func (x *exchange) limited() bool {
	if !x.tells || x.route.Shadow {
		return false
	}
	x.text = x.grant.AppendPolicy(x.text[:0])
	return len(x.text) > 0
}

// tellLimits writes how the client stands with its limits, in the place of what an
// upstream says of its own. In shadow nothing is told, but why an organization's limit
// refuses: there the client is to notice nothing.
func (x *exchange) tellLimits(header *fasthttp.ResponseHeader) {
	if !x.limited() {
		return
	}
	header.Del("RateLimit-Policy") // Set would leave a second line
	header.SetBytesV("RateLimit-Policy", x.text)
	header.Del("RateLimit")
	if x.text = x.grant.AppendState(x.text[:0]); len(x.text) > 0 {
		header.SetBytesV("RateLimit", x.text)
	}
}

// unverified maps a verifier's error: the client's fault is 401, ours is 503.
func (f *Front) unverified(err error, x *exchange, raw []byte) answer.Refusal {
	if invalid, ok := errors.AsType[token.Invalid](err); ok {
		f.blame(x, raw)
		return answer.Refusal{Reason: answer.InvalidToken, Message: string(invalid),
			Challenge: x.challenge(`error="invalid_token", error_description="` + string(invalid) + `"`)}
	}
	f.options.Log.Debug("cannot verify a token", "error", err, "request_id", string(x.requestID))
	return answer.Refusal{Reason: answer.Unavailable}
}

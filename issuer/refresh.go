package issuer

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

// refresh answers with a new token for the record of one that is still valid. Each
// refusal is a return above the answer, and nothing is written to the answer before the
// record says so: a revocation that came first wins, and one that comes later covers the
// new token too, because it has the same record.
func (i *Issuer) refresh(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	started := i.options.Now()

	// shape
	req, refusal, ok := i.readRequest(ctx, refreshRoute)
	if !ok {
		return i.decline(ctx, req, refusal, requestID)
	}

	// client, back-off
	who, refusal := i.identify(&req, ctx.RemoteIP(), started, &i.issuing, requestID)
	if refusal.Reason != "" {
		return i.decline(ctx, req, refusal, requestID)
	}

	// token: the client's own, and still valid
	now := i.options.Now()
	old, err := i.options.Verifier.Verify([]byte(req.token), now)
	if _, ok := errors.AsType[token.Invalid](err); ok || err == nil && old.Client.ID != who.ID {
		return i.decline(ctx, req, answer.Refusal{Reason: answer.InvalidToken}, requestID)
	}
	if err != nil {
		return i.decline(ctx, req, i.issuing.begins(i.options.Log, "tokens cannot be verified", err, requestID), requestID)
	}

	// decide
	granted, reason := i.decideRefresh(who.Client, old, registry.At(now))
	if reason != answer.OK {
		return i.decline(ctx, req, answer.Refusal{Reason: reason}, requestID)
	}
	limit, ok := i.limit(&granted, who.Client, now)
	if !ok {
		return i.declineLimited(ctx, req, limit, requestID)
	}
	key, err := i.directory.SigningKey(now)
	if err != nil {
		return i.decline(ctx, req, i.issuing.begins(i.options.Log, "there is no signing key", err, requestID), requestID)
	}

	// sign
	claims := i.claims(old.Token, registry.Token{
		SubjectID: who.ID, OrganizationID: who.OrganizationID, Scope: granted.scope, IssuedAt: granted.issued, ExpiresAt: granted.expires,
	})
	jws, err := key.Sign(claims)
	if err != nil {
		i.options.Log.Error("cannot sign an access token", "error", err, "request_id", requestID)
		return i.decline(ctx, req, answer.Refusal{Reason: answer.Internal}, requestID)
	}

	// record. Past this line the refresh is durable, and not a moment before.
	waiting, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	record, err := i.store.RefreshToken(waiting, old.Token.String(), who.ID, granted.issued, granted.expires)
	if errors.Is(err, registry.ErrNotFound) { // revoked a moment ago, or minted by a user
		return i.decline(ctx, req, answer.Refusal{Reason: answer.InvalidToken}, requestID)
	}
	if err != nil {
		return i.decline(ctx, req, i.issuing.begins(i.options.Log, "the store does not keep their records", err, requestID), requestID)
	}

	// answer
	i.issuing.ends(i.options.Log)
	answered := i.options.Now()
	record.ExpiresAt = granted.expires // of the token that goes with it; an older one may live longer
	writeToken(ctx, req.dialect, record, claims, jws, requestID, registry.At(answered))
	limit.tell(ctx)
	who.notice(ctx)
	i.handedOut(who, granted, started, answered)
	return answer.OK
}

// decideRefresh is decide for a token that is there: its scope, as far as that is still
// licensed, and never past the longest life since the first issue.
func (i *Issuer) decideRefresh(client *directory.Client, old directory.Principal, now registry.Time) (grant, answer.Reason) {
	g := grant{issued: now, scope: old.Scope}
	if reason := i.decideTime(&g, client, now); reason != answer.OK {
		return grant{}, reason
	}
	last := firstIssue(old.Token) + registry.Time(i.options.MaxLifetime.Milliseconds())
	if last/1000 <= now/1000 { // in seconds, as exp and iat tell it
		return grant{}, answer.InvalidToken
	}
	g.expires = min(g.expires, last)
	if old.Scope != "" {
		if _, ok := g.scopeFor(client, old.Scope); !ok {
			return grant{}, answer.InvalidScope // what is not licensed any more is not prolonged
		}
	}
	return g, answer.OK
}

// firstIssue is when a record was issued: the time in its id, which the verifier has seen
// to be a UUIDv7 (RFC 9562 §5.7).
func firstIssue(id uuid.UUID) registry.Time {
	seconds, nanoseconds := id.Time().UnixTime()
	return registry.Time(seconds*1000 + nanoseconds/1e6)
}

package issuer

import (
	"context"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

// subjectType is what a token speaks for: only clients call the Web API.
const subjectType = "Client"

// issue is one token request, read top to bottom. Each refusal is a return above the
// answer, and nothing is written to the answer before the record is durable.
func (i *Issuer) issue(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	started := i.options.Now()

	// shape
	req, refusal, ok := i.readRequest(ctx, issueRoute)
	if !ok {
		return i.decline(ctx, req, refusal, requestID)
	}

	// client, back-off
	who, refusal := i.identify(&req, ctx.RemoteIP(), started, &i.issuing, requestID)
	if refusal.Reason != "" {
		return i.decline(ctx, req, refusal, requestID)
	}

	// decide
	now := i.options.Now()
	granted, reason := i.decide(who.Client, req.scope, registry.At(now))
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
	id, err := registry.NewID(granted.issued.Time(), i.options.Random) // its time is issued_at
	if err != nil {
		return i.decline(ctx, req, i.issuing.begins(i.options.Log, "there is no randomness", err, requestID), requestID)
	}

	// sign. Before the record: claims that no token may carry leave no row behind.
	record := newRecord(id, who.Client, granted, key.ID())
	claims := i.claims(id, record)
	jws, err := key.Sign(claims)
	if err != nil {
		i.options.Log.Error("cannot sign an access token", "error", err, "request_id", requestID)
		return i.decline(ctx, req, answer.Refusal{Reason: answer.Internal}, requestID)
	}

	// record. Past this line the token is durable, and not a moment before.
	waiting, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	if err := i.store.IssueToken(waiting, record, who.secret.ID); err != nil {
		return i.decline(ctx, req, i.issuing.begins(i.options.Log, "the store does not keep their records", err, requestID), requestID)
	}

	// answer
	i.issuing.ends(i.options.Log)
	answered := i.options.Now()
	writeToken(ctx, req.dialect, record, claims, jws, requestID, registry.At(answered))
	limit.tell(ctx)
	who.notice(ctx)
	i.handedOut(who, granted, started, answered)
	return answer.OK
}

// newRecord is the record of what was granted to client.
func newRecord(id uuid.UUID, client *directory.Client, g grant, keyID string) registry.Token {
	return registry.Token{
		ID:             id.String(),
		SubjectType:    subjectType,
		SubjectID:      client.ID,
		IssuedAt:       g.issued,
		ExpiresAt:      g.expires,
		OrganizationID: client.OrganizationID,
		Scope:          g.scope,
		KeyID:          keyID,
	}
}

// claims is the claims set that speaks for a record (RFC 9068 §2.2): whole seconds of
// its milliseconds, so no token outlives its record.
func (i *Issuer) claims(id uuid.UUID, t registry.Token) token.Claims {
	return token.Claims{
		ID:           id,
		Organization: t.OrganizationID,
		Client:       t.SubjectID,
		Issuer:       i.options.URL,
		Audience:     i.options.Audience,
		Scope:        t.Scope,
		IssuedAt:     int64(t.IssuedAt) / 1000,
		Expires:      int64(t.ExpiresAt) / 1000,
	}
}

package issuer

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"postern/answer"
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
	req, refusal, ok := i.readRequest(ctx)
	if !ok {
		return i.refuse(ctx, refusal, requestID)
	}

	// client. Not bound to the connection: fasthttp tells nobody that the caller left.
	waiting, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	client, secretID, err := i.authenticate(waiting, req.credentials, registry.At(started))

	// back-off
	if errors.Is(err, errInvalidClient) {
		if wait := i.backoff.failed(req.clientID, ctx.RemoteIP(), started); wait > 0 {
			return i.refuse(ctx, answer.Refusal{Reason: answer.RateLimited, RetryAfter: wait}, requestID)
		}
		return i.refuse(ctx, answer.Refusal{Reason: answer.InvalidClient, Challenge: i.challenge}, requestID)
	}
	if err != nil {
		return i.unavailable(ctx, "the store does not say who the client is", err, requestID)
	}
	i.backoff.passed(req.clientID, ctx.RemoteIP())

	// decide
	now := i.options.Now()
	granted, reason := i.decide(client, req.scope, registry.At(now))
	if reason != answer.OK {
		return i.refuse(ctx, answer.Refusal{Reason: reason}, requestID)
	}
	key, err := i.directory.SigningKey(now)
	if err != nil {
		return i.unavailable(ctx, "there is no signing key", err, requestID)
	}
	id, err := registry.NewID(granted.issued.Time(), i.options.Random) // its time is issued_at
	if err != nil {
		return i.unavailable(ctx, "there is no randomness", err, requestID)
	}

	// sign. Before the record: claims that no token may carry leave no row behind.
	record := registry.Token{
		ID:             id.String(),
		SubjectType:    subjectType,
		SubjectID:      client.ID,
		IssuedAt:       granted.issued,
		ExpiresAt:      granted.expires,
		OrganizationID: client.OrganizationID,
		Scope:          granted.scope,
		KeyID:          key.ID(),
	}
	jws, err := key.Sign(i.claims(id, record))
	if err != nil {
		i.options.Log.Error("cannot sign an access token", "error", err, "request_id", requestID)
		return i.refuse(ctx, answer.Refusal{Reason: answer.Internal}, requestID)
	}

	// record. Past this line the token is durable, and not a moment before.
	if err := i.store.IssueToken(waiting, record, secretID); err != nil {
		return i.unavailable(ctx, "the store does not keep their records", err, requestID)
	}

	// answer
	if i.failing.Load() && i.failing.CompareAndSwap(true, false) {
		i.options.Log.Info("issuing access tokens again")
	}
	answered := i.options.Now()
	writeIssued(ctx, record, jws, requestID, registry.At(answered))
	i.metrics.handedOut(answered.Sub(started))
	return answer.OK
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

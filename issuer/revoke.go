package issuer

import (
	"context"
	"errors"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/registry"
	"postern/token"
)

// revoke ends every token of one record (RFC 7009), and is in effect here before it
// answers. A token of another organization, and what is no token, get the same answer and
// nothing happens: it is no oracle. Our own fault is 503, never 200 (RFC 7009 §2.2.1).
func (i *Issuer) revoke(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	started := i.options.Now()

	// shape. A token_type_hint is ignored: there is one type.
	req, refusal, ok := i.readRequest(ctx, revokeRoute)
	if !ok {
		return i.decline(ctx, req, refusal, requestID)
	}

	// client, back-off
	who, refusal := i.identify(&req, ctx.RemoteIP(), started, &i.revoking, requestID)
	if refusal.Reason != "" {
		return i.decline(ctx, req, refusal, requestID)
	}

	// token
	waiting, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	claims, found, err := i.recordOf(waiting, []byte(req.token))
	if err != nil {
		return i.decline(ctx, req, i.fault(&i.revoking, "the keys are not known", err, requestID), requestID)
	}
	if !found || claims.Organization != who.OrganizationID {
		return i.revoked(ctx, who, requestID)
	}

	// record
	actor := registry.Actor{Kind: "client", ID: who.ID, Address: ctx.RemoteIP().String()}
	_, err = i.store.RevokeToken(waiting, actor, claims.ID.String())
	if errors.Is(err, registry.ErrNotFound) { // it was pruned: nothing of it can be valid
		return i.revoked(ctx, who, requestID)
	}
	if err == nil {
		err = i.directory.CatchUp(waiting) // refused here from the next request on
	}
	if err != nil {
		return i.decline(ctx, req, i.fault(&i.revoking, "the store does not keep that", err, requestID), requestID)
	}
	i.revoking.ends(i.options.Log)
	return i.revoked(ctx, who, requestID)
}

// revoked is the one answer of revoke that is not a refusal. RFC 7009 §2.2 lets clients
// ignore its content; some libraries insist on JSON.
func (i *Issuer) revoked(ctx *fasthttp.RequestCtx, who caller, requestID string) answer.Reason {
	begin(ctx, fasthttp.StatusOK, jsonType, "no-store", requestID).SetBodyRaw([]byte("{}"))
	who.notice(ctx)
	return answer.OK
}

// recordOf says which record raw belongs to, if it is a token of ours, however old.
func (i *Issuer) recordOf(ctx context.Context, raw []byte) (c token.Claims, found bool, err error) {
	keys, _ := i.directory.Keys()
	c, err = i.claimsOf(raw, keys)
	if err == error(token.UnknownKey) {
		// Perhaps of a key that was made a moment ago, on another replica.
		if err := i.directory.CatchUp(ctx); err != nil {
			return token.Claims{}, false, err
		}
		keys, _ = i.directory.Keys()
		c, err = i.claimsOf(raw, keys)
	}
	return c, err == nil, nil
}

// claimsOf reads a token of ours, however old. Another replica's clock may be ahead of
// this one's, so what is not yet valid counts as well.
func (i *Issuer) claimsOf(raw []byte, keys *token.KeySet) (token.Claims, error) {
	expect := token.Expect{Issuer: i.options.URL, Audience: i.options.Audience, Leeway: i.options.MaxLifetime}
	return token.VerifyPast(raw, keys, expect, i.options.Now())
}

// fault is o.begins in the words of the routes that issue nothing.
func (i *Issuer) fault(o *outage, what string, cause error, requestID string) answer.Refusal {
	refusal := o.begins(i.options.Log, what, cause, requestID)
	refusal.Message = "this cannot be done right now; try again later"
	return refusal
}

package issuer

import (
	"github.com/valyala/fasthttp"

	"postern/answer"
)

// jwks answers with the public keys (RFC 7517).
func (i *Issuer) jwks(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	keys, _ := i.directory.Keys()
	if keys.Len() == 0 && (ctx.IsGet() || ctx.IsHead()) {
		// Nothing was loaded yet: an empty set that others keep for minutes would be a lie.
		return i.refuse(ctx, guide, answer.Refusal{Reason: answer.Unavailable, Close: hasBody(ctx)}, requestID)
	}
	return i.publish(ctx, "application/jwk-set+json", keys.Document(), requestID)
}

// publish answers with a public document. It may be kept for five minutes, and for half of
// the time that a key is published before it signs: nobody who verifies misses one.
func (i *Issuer) publish(ctx *fasthttp.RequestCtx, contentType string, document []byte, requestID string) answer.Reason {
	if !ctx.IsGet() && !ctx.IsHead() {
		return i.refuse(ctx, guide, answer.Refusal{Reason: answer.MethodNotAllowed, Allow: "GET, HEAD", Close: hasBody(ctx)}, requestID)
	}
	begin(ctx, fasthttp.StatusOK, contentType, i.cacheControl, requestID).SetBodyRaw(document)
	if hasBody(ctx) {
		ctx.SetConnectionClose() // nobody reads it, so nothing behind it may be taken for a request
	}
	return answer.OK
}

package issuer

import (
	"github.com/valyala/fasthttp"

	"postern/answer"
)

// jwks answers with the public keys (RFC 7517). They may be kept for five minutes: a
// key is published long before it signs.
func (i *Issuer) jwks(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	if !ctx.IsGet() && !ctx.IsHead() {
		return i.refuse(ctx, answer.Refusal{Reason: answer.MethodNotAllowed, Allow: "GET, HEAD", Close: hasBody(ctx)}, requestID)
	}
	keys, _ := i.directory.Keys()
	if keys.Len() == 0 {
		// Nothing was loaded yet: an empty set that others keep for minutes would be a lie.
		return i.refuse(ctx, answer.Refusal{Reason: answer.Unavailable, Close: hasBody(ctx)}, requestID)
	}
	begin(ctx, fasthttp.StatusOK, "application/jwk-set+json", "public, max-age=300", requestID).SetBodyRaw(keys.Document())
	if hasBody(ctx) {
		ctx.SetConnectionClose() // nobody reads it, so nothing behind it may be taken for a request
	}
	return answer.OK
}

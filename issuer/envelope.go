package issuer

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"postern/registry"
)

// begin starts an answer that is not a refusal. What the server set up for an upstream's
// answer is undone first: ours has a Date (RFC 9110 §6.6.1).
func begin(ctx *fasthttp.RequestCtx, status int, contentType, cacheControl, requestID string) *fasthttp.Response {
	res := &ctx.Response
	res.Reset()
	res.Header.SetNoDefaultContentType(true)
	res.SetStatusCode(status)
	res.Header.Set("Content-Type", contentType)
	res.Header.Set("Cache-Control", cacheControl)
	if requestID != "" {
		res.Header.Set("X-Request-Id", requestID)
	}
	return res
}

// writeIssued answers with a token's record and the token, in the guide's envelope.
func writeIssued(ctx *fasthttp.RequestCtx, t registry.Token, jws, requestID string, now registry.Time) {
	res := begin(ctx, fasthttp.StatusCreated, "application/json", "no-store", requestID) // RFC 6749 §5.1
	res.Header.Set("Pragma", "no-cache")
	res.SetBodyRaw(appendIssued(make([]byte, 0, 512+len(jws)), t, jws, now))
}

// appendIssued appends the envelope: names, order, nulls and units are the guide's.
// Nothing in it needs escaping: what is no plain identifier could not be signed.
func appendIssued(dst []byte, t registry.Token, jws string, now registry.Time) []byte {
	dst = append(dst, `{"status":201,"timestamp":`...)
	dst = strconv.AppendInt(dst, int64(now), 10)
	dst = append(dst, `,"data":{"id":"`...)
	dst = append(dst, t.ID...)
	dst = append(dst, `","removed_at":`...)
	dst = appendTime(dst, t.RemovedAt)
	dst = append(dst, `,"refreshed_at":`...)
	dst = appendTime(dst, t.RefreshedAt)
	dst = append(dst, `,"revoked_at":`...)
	dst = appendTime(dst, t.RevokedAt)
	dst = append(dst, `,"subject_type":`...)
	dst = appendText(dst, t.SubjectType)
	dst = append(dst, `,"subject_id":`...)
	dst = appendText(dst, t.SubjectID)
	dst = append(dst, `,"issued_at":`...)
	dst = appendTime(dst, t.IssuedAt)
	dst = append(dst, `,"expires_at":`...)
	dst = appendTime(dst, t.ExpiresAt)
	dst = append(dst, `,"issuer_type":`...)
	dst = appendText(dst, t.IssuerType)
	dst = append(dst, `,"issuer_id":`...)
	dst = appendText(dst, t.IssuerID)
	dst = append(dst, `,"organization_id":`...)
	dst = appendText(dst, t.OrganizationID)
	dst = append(dst, `,"token":"`...)
	dst = append(dst, jws...)
	return append(dst, `"}}`...)
}

func appendTime(dst []byte, t registry.Time) []byte {
	if t == 0 {
		return append(dst, "null"...)
	}
	return strconv.AppendInt(dst, int64(t), 10)
}

func appendText(dst []byte, text string) []byte {
	if text == "" {
		return append(dst, "null"...)
	}
	dst = append(dst, '"')
	dst = append(dst, text...)
	return append(dst, '"')
}

package issuer

import (
	"strconv"

	"github.com/valyala/fasthttp"

	"postern/registry"
	"postern/token"
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

// writeToken answers with a token: in the guide's envelope, with its record, or as RFC
// 6749 §5.1 has it.
func writeToken(ctx *fasthttp.RequestCtx, d dialect, t registry.Token, c token.Claims, jws, requestID string, now registry.Time) {
	status, body := fasthttp.StatusCreated, make([]byte, 0, 512+len(jws))
	if d == oauth {
		status, body = fasthttp.StatusOK, appendGranted(body, c, jws)
	} else {
		body = appendIssued(body, t, jws, now)
	}
	res := begin(ctx, status, jsonType, "no-store", requestID)
	res.Header.Set("Pragma", "no-cache")
	res.SetBodyRaw(body)
}

// notice tells a client whose secret is weak what to do about it.
func (c caller) notice(ctx *fasthttp.RequestCtx) {
	if c.secret.Weak() {
		ctx.Response.Header.Set("X-Postern-Notice", "rotate this client secret")
	}
}

// appendGranted appends OAuth 2's answer. An empty scope is no scope at all there.
func appendGranted(dst []byte, c token.Claims, jws string) []byte {
	dst = append(dst, `{"access_token":"`...)
	dst = append(dst, jws...)
	dst = append(dst, `","token_type":"Bearer","expires_in":`...)
	dst = strconv.AppendInt(dst, c.Expires-c.IssuedAt, 10)
	if c.Scope != "" {
		dst = append(dst, `,"scope":"`...)
		dst = append(dst, c.Scope...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
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

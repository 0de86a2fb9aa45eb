package issuer

import (
	"errors"
	"strconv"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/token"
)

// introspect says what a token is (RFC 7662): everything, when the front would take it and
// it is of the caller's own organization, and otherwise that it is not active and nothing
// else. Our own fault is 503: what could not be checked is not inactive.
func (i *Issuer) introspect(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	started := i.options.Now()

	// shape
	req, refusal, ok := i.readRequest(ctx, introspectRoute)
	if !ok {
		return i.decline(ctx, req, refusal, requestID)
	}

	// client, back-off
	who, refusal := i.identify(&req, ctx.RemoteIP(), started, &i.introspecting, requestID)
	if refusal.Reason != "" {
		return i.decline(ctx, req, refusal, requestID)
	}

	// token
	p, err := i.options.Verifier.Verify([]byte(req.token), i.options.Now())
	if _, ok := errors.AsType[token.Invalid](err); ok || err == nil && p.Client.OrganizationID != who.OrganizationID {
		return i.introspected(ctx, who, []byte(`{"active":false}`), requestID)
	}
	if err != nil {
		return i.decline(ctx, req, i.fault(&i.introspecting, "tokens cannot be verified", err, requestID), requestID)
	}
	keys, _ := i.directory.Keys()
	claims, err := i.claimsOf([]byte(req.token), keys)
	if err != nil { // its key was removed since
		return i.introspected(ctx, who, []byte(`{"active":false}`), requestID)
	}
	return i.introspected(ctx, who, i.appendActive(nil, claims), requestID)
}

// introspected is the one answer of introspect that is not a refusal.
func (i *Issuer) introspected(ctx *fasthttp.RequestCtx, who caller, body []byte, requestID string) answer.Reason {
	i.introspecting.ends(i.options.Log)
	begin(ctx, fasthttp.StatusOK, jsonType, "no-store", requestID).SetBodyRaw(body)
	who.notice(ctx)
	return answer.OK
}

// appendActive appends what a token says of itself. Nothing in it needs escaping: the
// verifier lets no claim through that does, and the two of our own setting were escaped.
func (i *Issuer) appendActive(dst []byte, c token.Claims) []byte {
	dst = append(dst, `{"active":true,`...)
	if c.Scope != "" {
		dst = append(dst, `"scope":"`+c.Scope+`",`...)
	}
	dst = append(dst, `"client_id":"`+c.Client+`","token_type":"Bearer","exp":`...)
	dst = strconv.AppendInt(dst, c.Expires, 10)
	dst = append(dst, `,"iat":`...)
	dst = strconv.AppendInt(dst, c.IssuedAt, 10)
	if c.NotBefore != 0 {
		dst = append(dst, `,"nbf":`...)
		dst = strconv.AppendInt(dst, c.NotBefore, 10)
	}
	dst = append(dst, `,"sub":"`+token.SubjectPrefix+c.Client+`","aud":`...)
	dst = append(dst, i.audienceText...)
	dst = append(dst, `,"iss":`...)
	dst = append(dst, i.issuerText...)
	return append(dst, `,"jti":"`+c.ID.String()+`","oid":"`+c.Organization+`"}`...)
}

// Package answer is how the front says no: the closed set of reasons, and one
// function that writes a refusal.
//
// Every refusal of the front, on our own routes and on proxied ones, has the same
// envelope. Nothing here decides anything, and no message quotes input or names an
// internal. Start reading at Refuse.
package answer

import (
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// Reason is a closed outcome: the code in the envelope, the metric label, the log
// field and the test's expectation.
type Reason string

// All reasons. OK means: forwarded, or answered by ourselves with success.
const (
	OK                     Reason = "ok"
	MissingToken           Reason = "missing_token"
	InvalidToken           Reason = "invalid_token"
	InsufficientScope      Reason = "insufficient_scope"
	ForbiddenAgreement     Reason = "forbidden_agreement"
	ForbiddenCatalog       Reason = "forbidden_catalog"
	RateLimited            Reason = "rate_limited"
	ConcurrencyLimited     Reason = "concurrency_limited"
	QuotaExceeded          Reason = "quota_exceeded"
	InvalidRequest         Reason = "invalid_request"
	NotFound               Reason = "not_found"
	MethodNotAllowed       Reason = "method_not_allowed"
	Unavailable            Reason = "unavailable"
	UpstreamFailed         Reason = "upstream_failed"
	UpstreamTimeout        Reason = "upstream_timeout"
	Internal               Reason = "internal"
	InvalidClient          Reason = "invalid_client"
	InvalidScope           Reason = "invalid_scope"
	UnauthorizedClient     Reason = "unauthorized_client"
	UnsupportedGrantType   Reason = "unsupported_grant_type"
	UnsupportedMediaType   Reason = "unsupported_media_type"
	TooLarge               Reason = "too_large"
	TemporarilyUnavailable Reason = "temporarily_unavailable"
)

type entry struct {
	reason  Reason
	status  int
	message string // for people; the default where a refusal gives none
}

// table is ordered: its index is Reason.Index, so metrics can keep arrays.
var table = [...]entry{
	{OK, 200, ""},
	{MissingToken, 401, "send an access token: Authorization: Bearer <token>"},
	{InvalidToken, 401, "the access token is not valid"},
	{InsufficientScope, 403, "the access token's scope does not cover this request"},
	{ForbiddenAgreement, 403, "the agreement of this client is not in force"},
	{ForbiddenCatalog, 403, "this catalog is not available to your organization"},
	{RateLimited, 429, "too many requests; try again later"},
	{ConcurrencyLimited, 429, "too many requests at once; try again later"},
	{QuotaExceeded, 429, "the quota is used up; try again later"},
	{InvalidRequest, 400, "the request is malformed"},
	{NotFound, 404, "there is nothing here"},
	{MethodNotAllowed, 405, "this method is not allowed here"},
	{Unavailable, 503, "the service cannot check this request right now; try again later"},
	{UpstreamFailed, 502, "the upstream did not answer"},
	{UpstreamTimeout, 504, "the upstream did not answer in time"},
	{Internal, 500, "something went wrong on our side"},
	{InvalidClient, 401, "client authentication failed"},
	{InvalidScope, 400, "the scope is not licensed"},
	{UnauthorizedClient, 400, "the client may not get access tokens now"},
	{UnsupportedGrantType, 400, "the grant type is not supported"},
	{UnsupportedMediaType, 415, "send Content-Type: application/json or application/x-www-form-urlencoded"},
	{TooLarge, 413, "the request is too large"},
	{TemporarilyUnavailable, 503, "access tokens cannot be issued right now; try again later"},
}

// Count is the number of reasons.
const Count = len(table)

// Reasons lists all of them in the order of Index.
func Reasons() []Reason {
	all := make([]Reason, 0, Count)
	for _, e := range table {
		all = append(all, e.reason)
	}
	return all
}

// Index is the place of r in Reasons; that of Internal when r is none of them.
func (r Reason) Index() int {
	internal := 0
	for i := range table {
		if table[i].reason == r {
			return i
		}
		if table[i].reason == Internal {
			internal = i
		}
	}
	return internal
}

// Status is the HTTP status code that goes with r unless a Refusal says otherwise.
func (r Reason) Status() int { return table[r.Index()].status }

// Message is the text for people that goes with r unless a Refusal says otherwise.
func (r Reason) Message() string { return table[r.Index()].message }

// Refusal is one answer that is not the upstream's.
type Refusal struct {
	Reason     Reason
	Status     int           // 0: the reason's own (400 has several: 414, 431, 505, … keep the reason invalid_request)
	Message    string        // for people, from the code alone; "": the reason's own
	Challenge  string        // WWW-Authenticate; "": none
	RetryAfter time.Duration // rounded up to seconds; 0: none, but 503 always has one
	Allow      string        // with 405
	AcceptPost string        // with 415 (RFC 8288's Accept-Post)
	Close      bool          // close the connection after the answer
}

// Refuse writes r with the envelope to ctx, whatever was written there before.
// requestID must already be safe to show.
func Refuse(ctx *fasthttp.RequestCtx, r Refusal, requestID string, now time.Time) Reason {
	e := table[r.Reason.Index()]
	status, message := e.status, e.message
	if r.Status != 0 {
		status = r.Status
	}
	if r.Message != "" {
		message = r.Message
	}
	res := &ctx.Response
	res.Reset()
	res.Header.SetNoDefaultContentType(true)
	res.SetStatusCode(status)
	res.Header.Set("Content-Type", "application/json")
	res.Header.Set("Cache-Control", "no-store")
	if requestID != "" {
		res.Header.Set("X-Request-Id", requestID)
	}
	if r.Challenge != "" {
		res.Header.Set("WWW-Authenticate", r.Challenge)
	}
	if r.Allow != "" {
		res.Header.Set("Allow", r.Allow)
	}
	if r.AcceptPost != "" {
		res.Header.Set("Accept-Post", r.AcceptPost)
	}
	if r.RetryAfter == 0 && status == fasthttp.StatusServiceUnavailable {
		r.RetryAfter = time.Second
	}
	if r.RetryAfter > 0 {
		res.Header.Set("Retry-After", strconv.FormatInt(int64((r.RetryAfter+time.Second-1)/time.Second), 10))
	}
	if r.Close {
		ctx.SetConnectionClose()
	}
	res.AppendBody(Envelope(nil, status, e.reason, message, requestID, now))
	return e.reason
}

// Envelope appends the body of a refusal to dst. message and requestID need no
// escaping: they come from our own closed sets.
func Envelope(dst []byte, status int, reason Reason, message, requestID string, now time.Time) []byte {
	dst = append(dst, `{"status":`...)
	dst = strconv.AppendInt(dst, int64(status), 10)
	dst = append(dst, `,"timestamp":`...)
	dst = strconv.AppendInt(dst, now.UnixMilli(), 10)
	dst = append(dst, `,"error":{"code":"`...)
	dst = append(dst, reason...)
	dst = append(dst, `","message":"`...)
	dst = append(dst, message...)
	dst = append(dst, `","request_id":"`...)
	dst = append(dst, requestID...)
	return append(dst, `"}}`...)
}

package issuer

import (
	"log/slog"
	"sync/atomic"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// dialect is how a request was asked, and so how it is answered.
type dialect uint8

const (
	guide dialect = iota // JSON content; the guide's envelope
	oauth                // a form; the answers of RFC 6749 §5
)

// refuse writes r as d wants it. Every 401 of ours has the challenge (RFC 6749 §5.2).
func (i *Issuer) refuse(ctx *fasthttp.RequestCtx, d dialect, r answer.Refusal, requestID string) answer.Reason {
	if r.Reason.Status() == fasthttp.StatusUnauthorized {
		r.Challenge = i.challenge
	}
	reason := answer.Refuse(ctx, r, requestID, i.options.Now())
	if d == guide {
		return reason
	}
	message := r.Message
	if message == "" {
		message = reason.Message()
	}
	// RFC 6749 §5.2. Nothing in it needs escaping: both come from our own closed sets.
	ctx.Response.SetBodyString(`{"error":"` + string(reason) + `","error_description":"` + message + `"}`)
	ctx.Response.Header.Set("Pragma", "no-cache")
	return reason
}

// decline is refuse for a request that names a client, perhaps.
func (i *Issuer) decline(ctx *fasthttp.RequestCtx, req request, r answer.Refusal, requestID string) answer.Reason {
	reason := i.refuse(ctx, req.dialect, r, requestID)
	if req.proved != nil && i.options.Meter != nil {
		i.options.Meter.Refused(req.proved, i.options.Now(), reason)
	}
	if req.known != "" && i.options.Refused != nil {
		i.options.Refused(ctx, req.known, reason, requestID)
	}
	return reason
}

// outage tells once that something does not work, and once that it works again.
type outage struct {
	broken, mended string // for the log
	on             atomic.Bool
}

// begins notes a fault of our own, which is 503 and never 401. what and cause are for the
// log only.
func (o *outage) begins(log *slog.Logger, what string, cause error, requestID string) answer.Refusal {
	if o.on.CompareAndSwap(false, true) {
		log.Error(o.broken+": "+what, "error", cause, "request_id", requestID)
	}
	return answer.Refusal{Reason: answer.TemporarilyUnavailable}
}

// ends notes a success.
func (o *outage) ends(log *slog.Logger) {
	if o.on.Load() && o.on.CompareAndSwap(true, false) {
		log.Info(o.mended)
	}
}

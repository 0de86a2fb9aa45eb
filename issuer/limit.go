package issuer

import (
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
)

// limit asks for one access token of client: what is refused afterwards, by a fault of our
// own, is spent. ok is false with what to answer. An agreement in shadow has the refusal
// noted in g instead, unless it is its organization's limit.
func (i *Issuer) limit(g *grant, client *directory.Client, now time.Time) (l Limit, ok bool) {
	if i.options.Limiter == nil {
		return l, true
	}
	l = i.options.Limiter.Issue(client, now)
	switch {
	case l.Refusal.Reason != "" && (l.Shared || !client.Shadow()):
		return l, false
	case !client.Shadow():
		return l, true
	case l.Refusal.Reason != "":
		g.note(l.Refusal.Reason)
	}
	return Limit{}, true // nothing is told: in shadow the client is to notice nothing
}

func (i *Issuer) declineLimited(ctx *fasthttp.RequestCtx, req request, l Limit, requestID string) answer.Reason {
	reason := i.decline(ctx, req, l.Refusal, requestID)
	l.tell(ctx)
	return reason
}

// tell writes how the client stands with its limit.
func (l Limit) tell(ctx *fasthttp.RequestCtx) {
	if l.Policy != "" {
		ctx.Response.Header.Set("RateLimit-Policy", l.Policy)
	}
	if l.State != "" {
		ctx.Response.Header.Set("RateLimit", l.State)
	}
}

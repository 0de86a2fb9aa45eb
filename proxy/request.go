package proxy

import (
	"errors"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

// exchange is one request and its answer. It is pooled; nothing in it outlives the
// request.
type exchange struct {
	front     *Front
	head      head
	route     *route // nil until one is found
	who       directory.Principal
	requestID []byte
	peer      netip.Addr
	started   time.Time // wall and monotonic

	path   []byte // scratch: the path as it was read
	out    []byte // the upstream request's head, with content that fits the buffer behind it
	piece  []byte // scratch
	source pacedReader
	stream answerStream

	ours           bool // a route of our own
	upstreamStatus int
	upstreamTook   time.Duration
	answered       bool // the reason is settled and counted
}

func newExchange(f *Front) *exchange { return &exchange{front: f} }

func (f *Front) acquire(ctx *fasthttp.RequestCtx) *exchange {
	x := f.pool.Get().(*exchange)
	x.started = f.now()
	x.peer = peerOf(ctx.RemoteAddr())
	return x
}

func (f *Front) release(x *exchange) {
	x.head.reset()
	*x = exchange{
		front: f, head: x.head, requestID: x.requestID[:0], path: x.path[:0],
		out: shrunk(x.out), piece: x.piece, stream: answerStream{names: x.stream.names[:0]},
	}
	f.pool.Put(x)
}

// shrunk keeps a scratch buffer unless a rare large request made it large.
func shrunk(b []byte) []byte {
	if cap(b) > 128<<10 {
		return nil
	}
	return b[:0]
}

// handle is one request: judged, then answered by us or forwarded.
func (f *Front) handle(ctx *fasthttp.RequestCtx) {
	x := f.acquire(ctx)
	defer f.rescue(ctx, x)
	refusal, ok := f.judge(ctx, x)
	switch {
	case !ok:
		f.refuse(ctx, x, refusal)
	case x.ours:
		f.settle(ctx, x, f.options.Issuer.Serve(ctx, string(x.requestID)))
	default:
		f.forward(ctx, x)
	}
}

// judge decides about a request from its head alone: nothing of the content was asked
// for yet. ok is false with what to answer.
func (f *Front) judge(ctx *fasthttp.RequestCtx, x *exchange) (refusal answer.Refusal, ok bool) {
	h := &x.head
	h.reset()
	refusal, ok = h.check(&ctx.Request.Header, &f.options, f.classifier)
	x.requestID = x.requestID[:0]
	if h.requestID != nil {
		x.requestID = append(x.requestID, h.requestID...)
	} else {
		x.requestID = f.requestIDs.append(x.requestID)
	}
	if !ok {
		return refusal, false
	}
	if f.options.Issuer != nil && f.options.Issuer.Owns(h.path) {
		x.ours = true
		return refusal, true
	}
	if refusal, ok = f.findRoute(x); !ok {
		return refusal, false
	}
	if x.route.Access != Client {
		return refusal, true
	}
	raw, refusal, ok := f.bearer(h)
	if !ok {
		return refusal, false
	}
	who, err := f.options.Verifier.Verify(raw, x.started)
	if err != nil {
		return f.unverified(err, x), false
	}
	x.who = who
	if !who.Client.InForce(registry.At(x.started)) {
		return answer.Refusal{Reason: answer.ForbiddenAgreement}, false
	}
	return refusal, true
}

// findRoute sets x.route. An upstream may read an encoded slash as a slash, or drop
// path parameters; where such a reading would reach another route, one that needs a
// client or does not have the method, the request is refused.
func (f *Front) findRoute(x *exchange) (refusal answer.Refusal, ok bool) {
	h := &x.head
	path, isPlain := h.path, plain(h.path)
	if !isPlain {
		x.path = reading{}.read(x.path[:0], h.path)
		path = x.path
	}
	rt, allowed, found := f.router.find(h.host, path, h.method)
	if !found {
		return answer.Refusal{Reason: answer.NotFound}, false
	}
	x.route = rt
	if !allowed {
		return answer.Refusal{Reason: answer.MethodNotAllowed, Allow: rt.allow}, false
	}
	if isPlain {
		return refusal, true
	}
	for _, other := range []reading{{slashes: true}, {parameters: true}, {slashes: true, parameters: true}} {
		x.path = other.read(x.path[:0], h.path)
		alt, allowed, found := f.router.find(h.host, x.path, h.method)
		if found && alt != rt && (alt.Access == Client || !allowed) {
			return malformed("the request target is malformed or ambiguous"), false
		}
	}
	return refusal, true
}

// unverified maps a verifier's error: the client's fault is 401, ours is 503.
func (f *Front) unverified(err error, x *exchange) answer.Refusal {
	if invalid, ok := errors.AsType[token.Invalid](err); ok {
		return answer.Refusal{Reason: answer.InvalidToken, Message: string(invalid),
			Challenge: f.challenge(`error="invalid_token", error_description="` + string(invalid) + `"`)}
	}
	f.options.Log.Debug("cannot verify a token", "error", err, "request_id", string(x.requestID))
	return answer.Refusal{Reason: answer.Unavailable}
}

// expect judges a request that waits with its content (RFC 9110 §10.1.1): a refusal is
// sent at once and the content never read.
func (f *Front) expect(ctx *fasthttp.RequestCtx) (status int) {
	status = fasthttp.StatusInternalServerError // where rescue has to answer
	x := f.acquire(ctx)
	defer f.rescue(ctx, x)
	refusal, ok := f.judge(ctx, x)
	if ok {
		return fasthttp.StatusContinue // and handle will judge again
	}
	refusal.Close = true
	f.refuse(ctx, x, refusal)
	return ctx.Response.StatusCode()
}

// refuse answers with r and settles the exchange. Unless little content is left, it is
// not read: the connection is closed, so that it cannot be taken for a request.
func (f *Front) refuse(ctx *fasthttp.RequestCtx, x *exchange, r answer.Refusal) {
	if x.head.chunked || x.head.contentLength > drained {
		r.Close = true
	}
	f.settle(ctx, x, answer.Refuse(ctx, r, string(x.requestID), f.now()))
}

// settle records the outcome, once.
func (f *Front) settle(ctx *fasthttp.RequestCtx, x *exchange, reason answer.Reason) {
	if x.answered {
		return
	}
	x.answered = true
	f.record(ctx, x, reason)
}

// rescue ends a request. A panic harms this request only. A streamed answer is still
// being sent when handle returns; its end releases the exchange.
func (f *Front) rescue(ctx *fasthttp.RequestCtx, x *exchange) {
	if p := recover(); p != nil {
		f.options.Log.Error("panic while answering a request", "panic", p, "request_id", string(x.requestID), "stack", string(debug.Stack()))
		x.stream.abandon()
		_ = ctx.Response.CloseBodyStream()
		f.refuse(ctx, x, answer.Refusal{Reason: answer.Internal, Close: true})
		return // x may be held by whatever panicked: leave it to the garbage collector
	}
	if x.stream.conn == nil {
		f.release(x)
	}
}

// unreadable answers what fasthttp could not read as a request.
func (f *Front) unreadable(ctx *fasthttp.RequestCtx, err error) {
	x := f.acquire(ctx)
	x.requestID = f.requestIDs.append(x.requestID[:0])
	refusal := malformed("")
	var small *fasthttp.ErrSmallBuffer
	switch {
	case errors.As(err, &small):
		refusal = tooManyFields()
	case isTimeout(err):
		refusal.Status, refusal.Message = fasthttp.StatusRequestTimeout, "the request did not arrive in time"
	}
	f.settle(ctx, x, answer.Refuse(ctx, refusal, string(x.requestID), f.now()))
	f.release(x)
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

package proxy

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"runtime/debug"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
)

// exchange is one request and its answer. It is pooled; nothing in it outlives the
// request.
type exchange struct {
	front     *Front
	state     *state // of the settings that it began with
	client    *clientConn
	head      head
	route     *route // nil until one is found
	who       directory.Principal
	known     bool          // who is asking
	raw       []byte        // the token that says so; it aliases the head
	assertion string        // for the route's upstream; "": none
	named     named         // what it names of catalogs
	catalog   []byte        // the external ids that it may use of them, with a blank between; nil: none
	grant     Grant         // nil until one was needed
	tells     bool          // what grant says of this request is for its client
	shadow    answer.Reason // why it would be refused, and is not; "": it would not
	noted     string        // the message of that
	requestID []byte
	peer      netip.Addr // whose request it is: the client's address, as far as we know
	hop       netip.Addr // the other end of the connection, which may be a proxy's
	secure    bool       // the connection has TLS
	started   time.Time  // wall and monotonic

	path   []byte // scratch: the path as it was read
	moved  []byte // the path as it is forwarded, where the route rewrites it
	out    []byte // the upstream request's head, with content that fits the buffer behind it
	piece  []byte // scratch
	text   []byte // scratch
	stream answerStream
	taken  taken     // what it has of its upstream's pool; no endpoint: nothing
	socket handshake // where it asks to become a WebSocket

	ours     bool // a route of our own
	deciding bool // a gateway asks; head is what it asks about
	gateway  gateway
	asked    []byte // the method of its own request

	preflight      bool // of a route with CORS: it is answered here
	upstreamStatus int
	upstreamTook   time.Duration
	attempts       int
	endpoint       string // the one of the last attempt, as it is configured
	bytesOut       int64  // of the answer's content
	answered       bool   // the reason is settled and counted
	why            string // of a refusal: its message
	blamed         string // the client whose token was refused; "": nobody known

	meteredIn, meteredOut int64 // bytes of content that are counted already
}

func newExchange(f *Front) *exchange { return &exchange{front: f} }

func (f *Front) acquire(ctx *fasthttp.RequestCtx) *exchange { return f.begin(ctx.Conn().(*clientConn)) }

// begin begins the exchange whose head c has.
func (f *Front) begin(c *clientConn) *exchange {
	x := f.pool.Get().(*exchange)
	x.state = f.state.Load()
	x.started = f.now()
	x.client = c
	x.hop, x.secure = x.client.peer, x.client.secure
	x.peer = x.hop
	return x
}

func (f *Front) release(x *exchange) {
	x.head.reset()
	x.free()
	*x = exchange{
		front: f, head: x.head, requestID: x.requestID[:0], path: x.path[:0], moved: x.moved[:0],
		grant: x.grant, named: named{ids: x.named.ids[:0]}, text: x.text[:0],
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
	refusal, ok := f.judge(x)
	if ok {
		f.through(x)
	}
	switch {
	case x.deciding:
		f.decide(ctx, x, refusal, ok)
	case !ok:
		f.refuse(ctx, x, refusal)
	case x.ours:
		x.lend(ctx)
		f.settle(ctx, x, f.options.Issuer.Serve(ctx, string(x.requestID)))
	case x.preflight:
		f.preflight(ctx, x)
	default:
		f.forward(ctx, x)
	}
	f.finish(ctx, x)
}

// judge decides about a request from its head alone: nothing of the content was asked
// for yet (RFC 9110 §10.1.1). ok is false with what to answer.
func (f *Front) judge(x *exchange) (refusal answer.Refusal, ok bool) {
	h := &x.head
	h.reset()
	if fault := x.client.fault; fault != noFault {
		x.requestID = f.requestIDs.append(x.requestID[:0])
		return fault.refusal(), false
	}
	refusal, ok = h.check(x.client.head(), x.state)
	x.requestID = x.requestID[:0]
	if h.requestID != nil {
		x.requestID = append(x.requestID, h.requestID...)
	} else {
		x.requestID = f.requestIDs.append(x.requestID)
	}
	x.peer = trusted(x.state.TrustedProxies).client(x.peer, h.hops)
	if !ok {
		return refusal, false
	}
	if h.loops() {
		return loopDetected(), false
	}
	x.client.begin(h)
	x.ours = f.options.Issuer != nil && f.options.Issuer.Owns(h.path)
	if x.ours {
		return refusal, true
	}
	if x.state.decides(h.path) {
		if refusal, ok = f.original(x); !ok {
			return refusal, false
		}
	}
	if !x.deciding && f.findPreflight(x) {
		return refusal, true
	}
	if refusal, ok = f.findRoute(x, h.method); !ok {
		return refusal, false
	}
	if x.socket.asked = !x.deciding && x.asksWebSocket(); x.socket.asked {
		if refusal, ok = x.openSocket(); !ok {
			return refusal, false
		}
	}
	if x.route.Access == Public {
		return refusal, true
	}
	return f.permit(x)
}

// findRoute sets x.route, for a request with this method, and x.moved. An upstream may
// read an encoded slash as a slash, or drop path parameters; where such a reading would
// reach another route, one that looks at tokens or does not have the method, the request
// is refused.
func (f *Front) findRoute(x *exchange, method []byte) (refusal answer.Refusal, ok bool) {
	h := &x.head
	x.moved = x.moved[:0]
	path, isPlain := h.path, plain(h.path)
	if !isPlain {
		x.path = reading{}.read(x.path[:0], h.path)
		path = x.path
	}
	router := x.state.router
	rt, allowed, found := router.find(h.host, path, method)
	if !found {
		return answer.Refusal{Reason: answer.NotFound}, false
	}
	x.route = rt
	if !allowed {
		return answer.Refusal{Reason: answer.MethodNotAllowed, Allow: rt.allow}, false
	}
	if !rt.rewriting.none() && !x.deciding { // else the gateway forwards
		if x.moved, ok = rt.rewriting.rewrite(x.moved, h.path); !ok {
			return malformed("the request target is malformed or ambiguous"), false
		}
	}
	if isPlain {
		return refusal, true
	}
	for _, other := range []reading{{slashes: true}, {parameters: true}, {slashes: true, parameters: true}} {
		x.path = other.read(x.path[:0], h.path)
		alt, allowed, found := router.find(h.host, x.path, method)
		if found && alt != rt && (alt.Access != Public || !allowed) {
			return malformed("the request target is malformed or ambiguous"), false
		}
	}
	return refusal, true
}

// lend makes fasthttp's request of the one that was judged, for our own routes: fields
// in their order without what concerns this connection alone, content as it comes.
func (x *exchange) lend(ctx *fasthttp.RequestCtx) {
	h, req := &x.head, &ctx.Request
	req.Reset()
	req.Header.SetMethodBytes(h.method)
	req.SetRequestURIBytes(h.target)
	req.Header.SetHostBytes(h.host)
	_, lines, _ := bytes.Cut(x.client.head(), []byte("\r\n"))
	for {
		name, value, rest, ok := nextField(lines)
		if !ok || len(name) == 0 {
			break
		}
		lines = rest
		if k := x.state.classifier.classify(name); k == forwarded || k == authorizationKind {
			req.Header.AddBytesKV(name, value)
		}
	}
	switch {
	case h.chunked:
		req.SetBodyStream(contentReader{x.client}, -1)
	case h.contentLength > 0:
		req.SetBodyStream(contentReader{x.client}, int(h.contentLength))
	}
	ctx.SetRemoteAddr(net.TCPAddrFromAddrPort(netip.AddrPortFrom(x.peer, 0)))
}

// refuse answers with r and settles the exchange. Unless little content is left, it is
// not read: the connection is closed, so that it cannot be taken for a request.
func (f *Front) refuse(ctx *fasthttp.RequestCtx, x *exchange, r answer.Refusal) {
	reason := answer.Refuse(ctx, r, string(x.requestID), f.now())
	x.why = r.Message
	x.tellLimits(&ctx.Response.Header)
	x.allowScripts(&ctx.Response.Header)
	f.settle(ctx, x, reason)
}

// finish says what becomes of the connection after the answer.
func (f *Front) finish(ctx *fasthttp.RequestCtx, x *exchange) {
	b := &x.client.content
	unread := !b.ended && (b.chunked || b.expects || b.left > drained)
	if x.head.close || unread || f.draining.Load() {
		ctx.Response.SetConnectionClose()
	}
	if string(x.head.method) == fasthttp.MethodHead {
		ctx.Response.SkipBody = true
	}
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
		x.abandon()
		_ = ctx.Response.CloseBodyStream()
		f.refuse(ctx, x, answer.Refusal{Reason: answer.Internal, Close: true})
		f.finish(ctx, x)
		return // x may be held by whatever panicked: leave it to the garbage collector
	}
	if x.stream.conn == nil {
		f.release(x)
	}
}

func isTimeout(err error) bool {
	var timeout interface{ Timeout() bool }
	return errors.As(err, &timeout) && timeout.Timeout()
}

package proxy

import (
	"github.com/valyala/fasthttp"

	"postern/answer"
)

// findPreflight reports whether the request is a preflight of a route with CORS, and sets
// x.route to that of the request which it asks for. Any other is judged like any request.
func (f *Front) findPreflight(x *exchange) bool {
	method, is := preflightOf(&x.head)
	if !is {
		return false
	}
	if _, ok := f.findRoute(x, method); ok && x.route.cors != nil {
		x.preflight = true
		return true
	}
	return false
}

// preflight answers x, which is one.
func (f *Front) preflight(ctx *fasthttp.RequestCtx, x *exchange) {
	method, _ := preflightOf(&x.head)
	if refusal, ok := x.route.cors.preflight(&ctx.Response, &x.head, method); !ok {
		f.refuse(ctx, x, refusal)
		return
	}
	ctx.Response.Header.SetBytesV("X-Request-Id", x.requestID)
	f.settle(ctx, x, answer.OK)
}

// allowScripts makes an answer readable by scripts, where its route has CORS. A preflight
// that is refused allows nothing.
func (x *exchange) allowScripts(header *fasthttp.ResponseHeader) {
	switch {
	case x.route == nil || x.route.cors == nil:
	case x.preflight:
		varyByOrigin(header)
	default:
		x.route.cors.apply(header, &x.head)
	}
}

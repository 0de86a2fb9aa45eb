package proxy

import (
	"bytes"
	"strconv"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// The decision endpoint answers another gateway's question whether it may forward a
// request: nginx's auth_request, Traefik's ForwardAuth, Caddy's forward_auth, Envoy's
// ext_authz by HTTP. It is judged like a request that is to be forwarded, by the same code.

// gateway is how the one who asks tells of the original request.
type gateway uint8

const (
	forwardedFields gateway = iota // X-Forwarded-Method, -Host and -Uri: Traefik, Caddy
	originalFields                 // X-Original-Method, -Host and -URI: nginx, by the README's snippet
	pathPrefix                     // Envoy: the request itself, its path behind ours
)

// decides reports whether path is the decision endpoint's, or lies below it.
func (s *state) decides(path []byte) bool {
	own := s.DecisionPath
	return own != "" && len(path) >= len(own) && string(path[:len(own)]) == own && (len(path) == len(own) || path[len(own)] == '/')
}

// original puts the request that is asked about in the place of the one that asks. Whom
// nobody made a trusted proxy learns nothing: what he says of a request is no fact.
func (f *Front) original(x *exchange) (refusal answer.Refusal, ok bool) {
	if !trusted(x.state.TrustedProxies).has(x.hop) {
		return answer.Refusal{Reason: answer.NotFound}, false
	}
	x.deciding, x.asked = true, x.head.method
	if refusal, ok = x.readOriginal(); !ok {
		return refusal, false
	}
	if path := x.head.path; x.state.decides(path) || f.options.Issuer != nil && f.options.Issuer.Owns(path) {
		return answer.Refusal{Reason: answer.NotFound}, false // what is our own is asked for here, and nobody forwards it
	}
	return refusal, true
}

// readOriginal finds out what is asked about.
func (x *exchange) readOriginal() (refusal answer.Refusal, ok bool) {
	h := &x.head
	if own := len(x.state.DecisionPath); len(h.path) > own {
		x.gateway = pathPrefix
		h.target, h.path = h.target[own:], h.path[own:]
		return refusal, true
	}
	forwarded := h.quoted("x-forwarded-method", "x-forwarded-host", "x-forwarded-uri")
	original := h.quoted("x-original-method", "x-original-host", "x-original-uri")
	q := forwarded
	if original.fields > 0 {
		x.gateway, q = originalFields, original
		// Gateways pass on what their client says in the fields that they do not set. Whose
		// fields these are cannot be told, so they must not disagree.
		if len(forwarded.method) > 0 || len(forwarded.target) > 0 {
			return invalidQuestion("the original request is told twice"), false
		}
	}
	if q.fields != 3 || len(q.method) == 0 || len(q.host) == 0 || len(q.target) == 0 {
		return invalidQuestion("the original request is needed, each field once: X-Original-Method, -Host and -URI, or X-Forwarded-Method, -Host and -Uri"), false
	}
	return h.become(q, x.state.MaxTarget)
}

func invalidQuestion(message string) answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Message: message}
}

// quoted is a request as fields tell of it.
type quoted struct {
	method, host, target []byte
	fields               int // that told it; more than three: one of them twice
}

// quoted reads the fields of these names, in lower case.
func (h *head) quoted(method, host, target string) (q quoted) {
	for _, f := range h.hops {
		switch {
		case equalFold(f.name, method):
			q.method = f.value
		case equalFold(f.name, host):
			q.host = f.value
		case equalFold(f.name, target):
			q.target = f.value
		default:
			continue
		}
		q.fields++
	}
	return q
}

// become puts q in the place of the request, after the checks that h itself has passed.
func (h *head) become(q quoted, maxTarget int) (refusal answer.Refusal, ok bool) {
	for _, c := range q.method {
		if !tokenBytes[c] {
			return invalidQuestion("the original method is malformed"), false
		}
	}
	if !validHost(q.host) {
		return invalidQuestion("the original host is malformed"), false
	}
	if len(q.target) > maxTarget {
		return tooLong(), false
	}
	path, query, ok := checkTarget(q.target)
	if !ok {
		return malformed("the request target is malformed or ambiguous"), false
	}
	h.method, h.host, h.target, h.path, h.query = q.method, q.host, q.target, path, query
	return h.checkMethod()
}

// decide answers the gateway: the identity to stamp on the request, or the refusal.
func (f *Front) decide(ctx *fasthttp.RequestCtx, x *exchange, refusal answer.Refusal, ok bool) {
	x.head.method = x.asked // the answer is to the request that asks
	header := &ctx.Response.Header
	if !ok {
		refusal.Close = false // how this request was framed is not in doubt
		status := refusal.Status
		if status == 0 {
			status = refusal.Reason.Status()
		}
		if x.gateway == originalFields && status < 500 && status != fasthttp.StatusUnauthorized {
			refusal.Status = fasthttp.StatusForbidden // nginx makes 500 of everything else
		}
		reason := answer.Refuse(ctx, refusal, string(x.requestID), f.now())
		x.why = refusal.Message
		header.Set("X-Postern-Status", strconv.Itoa(status))
		header.Set("X-Postern-Reason", string(reason))
		x.tellLimits(header)
		f.settle(ctx, x, reason)
		return
	}
	ctx.Response.Reset() // so that it gets a Date of ours
	header.SetNoDefaultContentType(true)
	header.Set("Cache-Control", "no-store")
	header.SetBytesV("X-Request-Id", x.requestID)
	x.tellLimits(header)
	// The same lines that a forwarded request gets.
	x.out = x.appendIdentity(x.out[:0])
	for line := range bytes.Lines(x.out) {
		name, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte("\r\n")), []byte(": "))
		header.SetBytesKV(name, value)
	}
	f.settle(ctx, x, answer.OK)
}

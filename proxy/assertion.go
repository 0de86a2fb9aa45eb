package proxy

import "postern/answer"

// assertionField carries the assertion to the upstream. It is reserved on every route.
const assertionField = "X-Postern-Assertion"

// assert has the identity signed where the route's upstream wants it so. That it cannot
// be signed is our own fault.
func (f *Front) assert(x *exchange) (refusal answer.Refusal, ok bool) {
	if x.route.Assertion == nil || !x.known {
		return refusal, true
	}
	jws, err := f.options.Asserter.Assert(x.who, x.route.Assertion.Audience, x.started)
	if err != nil {
		f.options.Log.Debug("cannot sign an assertion", "error", err, "request_id", string(x.requestID))
		return answer.Refusal{Reason: answer.Unavailable}, false
	}
	x.assertion = jws
	return refusal, true
}

// appendIdentity writes who is asking, where that is known, and the catalogs that they
// may use of those they named: to the upstream, or to the gateway that will.
func (x *exchange) appendIdentity(dst []byte) []byte {
	if x.known {
		dst = x.state.stamps.append(dst, &x.who)
	}
	if len(x.catalog) > 0 {
		dst = append(append(dst, x.state.stamps.catalog...), x.catalog...)
		dst = append(dst, '\r', '\n')
	}
	if x.assertion != "" {
		dst = appendField(dst, assertionField+": ", x.assertion)
	}
	return dst
}

package proxy

import (
	"bytes"

	"postern/answer"
)

// bearer takes the one bearer token out of the head (RFC 6750 §2.1). ok is false with
// what to answer: no credentials of this scheme are 401 without an error code (§3.1);
// more than one, or a malformed one, is 400.
func (f *Front) bearer(x *exchange) (raw []byte, refusal answer.Refusal, ok bool) {
	h := &x.head
	if h.authorizations > 1 {
		return nil, x.invalidRequest("send one Authorization field"), false
	}
	if raw = x.socket.token; raw == nil {
		if raw, refusal, ok = x.authorization(); !ok {
			return nil, refusal, false
		}
	}
	if hasParameter(h.query, "access_token") { // RFC 6750 §2: one method in one request
		return nil, x.invalidRequest("send the access token in one place"), false
	}
	return raw, answer.Refusal{}, true
}

// authorization takes the token out of Authorization.
func (x *exchange) authorization() (raw []byte, refusal answer.Refusal, ok bool) {
	h := &x.head
	value := h.authorization
	scheme := 0
	for scheme < len(value) && tokenBytes[value[scheme]] {
		scheme++
	}
	if !equalFold(value[:scheme], "bearer") {
		return nil, answer.Refusal{Reason: answer.MissingToken, Challenge: x.challenge("")}, false
	}
	raw = bytes.TrimLeft(value[scheme:], " ")
	if len(raw) == len(value)-scheme || !oneToken(raw) {
		return nil, x.invalidRequest("send one access token: Authorization: Bearer <token>"), false
	}
	return raw, answer.Refusal{}, true
}

// oneToken reports whether raw is one b64token. A JWS in its JSON serialization is one
// token too, if not one that we take: that is the verifier's to say.
func oneToken(raw []byte) bool {
	if len(raw) == 0 {
		return false
	}
	if raw[0] == '{' {
		return true
	}
	for _, c := range raw {
		if !isAlphanumeric(c) && bytes.IndexByte([]byte("-._~+/="), c) < 0 {
			return false
		}
	}
	return true
}

func (x *exchange) invalidRequest(message string) answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Message: message,
		Challenge: x.challenge(`error="invalid_request", error_description="` + message + `"`)}
}

// challenge is the value of WWW-Authenticate. parameters come from our own closed sets.
func (x *exchange) challenge(parameters string) string {
	c := `Bearer realm="` + x.state.Realm + `"`
	if parameters != "" {
		c += ", " + parameters
	}
	return c
}

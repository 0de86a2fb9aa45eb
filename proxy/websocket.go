package proxy

import (
	"bytes"
	"crypto/sha1" // RFC 6455 §4.2.2 says so; nothing rests on it
	"encoding/base64"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// acceptSuffix is what the answer to a key is made with (RFC 6455 §1.3).
const acceptSuffix = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// handshake is a request to become a WebSocket (RFC 6455 §4.1), as far as the upstream's
// answer must fit it. Its slices alias the head.
type handshake struct {
	asked      bool
	key        []byte
	protocols  []byte // what is offered to the upstream: a list
	extensions [][]byte
	token      []byte // out of the query or a subprotocol; nil: there was none
}

// asksWebSocket reports whether the request is a valid handshake on a route that has
// WebSockets. With any other Upgrade, and without, it is a request like any: an upgrade
// may be ignored (RFC 9110 §7.8), and h2c always is (RFC 9113 §3.1).
func (x *exchange) asksWebSocket() bool {
	h := &x.head
	if !x.route.WebSocket.Enabled || h.upgrades != 1 || !h.upgrading || !equalFold(h.upgrade, "websocket") ||
		string(h.method) != fasthttp.MethodGet || h.http10 || h.chunked || h.contentLength > 0 {
		return false
	}
	keys, versions := 0, 0
	for _, f := range h.fields {
		switch {
		case equalFold(f.name, "sec-websocket-key"):
			keys++
			x.socket.key = f.value
		case equalFold(f.name, "sec-websocket-version"):
			versions++
			if string(f.value) != "13" {
				return false
			}
		case equalFold(f.name, "sec-websocket-extensions"):
			x.socket.extensions = append(x.socket.extensions, f.value)
		}
	}
	var nonce [18]byte
	n, err := base64.StdEncoding.Strict().Decode(nonce[:], x.socket.key[:min(len(x.socket.key), 24)])
	return keys == 1 && versions == 1 && len(x.socket.key) == 24 && err == nil && n == 16
}

// openSocket judges what is special about a handshake: whose page asks, and where the
// token is. A token outside Authorization is taken out of what is forwarded. ok is false
// with what to answer.
func (x *exchange) openSocket() (refusal answer.Refusal, ok bool) {
	o := &x.route.WebSocket
	if !x.head.allowsOrigin(o.Origins) {
		return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusForbidden, Message: "this origin is not allowed here"}, false
	}
	if x.route.Access == Public {
		o = &WebSocket{} // a token there is the upstream's
	}
	places := 0
	if o.Query != "" {
		token, n := x.head.takeParameter(o.Query)
		places += n
		x.socket.token = token
	}
	token, n, others := x.head.takeProtocols(o.Subprotocol)
	if places += n; n > 0 {
		x.socket.token = token
	}
	x.socket.protocols = others
	switch {
	case places == 0:
		return refusal, true
	case places > 1 || x.head.authorizations > 0:
		return x.invalidRequest("send the access token in one place"), false
	case !oneToken(x.socket.token):
		return x.invalidRequest("the access token is malformed"), false
	case n > 0 && len(others) == 0: // no browser takes an answer that selects none, and this one must not come back
		return x.invalidRequest("offer another subprotocol beside the one with the access token"), false
	}
	return refusal, true
}

// allowsOrigin reports whether a browser's page may open a WebSocket (RFC 6455 §10.2). What has
// no Origin is no browser.
func (h *head) allowsOrigin(origins []string) bool {
	if len(origins) == 0 {
		return true
	}
	origin, n := valueOf(h.fields, "origin")
	return n == 0 || n == 1 && slices.Contains(origins, string(origin))
}

// takeParameter takes the parameters of this name, however it is encoded, out of the
// target. It returns the last one's value as it was written, and how many there were.
func (h *head) takeParameter(name string) (value []byte, n int) {
	if !hasParameter(h.query, name) {
		return nil, 0
	}
	target := append(make([]byte, 0, len(h.target)), h.path...)
	for rest, mark := h.query, byte('?'); len(rest) > 0; {
		pair, separator := rest, byte('&')
		if i := bytes.IndexAny(rest, "&;"); i >= 0 {
			pair, separator, rest = rest[:i], rest[i], rest[i+1:]
		} else {
			rest = nil
		}
		if key, v, _ := bytes.Cut(pair, []byte{'='}); decodesTo(key, name) {
			value, n = v, n+1
			continue
		}
		target = append(append(target, mark), pair...)
		mark = separator
	}
	h.target, h.query = target, nil
	if len(target) > len(h.path) {
		h.query = target[len(h.path)+1:]
	}
	return value, n
}

// takeProtocols takes the subprotocols that carry a token out of those that are offered. It returns the last
// token, how many there were, and what is offered beside.
func (h *head) takeProtocols(prefix string) (token []byte, n int, others []byte) {
	for _, f := range h.fields {
		if !equalFold(f.name, "sec-websocket-protocol") {
			continue
		}
		for element := range bytes.SplitSeq(f.value, []byte{','}) {
			element = bytes.Trim(element, " \t")
			switch after, found := bytes.CutPrefix(element, []byte(prefix)); {
			case len(element) == 0:
			case prefix != "" && found:
				token, n = after, n+1
			default:
				if others != nil {
					others = append(others, ", "...)
				}
				others = append(others, element...)
			}
		}
	}
	if n > 0 { // else they are forwarded as they are
		h.fields = slices.DeleteFunc(h.fields, func(f field) bool { return equalFold(f.name, "sec-websocket-protocol") })
		h.fields = append(h.fields, field{[]byte("Sec-WebSocket-Protocol"), others})
	}
	return token, n, others
}

// accepts reports whether res, a 101, is the answer to the handshake (RFC 6455 §4.1): a
// cache's or another protocol's must not become a WebSocket.
func (s *handshake) accepts(res *fasthttp.ResponseHeader) bool {
	one := func(name string) (string, bool) {
		all := res.PeekAll(name)
		if len(all) != 1 {
			return "", false
		}
		return string(all[0]), true
	}
	upgrade, ok := one("Upgrade")
	if !ok || !strings.EqualFold(upgrade, "websocket") || !lists(res.PeekAll("Connection"), "upgrade") {
		return false
	}
	sum := sha1.Sum(append(bytes.Clone(s.key), acceptSuffix...))
	if accept, ok := one("Sec-WebSocket-Accept"); !ok || accept != base64.StdEncoding.EncodeToString(sum[:]) {
		return false
	}
	if protocols := res.PeekAll("Sec-WebSocket-Protocol"); len(protocols) > 0 {
		if len(protocols) > 1 || !slices.Contains(strings.Split(string(s.protocols), ", "), string(protocols[0])) || len(protocols[0]) == 0 {
			return false
		}
	}
	for _, value := range res.PeekAll("Sec-WebSocket-Extensions") {
		for extension := range strings.SplitSeq(string(value), ",") {
			if !lists(s.extensions, extensionName(extension)) {
				return false
			}
		}
	}
	return true
}

// lists reports whether one of the lists has an element of this name, without case.
func lists(values [][]byte, name string) bool {
	for _, value := range values {
		for element := range strings.SplitSeq(string(value), ",") {
			if strings.EqualFold(extensionName(element), name) {
				return true
			}
		}
	}
	return false
}

// extensionName is an element of a list without its parameters.
func extensionName(element string) string {
	name, _, _ := strings.Cut(element, ";")
	return strings.Trim(name, " \t")
}

package proxy

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// maxPosterns is how many times a request may have come through a postern before. Two in
// a row are usual; a loop has no end.
const maxPosterns = 8

// loops reports whether the request has come through posterns too often (RFC 9110
// §7.6.3). The entries of Via that name one are counted, whoever sent them, and always
// passed on: a loop's next hop is often a stranger to itself.
func (h *head) loops() bool { return h.posterns() > maxPosterns }

func (h *head) posterns() (n int) {
	for i := range h.hops {
		if !equalFold(h.hops[i].name, "via") {
			continue
		}
		for rest, more := h.hops[i].value, true; more; {
			var entry []byte
			if rest, entry, more = lastElement(rest); isPostern(entry) {
				n++
			}
		}
	}
	return n
}

// isPostern reports whether an entry of Via, "protocol received-by [comment]", names a postern.
func isPostern(entry []byte) bool {
	_, by, ok := bytes.Cut(entry, []byte{' '})
	by, _, _ = bytes.Cut(bytes.TrimLeft(by, " \t"), []byte{' '})
	return ok && equalFold(by, "postern")
}

func loopDetected() answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusLoopDetected,
		Message: "the request runs in a loop through postern", Close: true}
}

// appendForwarding writes what the upstream may know about the way that a request came. A
// trusted proxy is believed: what it says is kept, or appended to. Of anybody else
// nothing is passed on but how often the request came through posterns.
func appendForwarding(dst []byte, x *exchange, host []byte) []byte {
	var hops []field
	peer, scheme, forwardedHost := x.hop, "http", host
	if x.secure {
		scheme = "https"
	}
	ours := scheme
	if trusted(x.state.TrustedProxies).has(peer) {
		hops = x.head.hops
		if value, n := valueOf(hops, "x-forwarded-proto"); n == 1 && equalFold(value, "http") {
			scheme = "http"
		} else if n == 1 && equalFold(value, "https") {
			scheme = "https"
		}
		if value, n := valueOf(hops, "x-forwarded-host"); n == 1 && validHost(value) {
			forwardedHost = value
		}
	}
	dst = append(dst, "X-Forwarded-For: "...)
	dst = appendAddress(appendHops(dst, hops, "x-forwarded-for"), peer)
	dst = append(dst, "\r\nX-Forwarded-Proto: "...)
	dst = append(dst, scheme...)
	dst = append(dst, "\r\nX-Forwarded-Host: "...)
	dst = append(dst, forwardedHost...)
	dst = append(dst, "\r\nForwarded: "...)
	dst = appendForwardedElement(appendHops(dst, hops, "forwarded"), peer, host, ours)
	dst = append(dst, "\r\nVia: "...)
	if hops != nil {
		dst = appendHops(dst, hops, "via")
	} else {
		for range x.head.posterns() {
			dst = append(dst, "1.1 postern, "...)
		}
	}
	dst = append(dst, "1.1 postern\r\nX-Request-Id: "...)
	dst = append(dst, x.requestID...)
	return append(dst, '\r', '\n')
}

// appendForwardedElement writes our own element (RFC 7239 §4); an IPv6 address is
// bracketed and quoted (§6).
func appendForwardedElement(dst []byte, peer netip.Addr, host []byte, scheme string) []byte {
	dst = append(dst, "for="...)
	if peer.Is6() {
		dst = append(dst, '"', '[')
		dst = appendAddress(dst, peer)
		dst = append(dst, ']', '"')
	} else {
		dst = appendAddress(dst, peer)
	}
	dst = append(dst, `;host="`...)
	dst = append(dst, host...)
	dst = append(dst, `";proto=`...)
	return append(dst, scheme...)
}

// appendHops joins the lines of a list field and leaves room for another element (RFC
// 9110 §5.3).
func appendHops(dst []byte, hops []field, name string) []byte {
	for i := range hops {
		if value := bytes.Trim(hops[i].value, ", \t"); len(value) > 0 && equalFold(hops[i].name, name) {
			dst = append(dst, value...)
			dst = append(dst, ", "...)
		}
	}
	return dst
}

// dropBadTrace takes traceparent and tracestate out of what is forwarded unless there is
// one well-formed traceparent (W3C Trace Context §3.2.2, §3.3). Nobody need be trusted to
// have sent them: they name a trace, and no more.
func (h *head) dropBadTrace() {
	if value, n := valueOf(h.fields, "traceparent"); n == 1 && validTraceparent(string(value)) {
		return
	}
	h.fields = slices.DeleteFunc(h.fields, func(f field) bool {
		return equalFold(f.name, "traceparent") || equalFold(f.name, "tracestate")
	})
}

// validTraceparent checks "version-traceid-parentid-flags". A later version may have more
// behind it.
func validTraceparent(value string) bool {
	const shape = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(value) < len(shape) {
		return false
	}
	for i := range shape {
		c := value[i]
		if shape[i] == '-' && c != '-' || shape[i] != '-' && !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	version, trace, parent, rest := value[:2], value[3:35], value[36:52], value[len(shape):]
	return version != "ff" && strings.Trim(trace, "0") != "" && strings.Trim(parent, "0") != "" &&
		(rest == "" || version != "00" && rest[0] == '-')
}

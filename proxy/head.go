package proxy

import (
	"bytes"
	"strings"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// maxNominated is how many field names Connection may nominate.
const maxNominated = 32

// field is one field line, aliasing the raw head.
type field struct{ name, value []byte }

// head is a request's head after the strict check: what may be forwarded, and what we
// have to know. All slices alias the connection's buffer and are good for one request.
type head struct {
	method    []byte
	target    []byte // origin-form: path and query as they came
	path      []byte
	query     []byte
	host      []byte // of the target in absolute-form, else of Host; empty in HTTP/1.0 without either
	fields    []field
	nominated []field // names that Connection nominated; value is unused
	hops      []field // what a trusted proxy, or a gateway that asks for a decision, may have said

	authorization  []byte
	authorizations int
	requestID      []byte
	upgrade        []byte // the value of Upgrade; its presence alone means nothing
	upgrades       int
	contentLength  int64 // of the content; absent or chunked below
	hasLength      bool
	chunked        bool
	expects        bool // 100-continue
	http10         bool
	close          bool // the connection ends with this request (RFC 9112 §9.3)
	keepAlive      bool
	upgrading      bool // Connection nominates Upgrade
}

func (h *head) reset() {
	*h = head{fields: h.fields[:0], nominated: h.nominated[:0], hops: h.hops[:0]}
}

// malformed is the refusal of a head that has more than one reading. The connection is
// closed: where the next request begins is not known.
func malformed(message string) answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Message: message, Close: true}
}

// check reads a head with all its lines, strictly. ok is false with what to answer.
func (h *head) check(raw []byte, s *state) (refusal answer.Refusal, ok bool) {
	line, raw, _ := bytes.Cut(raw, []byte("\r\n"))
	version, lineOK := h.requestLine(line)
	// Then the fields, so that the request id is known to whatever refusal follows.
	refusal, ok = h.checkFields(raw, s.MaxFields, s.classifier)
	switch {
	case !lineOK:
		return malformed("the request line is malformed"), false
	case len(h.target) > s.MaxTarget:
		return tooLong(), false
	case !ok:
		return refusal, false
	}
	switch string(version) {
	case "HTTP/1.1":
		if len(h.host) == 0 {
			return malformed("the request needs one valid Host field"), false
		}
	case "HTTP/1.0":
		if h.chunked {
			return malformed("HTTP/1.0 has no Transfer-Encoding"), false
		}
		h.http10, h.close = true, h.close || !h.keepAlive
	default:
		return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusHTTPVersionNotSupported,
			Message: "use HTTP/1.1", Close: true}, false
	}
	if refusal, ok = h.checkMethod(); !ok {
		return refusal, false
	}
	return h.checkTarget()
}

// checkMethod refuses what no route can have.
func (h *head) checkMethod() (refusal answer.Refusal, ok bool) {
	switch string(h.method) {
	case "CONNECT":
		return answer.Refusal{Reason: answer.MethodNotAllowed, Status: fasthttp.StatusNotImplemented,
			Message: "this method is not implemented", Close: true}, false
	case "TRACE":
		return answer.Refusal{Reason: answer.MethodNotAllowed, Allow: "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS", Close: true}, false
	}
	return refusal, true
}

// requestLine reads "method SP request-target SP HTTP-version" (RFC 9112 §3), with one
// space and nothing else between them.
func (h *head) requestLine(line []byte) (version []byte, ok bool) {
	method, rest, found := bytes.Cut(line, []byte{' '})
	target, version, found2 := bytes.Cut(rest, []byte{' '})
	if !found || !found2 || len(method) == 0 || len(target) == 0 || len(version) != len("HTTP/1.1") ||
		string(version[:5]) != "HTTP/" || version[6] != '.' || !isDigit(version[5]) || !isDigit(version[7]) {
		return nil, false
	}
	for _, c := range method {
		if !tokenBytes[c] {
			return nil, false
		}
	}
	for _, c := range target {
		if c < ' ' || c == 0x7f { // no more: which other bytes it must not have, checkTarget says
			return nil, false
		}
	}
	h.method, h.target = method, target
	return version, true
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func tooLong() answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusRequestURITooLong,
		Message: "the request target is too long", Close: true}
}

// refusal is what to answer where there is no head.
func (f headFault) refusal() answer.Refusal {
	switch f {
	case lateHead:
		return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusRequestTimeout,
			Message: "the request did not arrive in time", Close: true}
	case longTarget:
		return tooLong()
	case largeHead:
		return tooManyFields()
	}
	return malformed("a line of the request's head does not end in CRLF")
}

func tooManyFields() answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusRequestHeaderFieldsTooLarge,
		Message: "the request's head is too large", Close: true}
}

// checkTarget brings an absolute-form target to origin-form (its host wins, RFC 9112
// §3.2.2) and splits it.
func (h *head) checkTarget() (refusal answer.Refusal, ok bool) {
	if h.target[0] != '/' {
		scheme, rest, found := bytes.Cut(h.target, []byte("://"))
		if !found || !equalFold(scheme, "http") && !equalFold(scheme, "https") {
			return malformed("the request target is malformed"), false
		}
		end := bytes.IndexAny(rest, "/?#")
		if end < 0 {
			end = len(rest)
		}
		h.host = rest[:end]
		if !validHost(h.host) {
			return malformed("the host of the request target is malformed"), false
		}
		if end == len(rest) {
			h.target = []byte{'/'}
		} else {
			h.target = rest[end:]
		}
	}
	if h.path, h.query, ok = checkTarget(h.target); !ok {
		return malformed("the request target is malformed or ambiguous"), false
	}
	return refusal, true
}

// checkFields walks the raw field lines. Each must end in CRLF and be name ":" value
// with a token for a name (RFC 9110 §5.1), no control characters in the value (§5.5)
// and no folding (RFC 9112 §5.2).
func (h *head) checkFields(raw []byte, maxFields int, c *classifier) (refusal answer.Refusal, ok bool) {
	hosts, encodings, lengths, ids, count, traced := 0, 0, 0, 0, 0, false
	for len(raw) > 0 {
		name, value, rest, ok := nextField(raw)
		if !ok {
			return malformed("a field line is malformed"), false
		}
		raw = rest
		if len(name) == 0 { // the empty line
			if len(raw) > 0 {
				return malformed("a field line is malformed"), false
			}
			break
		}
		if count++; count > maxFields {
			return tooManyFields(), false
		}
		switch c.classify(name) {
		case forwarded:
			h.fields = append(h.fields, field{name, value})
		case hostKind:
			if hosts++; hosts > 1 || !validHost(value) {
				return malformed("the request needs one valid Host field"), false
			}
			h.host = value
		case connectionKind:
			if !h.nominate(value) {
				return malformed("Connection nominates too many fields"), false
			}
		case lengthKind:
			n, valid := parseLength(value)
			if lengths++; lengths > 1 || !valid {
				return malformed("Content-Length is malformed"), false
			}
			h.contentLength, h.hasLength = n, true
		case encodingKind:
			if encodings++; encodings > 1 || !equalFold(value, "chunked") {
				return malformed("Transfer-Encoding is malformed"), false
			}
			h.chunked = true
		case authorizationKind:
			h.authorizations++
			h.authorization = value
		case expectKind:
			if !equalFold(value, "100-continue") {
				return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusExpectationFailed,
					Message: "the expectation cannot be met", Close: true}, false
			}
			h.expects = true
		case requestIDKind:
			if ids++; ids == 1 && saneID(value) {
				h.requestID = value
			}
		case upgradeKind:
			h.upgrades++
			h.upgrade = value
		case traceKind:
			h.fields = append(h.fields, field{name, value})
			traced = true
		case hopKind:
			h.hops = append(h.hops, field{name, value})
		case dropped:
		}
	}
	if h.chunked && h.hasLength { // RFC 9112 §6.3
		return malformed("Content-Length and Transfer-Encoding exclude each other"), false
	}
	h.dropNominated()
	if traced {
		h.dropBadTrace()
	}
	return refusal, true
}

// nextField cuts the first field line off raw. An empty name means the empty line.
func nextField(raw []byte) (name, value, rest []byte, ok bool) {
	end := bytes.IndexByte(raw, '\n')
	if end < 1 || raw[end-1] != '\r' {
		return nil, nil, nil, false
	}
	line, rest := raw[:end-1], raw[end+1:]
	if len(line) == 0 {
		return nil, nil, rest, true
	}
	colon := 0
	for colon < len(line) && tokenBytes[line[colon]] {
		colon++
	}
	if colon == 0 || colon == len(line) || line[colon] != ':' {
		return nil, nil, nil, false
	}
	value = bytes.Trim(line[colon+1:], " \t")
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return nil, nil, nil, false
		}
	}
	return line[:colon], value, rest, true
}

// tokenBytes are the bytes of a token (RFC 9110 §5.6.2).
var tokenBytes = func() (table [256]bool) {
	for c := range table {
		table[c] = isAlphanumeric(byte(c)) || strings.IndexByte("!#$%&'*+-.^_`|~", byte(c)) >= 0
	}
	return table
}()

// nominate notes the field names in a Connection value (RFC 9110 §7.6.1).
func (h *head) nominate(value []byte) bool {
	for len(value) > 0 {
		var option []byte
		option, value, _ = bytes.Cut(value, []byte{','})
		option = bytes.Trim(option, " \t")
		switch {
		case len(option) == 0:
			continue
		case equalFold(option, "close"):
			h.close = true
			continue
		case equalFold(option, "keep-alive"):
			h.keepAlive = true
			continue
		case equalFold(option, "upgrade"):
			h.upgrading = true
			continue
		}
		if len(h.nominated) == maxNominated {
			return false
		}
		h.nominated = append(h.nominated, field{name: option})
	}
	return true
}

// dropNominated takes the nominated fields out of what is forwarded. Ours are not among
// them: they are added later.
func (h *head) dropNominated() {
	if len(h.nominated) == 0 {
		return
	}
	kept := h.fields[:0]
	for _, f := range h.fields {
		nominated := false
		for _, n := range h.nominated {
			nominated = nominated || bytes.EqualFold(f.name, n.name)
		}
		if !nominated {
			kept = append(kept, f)
		}
	}
	h.fields = kept
}

// valueOf returns the last value of a field, whose name is given in lower case, and how
// many lines have it.
func valueOf(fields []field, name string) (value []byte, n int) {
	for i := range fields {
		if equalFold(fields[i].name, name) {
			value = fields[i].value
			n++
		}
	}
	return value, n
}

// parseLength reads a Content-Length: digits only (RFC 9110 §8.6).
func parseLength(value []byte) (n int64, ok bool) {
	if len(value) == 0 || len(value) > 18 {
		return 0, false
	}
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// saneID reports whether a client's request id may be kept: it is written to logs and
// into our own JSON without escaping.
func saneID(value []byte) bool {
	if len(value) == 0 || len(value) > 128 {
		return false
	}
	for _, c := range value {
		if !isAlphanumeric(c) && c != '-' && c != '.' && c != '_' && c != '~' {
			return false
		}
	}
	return true
}

package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"github.com/valyala/fasthttp"
)

// maxInterim is how many 1xx answers an upstream may send before the final one, each with
// a head like any answer's.
const maxInterim = 20

// interim passes on the interim answer that is next in c's buffer, and takes it out.
func (c *upstreamConn) interim(n answerHeadInfo) error {
	if c.interims++; c.interims > maxInterim {
		return fmt.Errorf("%w: more than %d interim ones", errAnswer, maxInterim)
	}
	raw, err := c.reader.Peek(n.size)
	if err != nil {
		return err
	}
	begun := time.Now()
	if err = c.x.passOn(&n, raw); err != nil {
		return err
	}
	c.until = c.until.Add(time.Since(begun)) // a client that is slow to take it is not the upstream's fault
	_, err = c.reader.Discard(n.size)
	return err
}

// passInterim passes an answer on that came while content was sent, if it is an interim
// one. Else it is errAnswered.
func (c *upstreamConn) passInterim(raw []byte) error {
	n, _, err := parseAnswerHead(raw, nil)
	if err != nil || n.status >= 200 || n.status == fasthttp.StatusSwitchingProtocols {
		return errAnswered
	}
	if err = c.interim(n); err != nil && !errors.Is(err, errGone) {
		return errAnswered
	}
	return err
}

// beginsInterim reports whether raw, a part of a head, may be one of an interim answer.
func beginsInterim(raw []byte) bool {
	const line = "HTTP/1.1 1"
	n := min(len(raw), len(line))
	return string(raw[:n]) == line[:n] && !bareLF(raw)
}

// passOn writes an interim answer to the client (RFC 9110 §15.2), ahead of whatever is
// answered in the end: nothing of that has begun yet. Not a byte of it is the upstream's
// framing: a 1xx has no content, whatever its fields say (RFC 9112 §6.3). "100 Continue"
// is ours to say, when we want the content, and HTTP/1.0 has no 1xx.
func (x *exchange) passOn(n *answerHeadInfo, raw []byte) error {
	if n.status == fasthttp.StatusContinue || x.head.http10 {
		return nil
	}
	line, fields, _ := bytes.Cut(raw, []byte("\r\n"))
	status, reason := line[len("HTTP/1.1 "):len("HTTP/1.1 103")], bytes.TrimPrefix(line[len("HTTP/1.1 103"):], []byte{' '})
	out := append(make([]byte, 0, len(raw)+64), "HTTP/1.1 "...)
	out = append(append(append(out, status...), ' '), reason...)
	out = append(out, "\r\n"...)
	limited := x.limited()
	for {
		name, value, rest, ok := nextField(fields)
		if !ok || len(name) == 0 { // it was read before: this is the empty line
			break
		}
		if fields = rest; n.drops(name) || x.replaces(name, limited) {
			continue
		}
		out = append(fasthttp.AppendNormalizedHeaderKeyBytes(out, name), ": "...)
		out = append(append(out, value...), "\r\n"...)
	}
	if _, err := x.client.Write(append(out, "\r\n"...)); err != nil {
		return fmt.Errorf("%w: pass an interim answer on: %w", errGone, err)
	}
	return nil
}

// drops reports whether a field of an interim answer is no matter of the next hop.
func (n *answerHeadInfo) drops(name []byte) bool {
	if equalFold(name, "content-length") || equalFold(name, "transfer-encoding") {
		return true
	}
	for _, dropped := range n.drop {
		if bytes.EqualFold(name, []byte(dropped)) {
			return true
		}
	}
	return false
}

// replaces reports whether the upstream's field of this name is taken out of the final
// answer, too. What stands in its place is said there, once.
func (x *exchange) replaces(name []byte, limited bool) bool {
	return x.route.response.drops(name) ||
		limited && (equalFold(name, "ratelimit") || equalFold(name, "ratelimit-policy")) ||
		x.route.cors != nil && isCORS(name)
}

// oneLine reports whether text has no control character.
func oneLine(text []byte) bool {
	for _, c := range text {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

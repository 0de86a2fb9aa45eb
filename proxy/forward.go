package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// errClient marks a failure to read the request's content: the client's fault.
var errClient = errors.New("cannot read the request's content")

// errAnswer marks an answer that cannot be passed on.
var errAnswer = errors.New("the upstream's answer is malformed")

// forward sends the judged request to its upstream and passes the answer on.
func (f *Front) forward(ctx *fasthttp.RequestCtx, x *exchange) {
	who := &x.who
	if x.route.Access != Client {
		who = nil
	}
	x.out = f.upstreamHead(x.out[:0], x, who)
	if err := f.readContent(ctx, x); err != nil {
		f.refuse(ctx, x, f.failed(err))
		return
	}
	begun := time.Now()
	err := f.send(ctx, x)
	x.upstreamTook = time.Since(begun)
	if err != nil {
		f.options.Log.Debug("cannot forward", "error", err, "route", x.route.Name, "request_id", string(x.requestID))
		f.refuse(ctx, x, f.failed(err))
		return
	}
	if x.stream.conn == nil { // else the end of the stream settles it
		f.settle(ctx, x, answer.OK)
	}
}

// failed says what to answer when the exchange with the upstream failed.
func (f *Front) failed(err error) answer.Refusal {
	switch {
	case errors.Is(err, errClient) && isTimeout(err):
		return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusRequestTimeout,
			Message: "the request did not arrive in time", Close: true}
	case errors.Is(err, errClient):
		return malformed("the request's content is malformed")
	case isTimeout(err):
		return answer.Refusal{Reason: answer.UpstreamTimeout}
	}
	return answer.Refusal{Reason: answer.UpstreamFailed}
}

// send does one exchange with the upstream. A kept connection that turns out to be closed is
// replaced once where that cannot repeat an effect (RFC 9110 §9.2.2): a safe method
// without content, and not a byte of an answer.
func (f *Front) send(ctx *fasthttp.RequestCtx, x *exchange) error {
	for fresh := false; ; fresh = true {
		c, reused, err := x.route.upstream.take(fresh, x.route.Timeout)
		if err != nil {
			return fmt.Errorf("connect to the upstream: %w", err)
		}
		began, err := f.once(ctx, x, c)
		if err == nil {
			return nil
		}
		_ = c.Close()
		if fresh || !reused || began || !x.repeatable() || isTimeout(err) {
			return err
		}
	}
}

func (x *exchange) repeatable() bool {
	if x.head.chunked || x.head.contentLength > 0 {
		return false
	}
	switch string(x.head.method) {
	case "GET", "HEAD", "OPTIONS":
		return true
	}
	return false
}

// once sends the request on c and reads the answer's head. began reports whether
// anything of an answer came. When it returns nil, c is kept, closed or streaming.
func (f *Front) once(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn) (began bool, err error) {
	if err = c.SetDeadline(time.Now().Add(x.route.Timeout)); err != nil {
		return false, err
	}
	if _, err = c.Write(x.out); err == nil && x.streams() {
		err = f.sendContent(ctx, x, c)
	}
	if errors.Is(err, errClient) {
		return false, err
	}
	// An upstream may answer and close before it has read everything: what it said is
	// worth more than our failure to write.
	wrote := err
	if wrote != nil {
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return false, wrote
		}
	}
	for range maxInterim {
		n, keep, err := readAnswerHead(c, x.stream.names[:0])
		if err != nil {
			if wrote != nil && !errors.Is(err, errAnswer) {
				err = wrote
			}
			return c.reader.Buffered() > 0, fmt.Errorf("read the upstream's answer: %w", err)
		}
		if n.status >= 200 {
			return true, f.answer(ctx, x, c, n, keep && wrote == nil)
		}
		if n.status == fasthttp.StatusSwitchingProtocols {
			return true, errAnswer // nobody asked
		}
		if _, err := c.reader.Discard(n.size); err != nil { // 1xx: not passed on
			return true, err
		}
	}
	return true, fmt.Errorf("%w: more than %d interim ones", errAnswer, maxInterim)
}

// maxInterim is how many 1xx answers may come before the final one.
const maxInterim = 20

// answer passes the upstream's answer on, whose head is next in c's buffer.
func (f *Front) answer(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn, n answerHeadInfo, keep bool) error {
	res := &ctx.Response
	x.stream.names = n.drop
	if err := res.Header.Read(c.reader); err != nil {
		res.Reset()
		return fmt.Errorf("%w: %w", errAnswer, err)
	}
	for _, name := range x.stream.names {
		res.Header.Del(name)
	}
	res.Header.ResetConnectionClose()
	if n.http10 {
		res.Header.SetProtocol([]byte("HTTP/1.1"))
	}
	http11 := ctx.Request.Header.IsHTTP11()
	if !http11 {
		res.Header.Del("Transfer-Encoding") // unknown there (RFC 9112 §6.1)
	}
	x.upstreamStatus = n.status
	c.between = x.route.Timeout
	noContent := string(x.head.method) == "HEAD" || n.status == 204 || n.status == 304
	switch {
	case noContent || n.hasLength && n.length == 0:
		f.done(x, c, keep)
		return nil
	case n.hasLength && n.length <= int64(f.options.Buffer):
		if err := readWhole(res, c, int(n.length)); err != nil {
			res.Reset()
			return fmt.Errorf("read the upstream's content: %w", err)
		}
		f.done(x, c, keep)
		return nil
	}
	x.stream.begin(ctx, x, c, n, keep)
	size := -1
	if n.hasLength {
		size = int(n.length)
	}
	res.SetBodyStream(&x.stream, size)
	res.ImmediateHeaderFlush = true // and what comes first is not held back until more comes
	if !n.hasLength && !http11 {
		x.stream.toHTTP10(res)
	}
	return nil
}

// done gives c back, or closes it.
func (f *Front) done(x *exchange, c *upstreamConn, keep bool) {
	if keep {
		x.route.upstream.put(c)
		return
	}
	_ = c.Close()
}

// readWhole reads n bytes of content into res.
func readWhole(res *fasthttp.Response, c *upstreamConn, n int) error {
	body := res.SwapBody(nil)
	if cap(body) < n {
		body = make([]byte, n)
	}
	body = body[:n]
	_, err := io.ReadFull(c.reader, body)
	res.SwapBody(body)
	return err
}

// answerHeadInfo is what a strict look at an answer's head says. drop holds the names
// of fields that are not passed on.
type answerHeadInfo struct {
	status    int
	size      int // of the head, in bytes
	http10    bool
	chunked   bool
	hasLength bool
	length    int64
	drop      []string
}

// readAnswerHead waits for a whole head and looks at it strictly, without consuming it.
// keep reports whether the connection may serve another request; names is scratch.
func readAnswerHead(c *upstreamConn, names []string) (n answerHeadInfo, keep bool, err error) {
	for want := 1; ; want = c.reader.Buffered() + 1 {
		if want > c.reader.Size() {
			return n, false, fmt.Errorf("%w: its head is larger than %d bytes", errAnswer, c.reader.Size())
		}
		if _, err = c.reader.Peek(want); err != nil {
			return n, false, err
		}
		raw, _ := c.reader.Peek(c.reader.Buffered())
		end := bytes.Index(raw, []byte("\r\n\r\n"))
		if end < 0 {
			if bareLF(raw) { // it would never end for us
				return n, false, errAnswer
			}
			continue
		}
		return parseAnswerHead(raw[:end+4], names)
	}
}

// bareLF reports whether a line of raw ends in LF alone.
func bareLF(raw []byte) bool {
	for from := 0; ; {
		i := bytes.IndexByte(raw[from:], '\n')
		if i < 0 {
			return false
		}
		if from += i + 1; from < 2 || raw[from-2] != '\r' {
			return true
		}
	}
}

func parseAnswerHead(raw []byte, names []string) (n answerHeadInfo, keep bool, err error) {
	n.size, n.drop = len(raw), names
	end := bytes.IndexByte(raw, '\n')
	line := raw[:end]
	if len(line) < len("HTTP/1.1 200\r") || line[len(line)-1] != '\r' {
		return n, false, errAnswer
	}
	switch string(line[:len("HTTP/1.1 ")]) {
	case "HTTP/1.1 ":
		keep = true
	case "HTTP/1.0 ":
		n.http10 = true
	default:
		return n, false, errAnswer
	}
	status := line[len("HTTP/1.1 ") : len("HTTP/1.1 ")+3]
	for _, c := range status {
		if c < '0' || c > '9' {
			return n, false, errAnswer
		}
		n.status = n.status*10 + int(c-'0')
	}
	if after := line[len("HTTP/1.1 200")]; n.status < 100 || after != ' ' && after != '\r' {
		return n, false, errAnswer
	}
	keep, ok := n.fields(raw[end+1:], keep)
	if !ok || n.chunked && n.hasLength || n.http10 && n.chunked {
		return n, false, errAnswer
	}
	if !n.chunked && !n.hasLength && n.status != 204 && n.status != 304 {
		keep = false // the content ends with the connection
	}
	return n, keep, nil
}

// fields walks the field lines of an answer. ok is false when they have no single reading.
func (n *answerHeadInfo) fields(raw []byte, keep bool) (_, ok bool) {
	for {
		name, value, rest, ok := nextField(raw)
		if !ok {
			return false, false
		}
		if len(name) == 0 {
			return keep, true
		}
		raw = rest
		switch len(name) { // the lengths of the names below: most fields are none of them
		case 2, 7, 10, 14, 16, 17, 18:
		default:
			continue
		}
		switch {
		case equalFold(name, "content-length"):
			length, valid := parseLength(value)
			if !valid || n.hasLength {
				return false, false
			}
			n.length, n.hasLength = length, true
		case equalFold(name, "transfer-encoding"):
			if n.chunked || !equalFold(value, "chunked") {
				return false, false
			}
			n.chunked = true
		case equalFold(name, "connection"):
			keep = n.connection(value, keep)
		default:
			for _, hop := range [...]string{"keep-alive", "trailer", "te", "upgrade", "proxy-connection", "proxy-authenticate"} {
				if equalFold(name, hop) {
					n.drop = append(n.drop, hop)
				}
			}
		}
	}
}

// connection reads a Connection field of an answer: close, and nominated fields.
func (n *answerHeadInfo) connection(value []byte, keep bool) bool {
	n.drop = append(n.drop, "Connection")
	for len(value) > 0 {
		var option []byte
		option, value, _ = bytes.Cut(value, []byte{','})
		option = bytes.Trim(option, " \t")
		switch {
		case equalFold(option, "close"):
			keep = false
		case equalFold(option, "keep-alive"), len(option) == 0:
		case equalFold(option, "content-length"), equalFold(option, "transfer-encoding"):
			// Framing is ours to say anyway; deleting it here would unframe the answer.
		default:
			n.drop = append(n.drop, string(option))
		}
	}
	return keep
}

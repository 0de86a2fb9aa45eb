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
	if refusal, ok := x.announced(); !ok {
		f.refuse(ctx, x, refusal)
		return
	}
	x.out = x.upstreamHead(x.out[:0])
	if err := x.readContent(); err != nil {
		f.refuse(ctx, x, failed(err))
		return
	}
	begun := time.Now()
	err := f.send(ctx, x)
	x.upstreamTook = time.Since(begun)
	if err != nil {
		f.options.Log.Debug("cannot forward", "error", err, "route", x.route.Name, "request_id", string(x.requestID))
		f.refuse(ctx, x, failed(err))
		return
	}
	if x.stream.conn == nil { // else the end of the stream settles it
		f.settle(ctx, x, answer.OK)
	}
}

// announced refuses content that says to be larger than the route takes.
func (x *exchange) announced() (refusal answer.Refusal, ok bool) {
	if x.route.MaxBody > 0 && x.head.contentLength > x.route.MaxBody {
		return answer.Refusal{Reason: answer.TooLarge}, false
	}
	return refusal, true
}

// failed says what to answer when the exchange with the upstream failed.
func failed(err error) answer.Refusal {
	switch {
	case errors.Is(err, errTooMuch):
		return answer.Refusal{Reason: answer.TooLarge, Close: true}
	case errors.Is(err, errClient) && isTimeout(err):
		return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusRequestTimeout,
			Message: "the request did not arrive in time", Close: true}
	case errors.Is(err, errClient):
		return malformed("the request's content is malformed")
	case errors.Is(err, errGone): // nobody reads it; the record says why there was no answer
		return answer.Refusal{Reason: answer.InvalidRequest, Status: statusClientGone, Message: "the client has gone", Close: true}
	case ownFault(err):
		return answer.Refusal{Reason: answer.Unavailable}
	case isTimeout(err):
		return answer.Refusal{Reason: answer.UpstreamTimeout}
	}
	return answer.Refusal{Reason: answer.UpstreamFailed}
}

// statusClientGone is nginx's status for a client that left before the answer; it is seen
// in records only.
const statusClientGone = 499

// once sends the request on c and reads the answer's head. began reports whether
// anything of an answer came. When it returns nil, c is kept, closed or streaming.
func (f *Front) once(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn) (began bool, err error) {
	c.begin(x, x.route.Timeout)
	if err = c.send(x.out, x.route.Timeout); err == nil && x.streams() {
		err = x.sendContent(c)
	}
	if errors.Is(err, errClient) || errors.Is(err, errGone) {
		return false, err
	}
	// An upstream may answer and close before it has read everything: what it said is
	// worth more than our failure to write.
	wrote := err
	if c.allow(x.route.Timeout); wrote != nil && !errors.Is(wrote, errAnswered) {
		c.allow(min(time.Second, x.route.Timeout))
	}
	for {
		n, keep, err := readAnswerHead(c, x.stream.names[:0])
		if err != nil {
			if wrote != nil && !errors.Is(err, errAnswer) && !errors.Is(wrote, errAnswered) {
				err = wrote
			}
			return c.interims > 0 || c.reader.Buffered() > 0, fmt.Errorf("read the upstream's answer: %w", err)
		}
		if n.status >= 200 {
			return true, f.answer(ctx, x, c, n, keep && wrote == nil)
		}
		if n.status == fasthttp.StatusSwitchingProtocols {
			return true, f.upgrade(ctx, x, c, n)
		}
		if errors.Is(wrote, errAnswered) { // it was an interim answer only, and content is missing
			return true, fmt.Errorf("%w: an interim one came before all content was sent", errAnswer)
		}
		if err := c.interim(n); err != nil {
			return true, err
		}
	}
}

// answer passes the upstream's answer on, whose head is next in c's buffer.
func (f *Front) answer(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn, n answerHeadInfo, keep bool) error {
	res := &ctx.Response
	x.stream.names = n.drop
	if err := res.Header.Read(c.reader); err != nil {
		res.Reset()
		return errAnswer // fasthttp's error quotes the head, with the cookies in it
	}
	for _, name := range x.stream.names {
		res.Header.Del(name)
	}
	x.tellLimits(&res.Header)
	x.route.response.apply(&res.Header)
	x.allowScripts(&res.Header)
	res.Header.ResetConnectionClose()
	if n.http10 {
		res.Header.SetProtocol([]byte("HTTP/1.1"))
	}
	if x.head.http10 {
		res.Header.Del("Transfer-Encoding") // unknown there (RFC 9112 §6.1)
	}
	x.upstreamStatus = n.status
	c.stall = x.route.Stall
	noContent := string(x.head.method) == "HEAD" || n.status == 204 || n.status == 304
	switch {
	case noContent || n.hasLength && n.length == 0:
		f.done(x, keep)
		return nil
	case n.hasLength && n.length <= int64(x.state.Buffer):
		if err := readWhole(res, c, int(n.length)); err != nil {
			res.Reset()
			return fmt.Errorf("read the upstream's content: %w", err)
		}
		x.bytesOut = n.length
		f.done(x, keep)
		return nil
	}
	x.stream.begin(ctx, x, c, n, keep)
	return nil
}

// done gives the connection back, or closes it.
func (f *Front) done(x *exchange, keep bool) {
	t := x.taken
	x.taken = taken{}
	if keep {
		x.route.upstream.put(t)
		return
	}
	x.route.upstream.drop(t)
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
	trailer   fieldNames // that it announces
}

// fieldNames is the value of a field that lists names, such as Trailer. It aliases the head.
type fieldNames []byte

func (l fieldNames) has(wanted string) bool {
	for rest := []byte(l); len(rest) > 0; {
		var name []byte
		name, rest, _ = bytes.Cut(rest, []byte{','})
		if bytes.EqualFold(bytes.Trim(name, " \t"), []byte(wanted)) {
			return true
		}
	}
	return false
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
	if n.status < 200 && !oneLine(line[len("HTTP/1.1 200"):len(line)-1]) { // the reason of others is fasthttp's to read
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
			if equalFold(name, "trailer") {
				n.trailer = value
			}
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

package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"time"
)

// content is what is left of a request's content.
type content struct {
	ended   bool
	chunked bool
	expects bool  // the client waits for "100 Continue" before it sends
	left    int64 // of the content; chunked: of the chunk

	overhead int64         // of chunks, beyond what reasonable ones have
	got      int64         // bytes of content that came
	waited   time.Duration // for them

	allowed []string // trailer fields that are kept
	trailer []byte   // their lines

	// watch is asked now and then while the client sends nothing: its error ends the wait.
	watch func() error
}

var (
	errChunkLine = errors.New("its chunks are malformed")
	errSlow      = &slowError{}
	errTooMuch   = errors.New("it is larger than allowed")
)

// slowError is a timeout: content came, but less than the least rate.
type slowError struct{}

func (*slowError) Error() string { return "it comes too slowly" }
func (*slowError) Timeout() bool { return true }

// begin says what content the head that was read announces.
func (c *clientConn) begin(h *head) {
	b := &c.content
	b.chunked, b.left = h.chunked, h.contentLength
	b.ended = !h.chunked && h.contentLength == 0
	b.expects = h.expects && !h.http10 && !b.ended
	if h.chunked {
		b.left = 0
	}
}

// readContent reads the next bytes of the content, as soon as there are some, without its
// framing; io.EOF at its end.
func (c *clientConn) readContent(p []byte) (n int, err error) {
	b := &c.content
	if b.ended {
		return 0, io.EOF
	}
	if !b.chunked {
		return c.piece(p)
	}
	for n < len(p) { // as many chunks as are here: small ones are not worth a write each
		if b.left == 0 {
			if n > 0 && bytes.IndexByte(c.rest(), '\n') < 0 {
				return n, nil
			}
			if err := c.nextChunk(); err != nil {
				return n, err
			}
			if b.ended {
				break
			}
		}
		if n > 0 && c.start == c.end {
			return n, nil
		}
		m, err := c.piece(p[n:])
		if n += m; err != nil {
			return n, err
		}
		if b.left == 0 {
			if line, err := c.line(); err != nil || len(line) > 0 {
				return n, errors.Join(err, errChunkLine)
			}
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// rest is what was read from the client and not used yet.
func (c *clientConn) rest() []byte { return c.buffer.b[c.start:c.end] }

// piece reads up to what is left of the content or the chunk.
func (c *clientConn) piece(p []byte) (n int, err error) {
	b := &c.content
	p = p[:min(int64(len(p)), b.left)]
	if c.start < c.end {
		n = copy(p, c.rest())
		c.start += n
	} else if n, err = c.receive(p); err != nil {
		return 0, err
	}
	b.left -= int64(n)
	b.got += int64(n)
	b.ended = b.left == 0 && !b.chunked
	return n, nil
}

// nextChunk reads a chunk's head, and behind the last one the trailer section (RFC 9112
// §7.1). The rule for what is too much overhead is net/http's: 16 KiB in all, beside 16
// bytes for each chunk and two for each byte in it.
func (c *clientConn) nextChunk() error {
	line, err := c.line()
	if err != nil {
		return err
	}
	size, ok := chunkSize(line)
	if !ok {
		return errChunkLine
	}
	b := &c.content
	b.overhead = max(0, b.overhead+int64(len(line))+4-16-2*size)
	if b.overhead > 16<<10 {
		return errChunkLine
	}
	if b.left = size; size > 0 {
		return nil
	}
	for range maxTrailer {
		line, err := c.line()
		if err != nil {
			return err
		}
		if len(line) == 0 {
			b.ended = true
			return nil
		}
		b.trailer, ok = appendTrailer(b.trailer, line, b.allowed)
		if !ok {
			return errChunkLine
		}
	}
	return errChunkLine
}

// maxTrailer is how many lines a trailer section may have.
const maxTrailer = 100

// chunkSize reads the head of a chunk: hexadecimal digits, and extensions, which are
// dropped. Blanks before an extension, which some read as the end, are refused.
func chunkSize(line []byte) (n int64, ok bool) {
	digits := 0
	for digits < len(line) && line[digits] != ';' {
		digit := unhex(line[digits])
		if digit < 0 || digits == 15 {
			return 0, false
		}
		n = n<<4 | int64(digit)
		digits++
	}
	for _, c := range line[digits:] {
		if c < ' ' && c != '\t' || c == 0x7f {
			return 0, false
		}
	}
	return n, digits > 0
}

// appendTrailer appends a trailer field to dst when its name is allowed. ok is false when
// it is no field line.
func appendTrailer(dst, line []byte, allowed []string) (_ []byte, ok bool) {
	name, value, _, ok := nextField(line[:len(line)+len("\r\n")]) // of which it was cut
	if !ok {
		return dst, false
	}
	for _, a := range allowed {
		if bytes.EqualFold(name, []byte(a)) {
			dst = append(append(dst, a...), ": "...)
			dst = append(append(dst, value...), "\r\n"...)
		}
	}
	return dst, true
}

// line reads a line that ends in CRLF, and returns it without.
func (c *clientConn) line() ([]byte, error) {
	for scanned := 0; ; {
		rest := c.rest()
		if i := bytes.IndexByte(rest[scanned:], '\n'); i >= 0 {
			end := scanned + i
			if end < 1 || rest[end-1] != '\r' {
				return nil, errChunkLine
			}
			c.start += end + 1
			return rest[:end-1], nil
		}
		scanned = len(rest)
		if c.start > c.headEnd && c.end == len(c.buffer.b) {
			c.end = c.headEnd + copy(c.buffer.b[c.headEnd:], rest)
			c.start = c.headEnd
		}
		if c.end == len(c.buffer.b) {
			return nil, errChunkLine
		}
		if _, err := c.receive(nil); err != nil {
			return nil, err
		}
	}
}

// receive waits for content: into p, or, without one, into the buffer. A client that
// waits to be asked is asked now.
func (c *clientConn) receive(p []byte) (n int, err error) {
	b := &c.content
	if b.expects {
		b.expects = false
		if _, err := io.WriteString(c, "HTTP/1.1 100 Continue\r\n\r\n"); err != nil {
			return 0, err
		}
	}
	if p != nil {
		c.start, c.end = c.headEnd, c.headEnd
	}
	period := c.readTimeout
	if b.watch != nil {
		period = min(period, lookEvery)
	}
	for began := time.Now(); ; {
		c.armRead(period)
		if p == nil {
			n, err = c.fill()
		} else {
			n, err = c.Conn.Read(p)
		}
		waited := time.Since(began)
		late := isTimeout(err)
		if !late {
			b.waited += waited
		}
		if n > 0 {
			err = nil
		}
		rate := c.front.state.Load().MinBodyRate
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.ErrUnexpectedEOF
		case err != nil && !late:
			return 0, err
		case b.waited+waited > c.readTimeout && float64(b.got+int64(n)) < float64(rate)*(b.waited+waited).Seconds():
			return 0, errSlow
		case n > 0:
			return n, nil
		case waited >= c.readTimeout:
			return 0, err
		}
		if b.watch != nil {
			if err := b.watch(); err != nil {
				return 0, err
			}
		}
	}
}

// dropContent drops what little is left of the content of a request that was answered,
// so that the next one can be read. It is false where that is too much.
func (c *clientConn) dropContent() bool {
	b := &c.content
	if b.ended {
		return true
	}
	if b.chunked || b.left > drained || b.expects {
		return false
	}
	b.watch = nil
	var scratch [1 << 10]byte
	for !b.ended {
		if _, err := c.readContent(scratch[:]); err != nil {
			return false
		}
	}
	return true
}

// contentReader reads a request's content as an io.Reader, for our own routes.
type contentReader struct{ c *clientConn }

// Read implements io.Reader.
func (r contentReader) Read(p []byte) (int, error) {
	n, err := r.c.readContent(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("read the request's content: %w", err)
	}
	return n, err
}

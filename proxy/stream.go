package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// answerStream is the content of an answer on its way to the client. fasthttp reads it
// after the handler has returned, and closes it: that ends the exchange.
type answerStream struct {
	x     *exchange
	ctx   *fasthttp.RequestCtx
	conn  *upstreamConn
	keep  bool
	paced time.Time // when the client's write deadline was renewed
	mode  framing
	left  int64    // of the content, or of the chunk
	ended bool     // the whole content was read
	err   error    // why it was not, where that is the upstream's fault
	bare  bool     // the client knows no chunks: the content ends with its connection
	names []string // scratch: the fields of the answer that are not passed on
}

type framing uint8

const (
	untilClose framing = iota
	fixed
	chunked
)

var (
	_ io.ReadCloser = (*answerStream)(nil)

	errChunk = fmt.Errorf("%w: its chunks are malformed", errAnswer)
)

func (s *answerStream) begin(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn, n answerHeadInfo, keep bool) {
	*s = answerStream{x: x, ctx: ctx, conn: c, keep: keep, names: s.names, left: -1}
	switch {
	case n.hasLength:
		s.mode, s.left = fixed, n.length
	case n.chunked:
		s.mode, s.left = chunked, 0
	}
}

// Read returns the next piece, as soon as there is one.
func (s *answerStream) Read(p []byte) (int, error) {
	if s.ended {
		return 0, io.EOF
	}
	if s.err != nil { // fasthttp does not look at an error that comes with bytes
		return 0, s.err
	}
	timeout := s.x.front.options.WriteTimeout
	if now := time.Now(); now.Sub(s.paced) > renewal(timeout) {
		s.paced = now
		if err := s.ctx.Conn().SetWriteDeadline(now.Add(timeout + s.x.route.Timeout)); err != nil {
			return 0, err
		}
	}
	n, err := s.next(p)
	if err != nil && !s.ended {
		s.err = err
	}
	return n, err
}

func (s *answerStream) next(p []byte) (int, error) {
	switch s.mode {
	case fixed:
		return s.piece(p)
	case chunked:
		return s.chunk(p)
	}
	n, err := s.conn.reader.Read(p)
	s.ended = errors.Is(err, io.EOF)
	return n, err
}

// piece reads up to what is left.
func (s *answerStream) piece(p []byte) (int, error) {
	if s.left == 0 {
		s.ended = true
		return 0, io.EOF
	}
	if int64(len(p)) > s.left {
		p = p[:s.left]
	}
	n, err := s.conn.reader.Read(p)
	s.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// chunk reads of a chunked content (RFC 9112 §7.1).
func (s *answerStream) chunk(p []byte) (int, error) {
	if s.left == 0 {
		size, err := readChunkHead(s.conn.reader)
		if err != nil {
			return 0, err
		}
		if size == 0 {
			if err := dropTrailer(s.conn.reader); err != nil {
				return 0, err
			}
			s.ended = true
			return 0, io.EOF
		}
		s.left = size
	}
	n, err := s.piece(p)
	if err == nil && s.left == 0 {
		err = readCRLF(s.conn.reader)
	}
	return n, err
}

// Close gives the connection back, or closes it where content is left, and settles the
// exchange.
func (s *answerStream) Close() error {
	x, c := s.x, s.conn
	if c == nil {
		return nil
	}
	f := x.front
	if s.bare {
		s.pour()
	}
	s.conn = nil
	// A fixed content was read to its end even when nobody asked for the EOF behind it.
	whole := s.ended || s.mode == fixed && s.left == 0
	f.done(x, c, s.keep && whole)
	reason := answer.OK
	if s.err != nil { // the status is out already; the record says what came of it
		reason = f.failed(s.err).Reason
		f.options.Log.Debug("cannot pass an answer on whole", "error", s.err, "route", x.route.Name, "request_id", string(x.requestID))
	}
	f.settle(s.ctx, x, reason)
	f.release(x)
	return nil
}

// toHTTP10 makes fasthttp, which would send chunks to an HTTP/1.0 client, send the head
// alone. It calls Close behind it, which sends the content.
func (s *answerStream) toHTTP10(res *fasthttp.Response) {
	s.bare = true
	res.Header.Del("Content-Length") // and with it fasthttp's wish for chunks
	res.Header.Del("Transfer-Encoding")
	res.Header.SetConnectionClose()
	res.SkipBody = true
}

// pour sends the content as it is. What is not whole ends in a reset, since an end of
// the connection would say that it is.
func (s *answerStream) pour() {
	client := s.ctx.Conn()
	buffer := s.x.scratch()
	for !s.ended {
		n, err := s.Read(buffer)
		if _, failure := client.Write(buffer[:n]); failure != nil {
			return
		}
		if err != nil && !s.ended {
			if tcp, ok := client.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			return
		}
	}
}

// abandon closes the connection without settling: something panicked.
func (s *answerStream) abandon() {
	if s.conn != nil {
		_ = s.conn.Close()
		s.conn = nil
	}
}

// readChunkHead reads "size [;extension] CRLF". The line must fit the reader's buffer.
func readChunkHead(r *bufio.Reader) (int64, error) {
	line, err := readLine(r)
	if err != nil {
		return 0, err
	}
	size, _, _ := bytes.Cut(line, []byte{';'})
	size = bytes.TrimRight(size, " \t")
	if len(size) == 0 || len(size) > 15 {
		return 0, errChunk
	}
	var n int64
	for _, c := range size {
		digit := unhex(c)
		if digit < 0 {
			return 0, errChunk
		}
		n = n<<4 | int64(digit)
	}
	return n, nil
}

// dropTrailer reads to the end of the trailer section: none of it is passed on.
func dropTrailer(r *bufio.Reader) error {
	for range maxFields {
		line, err := readLine(r)
		if err != nil {
			return err
		}
		if len(line) == 0 {
			return nil
		}
		if _, _, _, ok := nextField(line[:len(line)+len("\r\n")]); !ok {
			return errChunk
		}
	}
	return errChunk
}

func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadSlice('\n')
	if errors.Is(err, io.EOF) {
		return nil, io.ErrUnexpectedEOF
	}
	if errors.Is(err, bufio.ErrBufferFull) || err == nil && (len(line) < 2 || line[len(line)-2] != '\r') {
		return nil, errChunk
	}
	if err != nil {
		return nil, err
	}
	return line[:len(line)-2], nil
}

func readCRLF(r *bufio.Reader) error {
	line, err := readLine(r)
	if err == nil && len(line) != 0 {
		err = errChunk
	}
	return err
}

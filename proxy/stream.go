package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// answerStream is the content of an answer on its way to the client, as it comes. fasthttp
// writes the head alone, after the handler has returned, and then closes its body: that sends
// the content, past fasthttp's buffers, and ends the exchange.
type answerStream struct {
	x       *exchange
	ctx     *fasthttp.RequestCtx
	conn    *upstreamConn
	keep    bool
	mode    framing  // of what comes
	chunks  bool     // the client gets chunks
	left    int64    // of the content, or of the chunk
	ended   bool     // the whole content was read
	trailer []byte   // the lines of it that are passed on
	names   []string // scratch: the fields of the answer that are not passed on
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

// begin makes the rest of the answer on c the body of the response, whose head is there already.
func (s *answerStream) begin(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn, n answerHeadInfo, keep bool) {
	*s = answerStream{x: x, ctx: ctx, conn: c, keep: keep, names: s.names, left: -1}
	res, size := &ctx.Response, -1
	switch {
	case n.hasLength:
		s.mode, s.left, size = fixed, n.length, int(n.length)
	case n.chunked:
		s.mode, s.left = chunked, 0
	}
	s.chunks = !n.hasLength && !x.head.http10
	res.SetBodyStream(s, size)
	res.SkipBody = true
	res.ImmediateHeaderFlush = true
	if size < 0 && !s.chunks { // HTTP/1.0: the content ends with its connection
		res.Header.Del("Content-Length")
		res.Header.Del("Transfer-Encoding")
		res.Header.SetConnectionClose()
	}
	if names := n.trailer; s.chunks && len(names) > 0 && len(x.route.Trailers) > 0 {
		for _, name := range x.route.Trailers {
			if names.has(name) {
				res.Header.Add("Trailer", name)
			}
		}
	}
}

// Read is not called: fasthttp does not send the content.
func (s *answerStream) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// Close sends the content, gives the connection back, or closes it where content is left,
// and settles the exchange. After an error fasthttp closes the client's connection, so that
// what is not whole does not look so.
func (s *answerStream) Close() (err error) {
	x := s.x
	if s.conn == nil {
		return nil
	}
	f := x.front
	defer func() {
		if p := recover(); p != nil {
			f.options.Log.Error("panic while passing an answer on", "panic", p, "request_id", string(x.requestID), "stack", string(debug.Stack()))
			x.abandon()
			err = errPanicked
		}
	}()
	read, write := s.pour()
	s.conn = nil
	if read != nil && !clientFault(read) {
		x.taken.endpoint.failed(read)
	}
	f.done(x, s.keep && s.ended)
	reason := answer.OK
	if read != nil { // the status is out already; the record says what came of it
		reason = failed(read).Reason
	}
	if err = errors.Join(read, write); err != nil {
		f.options.Log.Debug("cannot pass an answer on whole", "error", err, "route", x.route.Name, "request_id", string(x.requestID))
	}
	f.settle(s.ctx, x, reason)
	f.release(x)
	return err
}

// pour sends what comes, as soon as it comes. read is the upstream's fault, write the client's.
func (s *answerStream) pour() (read, write error) {
	client := s.x.client
	piece := s.x.scratch()
	for {
		n, err := s.next(piece[chunkRoom : chunkRoom+pieceSize])
		if n > 0 {
			out := piece[chunkRoom : chunkRoom+n]
			if s.chunks {
				out = frame(piece, n)
			}
			if _, err := client.Write(out); err != nil {
				return nil, err
			}
			s.x.bytesOut += int64(n)
			s.x.front.meterContent(s.x)
		}
		switch {
		case s.ended && s.chunks:
			_, err := client.Write(append(append(append(piece[:0], "0\r\n"...), s.trailer...), "\r\n"...))
			return nil, err
		case s.ended:
			return nil, nil
		case errors.Is(err, errGone):
			return nil, err
		case err != nil:
			if !s.chunks && s.mode != fixed { // an end would say that it is whole
				client.reset()
			}
			return err, nil
		}
	}
}

// next reads what has come of the content.
func (s *answerStream) next(p []byte) (n int, err error) {
	switch s.mode {
	case fixed:
		n, err = s.piece(p)
		s.ended = s.left == 0
		return n, err
	case untilClose:
		n, err = s.conn.reader.Read(p)
		s.ended = errors.Is(err, io.EOF)
		return n, err
	}
	for { // as many chunks as are here
		m, err := s.chunk(p[n:])
		if n += m; err != nil || s.ended || n == len(p) || s.conn.reader.Buffered() == 0 {
			return n, err
		}
	}
}

// piece reads up to what is left.
func (s *answerStream) piece(p []byte) (int, error) {
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
			if s.trailer, err = readTrailer(s.conn.reader, s.x.route.Trailers); err == nil {
				s.ended = true
			}
			return 0, err
		}
		s.left = size
	}
	n, err := s.piece(p)
	if err == nil && s.left == 0 {
		err = readCRLF(s.conn.reader)
	}
	return n, err
}

// readChunkHead reads "size [;extension] CRLF". The line must fit the reader's buffer.
func readChunkHead(r *bufio.Reader) (int64, error) {
	line, err := readLine(r)
	if err != nil {
		return 0, err
	}
	digits, _, _ := bytes.Cut(line, []byte{';'})
	size, ok := chunkSize(bytes.TrimRight(digits, " \t")) // blanks of an upstream are harmless: what we write has none
	if !ok {
		return 0, errChunk
	}
	return size, nil
}

// readTrailer reads to the end of the trailer section and returns the lines of the fields
// that are allowed.
func readTrailer(r *bufio.Reader, allowed []string) (kept []byte, err error) {
	for range maxTrailer {
		line, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if len(line) == 0 {
			return kept, nil
		}
		var ok bool
		if kept, ok = appendTrailer(kept, line, allowed); !ok {
			return nil, errChunk
		}
	}
	return nil, errChunk
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

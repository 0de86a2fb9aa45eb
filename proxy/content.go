package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// streams reports whether the request has content that is sent piece by piece: it is
// larger than the buffer, or of unknown size.
func (x *exchange) streams() bool {
	return x.head.chunked || x.head.contentLength > int64(x.front.options.Buffer)
}

// readContent puts content that fits the buffer behind the head in x.out, so that a slow
// client holds no connection to the upstream.
func (f *Front) readContent(ctx *fasthttp.RequestCtx, x *exchange) error {
	if x.streams() || x.head.contentLength == 0 {
		return nil
	}
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return fmt.Errorf("%w: none came", errClient)
	}
	head := len(x.out)
	x.out = slices.Grow(x.out, int(x.head.contentLength))[:head+int(x.head.contentLength)]
	x.source = pacedReader{r: stream, conn: ctx.Conn(), between: f.options.ReadTimeout}
	if _, err := io.ReadFull(&x.source, x.out[head:]); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return nil
}

// sendContent copies the client's content to the upstream, framed by us.
func (f *Front) sendContent(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn) error {
	stream := ctx.RequestBodyStream()
	if stream == nil {
		return fmt.Errorf("%w: none came", errClient)
	}
	x.source = pacedReader{r: stream, conn: ctx.Conn(), between: f.options.ReadTimeout}
	buffer := x.scratch()
	left := x.head.contentLength
	for {
		n, readErr := x.source.Read(buffer[chunkRoom : chunkRoom+pieceSize])
		if n > 0 {
			out := buffer[chunkRoom : chunkRoom+n]
			if x.head.chunked {
				out = frame(buffer, n)
			}
			left -= int64(n)
			if err := c.send(out, x.route.Timeout); err != nil {
				return err
			}
		}
		if errors.Is(readErr, io.EOF) {
			break
		}
		if readErr != nil {
			return fmt.Errorf("%w: %w", errClient, readErr)
		}
	}
	if x.head.chunked {
		return c.send([]byte("0\r\n\r\n"), x.route.Timeout) // trailer fields are dropped (RFC 9110 §6.5.1)
	}
	if left != 0 {
		return fmt.Errorf("%w: %w", errClient, io.ErrUnexpectedEOF)
	}
	return nil
}

// send writes a piece of content. The time to the head of the answer runs from the last
// byte that went out.
func (c *upstreamConn) send(piece []byte, timeout time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	if _, err := c.Write(piece); err != nil {
		return fmt.Errorf("send the content: %w", err)
	}
	return nil
}

const (
	pieceSize = 32 << 10 // of content on its way
	chunkRoom = len("8000\r\n")
)

// scratch is room for a piece of content and what makes a chunk of it.
func (x *exchange) scratch() []byte {
	if x.piece == nil {
		x.piece = make([]byte, chunkRoom+pieceSize+len("\r\n"))
	}
	return x.piece
}

// frame makes one chunk (RFC 9112 §7.1), in place, of the n bytes that begin at
// chunkRoom in piece.
func frame(piece []byte, n int) []byte {
	var buffer [chunkRoom]byte
	head := appendChunkHead(buffer[:0], n)
	start, end := chunkRoom-len(head), chunkRoom+n
	copy(piece[start:], head)
	piece[end], piece[end+1] = '\r', '\n'
	return piece[start : end+2]
}

// appendChunkHead appends the size line of one chunk.
func appendChunkHead(dst []byte, n int) []byte {
	dst = strconv.AppendInt(dst, int64(n), 16)
	return append(dst, '\r', '\n')
}

// renewal is how old a deadline may get that allows so much: it saves a timer for each
// read, and costs a quarter of the time at most.
func renewal(allowed time.Duration) time.Duration { return min(time.Second, allowed/4) }

// pacedReader renews the read deadline of a client's connection: content may take as
// long as it likes while it keeps coming.
type pacedReader struct {
	r       io.Reader
	conn    net.Conn
	between time.Duration
	renewed time.Time
}

func (p *pacedReader) Read(b []byte) (int, error) {
	if now := time.Now(); now.Sub(p.renewed) > renewal(p.between) {
		p.renewed = now
		if err := p.conn.SetReadDeadline(now.Add(p.between)); err != nil {
			return 0, err
		}
	}
	return p.r.Read(b)
}

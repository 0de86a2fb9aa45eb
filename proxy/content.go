package proxy

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"
)

// streams reports whether the request has content that is sent piece by piece: it is
// larger than the buffer, or of unknown size.
func (x *exchange) streams() bool {
	return x.head.chunked || x.head.contentLength > int64(x.state.Buffer)
}

// readContent puts content that fits the buffer behind the head in x.out, so that a slow
// client holds no connection to the upstream.
func (x *exchange) readContent() error {
	if x.streams() || x.head.contentLength == 0 {
		return nil
	}
	head := len(x.out)
	x.out = slices.Grow(x.out, int(x.head.contentLength))[:head+int(x.head.contentLength)]
	for into := x.out[head:]; len(into) > 0; {
		n, err := x.client.readContent(into)
		if err != nil {
			return fmt.Errorf("%w: %w", errClient, err)
		}
		into = into[n:]
	}
	return nil
}

// sendContent copies the client's content to the upstream, framed by us. It ends with
// errAnswered when the upstream has answered before it has everything.
func (x *exchange) sendContent(c *upstreamConn) error {
	buffer := x.scratch()
	b := &x.client.content
	b.allowed, b.watch = x.route.Trailers, c.interrupted
	defer func() { b.watch = nil }()
	for looked := time.Now(); ; {
		n, readErr := x.client.readContent(buffer[chunkRoom : chunkRoom+pieceSize])
		if x.route.MaxBody > 0 && b.got > x.route.MaxBody {
			return fmt.Errorf("%w: %w", errClient, errTooMuch)
		}
		if n > 0 {
			out := buffer[chunkRoom : chunkRoom+n]
			if x.head.chunked {
				out = frame(buffer, n)
			}
			if err := c.send(out, x.route.Timeout); err != nil {
				return fmt.Errorf("send the content: %w", err)
			}
			x.front.meterContent(x)
		}
		switch {
		case errors.Is(readErr, io.EOF) || readErr == nil && b.ended && !b.chunked:
			if !x.head.chunked {
				return nil
			}
			end := append(append([]byte("0\r\n"), b.trailer...), "\r\n"...)
			return c.send(end, x.route.Timeout)
		case errors.Is(readErr, errAnswered), errors.Is(readErr, errGone):
			return readErr
		case readErr != nil:
			return fmt.Errorf("%w: %w", errClient, readErr)
		}
		// An upstream that refuses early should not be sent all of it.
		if now := time.Now(); now.Sub(looked) > lookEvery/10 {
			looked = now
			if err := c.interrupted(); err != nil {
				return err
			}
		}
	}
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

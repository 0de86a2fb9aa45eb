package limiter

import (
	"bytes"
	"errors"
	"strconv"
)

// What an answer may have at most; the largest are hashes with a field for each replica.
const (
	maxLine     = 4 << 10
	maxText     = 64 << 10
	maxElements = 1 << 20
)

var errBounds = errors.New("the answer is larger than any that Redis gives here: is it a Redis?")

// bounds follows what is read of Redis. The library makes room for whatever length is
// announced, and calls itself for an array in an array: a few bytes would end the process.
type bounds struct {
	line []byte // as much as came of it
	skip int    // of the text that comes, with its CRLF
	left int    // elements of the array that comes
}

// check takes in what was read next.
func (b *bounds) check(p []byte) error {
	for len(p) > 0 {
		if b.skip > 0 {
			n := min(b.skip, len(p))
			b.skip, p = b.skip-n, p[n:]
			continue
		}
		n := bytes.IndexByte(p, '\n') + 1
		whole := n > 0
		if !whole {
			n = len(p)
		}
		if len(b.line)+n > maxLine {
			return errBounds
		}
		b.line, p = append(b.line, p[:n]...), p[n:]
		if !whole {
			continue
		}
		if !b.begins(b.line[0], bytes.TrimRight(b.line[1:], "\r\n")) {
			return errBounds
		}
		b.line = b.line[:0]
	}
	return nil
}

// begins takes in the line that an answer, or an element of one, begins with. It is false
// where that is out of bounds.
func (b *bounds) begins(kind byte, rest []byte) bool {
	inside := b.left > 0
	if inside {
		b.left--
	}
	most := maxText
	switch {
	case kind == '*' && !inside:
		most = maxElements
	case kind != '$':
		return kind != '*'
	}
	n, err := strconv.Atoi(string(rest))
	switch {
	case err != nil || n > most:
		return false
	case n < 0: // there is nothing
	case kind == '*':
		b.left = n
	default:
		b.skip = n + len("\r\n")
	}
	return true
}

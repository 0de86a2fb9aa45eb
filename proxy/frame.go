package proxy

import "encoding/binary"

// Status codes of a Close frame (RFC 6455 §7.4.1) that we say ourselves.
const (
	closeGoingAway = 1001
	closePolicy    = 1008
)

const (
	opClose     = 0x8
	maxFrameTop = 14 // 2 bytes, up to 8 of length, 4 of mask (RFC 6455 §5.2)
)

// frames follows a stream of WebSocket frames: it knows where each ends, and so where
// something of ours may be said. It changes and judges nothing: what an opcode or a
// reserved bit means is between client and upstream, and a control frame inside a
// fragmented message (§5.4) is one frame like any other.
type frames struct {
	top    [maxFrameTop]byte
	have   int    // bytes of top that came
	left   uint64 // bytes of the frame's payload that are still to come
	closed bool   // a whole Close frame went by: nothing may follow it (§5.5.1)
}

// between reports whether the stream stands between two frames.
func (f *frames) between() bool { return f.have == 0 }

// next follows p up to the end of the frame in which it begins, at most. It returns how
// many bytes those are: all of p where the frame goes on behind it.
func (f *frames) next(p []byte) int {
	n := 0
	for n < len(p) && f.left == 0 { // in the frame's top
		f.top[f.have] = p[n]
		f.have++
		n++
		if f.have < f.topSize() {
			continue
		}
		if f.left = f.length(); f.left == 0 {
			f.end()
			return n
		}
	}
	if f.left > 0 {
		rest := min(uint64(len(p)-n), f.left)
		f.left -= rest
		n += int(rest)
		if f.left == 0 {
			f.end()
		}
	}
	return n
}

// follow follows all of p.
func (f *frames) follow(p []byte) {
	for len(p) > 0 {
		p = p[f.next(p):]
	}
}

func (f *frames) end() {
	if f.top[0]&0x0f == opClose {
		f.closed = true
	}
	f.have = 0
}

// topSize is how long the frame's top is, as far as its first two bytes came.
func (f *frames) topSize() int {
	if f.have < 2 {
		return 2
	}
	size := 2
	switch f.top[1] & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if f.top[1]&0x80 != 0 {
		size += 4
	}
	return size
}

func (f *frames) length() uint64 {
	switch n := f.top[1] & 0x7f; n {
	case 126:
		return uint64(binary.BigEndian.Uint16(f.top[2:]))
	case 127:
		return binary.BigEndian.Uint64(f.top[2:])
	default:
		return uint64(n)
	}
}

// appendClose appends a Close frame (RFC 6455 §5.5.1). A client's, which is what the
// upstream takes us for, is masked (§5.3).
func appendClose(dst []byte, code uint16, reason string, mask *[4]byte) []byte {
	size := byte(2 + len(reason)) // ours are short: a control frame carries 125 bytes at most
	dst = append(dst, 0x80|opClose, size)
	if mask != nil {
		dst[len(dst)-1] |= 0x80
		dst = append(dst, mask[:]...)
	}
	from := len(dst)
	dst = binary.BigEndian.AppendUint16(dst, code)
	dst = append(dst, reason...)
	if mask != nil {
		for i := range dst[from:] {
			dst[from+i] ^= mask[i%4]
		}
	}
	return dst
}

package issuer

import "bytes"

// covers reports whether path, in some reading that an upstream could give it, is the
// path made of want or lies below it. Read so: one percent-decoding, lower case,
// parameters (;…) cut from each segment, empty and single-dot segments dropped, double
// dots resolved. Only whole segments count. A path that passes through want on its way
// elsewhere is covered too: another reader may not resolve what comes after.
func covers(want [][]byte, path []byte) bool {
	detours := bytes.IndexByte(path, '%') >= 0 || bytes.Contains(path, []byte(".."))
	depth, matched := 0, 0 // segments that stand, and how many of the first of them are want's
	for {
		segment := segmentOf(path, want[matched])
		switch {
		case segment.size == 0 || segment.dots == 1 && segment.size == 1:
		case segment.dots == 2 && segment.size == 2:
			depth = max(0, depth-1)
			matched = min(matched, depth)
		case segment.same && depth == matched:
			depth, matched = depth+1, matched+1
			if matched == len(want) {
				return true
			}
		default:
			depth++
		}
		path = segment.rest
		// Once off the way, only double dots lead back. This is where most other paths leave.
		if len(path) == 0 || depth > matched && !detours {
			return false
		}
	}
}

// segment is what segmentOf read.
type segment struct {
	size int    // decoded bytes before any parameter
	dots int    // of these, dots
	same bool   // they are want
	rest []byte // what follows the separator
}

// segmentOf reads path up to its next separator, decoding as it goes.
func segmentOf(path, want []byte) segment {
	s := segment{same: true}
	parameters := false
	for n := 0; n < len(path); n++ {
		c := path[n]
		if c == '%' && n+2 < len(path) {
			high, low := hexValue(path[n+1]), hexValue(path[n+2])
			if high >= 0 && low >= 0 {
				c = byte(high<<4 | low)
				n += 2
			}
		}
		switch {
		case c == '/' || c == '\\':
			s.rest = path[n+1:]
			s.same = s.same && s.size == len(want)
			return s
		case parameters:
			continue
		case c == ';':
			parameters = true
			continue
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case c == '.':
			s.dots++
		}
		s.same = s.same && s.size < len(want) && want[s.size] == c
		s.size++
	}
	s.same = s.same && s.size == len(want)
	return s
}

func hexValue(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}

package proxy

import "bytes"

// checkTarget splits an origin-form target and reports whether it has one reading
// only. The bytes that pass are forwarded as they are, so whatever an upstream could
// read in another way than we do is refused: "//", dot segments (raw, encoded, behind
// an encoded slash, or with parameters: "..;"), a backslash, encoded control characters
// in the path, a fragment, bytes that are not visible ASCII (RFC 3986, RFC 9112 §3.2).
func checkTarget(target []byte) (path, query []byte, ok bool) {
	if len(target) == 0 || target[0] != '/' {
		return nil, nil, false
	}
	for _, c := range target {
		if c <= ' ' || c >= 0x7f || c == '#' {
			return nil, nil, false
		}
	}
	path, query, _ = bytes.Cut(target, []byte{'?'})
	return path, query, checkPath(path)
}

// checkPath walks path once, one piece at a time. A piece ends at "/" or at "%2F".
func checkPath(path []byte) bool {
	// What is decoded of the piece so far: its dots, and whether it is anything else.
	dots, other := 0, false
	parameters := false
	for i := 1; i < len(path); i++ {
		c := path[i]
		separator := c == '/'
		switch c {
		case '/':
			if path[i-1] == '/' {
				return false
			}
		case '\\':
			return false
		case '%':
			if i+2 >= len(path) {
				return false
			}
			hi, lo := unhex(path[i+1]), unhex(path[i+2])
			if hi < 0 || lo < 0 {
				return false
			}
			c = byte(hi<<4 | lo)
			if c < ' ' || c == 0x7f || c == '\\' {
				return false
			}
			separator = c == '/'
			i += 2
		}
		switch {
		case separator:
			if !other && (dots == 1 || dots == 2) {
				return false
			}
			dots, other, parameters = 0, false, false
		case parameters:
		case c == ';':
			parameters = true
		case c == '.' && !other:
			dots++
		default:
			other = true
		}
	}
	return other || dots != 1 && dots != 2
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// reading is how an upstream may read a path.
type reading struct {
	slashes    bool // "%2F" separates segments
	parameters bool // ";…" is no part of a segment
}

// plain reports whether all readings of path are the path itself.
func plain(path []byte) bool { return bytes.IndexByte(path, '%') < 0 && bytes.IndexByte(path, ';') < 0 }

// read appends path to dst decoded once, as r reads it. Without r.slashes "%2F" stays
// as it is, so that it never separates segments.
func (r reading) read(dst, path []byte) []byte {
	skipping := false
	for i := 0; i < len(path); i++ {
		c, encoded := path[i], false
		if c == '%' {
			c, encoded = byte(unhex(path[i+1])<<4|unhex(path[i+2])), true
			i += 2
		}
		switch {
		case c == '/' && encoded && !r.slashes:
			if !skipping {
				dst = append(dst, "%2F"...)
			}
		case c == '/':
			skipping = false
			if r.slashes && len(dst) > 0 && dst[len(dst)-1] == '/' {
				continue
			}
			dst = append(dst, '/')
		case skipping:
		case c == ';' && r.parameters:
			skipping = true
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// hasParameter reports whether the query has a parameter of this name, however its
// name is encoded.
func hasParameter(query []byte, name string) bool {
	for len(query) > 0 {
		var pair []byte
		if i := bytes.IndexAny(query, "&;"); i >= 0 {
			pair, query = query[:i], query[i+1:]
		} else {
			pair, query = query, nil
		}
		key, _, _ := bytes.Cut(pair, []byte{'='})
		if decodesTo(key, name) {
			return true
		}
	}
	return false
}

func decodesTo(encoded []byte, want string) bool {
	n := 0
	for i := 0; i < len(encoded); i++ {
		c := encoded[i]
		if c == '%' && i+2 < len(encoded) {
			if hi, lo := unhex(encoded[i+1]), unhex(encoded[i+2]); hi >= 0 && lo >= 0 {
				c = byte(hi<<4 | lo)
				i += 2
			}
		}
		if n >= len(want) || c != want[n] {
			return false
		}
		n++
	}
	return n == len(want)
}

package token

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	maxDepth   = 32
	maxMembers = 1000
)

// errObject says no more than that: what was wrong is the sender's business.
var errObject = errors.New("not one strict JSON object")

// Object reads one JSON object strictly: valid UTF-8 without lone surrogates, no member
// repeated at any depth, at most 32 levels and 1,000 members in all, and nothing after
// it. encoding/json takes the last of repeated members and matches names without case;
// a caller who looks names up in this map does neither (RFC 7515 §4, RFC 8725 §2.4).
// The values alias data.
func Object(data []byte) (map[string]json.RawMessage, error) {
	var s scan
	if !s.object(data) {
		return nil, errObject
	}
	object := make(map[string]json.RawMessage, len(s.members))
	for _, m := range s.members {
		object[string(m.name)] = m.value
	}
	return object, nil
}

// member is one member of the outermost object. name is unescaped; value is as it stood.
type member struct{ name, value []byte }

// scan reads one JSON text in one pass. It may be used again after object returned.
type scan struct {
	data    []byte
	at      int
	count   int      // members in all
	names   [][]byte // of the objects that are open, outermost first
	members []member
}

// object reads data as exactly one object and leaves its members in s.members.
func (s *scan) object(data []byte) bool {
	s.data, s.at, s.count = data, 0, 0
	s.names, s.members = s.names[:0], s.members[:0]
	s.space()
	if s.peek() != '{' || !s.value(1) {
		return false
	}
	s.space()
	return s.at == len(s.data)
}

// peek is the next byte; 0, which is nowhere legal, at the end.
func (s *scan) peek() byte {
	if s.at < len(s.data) {
		return s.data[s.at]
	}
	return 0
}

func (s *scan) space() {
	for s.at < len(s.data) {
		switch s.data[s.at] {
		case ' ', '\t', '\n', '\r':
			s.at++
		default:
			return
		}
	}
}

func (s *scan) value(depth int) bool {
	switch c := s.peek(); {
	case c == '{':
		return depth <= maxDepth && s.open(depth)
	case c == '[':
		return depth <= maxDepth && s.array(depth)
	case c == '"':
		_, ok := s.text()
		return ok
	case c == 't':
		return s.word("true")
	case c == 'f':
		return s.word("false")
	case c == 'n':
		return s.word("null")
	default:
		return s.number()
	}
}

func (s *scan) word(w string) bool {
	if !bytes.HasPrefix(s.data[s.at:], []byte(w)) {
		return false
	}
	s.at += len(w)
	return true
}

func (s *scan) open(depth int) bool {
	s.at++
	first := len(s.names)
	s.space()
	if s.peek() == '}' {
		s.at++
		return true
	}
	for {
		if s.count++; s.count > maxMembers {
			return false
		}
		s.space()
		if s.peek() != '"' {
			return false
		}
		raw, ok := s.text()
		if !ok {
			return false
		}
		name := unescape(raw)
		s.names = append(s.names, name)
		s.space()
		if s.peek() != ':' {
			return false
		}
		s.at++
		s.space()
		from := s.at
		if !s.value(depth + 1) {
			return false
		}
		if depth == 1 {
			s.members = append(s.members, member{name, s.data[from:s.at:s.at]})
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
		case '}':
			s.at++
			distinct := allDistinct(s.names[first:])
			s.names = s.names[:first]
			return distinct
		default:
			return false
		}
	}
}

// allDistinct may reorder names.
func allDistinct(names [][]byte) bool {
	if len(names) > 16 { // no quadratic work for whoever sends many
		slices.SortFunc(names, bytes.Compare)
		for i := 1; i < len(names); i++ {
			if bytes.Equal(names[i-1], names[i]) {
				return false
			}
		}
		return true
	}
	for i := range names {
		for j := range i {
			if bytes.Equal(names[i], names[j]) {
				return false
			}
		}
	}
	return true
}

func (s *scan) array(depth int) bool {
	s.at++
	s.space()
	if s.peek() == ']' {
		s.at++
		return true
	}
	for {
		s.space()
		if !s.value(depth + 1) {
			return false
		}
		s.space()
		switch s.peek() {
		case ',':
			s.at++
		case ']':
			s.at++
			return true
		default:
			return false
		}
	}
}

// text reads a string and returns what is between its quotes, still escaped.
func (s *scan) text() ([]byte, bool) {
	s.at++
	from := s.at
	for s.at < len(s.data) {
		switch c := s.data[s.at]; {
		case c == '"':
			s.at++
			return s.data[from : s.at-1 : s.at-1], true
		case c == '\\':
			if !s.escape() {
				return nil, false
			}
		case c < ' ':
			return nil, false
		case c < utf8.RuneSelf:
			s.at++
		default:
			r, n := utf8.DecodeRune(s.data[s.at:])
			if r == utf8.RuneError && n == 1 {
				return nil, false
			}
			s.at += n
		}
	}
	return nil, false
}

// escape steps over one escape. A surrogate counts only as half of a pair: alone it is
// no character, and readers differ in what they make of it (RFC 8259 §8.2).
func (s *scan) escape() bool {
	s.at++
	switch s.peek() {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at++
		return true
	case 'u':
	default:
		return false
	}
	r, ok := hex4(s.data[s.at+1:])
	if !ok {
		return false
	}
	s.at += 5
	if !utf16.IsSurrogate(r) {
		return true
	}
	if !bytes.HasPrefix(s.data[s.at:], []byte(`\u`)) {
		return false
	}
	low, ok := hex4(s.data[s.at+2:])
	if !ok || utf16.DecodeRune(r, low) == utf8.RuneError {
		return false
	}
	s.at += 6
	return true
}

func hex4(data []byte) (rune, bool) {
	if len(data) < 4 {
		return 0, false
	}
	r := rune(0)
	for _, c := range data[:4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// unescape decodes what text returned. Without an escape it is text itself.
func unescape(text []byte) []byte {
	if bytes.IndexByte(text, '\\') < 0 {
		return text
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			out = append(out, text[i])
			continue
		}
		i++
		switch c := text[i]; c {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(text[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low, _ := hex4(text[i+3:])
				r = utf16.DecodeRune(r, low)
				i += 6
			}
			out = utf8.AppendRune(out, r)
		default: // the quote, the backslash and the slash stand for themselves
			out = append(out, c)
		}
	}
	return out
}

func (s *scan) number() bool {
	if s.peek() == '-' {
		s.at++
	}
	switch c := s.peek(); {
	case c == '0':
		s.at++
	case '1' <= c && c <= '9':
		s.digits()
	default:
		return false
	}
	if s.peek() == '.' {
		s.at++
		if !s.digits() {
			return false
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.at++
		if c := s.peek(); c == '+' || c == '-' {
			s.at++
		}
		return s.digits()
	}
	return true
}

func (s *scan) digits() bool {
	from := s.at
	for '0' <= s.peek() && s.peek() <= '9' {
		s.at++
	}
	return s.at > from
}

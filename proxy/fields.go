package proxy

import (
	"bytes"
	"fmt"

	"github.com/valyala/fasthttp"
)

// requestFields are the fields that a route sets in, or removes from, the requests that
// it forwards. The zero value: none.
type requestFields struct {
	lines         []byte              // field lines that are set, each with its CRLF
	drop          map[string]struct{} // folded names of the client's fields that are not forwarded
	host          []byte              // nil: the client's
	authorization bool                // the client's Authorization is never passed on
}

// newRequestFields checks that each name is a client's to send and a route's to set: no
// identity, nothing of the connection, nothing that postern itself writes.
func newRequestFields(given []Field, c *classifier) (s requestFields, err error) {
	for _, f := range given {
		if err := checkField(f); err != nil {
			return s, err
		}
		name, value := f.Name, f.Value.Reveal()
		switch k := c.classify([]byte(name)); {
		case k == hostKind && !f.Remove && validHost([]byte(value)) && s.host == nil:
			s.host = []byte(value)
			continue
		case k == hostKind:
			return s, fmt.Errorf("field %s: can be set once, to a host, and not be removed", name)
		case k == authorizationKind:
			s.authorization = true
		case k != forwarded:
			return s, fmt.Errorf("field %s: belongs to HTTP or to postern", name)
		default:
			if s.drop == nil {
				s.drop = map[string]struct{}{}
			}
			s.drop[string(fold(nil, []byte(name)))] = struct{}{}
		}
		if !f.Remove {
			s.lines = appendField(s.lines, name+": ", value)
		}
	}
	return s, nil
}

// drops reports whether the client's field of this name is replaced or removed, in any
// spelling that an upstream may read as the route's.
func (s *requestFields) drops(name []byte) bool {
	var buffer [foldSize + 1]byte
	_, found := s.drop[string(fold(buffer[:0], name))]
	return found
}

// checkField refuses what would not be one field line (RFC 9110 §5.1, §5.5).
func checkField(f Field) error {
	folded := fold(nil, []byte(f.Name))
	valid := len(folded) > 0 && len(folded) <= foldSize
	for i := range len(f.Name) {
		valid = valid && tokenBytes[f.Name[i]]
	}
	if !valid {
		return fmt.Errorf("field name %q: is a token with 1 to %d letters and digits", f.Name, foldSize)
	}
	value := f.Value.Reveal()
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return fmt.Errorf("field %s: its value has a control character", f.Name)
		}
	}
	return nil
}

// responseFields are the fields that a route sets in, or removes from, its upstream's
// answers. Our own refusals are not touched. The zero value: none.
type responseFields struct {
	drop []string
	set  []responseField
}

type responseField struct{ name, value string }

func newResponseFields(given []Field, c *classifier) (s responseFields, err error) {
	for _, f := range given {
		if err := checkField(f); err != nil {
			return s, err
		}
		name := []byte(f.Name)
		if c.classify(name) != forwarded || equalFold(name, "date") {
			return s, fmt.Errorf("field %s: belongs to HTTP or to postern", f.Name)
		}
		s.drop = append(s.drop, f.Name)
		if !f.Remove {
			s.set = append(s.set, responseField{f.Name, f.Value.Reveal()})
		}
	}
	return s, nil
}

// apply changes an answer whose head was read. Several lines of one name may be set.
func (s *responseFields) apply(header *fasthttp.ResponseHeader) {
	for _, name := range s.drop {
		header.Del(name)
	}
	for _, f := range s.set {
		header.Add(f.name, f.value)
	}
}

// drops reports whether the upstream's field of this name is replaced or removed.
func (s *responseFields) drops(name []byte) bool {
	for _, dropped := range s.drop {
		if bytes.EqualFold([]byte(dropped), name) {
			return true
		}
	}
	return false
}

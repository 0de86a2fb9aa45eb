package proxy

import (
	"bytes"
	"fmt"
	"strings"

	"postern/answer"
	"postern/directory"
)

// Catalogs knows the catalogs by their external ids.
type Catalogs interface {
	// Catalog neither blocks nor allocates, and does not keep external. It may be called
	// concurrently.
	Catalog(external []byte) (directory.Catalog, bool)
}

// maxCatalogs is how often one request may name a catalog.
const maxCatalogs = 32

const (
	catalogAmbiguous = "the catalog is named in a malformed or ambiguous way"
	catalogMissing   = "name a catalog"
)

// catalogPlace is where a route's requests name their catalog, made ready. The zero value:
// nowhere.
type catalogPlace struct {
	segment   int    // of the path, from 1
	parameter string // of the query
	field     string // folded
	folded    string // parameter
	required  bool
}

// newCatalogPlace checks that what is judged is what the upstream gets.
func newCatalogPlace(r Route, fields requestFields, c *classifier) (p catalogPlace, err error) {
	given := r.Catalog
	places := 0
	for _, there := range []bool{given.Path > 0, given.Query != "", given.Header != ""} {
		if there {
			places++
		}
	}
	switch {
	case places == 0:
		return p, nil
	case places > 1 || given.Path < 0:
		return p, fmt.Errorf("a catalog is named in one place: a segment of the path, a parameter or a field")
	case r.Access == Public:
		return p, fmt.Errorf("a public route looks at no token, and so at no catalog")
	case given.Query != "" && (len(given.Query) > foldSize || strings.Trim(given.Query, parameterBytes) != ""):
		return p, fmt.Errorf("parameter %q: is 1 to %d letters, digits and ._-", given.Query, foldSize)
	}
	if name := []byte(given.Header); given.Header != "" {
		if err := checkField(Field{Name: given.Header}); err != nil {
			return p, err
		}
		if c.classify(name) != forwarded || fields.drops(name) {
			return p, fmt.Errorf("field %s: is not forwarded as the client sends it, and so names no catalog", given.Header)
		}
		p.field = string(fold(nil, name))
		for _, trailer := range r.Trailers {
			if string(fold(nil, []byte(trailer))) == p.field {
				return p, fmt.Errorf("field %s: may come in a trailer too, which is not judged, and so names no catalog", given.Header)
			}
		}
	}
	p.segment, p.parameter, p.required = given.Path, given.Query, given.Required
	p.folded = string(fold(nil, []byte(given.Query)))
	return p, nil
}

const parameterBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

// named is what a request names: external ids, which have no blanks, with a blank between
// them and each once.
type named struct {
	ids     []byte
	count   int
	unknown bool // it named one that no catalog can have
}

// readCatalogs reads what the request names, wherever an upstream might read it. What may
// be read in two ways is refused. Nothing is judged yet.
func (x *exchange) readCatalogs() (refusal answer.Refusal, ok bool) {
	p, n := &x.route.catalog, &x.named
	*n = named{ids: n.ids[:0]}
	ok = true
	switch {
	case p.segment > 0:
		ok = n.segment(x.head.path, p.segment)
	case p.parameter != "":
		ok = n.parameters(x.head.query, p)
	case p.field != "":
		ok = n.lines(x.head.fields, p.field)
	}
	if !ok {
		return answer.Refusal{Reason: answer.InvalidRequest, Message: catalogAmbiguous}, false
	}
	return refusal, true
}

// requireCatalog refuses a request that names none, where its route demands one.
func (x *exchange) requireCatalog() (refusal answer.Refusal, ok bool) {
	if x.route.catalog.required && len(x.named.ids) == 0 && !x.named.unknown {
		return answer.Refusal{Reason: answer.InvalidRequest, Message: catalogMissing}, false
	}
	return refusal, true
}

// mayUse reports whether client may use all of these external ids, with a blank between them;
// nil is nobody in particular, who may use what is public. A catalog that does not exist costs
// what any other does.
func (f *Front) mayUse(client *directory.Client, ids []byte) bool {
	may := true
	for rest := ids; len(rest) > 0; {
		var id []byte
		id, rest, _ = bytes.Cut(rest, []byte{' '})
		_, _, open := f.open(client, id)
		may = open && may
	}
	return may
}

// open finds a catalog, and reports whether client may use it.
func (f *Front) open(client *directory.Client, id []byte) (catalog directory.Catalog, found, open bool) {
	catalog, found = f.options.Catalogs.Catalog(id)
	open = catalog.Public
	if client != nil {
		open = client.MayUse(catalog)
	}
	return catalog, found, found && open
}

// segment reads the n-th segment of the path. One before it in which an upstream may see
// another number of segments makes it ambiguous: an encoded slash, or parameters alone;
// parameters in the segment itself do too, since some upstreams drop them.
func (c *named) segment(path []byte, n int) bool {
	rest := path[1:]
	for i := 1; i < n; i++ {
		segment, after, more := bytes.Cut(rest, []byte{'/'})
		if !more {
			return true
		}
		if len(segment) > 0 && segment[0] == ';' || bytes.Contains(segment, []byte("%2F")) || bytes.Contains(segment, []byte("%2f")) {
			return false
		}
		rest = after
	}
	segment, _, _ := bytes.Cut(rest, []byte{'/'})
	return bytes.IndexByte(segment, ';') < 0 && c.add(segment, true, false)
}

// parameters reads each parameter of the name. To some upstreams ";" separates parameters,
// case and punctuation do not tell names apart, or name[] is one more of the name: where
// that would name a catalog, the query is ambiguous.
func (c *named) parameters(query []byte, p *catalogPlace) bool {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte{'&'})
		for whole := bytes.IndexByte(pair, ';') < 0; len(pair) > 0; {
			var piece []byte
			piece, pair, _ = bytes.Cut(pair, []byte{';'})
			key, value, _ := bytes.Cut(piece, []byte{'='})
			exact, alike, ok := p.matches(key)
			switch {
			case !ok || alike && !(exact && whole):
				return false
			case exact && !c.add(value, true, true):
				return false
			}
		}
	}
	return true
}

// matches compares a parameter's name: decoded it is the name, or only something that some
// upstream may take for it. ok is false where it cannot be decoded.
func (p *catalogPlace) matches(key []byte) (exact, alike, ok bool) {
	var buffer [foldSize + 2]byte
	folded, n, ended := buffer[:0], 0, false
	exact = true
	for i := 0; i < len(key); i++ {
		b := key[i]
		if b == '%' {
			if i+2 >= len(key) || unhex(key[i+1]) < 0 || unhex(key[i+2]) < 0 {
				return false, false, false
			}
			b = byte(unhex(key[i+1])<<4 | unhex(key[i+2]))
			i += 2
		}
		exact = exact && n < len(p.parameter) && p.parameter[n] == b
		n++
		if ended = ended || b == '[' || b == 0; !ended && len(folded) <= foldSize {
			folded = fold(folded, []byte{b})
		}
	}
	return exact && n == len(p.parameter), string(folded) == p.folded, true
}

// lines reads each line of the field, in any spelling that an upstream may take for it. A
// list with commas is one value.
func (c *named) lines(fields []field, folded string) bool {
	var buffer [foldSize + 1]byte
	for i := range fields {
		if string(fold(buffer[:0], fields[i].name)) == folded && !c.add(fields[i].value, false, false) {
			return false
		}
	}
	return true
}

// add notes one value, decoded once. It is false where that is malformed, has control
// characters, or is one too many. An empty value names nothing.
func (c *named) add(value []byte, percent, plus bool) bool {
	if c.count++; c.count > maxCatalogs {
		return false
	}
	before := len(c.ids)
	if before > 0 {
		c.ids = append(c.ids, ' ')
	}
	start, possible := len(c.ids), true
	for i := 0; i < len(value); i++ {
		b := value[i]
		switch {
		case percent && b == '%':
			if i+2 >= len(value) || unhex(value[i+1]) < 0 || unhex(value[i+2]) < 0 {
				c.ids = c.ids[:before]
				return false
			}
			b = byte(unhex(value[i+1])<<4 | unhex(value[i+2]))
			i += 2
		case plus && b == '+':
			b = ' '
		}
		if b < ' ' || b == 0x7f {
			c.ids = c.ids[:before]
			return false
		}
		possible = possible && b > ' ' && b < 0x7f
		c.ids = append(c.ids, b)
	}
	id := c.ids[start:]
	c.unknown = c.unknown || !possible
	if len(id) == 0 || !possible || hasID(c.ids[:before], id) {
		c.ids = c.ids[:before]
	}
	return true
}

func hasID(ids, id []byte) bool {
	for len(ids) > 0 {
		var one []byte
		if one, ids, _ = bytes.Cut(ids, []byte{' '}); bytes.Equal(one, id) {
			return true
		}
	}
	return false
}

package issuer

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"

	"postern/token"
)

// maxParameters bounds what one form may hold, as token.Object bounds members.
const maxParameters = 1000

// parameters are what the content says, by name.
type parameters map[string]string

// formParameters reads a form (RFC 6749 appendix B). A parameter without a value is as if
// it was not there, and none may be there twice (RFC 6749 §3.2). problem says what is
// wrong, from a closed set; "": nothing.
func formParameters(body []byte) (p parameters, problem string) {
	p = make(parameters)
	seen := make(map[string]bool)
	for pair := range strings.SplitSeq(string(body), "&") {
		if pair == "" {
			continue
		}
		name, value, _ := strings.Cut(pair, "=")
		name, errName := url.QueryUnescape(name)
		value, errValue := url.QueryUnescape(value)
		switch {
		case errName != nil || errValue != nil:
			return nil, "the content must be a form"
		case seen[name]:
			return nil, "a parameter is repeated"
		case len(seen) == maxParameters:
			return nil, "there are too many parameters"
		}
		seen[name] = true
		if value != "" {
			p[name] = value
		}
	}
	return p, ""
}

// jsonParameters reads a JSON object: of its members those that names lists, which must be
// strings. An empty one is there.
func jsonParameters(body []byte, names []string) (p parameters, problem string) {
	members, err := token.Object(body)
	if err != nil {
		return nil, "the content must be one JSON object without repeated members"
	}
	p = make(parameters, len(names))
	for _, name := range names {
		raw, ok := members[name]
		if !ok {
			continue
		}
		if p[name], ok = stringOf(raw); !ok {
			return nil, name + " must be a string"
		}
	}
	return p, ""
}

// stringOf is the value of a JSON string. Anything else, null too, is !ok.
func stringOf(raw json.RawMessage) (text string, ok bool) {
	if len(raw) < 2 || raw[0] != '"' {
		return "", false
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), true
	}
	return text, json.Unmarshal(raw, &text) == nil
}

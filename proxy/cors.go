package proxy

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

// cors is a route's CORS protocol (https://fetch.spec.whatwg.org/#http-cors-protocol),
// made ready. It decides what a browser's script from elsewhere may send and read; it
// protects nobody but the browser's user: what the route demands of a request stays
// demanded.
type cors struct {
	anyOrigin   bool
	origins     []string
	methods     []string
	anyHeader   bool
	headers     []string // lower case
	credentials bool

	allowMethods, allowHeaders, expose, maxAge string // field values
}

// The fields of the protocol. An upstream's own are removed where a route has CORS: two
// answers to one question are none.
const (
	corsOrigin      = "Access-Control-Allow-Origin"
	corsCredentials = "Access-Control-Allow-Credentials"
	corsMethods     = "Access-Control-Allow-Methods"
	corsHeaders     = "Access-Control-Allow-Headers"
	corsExpose      = "Access-Control-Expose-Headers"
	corsMaxAge      = "Access-Control-Max-Age"
	corsPrivate     = "Access-Control-Allow-Private-Network"
)

var corsProtocol = [...]string{corsOrigin, corsCredentials, corsMethods, corsHeaders, corsExpose, corsMaxAge, corsPrivate}

// isCORS reports whether name is a field of the protocol.
func isCORS(name []byte) bool {
	for _, field := range corsProtocol {
		if bytes.EqualFold(name, []byte(field)) {
			return true
		}
	}
	return false
}

func newCORS(given *CORS) (*cors, error) {
	if given == nil {
		return nil, nil
	}
	c := &cors{
		origins: given.Origins, credentials: given.Credentials,
		anyOrigin: slices.Contains(given.Origins, "*"),
		anyHeader: slices.Contains(given.Headers, "*"),
		methods:   []string{"GET", "HEAD", "POST"}, // always allowed (Fetch: CORS-safelisted method)
		expose:    strings.Join(given.Expose, ", "),
		maxAge:    strconv.FormatInt(int64(given.MaxAge/time.Second), 10),
	}
	if len(given.Origins) == 0 || c.anyOrigin && c.credentials {
		return nil, fmt.Errorf(`CORS needs origins, and "*" is for requests without credentials only`)
	}
	for _, list := range [][]string{given.Methods, given.Headers, given.Expose} {
		for _, name := range list {
			if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r > 0x7f || !tokenBytes[byte(r)] }) {
				return nil, fmt.Errorf("CORS: %q is no method or field name", name)
			}
		}
	}
	for _, m := range given.Methods {
		if !slices.Contains(c.methods, m) {
			c.methods = append(c.methods, m)
		}
	}
	for _, h := range given.Headers {
		c.headers = append(c.headers, strings.ToLower(h))
	}
	c.allowMethods, c.allowHeaders = strings.Join(c.methods, ", "), strings.Join(given.Headers, ", ")
	return c, nil
}

// origin returns the request's one Origin where it may read answers; nil otherwise. An
// opaque origin ("null") is anybody's: it is never allowed by name.
func (c *cors) origin(fields []field) []byte {
	origin, count := valueOf(fields, "origin")
	switch {
	case count != 1 || len(origin) == 0:
		return nil
	case c.anyOrigin:
		return origin
	}
	for _, allowed := range c.origins {
		if string(origin) == allowed && allowed != "null" {
			return origin
		}
	}
	return nil
}

// preflightOf returns the method that a preflight asks for. ok is false where the request
// is none: OPTIONS with Origin and one Access-Control-Request-Method that says one.
func preflightOf(h *head) (method []byte, ok bool) {
	if string(h.method) != "OPTIONS" {
		return nil, false
	}
	_, origins := valueOf(h.fields, "origin")
	method, methods := valueOf(h.fields, "access-control-request-method")
	return method, origins > 0 && methods == 1 && len(method) > 0
}

// permits reports whether a preflight for method may be followed by its request.
func (c *cors) permits(h *head, method []byte) bool {
	if c.origin(h.fields) == nil || !slices.Contains(c.methods, string(method)) {
		return false
	}
	for i := range h.fields {
		if equalFold(h.fields[i].name, "access-control-request-headers") && !c.permitsHeaders(h.fields[i].value) {
			return false
		}
	}
	return true
}

func (c *cors) permitsHeaders(names []byte) bool {
	for len(names) > 0 {
		var name []byte
		name, names, _ = bytes.Cut(names, []byte{','})
		if name = bytes.Trim(name, " \t"); len(name) > 0 && !c.permitsHeader(name) {
			return false
		}
	}
	return true
}

func (c *cors) permitsHeader(name []byte) bool {
	for _, allowed := range c.headers {
		if equalFold(name, allowed) {
			return true
		}
	}
	if !c.anyHeader || equalFold(name, "authorization") { // which "*" never covers (Fetch: CORS non-wildcard request-header name)
		return false
	}
	for _, b := range name {
		if !tokenBytes[b] {
			return false
		}
	}
	return true
}

// preflight answers one: 204 with what is allowed, without a token, since browsers send
// none; or refuses it, without a field of the protocol. The answer depends on the route
// and on the request's head alone.
func (c *cors) preflight(res *fasthttp.Response, h *head, method []byte) (refusal answer.Refusal, ok bool) {
	if !c.permits(h, method) {
		return answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusForbidden,
			Message: "this cross-origin request is not allowed"}, false
	}
	res.Reset()
	res.Header.SetNoDefaultContentType(true)
	res.SetStatusCode(fasthttp.StatusNoContent)
	c.allow(&res.Header, h)
	res.Header.Del(corsExpose) // of an answer that is read, which this is not
	res.Header.Set(corsMethods, c.allowMethods)
	switch {
	case c.anyHeader && c.credentials: // where "*" would be a name (Fetch §3.2.3)
		c.echoHeaders(&res.Header, h)
	case c.allowHeaders != "":
		res.Header.Set(corsHeaders, c.allowHeaders)
	}
	res.Header.Set(corsMaxAge, c.maxAge)
	res.Header.Set(fasthttp.HeaderVary, "Origin, Access-Control-Request-Method, Access-Control-Request-Headers")
	return refusal, true
}

// echoHeaders allows the names that were asked for, all of which are permitted tokens.
func (c *cors) echoHeaders(header *fasthttp.ResponseHeader, h *head) {
	for i := range h.fields {
		if equalFold(h.fields[i].name, "access-control-request-headers") {
			header.AddBytesV(corsHeaders, h.fields[i].value)
		}
	}
}

// apply makes an answer readable by the script that asked, where it may be: the
// upstream's, and our own refusals, so that a script can see its 401.
func (c *cors) apply(header *fasthttp.ResponseHeader, h *head) {
	for _, name := range corsProtocol {
		header.Del(name)
	}
	varyByOrigin(header)
	c.allow(header, h)
}

func (c *cors) allow(header *fasthttp.ResponseHeader, h *head) {
	origin := c.origin(h.fields)
	if origin == nil {
		return
	}
	if c.anyOrigin {
		header.Set(corsOrigin, "*")
	} else {
		header.SetBytesV(corsOrigin, origin)
	}
	if c.credentials {
		header.Set(corsCredentials, "true")
	}
	if c.expose != "" {
		header.Set(corsExpose, c.expose)
	}
}

// varyByOrigin adds Origin to Vary unless it is there (RFC 9110 §12.5.5), so that no cache
// gives one origin's answer to another.
func varyByOrigin(header *fasthttp.ResponseHeader) {
	lines := header.PeekAll(fasthttp.HeaderVary)
	for _, line := range lines {
		for rest := line; len(rest) > 0; {
			var name []byte
			name, rest, _ = bytes.Cut(rest, []byte{','})
			if name = bytes.Trim(name, " \t"); equalFold(name, "origin") || string(name) == "*" {
				return
			}
		}
	}
	if len(lines) == 0 {
		header.Set(fasthttp.HeaderVary, "Origin")
		return
	}
	joined := append(bytes.Join(lines, []byte(", ")), ", Origin"...)
	header.Del(fasthttp.HeaderVary) // Set would leave the second line
	header.SetBytesV(fasthttp.HeaderVary, joined)
}

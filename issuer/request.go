package issuer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
	"postern/secret"
)

// maxBody is how many bytes of content a request may have.
const maxBody = 64 << 10

// credentials are what a client authenticates with (RFC 6749 §2.3.1).
type credentials struct {
	clientID     string
	clientSecret secret.Secret
}

// request is a request to one of the token routes, whatever dialect it came in.
type request struct {
	dialect
	credentials
	scope  string            // space-separated; "": none asked
	token  string            // to refresh, revoke or introspect
	known  string            // the client that has the identifier, whether it proved that or not; "": none, or not looked up yet
	proved *directory.Client // the client that has authenticated; nil: none, or not yet
}

// route is one of the four that clients authenticate at.
type route uint8

const (
	issueRoute route = iota
	refreshRoute
	revokeRoute
	introspectRoute
)

const (
	jsonType          = "application/json"
	formType          = "application/x-www-form-urlencoded"
	clientCredentials = "client_credentials" // the grant type (RFC 6749 §4.4)
)

// readRequest is the shape of a request: who sends what, before anybody looks at whether
// it is true. With !ok the refusal is the answer, in the dialect of req, and it closes the
// connection whenever some of the body was not read.
func (i *Issuer) readRequest(ctx *fasthttp.RequestCtx, at route) (req request, refusal answer.Refusal, ok bool) {
	no := func(r answer.Refusal) (request, answer.Refusal, bool) { return request{dialect: req.dialect}, r, false }
	if !ctx.IsPost() {
		return no(answer.Refusal{Reason: answer.MethodNotAllowed, Allow: "POST", Close: hasBody(ctx)})
	}
	media := mediaType(ctx.Request.Header.ContentType())
	if media == formType {
		req.dialect = oauth
	}
	query := ctx.QueryArgs()
	if query.Has("client_id") || query.Has("client_secret") || at != issueRoute && query.Has("token") {
		// RFC 6749 §2.3.1: never in the request URI, where logs and histories keep it.
		return no(malformed("credentials must not be sent in the URL; rotate this client secret", hasBody(ctx)))
	}
	if media != jsonType && media != formType {
		return no(answer.Refusal{Reason: answer.UnsupportedMediaType, AcceptPost: jsonType + ", " + formType, Close: hasBody(ctx)})
	}
	// Before the body: what a trailer adds to the header must not count.
	basic, presented, problem := basicCredentials(&ctx.Request.Header)
	if problem != "" {
		return no(malformed(problem, hasBody(ctx)))
	}
	buffer := i.bodies.Get().(*[]byte)
	defer i.bodies.Put(buffer)
	body, refusal := readBody(ctx, buffer)
	if refusal.Reason != "" {
		return no(refusal)
	}
	var given parameters
	switch {
	case req.dialect == oauth:
		if given, problem = formParameters(body); looksJSON(body) && given["grant_type"]+given["token"] == "" {
			problem = "the content is JSON, and is announced as a form: send Content-Type: application/json"
		}
	case len(body) > 0 || !presented: // with Basic there may be nothing more to say
		given, problem = jsonParameters(body, at.members())
	}
	if problem != "" {
		return no(malformed(problem, false))
	}
	if refusal = checkGrant(req.dialect, at, given); refusal.Reason != "" {
		return no(refusal)
	}
	if req.credentials, refusal = chooseCredentials(req.dialect, at, basic, presented, given); refusal.Reason != "" {
		return no(refusal)
	}
	if at == issueRoute {
		req.scope = given["scope"]
	} else if req.token = given["token"]; req.token == "" {
		return no(malformed("token is required", false))
	}
	return req, answer.Refusal{}, true
}

// looksJSON reports whether a form begins as a JSON object does: curl says that what --data
// sends is a form, whatever it is.
func looksJSON(form []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(form, " \t\r\n"), []byte("{"))
}

// members are the names that a route reads in a JSON object.
func (at route) members() []string {
	if at == issueRoute {
		return []string{"client_id", "client_secret", "scope"}
	}
	return []string{"client_id", "client_secret", "token"}
}

// checkGrant looks at the grant type, which OAuth 2's token request must name. The guide's
// has none.
func checkGrant(d dialect, at route, given parameters) answer.Refusal {
	grant, named := given["grant_type"]
	switch {
	case d == guide || at != issueRoute || grant == clientCredentials:
		return answer.Refusal{}
	case !named:
		return malformed("grant_type is required", false)
	}
	return answer.Refusal{Reason: answer.UnsupportedGrantType}
}

// chooseCredentials finds the one place that the client's credentials are in.
func chooseCredentials(d dialect, at route, basic credentials, presented bool, given parameters) (credentials, answer.Refusal) {
	id, hasID := given["client_id"]
	password, hasPassword := given["client_secret"]
	switch {
	case presented && (hasID || hasPassword):
		return credentials{}, malformed("send the client's credentials in one place only", false)
	case presented:
		return basic, answer.Refusal{}
	case hasID && hasPassword:
		return credentials{clientID: id, clientSecret: secret.Secret(password)}, answer.Refusal{}
	case d == guide && (at == issueRoute || at == refreshRoute): // an object without its members
		return credentials{}, malformed("client_id and client_secret are required", false)
	}
	return credentials{}, answer.Refusal{Reason: answer.InvalidClient} // RFC 6749 §5.2
}

func malformed(message string, unread bool) answer.Refusal {
	return answer.Refusal{Reason: answer.InvalidRequest, Message: message, Close: unread}
}

// hasBody reports whether the request announced content.
func hasBody(ctx *fasthttp.RequestCtx) bool {
	n := ctx.Request.Header.ContentLength()
	return n > 0 || n == -1 // -1: chunked
}

// mediaType is the type of a Content-Type without parameters, in lower case.
func mediaType(contentType []byte) string {
	name, _, _ := bytes.Cut(contentType, []byte(";"))
	name = bytes.TrimSpace(name)
	if bytes.EqualFold(name, []byte(jsonType)) {
		return jsonType // the usual case, without an allocation
	}
	return strings.ToLower(string(name))
}

// readBody reads the content, maxBody bytes at most, into buffer, which it may replace by
// a larger one. A refusal with a Reason says why there is none.
func readBody(ctx *fasthttp.RequestCtx, buffer *[]byte) (body []byte, refusal answer.Refusal) {
	tooLarge := answer.Refusal{Reason: answer.TooLarge, Close: true}
	length := ctx.Request.Header.ContentLength()
	if length > maxBody {
		return nil, tooLarge
	}
	stream := ctx.RequestBodyStream()
	if stream == nil { // a server that does not stream has read all of it
		if body = ctx.Request.Body(); len(body) > maxBody {
			return nil, tooLarge
		}
		return body, answer.Refusal{}
	}
	body, err := readUpTo(stream, (*buffer)[:0], maxBody+1)
	*buffer = body
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return nil, answer.Refusal{Reason: answer.InvalidRequest, Status: fasthttp.StatusRequestTimeout,
			Message: "the content did not arrive in time", Close: true}
	}
	if err != nil || len(body) < length {
		return nil, malformed("the content is incomplete or its framing is wrong", true)
	}
	if len(body) > maxBody {
		return nil, tooLarge
	}
	return body, answer.Refusal{}
}

// readUpTo appends to dst what r has, until its end or until dst holds limit bytes. Memory
// follows what arrived, not what was announced.
func readUpTo(r io.Reader, dst []byte, limit int) ([]byte, error) {
	for len(dst) < limit {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):min(cap(dst), limit)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// basicCredentials reads HTTP Basic as RFC 6749 §2.3.1 wants it: each part
// form-encoded before the two are joined. presented says that Authorization is there.
// What cannot be decoded are credentials that nobody has; problem is for what is not
// even a question about credentials.
func basicCredentials(h *fasthttp.RequestHeader) (c credentials, presented bool, problem string) {
	lines := h.PeekAll("Authorization")
	if len(lines) > 1 {
		return credentials{}, false, "send one Authorization header only"
	}
	if len(lines) == 0 || len(bytes.TrimSpace(lines[0])) == 0 {
		return credentials{}, false, ""
	}
	scheme, encoded, _ := bytes.Cut(lines[0], []byte(" "))
	if !bytes.EqualFold(scheme, []byte("Basic")) {
		return credentials{}, true, ""
	}
	joined, err := base64.StdEncoding.Strict().DecodeString(string(bytes.Trim(encoded, " ")))
	if err != nil {
		return credentials{}, true, ""
	}
	id, password, _ := strings.Cut(string(joined), ":")
	id, errID := url.QueryUnescape(id)
	password, errPassword := url.QueryUnescape(password)
	if errID != nil || errPassword != nil {
		return credentials{}, true, ""
	}
	return credentials{clientID: id, clientSecret: secret.Secret(password)}, true, ""
}

package issuer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/secret"
	"postern/token"
)

// maxBody is how many bytes of content a request may have.
const maxBody = 64 << 10

// credentials are what a client authenticates with (RFC 6749 §2.3.1).
type credentials struct {
	clientID     string
	clientSecret secret.Secret
}

// request is a token request, whatever dialect it came in.
type request struct {
	credentials
	scope string // space-separated; "": none asked
}

// readRequest is the shape of a token request: who sends what, before anybody looks at
// whether it is true. With !ok the refusal is the answer, and it closes the connection
// whenever some of the body was not read.
func (i *Issuer) readRequest(ctx *fasthttp.RequestCtx) (req request, refusal answer.Refusal, ok bool) {
	no := func(r answer.Refusal) (request, answer.Refusal, bool) { return request{}, r, false }
	if !ctx.IsPost() {
		return no(answer.Refusal{Reason: answer.MethodNotAllowed, Allow: "POST", Close: hasBody(ctx)})
	}
	if query := ctx.QueryArgs(); query.Has("client_id") || query.Has("client_secret") {
		// RFC 6749 §2.3.1: never in the request URI, where logs and histories keep it.
		return no(malformed("credentials must not be sent in the URL; rotate this client secret", hasBody(ctx)))
	}
	if mediaType(ctx.Request.Header.ContentType()) != "application/json" {
		return no(answer.Refusal{Reason: answer.UnsupportedMediaType, AcceptPost: "application/json", Close: hasBody(ctx)})
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
	if presented && len(body) == 0 {
		return request{credentials: basic}, answer.Refusal{}, true
	}
	members, err := token.Object(body)
	if err != nil {
		return no(malformed("the content must be one JSON object without repeated members", false))
	}
	id, hasID := members["client_id"]
	password, hasPassword := members["client_secret"]
	scope, hasScope := members["scope"]
	switch {
	case presented && (hasID || hasPassword):
		return no(malformed("send the client's credentials in one place only", false))
	case presented:
		req.credentials = basic
	case !hasID || !hasPassword:
		return no(malformed("client_id and client_secret are required", false))
	default:
		text, isText := stringOf(password)
		req.clientSecret = secret.Secret(text)
		if req.clientID, ok = stringOf(id); !ok || !isText {
			return no(malformed("client_id and client_secret must be strings", false))
		}
	}
	if hasScope {
		if req.scope, ok = stringOf(scope); !ok {
			return no(malformed("scope must be a string", false))
		}
	}
	return req, answer.Refusal{}, true
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
	if bytes.EqualFold(name, []byte("application/json")) {
		return "application/json" // the usual case, without an allocation
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

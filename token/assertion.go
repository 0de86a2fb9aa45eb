package token

import (
	"strconv"

	"github.com/google/uuid"
)

// assertionType is the header parameter typ of an assertion. It is not an access token's,
// so neither can be taken for the other (RFC 8725 §3.11).
const assertionType = "postern-assertion+jwt"

// Assertion is what postern asserts to one upstream about the client of a request.
type Assertion struct {
	ID           uuid.UUID // jti
	Token        uuid.UUID // tid: the jti of the access token
	Organization string    // oid
	Client       string    // client_id; sub is SubjectPrefix + Client
	Environment  string    // environment; absent where it is empty
	Agreement    string    // agreement; absent where it is empty
	Issuer       string    // iss
	Audience     string    // aud
	Scope        string    // space-separated; absent where it is empty
	IssuedAt     int64     // iat, seconds
	Expires      int64     // exp, seconds
}

// Assert signs a, as a compact JWS that verifies with the JWK Set (RFC 7519). What could
// not stand in a header field is refused. No verifier of access tokens may take it for one.
func (k *SigningKey) Assert(a Assertion) (string, error) {
	if member := a.unfit(); member != "" {
		return "", unfitError(member)
	}
	return k.seal(k.assertionHead, a.append(make([]byte, 0, 640+len(a.Scope))))
}

// unfit names the first claim that no assertion may carry; "" when there is none.
func (a Assertion) unfit() string {
	c := Claims{
		ID: a.ID, Organization: a.Organization, Client: a.Client, Issuer: a.Issuer, Audience: a.Audience,
		Scope: a.Scope, IssuedAt: a.IssuedAt, Expires: a.Expires,
	}
	switch {
	case a.Token == uuid.Nil:
		return "tid"
	case a.Environment != "" && !plain(a.Environment):
		return "environment"
	case a.Agreement != "" && !plain(a.Agreement):
		return "agreement"
	}
	return c.unfit()
}

// append writes the claims set in a fixed order.
func (a Assertion) append(dst []byte) []byte {
	dst = append(dst, '{')
	member := func(name, value string) {
		if value == "" {
			return
		}
		if len(dst) > 1 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = append(dst, name...)
		dst = append(dst, `":`...)
		dst = appendText(dst, value)
	}
	member("iss", a.Issuer)
	member("aud", a.Audience)
	member("sub", SubjectPrefix+a.Client)
	member("client_id", a.Client)
	member("oid", a.Organization)
	member("environment", a.Environment)
	member("agreement", a.Agreement)
	member("scope", a.Scope)
	member("jti", a.ID.String())
	member("tid", a.Token.String())
	dst = append(dst, `,"iat":`...)
	dst = strconv.AppendInt(dst, a.IssuedAt, 10)
	dst = append(dst, `,"exp":`...)
	dst = strconv.AppendInt(dst, a.Expires, 10)
	return append(dst, '}')
}

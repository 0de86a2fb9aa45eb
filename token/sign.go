package token

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// MaxSize is the longest token in bytes that Verify reads and Sign makes.
const MaxSize = 16 << 10

// mediaType is the header parameter typ of an access token (RFC 9068 §2.1).
const mediaType = "at+jwt"

// Sign makes a token of c, which it checks like Verify would: what could not be
// verified, or would break a header field upstream, is refused here (RFC 9110 §5.5).
func (k *SigningKey) Sign(c Claims) (string, error) {
	if member := c.unfit(); member != "" {
		return "", unfitError(member)
	}
	return k.seal(k.head, c.append(make([]byte, 0, 512+len(c.Scope))))
}

func unfitError(member string) error {
	return fmt.Errorf("sign token: the claim %s is not fit for a token", member)
}

// seal signs a claims set under head, one of the key's own.
func (k *SigningKey) seal(head string, claims []byte) (string, error) {
	raw := make([]byte, 0, len(head)+base64.RawURLEncoding.EncodedLen(len(claims)))
	raw = append(raw, head...)
	raw = base64.RawURLEncoding.AppendEncode(raw, claims)
	input := string(raw)
	signature, err := k.method.Sign(input, k.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	signed := input + "." + base64.RawURLEncoding.EncodeToString(signature)
	if len(signed) > MaxSize {
		return "", fmt.Errorf("sign token: %d bytes, more than %d", len(signed), MaxSize)
	}
	return signed, nil
}

// unfit names the first claim that no token may carry; "" when there is none.
func (c Claims) unfit() string {
	switch {
	case c.ID == [16]byte{}:
		return "jti"
	case !identifier([]byte(c.Organization)):
		return "oid"
	case !identifier([]byte(c.Client)):
		return "client_id"
	case !plain(c.Issuer):
		return "iss"
	case !plain(c.Audience):
		return "aud"
	case c.Scope != "" && !scopes([]byte(c.Scope)):
		return "scope"
	case c.IssuedAt < 1 || c.IssuedAt > maxDate:
		return "iat"
	case c.NotBefore < 0 || c.NotBefore > maxDate:
		return "nbf"
	case c.Expires <= c.IssuedAt || c.Expires > maxDate:
		return "exp"
	}
	return ""
}

// append writes the claims set in a fixed order: the guide's claims first.
func (c Claims) append(dst []byte) []byte {
	dst = append(dst, `{"jti":"`...)
	id, _ := c.ID.MarshalText()
	dst = append(dst, id...)
	dst = append(dst, `","oid":"`...)
	dst = append(dst, c.Organization...)
	dst = append(dst, `","sub":"`+SubjectPrefix...)
	dst = append(dst, c.Client...)
	dst = append(dst, `","iat":`...)
	dst = strconv.AppendInt(dst, c.IssuedAt, 10)
	dst = append(dst, `,"exp":`...)
	dst = strconv.AppendInt(dst, c.Expires, 10)
	dst = append(dst, `,"iss":`...)
	dst = appendText(dst, c.Issuer)
	dst = append(dst, `,"aud":`...)
	dst = appendText(dst, c.Audience)
	dst = append(dst, `,"client_id":"`...)
	dst = append(dst, c.Client...)
	dst = append(dst, '"')
	if c.Scope != "" {
		dst = append(dst, `,"scope":"`...)
		dst = append(dst, c.Scope...)
		dst = append(dst, '"')
	}
	if c.NotBefore != 0 {
		dst = append(dst, `,"nbf":`...)
		dst = strconv.AppendInt(dst, c.NotBefore, 10)
	}
	return append(dst, '}')
}

// appendText writes a JSON string; plain has seen to the rest.
func appendText(dst []byte, text string) []byte {
	dst = append(dst, '"')
	for i := range len(text) {
		if text[i] == '"' || text[i] == '\\' {
			dst = append(dst, '\\')
		}
		dst = append(dst, text[i])
	}
	return append(dst, '"')
}

// plain reports whether text can be an issuer or an audience: no control characters.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] == 0x7f {
			return false
		}
	}
	return text != "" && utf8.ValidString(text)
}

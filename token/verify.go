// Package token makes and checks access tokens: compact JWS with RFC 9068's header and
// the guide's claims.
//
// Everything here is a pure function of its arguments: no I/O, no clock but the one
// given. golang-jwt does the cryptography and lives in this package alone; the reading
// around it is our own, because it must be stricter than encoding/json can be. What
// this package must never do: take the algorithm or a key from the token itself.
// Start reading at Verify.
package token

import (
	"bytes"
	"encoding/base64"
	"time"

	"github.com/google/uuid"
)

const (
	maxDate  = 1 << 53 // seconds; beyond it not all JSON readers agree on integers
	maxKeyID = 128
)

// Expect is what a token must say to be ours.
type Expect struct {
	Issuer   string        // iss, exactly
	Audience string        // one of aud, exactly
	Leeway   time.Duration // for iat and nbf; never for exp, which our own clock set
}

// Verify checks raw at now and returns what it says. Its error is one of the constants
// of Invalid. It keeps nothing of raw and changes nothing of it.
//
// What is cheap is checked before the signature: of a token that is both expired and
// forged it says that it expired. Another issuer's token is WrongIssuer whatever key it
// names, so UnknownKey means a key of ours.
func Verify(raw []byte, keys *KeySet, e Expect, now time.Time) (Claims, error) {
	c, _, err := VerifyKey(raw, keys, e, now)
	return c, err
}

// VerifyKey is Verify that also says which key signed.
func VerifyKey(raw []byte, keys *KeySet, e Expect, now time.Time) (Claims, PublicKey, error) {
	j, err := parse(raw)
	if err != nil {
		return Claims{}, PublicKey{}, err
	}
	if err := j.expect(e, now); err != nil {
		return Claims{}, PublicKey{}, err
	}
	key, ok := keys.keys[string(j.keyID)]
	if !ok || key.NotAfter != 0 && now.Unix() > key.NotAfter {
		return Claims{}, PublicKey{}, UnknownKey
	}
	if err := j.signedBy(key); err != nil {
		return Claims{}, PublicKey{}, err
	}
	return j.claims(e), *key, nil
}

// Signed reads a token that one of keys signed, whatever its dates say and whomever it is
// for: what it says is what we once issued, and no reason to let anybody in.
func Signed(raw []byte, keys *KeySet) (Claims, bool) {
	j, err := parse(raw)
	if err != nil {
		return Claims{}, false
	}
	key, ok := keys.keys[string(j.keyID)]
	if !ok || j.signedBy(key) != nil {
		return Claims{}, false
	}
	return j.claims(Expect{Issuer: string(j.issuer)}), true
}

// jws is a token taken apart, well formed and not yet believed. Its slices alias the
// buffer that it was decoded into, except input, which aliases the token.
type jws struct {
	input     []byte // of the signature
	signature []byte
	algorithm []byte
	keyID     []byte
	typed     bool // typ is ours

	id           uuid.UUID
	organization []byte
	client       []byte
	issuer       []byte
	audience     []byte // the JSON value
	scope        []byte
	issued       int64
	notBefore    int64
	expires      int64
}

// signedBy checks the signature. The algorithm is the key's: the header must agree, and
// decides nothing (RFC 8725 §3.1).
func (j *jws) signedBy(key *PublicKey) error {
	if string(j.algorithm) != string(key.Algorithm) {
		return Malformed
	}
	if key.Algorithm.method().Verify(string(j.input), j.signature, key.Key) != nil {
		return BadSignature
	}
	return nil
}

// expect checks the claims that depend on who asks and when.
func (j *jws) expect(e Expect, now time.Time) error {
	if string(j.issuer) != e.Issuer {
		return WrongIssuer
	}
	if listed, ok := lists(j.audience, e.Audience); !ok {
		return Malformed
	} else if !listed {
		return WrongAudience
	}
	if now.Unix() >= j.expires {
		return Expired
	}
	if latest := now.Add(e.Leeway).Unix(); j.issued > latest || j.notBefore > latest {
		return NotYetValid
	}
	return nil
}

// claims copies what is kept. iss and aud are known to be what was expected.
func (j *jws) claims(e Expect) Claims {
	return Claims{
		ID:           j.id,
		Organization: string(j.organization),
		Client:       string(j.client),
		Issuer:       e.Issuer,
		Audience:     e.Audience,
		Scope:        string(j.scope),
		IssuedAt:     j.issued,
		NotBefore:    j.notBefore,
		Expires:      j.expires,
	}
}

// parse takes raw apart: three parts, the first two strict JSON objects.
func parse(raw []byte) (jws, error) {
	var j jws
	head, body, ok := j.split(raw)
	if !ok {
		return j, Malformed
	}
	s := &scan{names: make([][]byte, 0, 16), members: make([]member, 0, 16)}
	if !s.object(head) || !j.readHead(s.members) || len(j.algorithm) == 0 || len(j.keyID) == 0 || !j.typed {
		return j, Malformed
	}
	if !s.object(body) || !j.readClaims(s.members) {
		return j, Malformed
	}
	return j, nil
}

// split takes the compact serialization apart: three parts, each canonical base64url
// (RFC 7515 §2, §7.1).
func (j *jws) split(raw []byte) (head, body []byte, ok bool) {
	if len(raw) > MaxSize {
		return nil, nil, false
	}
	first := bytes.IndexByte(raw, '.')
	last := bytes.LastIndexByte(raw, '.')
	if first < 0 || last == first { // a dot more is no base64url
		return nil, nil, false
	}
	j.input = raw[:last]
	buffer := make([]byte, 0, base64.RawURLEncoding.DecodedLen(len(raw)))
	head, buffer, ok = decode(buffer, raw[:first])
	if !ok {
		return nil, nil, false
	}
	body, buffer, ok = decode(buffer, raw[first+1:last])
	if !ok {
		return nil, nil, false
	}
	j.signature, _, ok = decode(buffer, raw[last+1:])
	return head, body, ok
}

// decode appends the bytes of one part to buffer. Strict refuses loose last bits;
// newlines, which the package skips, are refused here.
func decode(buffer, part []byte) (decoded, rest []byte, ok bool) {
	if bytes.IndexByte(part, '\n') >= 0 || bytes.IndexByte(part, '\r') >= 0 {
		return nil, nil, false
	}
	from := len(buffer)
	rest, err := base64.RawURLEncoding.Strict().AppendDecode(buffer, part)
	if err != nil {
		return nil, nil, false
	}
	return rest[from:len(rest):len(rest)], rest, true
}

// readHead reads the JOSE header; what may not be missing is parse's to say. jku, x5u, jwk and x5c are not looked at: a key is
// found by kid among ours or not at all (RFC 8725 §3.10).
func (j *jws) readHead(members []member) bool {
	for _, m := range members {
		ok := true
		switch string(m.name) {
		case "alg":
			j.algorithm, ok = text(m.value)
		case "kid":
			j.keyID, ok = text(m.value)
			ok = ok && safeKeyID(j.keyID)
		case "typ":
			var typ []byte
			typ, ok = text(m.value)
			j.typed = string(typ) == mediaType
		case "crit", "b64": // extensions that change what is signed; we know none (RFC 7515 §4.1.11, RFC 7797)
			return false
		}
		if !ok {
			return false
		}
	}
	return true
}

// readClaims reads the claims set. Which of them are missing shows afterwards: no
// claim that is required may be empty.
func (j *jws) readClaims(members []member) bool {
	var subject []byte
	for _, m := range members {
		ok := true
		switch string(m.name) {
		case "jti":
			j.id, ok = canonicalUUID(m.value)
		case "oid":
			j.organization, ok = text(m.value)
		case "sub":
			subject, ok = text(m.value)
		case "client_id":
			j.client, ok = text(m.value)
		case "iss":
			j.issuer, ok = text(m.value)
		case "aud":
			j.audience = m.value
		case "scope":
			j.scope, ok = text(m.value)
			ok = ok && scopes(j.scope)
		case "iat":
			j.issued, ok = date(m.value)
		case "nbf":
			j.notBefore, ok = date(m.value)
		case "exp":
			j.expires, ok = date(m.value)
		}
		if !ok {
			return false
		}
	}
	return j.id != uuid.Nil && j.issued != 0 && j.expires != 0 &&
		identifier(j.organization) && identifier(j.client) &&
		bytes.HasPrefix(subject, []byte(SubjectPrefix)) && bytes.Equal(subject[len(SubjectPrefix):], j.client)
}

// text is the string that value is.
func text(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	return unescape(value[1 : len(value)-1]), true
}

// date is a NumericDate as we write it: a JSON integer from 1 to 2^53, in seconds. A
// fraction or an exponent, which RFC 7519 §2 would allow, is not ours.
func date(value []byte) (int64, bool) {
	if len(value) > 16 {
		return 0, false
	}
	n := int64(0)
	for _, c := range value {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, 1 <= n && n <= maxDate
}

// canonicalUUID reads the one spelling that we write: lower case, four hyphens.
func canonicalUUID(value []byte) (uuid.UUID, bool) {
	if len(value) != 38 || value[0] != '"' {
		return uuid.Nil, false
	}
	id, err := uuid.ParseBytes(value[1:37])
	if err != nil {
		return uuid.Nil, false
	}
	for _, c := range value {
		if 'A' <= c && c <= 'F' {
			return uuid.Nil, false
		}
	}
	return id, true
}

// lists reports whether aud, a string or a flat array of strings, has ours among it;
// ok is false when it is something else. Absent is a list without ours (RFC 7519 §4.1.3).
func lists(aud []byte, ours string) (listed, ok bool) {
	if len(aud) == 0 {
		return false, true
	}
	if aud[0] == '"' {
		one, _ := text(aud)
		return string(one) == ours, true
	}
	list, ok := elements(aud)
	for _, raw := range list {
		one, isText := text(raw)
		ok = ok && isText
		listed = listed || string(one) == ours
	}
	return listed, ok
}

// identifier reports whether id can be the id of a client or an organization: it goes
// into header fields and log lines as it is.
func identifier(id []byte) bool {
	return len(id) >= 1 && len(id) <= 128 && safe(id)
}

// safeKeyID reports whether kid can be one of a key set's.
func safeKeyID(kid []byte) bool { return len(kid) >= 1 && len(kid) <= maxKeyID && safe(kid) }

// safe is RFC 3986's unreserved characters.
func safe(text []byte) bool {
	for _, c := range text {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '~', c == '-':
		default:
			return false
		}
	}
	return true
}

// scopes reports whether text is scope-tokens with one space between (RFC 6749 §3.3).
func scopes(text []byte) bool {
	previous := byte(' ')
	for _, c := range text {
		switch {
		case c == ' ' && previous != ' ':
		case c == 0x21, 0x23 <= c && c <= 0x5b, 0x5d <= c && c <= 0x7e:
		default:
			return false
		}
		previous = c
	}
	return previous != ' '
}

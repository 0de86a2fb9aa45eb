package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// ParseJWKSet reads a JWK Set (RFC 7517 §5) that is not ours. A key that cannot be used
// safely is left out, and dropped says of each why, in the order of the set: RSA below
// 2,048 bits (RFC 7518 §3.3), a symmetric or a private key, another use than "sig",
// another algorithm than ES256, RS256 and EdDSA, no kid or one that an earlier key has.
// err says that data is no JWK Set at all. Neither quotes data.
func ParseJWKSet(data []byte) (keys []PublicKey, dropped []error, err error) {
	set, err := Object(data)
	if err != nil {
		return nil, nil, fmt.Errorf("read JWK Set: %w", err)
	}
	list, ok := elements(set["keys"])
	if !ok {
		return nil, nil, errors.New("read JWK Set: it has no array keys")
	}
	seen := make(map[string]bool, len(list))
	for i, raw := range list {
		k, err := parseJWK(raw)
		if err == nil && seen[k.ID] {
			err = errors.New("an earlier key has the same kid")
		}
		if err != nil {
			dropped = append(dropped, fmt.Errorf("drop key %d of the JWK Set: %w", i+1, err))
			continue
		}
		seen[k.ID] = true
		keys = append(keys, k)
	}
	return keys, dropped, nil
}

// jwk is one member of a JWK Set, for reading. Absent and unfit are the same: "" or nil.
type jwk map[string]json.RawMessage

func (j jwk) text(name string) string {
	if len(j[name]) == 0 {
		return ""
	}
	t, _ := text(j[name])
	return string(t)
}

func (j jwk) bytes(name string) []byte {
	b, _, _ := decode(nil, []byte(j.text(name)))
	return b
}

func parseJWK(raw []byte) (PublicKey, error) {
	object, err := Object(raw)
	if err != nil {
		return PublicKey{}, err
	}
	j := jwk(object)
	for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
		if j[private] != nil {
			return PublicKey{}, errors.New("it holds secret parts, which are no longer secret")
		}
	}
	if j["use"] != nil && j.text("use") != "sig" {
		return PublicKey{}, errors.New(`its use is not "sig"`)
	}
	if j["key_ops"] != nil && !j.verifies() {
		return PublicKey{}, errors.New(`its key_ops do not list "verify"`)
	}
	k := PublicKey{ID: j.text("kid")}
	if !safeKeyID([]byte(k.ID)) {
		return PublicKey{}, errors.New("its kid is missing or unfit")
	}
	switch j.text("kty") {
	case "EC":
		k.Algorithm, err = ES256, j.ec(&k)
	case "RSA":
		k.Algorithm, err = RS256, j.rsa(&k)
	case "OKP":
		k.Algorithm, err = EdDSA, j.okp(&k)
	default:
		return PublicKey{}, errors.New("its kty is none of EC, RSA and OKP")
	}
	if err != nil {
		return PublicKey{}, err
	}
	if j["alg"] != nil && j.text("alg") != string(k.Algorithm) {
		return PublicKey{}, fmt.Errorf("its alg is not %s", k.Algorithm)
	}
	return k, k.check()
}

func (j jwk) verifies() bool {
	list, _ := elements(j["key_ops"])
	for _, raw := range list {
		if op, ok := text(raw); ok && string(op) == "verify" {
			return true
		}
	}
	return false
}

func (j jwk) ec(k *PublicKey) error {
	x, y := j.bytes("x"), j.bytes("y")
	if j.text("crv") != "P-256" || len(x) != 32 || len(y) != 32 {
		return errors.New("it is no point of P-256")
	}
	point := append(append([]byte{4}, x...), y...)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		return errors.New("it is no point of P-256")
	}
	k.Key = key
	return nil
}

func (j jwk) rsa(k *PublicKey) error {
	n, e := j.bytes("n"), j.bytes("e")
	exponent := new(big.Int).SetBytes(e)
	if len(n) == 0 || len(e) == 0 || exponent.BitLen() > 31 {
		return errors.New("its RSA numbers are missing or unfit")
	}
	k.Key = &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exponent.Int64())}
	return nil
}

func (j jwk) okp(k *PublicKey) error {
	x := j.bytes("x")
	if j.text("crv") != "Ed25519" || len(x) != ed25519.PublicKeySize {
		return errors.New("it is no Ed25519 key")
	}
	k.Key = ed25519.PublicKey(x)
	return nil
}

// elements are the values of a JSON array that a scan has already been through.
func elements(array []byte) ([][]byte, bool) {
	if len(array) == 0 || array[0] != '[' {
		return nil, false
	}
	var list [][]byte
	s := scan{data: array, at: 1}
	for {
		s.space()
		if s.peek() == ',' {
			s.at++
			s.space()
		}
		if s.peek() == ']' {
			return list, true
		}
		from := s.at
		if !s.value(1) {
			return nil, false
		}
		list = append(list, array[from:s.at:s.at])
	}
}

package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzVerify signs whatever header and claims it is given, so that the reading is what
// is tried, and also verifies the three texts as they are. What Verify accepts must say
// the same to golang-jwt at its strictest, and must survive being issued again.
func FuzzVerify(f *testing.F) {
	// The same key in every process: the seeds name it.
	k, err := newSigningKey(EdDSA, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		f.Fatal(err)
	}
	keys := NewKeySet(k.Public())
	f.Add(goodHead(k), goodBody(), "")
	f.Add(goodHead(k), with(f, goodBody(), `"scope"`, `"nbf":1700000000,"scope"`), "")
	f.Add(goodHead(k), with(f, goodBody(), `"aud":"https://api.example.com/v1"`, `"aud":["x","https://api.example.com/v1"]`), "")
	f.Add(goodHead(k), with(f, goodBody(), `"search tag"`, `"\u0073earch"`), "")
	f.Add(with(f, goodHead(k), `"typ"`, `"crit":["exp"],"typ"`), goodBody(), "")
	f.Add(with(f, goodHead(k), `"EdDSA"`, `"none"`), goodBody(), "AAAA")
	f.Add(goodHead(k), with(f, goodBody(), `1700007200`, `1.7e9`), "")
	f.Add(goodHead(k), with(f, goodBody(), `"oid"`, `"oid":"x","oid"`), "====")
	f.Add(`{}`, `{}`, "\n")
	parser := jwt.NewParser(jwt.WithStrictDecoding(), jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(expect.Issuer),
		jwt.WithAudience(expect.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(expect.Leeway),
		jwt.WithTimeFunc(func() time.Time { return start }), jwt.WithJSONNumber())
	f.Fuzz(func(t *testing.T, head, body, signature string) {
		if c, err := Verify([]byte(head+"."+body+"."+signature), keys, expect, start); err == nil {
			t.Fatalf("accepted what nobody signed: %+v", c)
		}
		if c, err := Verify([]byte(encode(head)+"."+encode(body)+"."+signature), keys, expect, start); err == nil {
			t.Fatalf("accepted a made-up signature: %+v", c)
		}
		raw := forge(t, k, head, body)
		c, err := Verify([]byte(raw), keys, expect, start)
		if _, ok := err.(Invalid); err != nil && !ok {
			t.Fatalf("got %T", err)
		}
		if err != nil {
			return
		}
		again, err := Verify([]byte(sign(t, k, c)), keys, expect, start)
		if err != nil || again != c {
			t.Fatalf("issued again: %+v, %v; want %+v", again, err, c)
		}
		var theirs struct {
			jwt.RegisteredClaims
			Organization string `json:"oid"`
			Client       string `json:"client_id"`
			Scope        string `json:"scope"`
		}
		if _, err := parser.ParseWithClaims(raw, &theirs, func(*jwt.Token) (any, error) { return k.Public().Key, nil }); err != nil {
			t.Fatalf("golang-jwt refuses %s: %v", raw, err)
		}
		// encoding/json matches names without case, so another spelling may have overwritten a claim there.
		if folded(body) {
			return
		}
		if theirs.ID != c.ID.String() || theirs.Organization != c.Organization || theirs.Client != c.Client || theirs.Scope != c.Scope ||
			theirs.Issuer != c.Issuer || !slices.Contains(theirs.Audience, c.Audience) || theirs.Subject != SubjectPrefix+c.Client ||
			theirs.IssuedAt.Unix() != c.IssuedAt || theirs.ExpiresAt.Unix() != c.Expires ||
			(theirs.NotBefore == nil) != (c.NotBefore == 0) {
			t.Fatalf("golang-jwt reads %+v, we read %+v", theirs, c)
		}
	})
}

// folded reports whether two names of the claims set are the same without case.
func folded(body string) bool {
	object, err := Object([]byte(body))
	if err != nil {
		return false
	}
	var seen []string
	for name := range object {
		for _, other := range seen {
			if strings.EqualFold(name, other) {
				return true
			}
		}
		seen = append(seen, name)
	}
	return false
}

// A second valid ECDSA signature of the same token, (r, n-s), is another token to the
// cache and the same one to everybody else: it must not be more than that.
func TestMirroredSignature(t *testing.T) {
	k := newKey(t, ES256)
	raw := sign(t, k, good())
	input := raw[:strings.LastIndexByte(raw, '.')]
	signature, err := base64.RawURLEncoding.DecodeString(raw[len(input)+1:])
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public().Key.(*ecdsa.PublicKey)
	s := new(big.Int).Sub(public.Params().N, new(big.Int).SetBytes(signature[32:]))
	s.FillBytes(signature[32:])
	if got := mustAccept(t, k, input+"."+base64.RawURLEncoding.EncodeToString(signature)); got != good() {
		t.Errorf("got %+v", got)
	}
	if sha256.Sum256([]byte(raw)) == sha256.Sum256([]byte(input+"."+base64.RawURLEncoding.EncodeToString(signature))) {
		t.Error("nothing was mirrored")
	}
}

package token

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

func goodAssertion() Assertion {
	c := good()
	return Assertion{
		ID: uuid.MustParse("01890000-0000-7000-8000-00000000000a"), Token: c.ID,
		Organization: c.Organization, Client: c.Client, Environment: "production", Agreement: "01890000-0000-7000-8000-00000000000b",
		Issuer: c.Issuer, Audience: "tracks", Scope: c.Scope, IssuedAt: start.Unix(), Expires: start.Unix() + 300,
	}
}

func assert(t *testing.T, k *SigningKey, a Assertion) string {
	t.Helper()
	signed, err := k.Assert(a)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// consume is what an upstream has to do with an assertion, with libraries of others.
func consume(t *testing.T, keys *KeySet, audience, raw string) (jwt.MapClaims, error) {
	t.Helper()
	known, err := keyfunc.NewJWKSetJSON(keys.Document())
	if err != nil {
		t.Fatal(err)
	}
	claims := jwt.MapClaims{}
	parsed, err := jwt.ParseWithClaims(raw, claims, known.Keyfunc, jwt.WithValidMethods([]string{"ES256", "RS256", "EdDSA"}),
		jwt.WithIssuer(expect.Issuer), jwt.WithAudience(audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
		jwt.WithTimeFunc(func() time.Time { return start }))
	if err != nil {
		return nil, err
	}
	if parsed.Header["typ"] != assertionType {
		return nil, jwt.ErrTokenUnverifiable
	}
	return claims, nil
}

func TestAssertion(t *testing.T) {
	for _, algorithm := range algorithms {
		t.Run(string(algorithm), func(t *testing.T) {
			k := newKey(t, algorithm)
			keys := NewKeySet(k.Public())
			a := goodAssertion()
			raw := assert(t, k, a)
			head, _, _ := strings.Cut(raw, ".")
			if text, err := base64.RawURLEncoding.DecodeString(head); err != nil ||
				string(text) != `{"alg":"`+string(algorithm)+`","kid":"`+k.ID()+`","typ":"postern-assertion+jwt"}` {
				t.Errorf("header %s, %v", text, err)
			}
			claims, err := consume(t, keys, "tracks", raw)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]any{
				"iss": a.Issuer, "aud": "tracks", "sub": "Client::" + a.Client, "client_id": a.Client, "oid": a.Organization,
				"environment": "production", "agreement": a.Agreement, "scope": a.Scope, "jti": a.ID.String(), "tid": a.Token.String(),
				"iat": float64(start.Unix()), "exp": float64(start.Unix() + 300),
			}
			for name, value := range want {
				if claims[name] != value {
					t.Errorf("%s: %v, want %v", name, claims[name], value)
				}
			}
			if len(claims) != len(want) {
				t.Errorf("claims %v", claims)
			}
			if _, err := consume(t, keys, "albums", raw); err == nil {
				t.Error("another upstream's assertion is accepted: the test proves nothing")
			}
		})
	}
	k := newKey(t, ES256)
	bare := goodAssertion()
	bare.Environment, bare.Agreement, bare.Scope = "", "", ""
	claims, err := consume(t, NewKeySet(k.Public()), "tracks", assert(t, k, bare))
	if err != nil || len(claims) != 9 {
		t.Errorf("with nothing but what is required: %v, %v", claims, err)
	}
}

// An assertion has an access token's signature and most of its claims. It must not pass
// for one even where the audiences are equal, nor an access token for an assertion.
func TestAssertionIsNoAccessToken(t *testing.T) {
	k := newKey(t, ES256)
	keys := NewKeySet(k.Public())
	a := goodAssertion()
	a.Audience = expect.Audience
	raw := assert(t, k, a)
	if _, err := consume(t, keys, expect.Audience, raw); err != nil {
		t.Fatal(err)
	}
	if c, err := Verify([]byte(raw), keys, expect, start); err != error(Malformed) {
		t.Errorf("an assertion passes for an access token: %+v, %v", c, err)
	}
	access := sign(t, k, good())
	if _, err := Verify([]byte(access), keys, expect, start); err != nil {
		t.Fatal(err)
	}
	if _, err := consume(t, keys, expect.Audience, access); err == nil {
		t.Error("an access token passes for an assertion")
	}
}

func TestAssertionUnfit(t *testing.T) {
	k := newKey(t, ES256)
	f := func(member string, change func(*Assertion)) {
		t.Helper()
		a := goodAssertion()
		change(&a)
		want := "sign token: the claim " + member + " is not fit for a token"
		if raw, err := k.Assert(a); raw != "" || err == nil || err.Error() != want {
			t.Errorf("%s: %q, %v", member, raw, err)
		}
	}
	f("jti", func(a *Assertion) { a.ID = uuid.Nil })
	f("tid", func(a *Assertion) { a.Token = uuid.Nil })
	f("oid", func(a *Assertion) { a.Organization = "a b" })
	f("client_id", func(a *Assertion) { a.Client = "" })
	f("environment", func(a *Assertion) { a.Environment = "a\nb" })
	f("agreement", func(a *Assertion) { a.Agreement = "\x00" })
	f("iss", func(a *Assertion) { a.Issuer = "" })
	f("aud", func(a *Assertion) { a.Audience = "" })
	f("scope", func(a *Assertion) { a.Scope = `a"b` })
	f("iat", func(a *Assertion) { a.IssuedAt = 0 })
	f("exp", func(a *Assertion) { a.Expires = a.IssuedAt })
	quoted := goodAssertion()
	quoted.Audience, quoted.Environment = `a "b" \c`, `"`
	claims, err := consume(t, NewKeySet(k.Public()), quoted.Audience, assert(t, k, quoted))
	if err != nil || claims["environment"] != `"` {
		t.Errorf("what JSON escapes: %v, %v", claims, err)
	}
}

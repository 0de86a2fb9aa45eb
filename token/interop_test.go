package token

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
)

// What postern issues, other people's libraries verify with postern's JWK Set alone.
func TestInterop(t *testing.T) {
	var signing []*SigningKey
	var public []PublicKey
	for _, a := range algorithms {
		k := newKey(t, a)
		signing, public = append(signing, k), append(public, k.Public())
	}
	set := NewKeySet(public...)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(set.Document())
	}))
	defer server.Close()
	keys, err := keyfunc.NewJWKSetJSON(set.Document())
	if err != nil {
		t.Fatal(err)
	}
	remote := oidc.NewVerifier(expect.Issuer, oidc.NewRemoteKeySet(context.Background(), server.URL), &oidc.Config{
		ClientID:             expect.Audience,
		SupportedSigningAlgs: []string{oidc.ES256, oidc.RS256, oidc.EdDSA},
		Now:                  func() time.Time { return start },
	})
	for _, k := range signing {
		raw := sign(t, k, good())
		forged := raw[:strings.LastIndexByte(raw, '.')+1] + "AAAA"

		t.Run(string(k.Algorithm())+" keyfunc", func(t *testing.T) {
			parser := jwt.NewParser(jwt.WithValidMethods([]string{string(k.Algorithm())}), jwt.WithIssuer(expect.Issuer),
				jwt.WithAudience(expect.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding(),
				jwt.WithTimeFunc(func() time.Time { return start }))
			var claims jwt.MapClaims
			parsed, err := parser.ParseWithClaims(raw, &claims, keys.Keyfunc)
			if err != nil || !parsed.Valid {
				t.Fatal(err)
			}
			if parsed.Header["typ"] != "at+jwt" || parsed.Header["kid"] != k.ID() || claims["jti"] != good().ID.String() ||
				claims["oid"] != good().Organization || claims["sub"] != SubjectPrefix+good().Client || claims["scope"] != good().Scope {
				t.Errorf("got %v, %v", parsed.Header, claims)
			}
			if _, err := parser.Parse(forged, keys.Keyfunc); err == nil {
				t.Error("accepts a forged token: the test proves nothing")
			}
		})

		t.Run(string(k.Algorithm())+" go-oidc", func(t *testing.T) {
			parsed, err := remote.Verify(context.Background(), raw)
			if err != nil {
				t.Fatal(err)
			}
			var claims struct {
				ID           string `json:"jti"`
				Organization string `json:"oid"`
				Client       string `json:"client_id"`
			}
			if err := parsed.Claims(&claims); err != nil {
				t.Fatal(err)
			}
			if parsed.Subject != SubjectPrefix+good().Client || parsed.Expiry.Unix() != good().Expires || parsed.IssuedAt.Unix() != good().IssuedAt ||
				claims.ID != good().ID.String() || claims.Organization != good().Organization || claims.Client != good().Client {
				t.Errorf("got %+v, %+v", parsed, claims)
			}
			if _, err := remote.Verify(context.Background(), forged); err == nil {
				t.Error("accepts a forged token: the test proves nothing")
			}
		})
	}
}

package token

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/google/uuid"
)

var start = time.Unix(1_700_000_000, 0)

func good() Claims {
	return Claims{
		ID:           uuid.MustParse("018bcfe5-6800-7000-8000-000000000001"),
		Organization: "e4587784-e0a4-43ff-8466-bf17afbb352c",
		Client:       "efb3ed15-0052-4e00-9584-1365510b547d",
		Issuer:       "https://api.example.com",
		Audience:     "https://api.example.com",
		Scope:        "search tag",
		IssuedAt:     start.Unix(),
		Expires:      start.Unix() + 7200,
	}
}

func newKey(t testing.TB, a Algorithm) *SigningKey {
	t.Helper()
	k, err := GenerateSigningKey(a, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSignVerify(t *testing.T) {
	for _, a := range []Algorithm{ES256, RS256, EdDSA} {
		t.Run(string(a), func(t *testing.T) {
			k := newKey(t, a)
			signed, err := k.Sign(good())
			if err != nil {
				t.Fatal(err)
			}
			got, err := Verify([]byte(signed), NewKeySet(k.Public()), Expect{Issuer: good().Issuer, Audience: good().Audience}, start)
			if err != nil || got != good() {
				t.Fatalf("got %+v, %v", got, err)
			}
		})
	}
}

package token

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// The moment at which good tokens are good, and who says so.
var (
	start  = time.Unix(1_700_000_000, 0)
	expect = Expect{Issuer: "https://api.example.com", Audience: "https://api.example.com/v1", Leeway: 30 * time.Second}
)

func good() Claims {
	return Claims{
		ID:           uuid.MustParse("018bcfe5-6800-7000-8000-000000000001"),
		Organization: "e4587784-e0a4-43ff-8466-bf17afbb352c",
		Client:       "efb3ed15-0052-4e00-9584-1365510b547d",
		Issuer:       expect.Issuer,
		Audience:     expect.Audience,
		Scope:        "search tag",
		IssuedAt:     start.Unix(),
		Expires:      start.Unix() + 7200,
	}
}

var algorithms = []Algorithm{ES256, RS256, EdDSA}

func newKey(t testing.TB, a Algorithm) *SigningKey {
	t.Helper()
	k, err := GenerateSigningKey(a, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, k *SigningKey, c Claims) string {
	t.Helper()
	signed, err := k.Sign(c)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func encode(text string) string { return base64.RawURLEncoding.EncodeToString([]byte(text)) }

// signParts signs two parts exactly as they are, so that nothing but what is wrong
// with them can be the cause of a refusal.
func signParts(t testing.TB, k *SigningKey, head, body string) string {
	t.Helper()
	signature, err := k.method.Sign(head+"."+body, k.private)
	if err != nil {
		t.Fatal(err)
	}
	return head + "." + body + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// forge signs any header and claims set.
func forge(t testing.TB, k *SigningKey, head, body string) string {
	t.Helper()
	return signParts(t, k, encode(head), encode(body))
}

func goodHead(k *SigningKey) string {
	return `{"alg":"` + string(k.Algorithm()) + `","kid":"` + k.ID() + `","typ":"at+jwt"}`
}

func goodBody() string { return string(good().append(nil)) }

// with replaces old by new, which must be there exactly once.
func with(t testing.TB, text, old, new string) string {
	t.Helper()
	if strings.Count(text, old) != 1 {
		t.Fatalf("%q is not once in %s", old, text)
	}
	return strings.Replace(text, old, new, 1)
}

// mustRefuse verifies raw at start with k alone.
func mustRefuse(t *testing.T, k *SigningKey, raw string, want Invalid) {
	t.Helper()
	c, err := Verify([]byte(raw), NewKeySet(k.Public()), expect, start)
	if err != error(want) || c != (Claims{}) {
		t.Errorf("got %+v, %v; want %q", c, err, want)
	}
}

func mustAccept(t *testing.T, k *SigningKey, raw string) Claims {
	t.Helper()
	c, err := Verify([]byte(raw), NewKeySet(k.Public()), expect, start)
	if err != nil {
		t.Errorf("refused: %v", err)
	}
	return c
}

func TestSignAndVerify(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			k := newKey(t, a)
			raw := sign(t, k, good())
			if got := mustAccept(t, k, raw); got != good() {
				t.Errorf("got %+v, want %+v", got, good())
			}
			// What the helpers of these tests forge is good where nothing was changed.
			if got := mustAccept(t, k, forge(t, k, goodHead(k), goodBody())); got != good() {
				t.Errorf("forged: got %+v, want %+v", got, good())
			}
		})
	}
}

func TestSignWritesFixedOrder(t *testing.T) {
	k := newKey(t, EdDSA)
	f := func(name string, c Claims, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			parts := strings.Split(sign(t, k, c), ".")
			head, _ := base64.RawURLEncoding.DecodeString(parts[0])
			body, _ := base64.RawURLEncoding.DecodeString(parts[1])
			if string(head) != goodHead(k) {
				t.Errorf("header %s, want %s", head, goodHead(k))
			}
			if string(body) != want {
				t.Errorf("claims %s, want %s", body, want)
			}
		})
	}
	full := `{"jti":"018bcfe5-6800-7000-8000-000000000001","oid":"e4587784-e0a4-43ff-8466-bf17afbb352c",` +
		`"sub":"Client::efb3ed15-0052-4e00-9584-1365510b547d","iat":1700000000,"exp":1700007200,` +
		`"iss":"https://api.example.com","aud":"https://api.example.com/v1",` +
		`"client_id":"efb3ed15-0052-4e00-9584-1365510b547d"`
	c := good()
	f("scope", c, full+`,"scope":"search tag"}`)
	c.Scope = ""
	f("no scope", c, full+`}`)
	c.NotBefore = 1_700_000_000
	f("nbf", c, full+`,"nbf":1700000000}`)
}

func TestSignRefuses(t *testing.T) {
	k := newKey(t, EdDSA)
	f := func(name string, change func(*Claims), want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			c := good()
			change(&c)
			signed, err := k.Sign(c)
			if signed != "" || err == nil || err.Error() != want {
				t.Errorf("got %q, %v; want %q", signed, err, want)
			}
		})
	}
	unfit := func(claim string) string { return "sign token: the claim " + claim + " is not fit for a token" }
	f("no id", func(c *Claims) { c.ID = uuid.Nil }, unfit("jti"))
	f("no organization", func(c *Claims) { c.Organization = "" }, unfit("oid"))
	f("no client", func(c *Claims) { c.Client = "" }, unfit("client_id"))
	f("no issuer", func(c *Claims) { c.Issuer = "" }, unfit("iss"))
	f("issuer with a newline", func(c *Claims) { c.Issuer = "a\nb" }, unfit("iss"))
	f("no audience", func(c *Claims) { c.Audience = "" }, unfit("aud"))
	f("audience not UTF-8", func(c *Claims) { c.Audience = "a\xff" }, unfit("aud"))
	f("scope with a quote", func(c *Claims) { c.Scope = `a"b` }, unfit("scope"))
	f("scope with two spaces", func(c *Claims) { c.Scope = "a  b" }, unfit("scope"))
	f("issued at 0", func(c *Claims) { c.IssuedAt = 0 }, unfit("iat"))
	f("negative nbf", func(c *Claims) { c.NotBefore = -1 }, unfit("nbf"))
	f("expires when issued", func(c *Claims) { c.Expires = c.IssuedAt }, unfit("exp"))
	f("expires beyond 2^53", func(c *Claims) { c.Expires = 1<<53 + 1 }, unfit("exp"))
	long := good()
	long.Scope = strings.Repeat("s", MaxSize)
	if _, err := k.Sign(long); err == nil || !strings.Contains(err.Error(), "more than 16384") {
		t.Errorf("16 KiB: %v", err)
	}
}

func TestSignEscapesIssuerAndAudience(t *testing.T) {
	k := newKey(t, EdDSA)
	c := good()
	c.Issuer, c.Audience = `https://a/"\é`, `b"c\d`
	got, err := Verify([]byte(sign(t, k, c)), NewKeySet(k.Public()), Expect{Issuer: c.Issuer, Audience: c.Audience}, start)
	if err != nil || got != c {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestVerifyKeepsAndChangesNothing(t *testing.T) {
	k := newKey(t, EdDSA)
	raw := []byte(sign(t, k, good()))
	before := string(raw)
	c, err := Verify(raw, NewKeySet(k.Public()), expect, start)
	if err != nil || string(raw) != before {
		t.Fatalf("changed the token, or %v", err)
	}
	for i := range raw {
		raw[i] = 'X'
	}
	if c != good() {
		t.Errorf("the claims follow the buffer: %+v", c)
	}
}

// A refusal says the same whatever the key: claims that are cheap to judge come first.
func TestVerifyOrder(t *testing.T) {
	k, other := newKey(t, EdDSA), newKey(t, EdDSA)
	c := good()
	c.Issuer = "https://elsewhere.example.com"
	mustRefuse(t, other, sign(t, k, c), WrongIssuer)
	c = good()
	c.Expires = c.IssuedAt + 1
	_, err := Verify([]byte(sign(t, k, c)), NewKeySet(other.Public()), expect, start.Add(time.Hour))
	if !errors.Is(err, Expired) {
		t.Errorf("got %v", err)
	}
}

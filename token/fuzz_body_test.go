package token

import (
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// FuzzTokenBody signs a claims set as it is given, and a good one with a member changed
// or added. Of what Verify accepts, golang-jwt at its strictest must read exactly the
// same claims, member by member: a map keeps the names apart that differ in case only,
// and json.Number keeps each digit.
func FuzzTokenBody(f *testing.F) {
	k, err := newSigningKey(EdDSA, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		f.Fatal(err)
	}
	keys := NewKeySet(k.Public())
	parser := jwt.NewParser(jwt.WithStrictDecoding(), jwt.WithValidMethods([]string{"EdDSA"}), jwt.WithIssuer(expect.Issuer),
		jwt.WithAudience(expect.Audience), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithLeeway(expect.Leeway),
		jwt.WithTimeFunc(func() time.Time { return start }), jwt.WithJSONNumber())
	for _, member := range [][2]string{
		{"exp", "1700007200"}, {"exp", "1700000001"}, {"exp", "1700000000"}, {"exp", "17000072e2"}, {"exp", "9007199254740993"},
		{"iat", "1700000030"}, {"iat", "1699999999.5"}, {"nbf", "1700000030"}, {"nbf", "1"}, {"nbf", "null"}, {"nbf", `"1"`},
		{"aud", `["x", "https://api.example.com\/v1"]`}, {"aud", `["https://api.example.com/v1",1]`}, {"aud", "[]"}, {"aud", `{"a":"https://api.example.com/v1"}`},
		{"iss", `"https:\/\/api.example.com"`}, {"iss", `"https://api.example.com/"`}, {"sub", `"Client::x"`}, {"client_id", `"x"`},
		{"oid", `"\u0041"`}, {"oid", "1"}, {"OID", `"other"`}, {"ſcope", `"admin"`}, {"scope", `""`}, {"scope", `"a  b"`}, {"scope", "null"},
		{"jti", `"018BCFE5-6800-7000-8000-000000000001"`}, {"jti", `"urn:uuid:018bcfe5-6800-7000-8000-000000000001"`},
		{"cnf", `{"jkt":"x"}`}, {"a", `{"exp":1,"exp":2}`}, {"a", `"` + "\xff" + `"`}, {`exp","exp`, "1"},
	} {
		f.Add(goodBody(), member[0], member[1])
	}
	f.Add("  "+strings.ReplaceAll(goodBody(), ",", " ,\n\t")+"\r\n", "", "")
	f.Add(goodBody()+"{}", "exp", "")
	f.Add(with(f, goodBody(), `"scope":"search tag"`, `"Scope":"admin","OID":"other","ſcope":"a"`), "Exp", "1")
	f.Fuzz(func(t *testing.T, body, name, value string) {
		sameClaims(t, k, keys, parser, body)
		members, err := Object([]byte(goodBody()))
		if err != nil {
			t.Fatal(err)
		}
		members[name] = json.RawMessage(value)
		changed := make([]string, 0, len(members))
		for name, value := range members {
			changed = append(changed, `"`+name+`":`+string(value))
		}
		slices.Sort(changed) // one input, one text
		sameClaims(t, k, keys, parser, "{"+strings.Join(changed, ",")+"}")
	})
}

// sameClaims compares the two readings of body, if Verify accepts it.
func sameClaims(t *testing.T, k *SigningKey, keys *KeySet, parser *jwt.Parser, body string) {
	t.Helper()
	raw := forge(t, k, goodHead(k), body)
	c, err := Verify([]byte(raw), keys, expect, start)
	if _, ok := err.(Invalid); err != nil && !ok {
		t.Fatalf("got %T", err)
	}
	if err != nil {
		if c != (Claims{}) {
			t.Fatalf("refused with claims %+v", c)
		}
		return
	}
	theirs := jwt.MapClaims{}
	if _, err := parser.ParseWithClaims(raw, &theirs, func(*jwt.Token) (any, error) { return k.Public().Key, nil }); err != nil {
		t.Fatalf("golang-jwt refuses %s: %v", body, err)
	}
	want := map[string]any{
		"jti": c.ID.String(), "oid": c.Organization, "client_id": c.Client, "sub": SubjectPrefix + c.Client, "iss": c.Issuer,
		"iat": json.Number(strconv.FormatInt(c.IssuedAt, 10)), "exp": json.Number(strconv.FormatInt(c.Expires, 10)),
	}
	if c.NotBefore != 0 {
		want["nbf"] = json.Number(strconv.FormatInt(c.NotBefore, 10))
	}
	if c.Scope != "" {
		want["scope"] = c.Scope
	}
	for _, name := range []string{"jti", "oid", "client_id", "sub", "iss", "iat", "exp", "nbf", "scope"} {
		if theirs[name] != want[name] {
			t.Fatalf("%s: golang-jwt reads %#v, we read %#v in %s", name, theirs[name], want[name], body)
		}
	}
	// As a date it goes through a float, which must not have rounded it.
	if expires, err := theirs.GetExpirationTime(); err != nil || expires.Unix() != c.Expires {
		t.Fatalf("exp: golang-jwt reads %v (%v), we read %d", expires, err, c.Expires)
	}
	audience, err := theirs.GetAudience()
	if err != nil || !slices.Contains(audience, c.Audience) {
		t.Fatalf("golang-jwt reads the audiences %q (%v), we read %q", audience, err, c.Audience)
	}
}

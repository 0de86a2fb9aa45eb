package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

func marshal(t *testing.T, private any) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func TestSigningKeyRoundTrip(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			k := newKey(t, a)
			der, err := k.MarshalPKCS8()
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseSigningKey(a, []byte(der.Reveal()))
			if err != nil {
				t.Fatal(err)
			}
			if again.ID() != k.ID() || again.Algorithm() != a || len(k.ID()) != 43 {
				t.Errorf("got %s %s, want %s %s", again.ID(), again.Algorithm(), k.ID(), a)
			}
			mustAccept(t, k, sign(t, again, good()))
		})
	}
}

func TestGenerateSigningKeyRefuses(t *testing.T) {
	for _, a := range []Algorithm{"", "none", "HS256", "PS256", "es256"} {
		if k, err := GenerateSigningKey(a, rand.Reader); k != nil || err == nil {
			t.Errorf("%q: made a key", a)
		}
	}
}

func TestParseSigningKeyRefuses(t *testing.T) {
	f := func(name string, a Algorithm, der []byte, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			k, err := ParseSigningKey(a, der)
			if k != nil || err == nil || err.Error() != want {
				t.Errorf("got %v; want %q", err, want)
			}
		})
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	es, _ := newKey(t, ES256).MarshalPKCS8()
	ed, _ := newKey(t, EdDSA).MarshalPKCS8()
	f("P-384", ES256, marshal(t, p384), "use key for ES256: the curve is not P-256")
	f("EC for RS256", RS256, []byte(es.Reveal()), "use key for RS256: the key is for another algorithm")
	f("Ed25519 for ES256", ES256, []byte(ed.Reveal()), "use key for ES256: the key is for another algorithm")
	f("EC for HS256", "HS256", []byte(es.Reveal()), "use key for HS256: the key is for another algorithm")
	f("EC for none", "none", []byte(es.Reveal()), "use key for none: the key is for another algorithm")
	f("garbage", ES256, []byte("secret garbage"), "parse key: not a PKCS #8 private key")
	f("nothing", ES256, nil, "parse key: not a PKCS #8 private key")
}

// weakRSA makes what today's crypto/rsa would not.
func weakRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	private, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func TestRow018WeakRSA(t *testing.T) {
	private := weakRSA(t)
	const weak = "the RSA modulus has 1024 bits, outside 2048 to 8192"
	if k, err := ParseSigningKey(RS256, marshal(t, private)); k != nil || err == nil || err.Error() != "use key for RS256: "+weak {
		t.Errorf("in a store: %v", err)
	}
	bad := PublicKey{ID: "weak", Algorithm: RS256, Key: &private.PublicKey}
	if set := NewKeySet(bad); set.Len() != 0 || string(set.Document()) != `{"keys":[]}` {
		t.Errorf("in a key set: %s", set.Document())
	}
	ours := newKey(t, ES256)
	document := with(t, string(NewKeySet(ours.Public()).Document()), `]}`,
		`,{`+string(bad.required(nil))+`,"kid":"weak"}]}`)
	keys, dropped, err := ParseJWKSet([]byte(document))
	if err != nil || len(keys) != 1 || keys[0].ID != ours.ID() {
		t.Fatalf("got %v, %v", keys, err)
	}
	if len(dropped) != 1 || dropped[0].Error() != "drop key 2 of the JWK Set: "+weak {
		t.Errorf("dropped %v", dropped)
	}
}

func TestKeySet(t *testing.T) {
	es, rs, ed := newKey(t, ES256), newKey(t, RS256), newKey(t, EdDSA)
	late := es.Public()
	late.NotAfter = 7
	unnamed := newKey(t, EdDSA).Public()
	unnamed.ID = ""
	quoted := newKey(t, EdDSA).Public()
	quoted.ID = `x","k":"`
	set := NewKeySet(es.Public(), rs.Public(), late, unnamed, quoted, ed.Public(), PublicKey{ID: "none"}, PublicKey{ID: "hs", Algorithm: "HS256", Key: []byte("secret")})
	if set.Len() != 3 {
		t.Errorf("%d keys", set.Len())
	}
	for _, k := range []*SigningKey{es, rs, ed} {
		if got, ok := set.Lookup(k.ID()); !ok || got.ID != k.ID() || got.Algorithm != k.Algorithm() || got.NotAfter != 0 {
			t.Errorf("got %+v, %v", got, ok)
		}
	}
	if got, ok := set.Lookup("hs"); ok {
		t.Errorf("got %+v", got)
	}
	var document struct{ Keys []map[string]string }
	if err := json.Unmarshal(set.Document(), &document); err != nil {
		t.Fatal(err)
	}
	want := [][]string{{"crv", "kty", "x", "y"}, {"e", "kty", "n"}, {"crv", "kty", "x"}}
	for i, k := range document.Keys {
		if len(k) != len(want[i])+3 || k["use"] != "sig" || k["kid"] == "" || k["alg"] != string(algorithms[i]) {
			t.Errorf("key %d: %v", i, k)
		}
		for _, name := range want[i] {
			if k[name] == "" {
				t.Errorf("key %d has no %s", i, name)
			}
		}
	}
	if got := string(NewKeySet().Document()); got != `{"keys":[]}` {
		t.Errorf("empty: %s", got)
	}
}

// RFC 7638 §3.1 has an RSA key and RFC 8037 appendix A.3 an Ed25519 key with their thumbprints.
func TestThumbprintVectors(t *testing.T) {
	f := func(name, jwk, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			keys, dropped, err := ParseJWKSet([]byte(`{"keys":[` + jwk + `]}`))
			if err != nil || len(dropped) != 0 || len(keys) != 1 {
				t.Fatalf("got %v, %v, %v", keys, dropped, err)
			}
			if got := keys[0].thumbprint(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	f("RSA", `{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw","e":"AQAB","alg":"RS256","kid":"2011-04-29"}`,
		"NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs")
	f("Ed25519", `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}`,
		"kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k")
}

func TestParseJWKSet(t *testing.T) {
	es, rs, ed := newKey(t, ES256), newKey(t, RS256), newKey(t, EdDSA)
	set := NewKeySet(es.Public(), rs.Public(), ed.Public())
	keys, dropped, err := ParseJWKSet(set.Document())
	if err != nil || len(dropped) != 0 || len(keys) != 3 {
		t.Fatalf("got %v, %v, %v", keys, dropped, err)
	}
	if again := NewKeySet(keys...).Document(); string(again) != string(set.Document()) {
		t.Errorf("got %s, want %s", again, set.Document())
	}
	for i, k := range []*SigningKey{es, rs, ed} {
		if c, err := Verify([]byte(sign(t, k, good())), NewKeySet(keys[i]), expect, start); err != nil || c != good() {
			t.Errorf("got %+v, %v", c, err)
		}
	}

	f := func(name, jwk, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			keys, dropped, err := ParseJWKSet([]byte(`{"keys":[` + jwk + `]}`))
			if err != nil || len(keys) != 0 || len(dropped) != 1 {
				t.Fatalf("got %v, %v, %v", keys, dropped, err)
			}
			if got := dropped[0].Error(); got != "drop key 1 of the JWK Set: "+want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	member := func(k *SigningKey) string {
		return strings.TrimSuffix(strings.TrimPrefix(string(NewKeySet(k.Public()).Document()), `{"keys":[`), `]}`)
	}
	ec := member(es)
	f("symmetric", `{"kty":"oct","alg":"HS256","kid":"a","k":"c2VjcmV0"}`, "it holds secret parts, which are no longer secret")
	f("symmetric without its secret", `{"kty":"oct","alg":"HS256","kid":"a"}`, "its kty is none of EC, RSA and OKP")
	f("private", with(t, ec, `"kty"`, `"d":"AAAA","kty"`), "it holds secret parts, which are no longer secret")
	f("for encryption", with(t, ec, `"use":"sig"`, `"use":"enc"`), `its use is not "sig"`)
	f("use no string", with(t, ec, `"use":"sig"`, `"use":["sig"]`), `its use is not "sig"`)
	f("key_ops", with(t, ec, `"use"`, `"key_ops":["sign","encrypt"],"use"`), `its key_ops do not list "verify"`)
	f("key_ops no array", with(t, ec, `"use"`, `"key_ops":"verify","use"`), `its key_ops do not list "verify"`)
	f("no kid", with(t, ec, `"kid"`, `"k1d"`), "its kid is missing or unfit")
	f("kid is a path", with(t, ec, es.ID(), "../../dev/null"), "its kid is missing or unfit")
	f("alg none", with(t, ec, `"ES256"`, `"none"`), "its alg is not ES256")
	f("alg HS256", with(t, ec, `"ES256"`, `"HS256"`), "its alg is not ES256")
	f("alg PS256 with RSA", with(t, member(rs), `"RS256"`, `"PS256"`), "its alg is not RS256")
	f("alg null", with(t, ec, `"ES256"`, `null`), "its alg is not ES256")
	f("P-384", with(t, ec, `"P-256"`, `"P-384"`), "it is no point of P-256")
	f("off the curve", with(t, ec, `"x":"`, `"x":"AAAA`), "it is no point of P-256")
	f("zero point", `{"kty":"EC","crv":"P-256","kid":"a","x":"`+strings.Repeat("A", 43)+`","y":"`+strings.Repeat("A", 43)+`"}`, "it is no point of P-256")
	f("X25519", with(t, member(ed), `"Ed25519"`, `"X25519"`), "it is no Ed25519 key")
	f("Ed25519, short", `{"kty":"OKP","crv":"Ed25519","kid":"a","x":"AAAA"}`, "it is no Ed25519 key")
	f("no object", `7`, "not one strict JSON object")
	f("RSA without numbers", `{"kty":"RSA","kid":"a"}`, "its RSA numbers are missing or unfit")

	public := rs.Public().Key.(*rsa.PublicKey)
	odd := func(n *big.Int, e int) string {
		return `{` + string(PublicKey{Key: &rsa.PublicKey{N: n, E: e}}.required(nil)) + `,"kid":"a"}`
	}
	even := new(big.Int).Sub(public.N, big.NewInt(1))
	f("even modulus", odd(even, 65537), "the RSA modulus or exponent is even or too small")
	f("exponent 1", odd(public.N, 1), "the RSA modulus or exponent is even or too small")
	f("exponent 65536", odd(public.N, 65536), "the RSA modulus or exponent is even or too small")
	f("exponent beyond 31 bits", odd(public.N, 1<<32+1), "its RSA numbers are missing or unfit")
	f("16,384 bits", odd(new(big.Int).SetBit(public.N, 16383, 1), 65537), "the RSA modulus has 16384 bits, outside 2048 to 8192")

	keys, dropped, err = ParseJWKSet([]byte(`{"keys":[` + ec + `,` + with(t, member(ed), ed.ID(), es.ID()) + `]}`))
	if err != nil || len(keys) != 1 || keys[0].Algorithm != ES256 || len(dropped) != 1 || dropped[0].Error() != "drop key 2 of the JWK Set: an earlier key has the same kid" {
		t.Errorf("repeated kid: got %v, %v, %v", keys, dropped, err)
	}
	for _, data := range []string{``, `null`, `[]`, `{}`, `{"keys":{}}`, `{"keys":null}`, `{"Keys":[]}`, `{"keys":[],"keys":[]}`, `{"keys":[` + with(t, ec, `"use"`, `"kty":"RSA","use"`) + `]}`} {
		if keys, dropped, err := ParseJWKSet([]byte(data)); err == nil || keys != nil || dropped != nil {
			t.Errorf("%s: got %v, %v", data, keys, dropped)
		}
	}
	if keys, dropped, err := ParseJWKSet([]byte(`{"keys":[]}`)); err != nil || keys != nil || dropped != nil {
		t.Errorf("no keys: got %v, %v, %v", keys, dropped, err)
	}
}

func TestSigningKeyPrintsNothing(t *testing.T) {
	k := newKey(t, EdDSA)
	private := fmt.Sprintf("%x", []byte(k.private.(ed25519.PrivateKey)))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%q", "%d"} {
		if got := fmt.Sprintf(verb, k); got != "[redacted]" || strings.Contains(got, private) {
			t.Errorf("%s prints %s", verb, got)
		}
	}
	text, err := json.Marshal(k)
	if err != nil || string(text) != `"[redacted]"` {
		t.Errorf("JSON: %s, %v", text, err)
	}
}

func TestRow049NoSymmetricKeys(t *testing.T) {
	// A remote set: what is symmetric is ignored, whatever it calls itself, and what is signed with it is refused.
	ours := newKey(t, ES256)
	for _, jwk := range []string{
		`{"kty":"oct","kid":"hs","alg":"HS256","k":"c2VjcmV0"}`, `{"kty":"oct","kid":"hs","k":"c2VjcmV0"}`,
		`{"kty":"oct","kid":"hs","alg":"ES256","k":"c2VjcmV0"}`, `{"kty":"EC","crv":"P-256","kid":"hs","alg":"HS256","k":"c2VjcmV0"}`,
	} {
		keys, dropped, err := ParseJWKSet([]byte(with(t, string(NewKeySet(ours.Public()).Document()), `]}`, `,`+jwk+`]}`)))
		if err != nil || len(keys) != 1 || keys[0].ID != ours.ID() || len(dropped) != 1 || strings.Contains(dropped[0].Error(), "c2VjcmV0") {
			t.Fatalf("%s: got %v, %v, %v", jwk, keys, dropped, err)
		}
		input := encode(`{"alg":"HS256","kid":"hs","typ":"at+jwt"}`) + "." + encode(goodBody())
		signature, err := jwt.SigningMethodHS256.Sign(input, []byte("secret"))
		if err != nil {
			t.Fatal(err)
		}
		raw := input + "." + encode(string(signature))
		if c, err := Verify([]byte(raw), NewKeySet(keys...), expect, start); err != error(UnknownKey) {
			t.Errorf("%s: got %+v, %v", jwk, c, err)
		}
	}
	// Our own set: the numbers of the private key are not in it.
	for _, a := range algorithms {
		k := newKey(t, a)
		var secrets [][]byte
		switch private := k.private.(type) {
		case *ecdsa.PrivateKey:
			d, err := private.Bytes()
			if err != nil {
				t.Fatal(err)
			}
			secrets = append(secrets, d)
		case *rsa.PrivateKey:
			secrets = append(secrets, private.D.Bytes(), private.Primes[0].Bytes(), private.Primes[1].Bytes())
		case ed25519.PrivateKey:
			secrets = append(secrets, private.Seed())
		}
		document := string(NewKeySet(k.Public()).Document())
		for _, s := range secrets {
			if strings.Contains(document, encode(string(s))) {
				t.Errorf("%s: the JWK Set holds a secret", a)
			}
		}
		var set struct{ Keys []map[string]any }
		if err := json.Unmarshal([]byte(document), &set); err != nil || len(set.Keys) != 1 {
			t.Fatal(err)
		}
		for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "k"} {
			if set.Keys[0][name] != nil {
				t.Errorf("%s: the JWK Set has a member %s", a, name)
			}
		}
	}
}

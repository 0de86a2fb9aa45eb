package token

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
)

// The RFCs' own examples, tried like Wycheproof's: below the claims. Most have no kid and
// none our typ, so Verify refuses them all.

const (
	joe = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
	// RFC 7515 A.2, A.3 and A.1; RFC 8037 A.4.
	rs256 = "eyJhbGciOiJSUzI1NiJ9." + joe + ".cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
	es256 = "eyJhbGciOiJFUzI1NiJ9." + joe + ".DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
	hs256 = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9." + joe + ".dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	eddsa = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"

	rsKey = `{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB","kid":"a"}`
	esKey = `{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"a"}`
	edKey = `{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","kid":"a"}`
)

// onlyKey reads a JWK that must be kept.
func onlyKey(t *testing.T, jwk string) *PublicKey {
	t.Helper()
	kept, why := readKeys(t, []byte(jwk))
	if len(kept) != 1 || why != "" {
		t.Fatalf("dropped: %s", why)
	}
	return &kept[0]
}

// signedWith runs the layer below kid, typ and the claims. Verify refuses raw anyway.
func signedWith(t *testing.T, raw string, key *PublicKey) error {
	t.Helper()
	if c, err := Verify([]byte(raw), NewKeySet(*key), expect, start); err != error(Malformed) {
		t.Errorf("Verify: got %+v, %v", c, err)
	}
	var j jws
	head, _, ok := j.split([]byte(raw))
	s := &scan{}
	if !ok || !s.object(head) {
		return Malformed
	}
	_ = j.readHead(s.members) // which has no kid of ours
	return j.signedBy(key)
}

func TestRFCSignatures(t *testing.T) {
	f := func(name, raw, jwk string, others ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if err := signedWith(t, raw, onlyKey(t, jwk)); err != nil {
				t.Errorf("refused: %v", err)
			}
			for at, end := range []int{strings.IndexByte(raw, '.'), strings.LastIndexByte(raw, '.'), len(raw)} {
				// The last but one character of a part has no loose bits.
				other := "A"
				if raw[end-2] == 'A' {
					other = "B"
				}
				changed := raw[:end-2] + other + raw[end-1:]
				if err := signedWith(t, changed, onlyKey(t, jwk)); err == nil {
					t.Errorf("accepted with part %d changed", at+1)
				}
			}
			for _, other := range others {
				if err := signedWith(t, raw, onlyKey(t, other)); err != error(Malformed) {
					t.Errorf("another algorithm's key: %v", err)
				}
			}
		})
	}
	f("RFC 7515 A.2", rs256, rsKey, esKey, edKey)
	f("RFC 7515 A.3", es256, esKey, rsKey, edKey)
	f("RFC 8037 A.5", eddsa, edKey, rsKey, esKey)
}

// RFC 8037 A.4: Ed25519 has one signature for each text, so signing can be compared too.
func TestRFC8037Sign(t *testing.T) {
	seed, err := base64.RawURLEncoding.DecodeString("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A")
	if err != nil {
		t.Fatal(err)
	}
	k, err := newSigningKey(EdDSA, ed25519.NewKeyFromSeed(seed))
	if err != nil {
		t.Fatal(err)
	}
	if got := forge(t, k, `{"alg":"EdDSA"}`, "Example of Ed25519 signing"); got != eddsa {
		t.Errorf("got %s", got)
	}
	if k.ID() != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" { // A.3
		t.Errorf("thumbprint %s", k.ID())
	}
}

// RFC 7520 §4.1's signature is right and its key id not one of ours, so Verify refuses
// it; figures 20, 27 and 35 are other algorithms: see TestWycheproofJWS. The rest of §4
// is HS256, or a JSON serialization.
func TestRFC7520(t *testing.T) {
	verified := 0
	for _, g := range readVectors(t, "json_web_signature_test.json").TestGroups {
		for _, v := range g.Tests {
			if v.Comment != "Figure13" {
				continue
			}
			jwk := with(t, string(g.Public), `"bilbo.baggins@hobbiton.example"`, `"a"`)
			if err := signedWith(t, string(v.raw(t)), onlyKey(t, jwk)); err != nil {
				t.Errorf("vector %d: %v", v.TcID, err)
			}
			verified++
		}
	}
	if verified != 2 { // one key says use, the other key_ops
		t.Errorf("verified %d", verified)
	}
}

// The examples that nobody may get in with, whatever the key.
func TestRFCRefused(t *testing.T) {
	f := func(name, raw string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			for _, jwk := range []string{rsKey, esKey, edKey} {
				if err := signedWith(t, raw, onlyKey(t, jwk)); err != error(Malformed) {
					t.Errorf("got %v", err)
				}
			}
		})
	}
	// RFC 7515 appendix F: with its payload this one verifies.
	if err := signedWith(t, strings.Replace(es256, joe, "", 1), onlyKey(t, esKey)); err != error(BadSignature) {
		t.Errorf("detached: got %v", err)
	}
	signatureOf := func(raw string) string { return raw[strings.LastIndexByte(raw, '.')+1:] }
	f("RFC 7515 A.1: HS256", hs256)
	f("RFC 7515 A.5: none", "eyJhbGciOiJub25lIn0."+joe+".")
	f("RFC 7515 A.6: general JSON serialization", `{"payload":"`+joe+`","signatures":[{"protected":"eyJhbGciOiJSUzI1NiJ9","header":{"kid":"2010-12-29"},"signature":"`+signatureOf(rs256)+
		`"},{"protected":"eyJhbGciOiJFUzI1NiJ9","header":{"kid":"e9bc097a-ce51-4036-9562-d2ade882db0d"},"signature":"`+signatureOf(es256)+`"}]}`)
	f("RFC 7515 A.7: flattened JSON serialization", `{"payload":"`+joe+`","protected":"eyJhbGciOiJFUzI1NiJ9","header":{"kid":"e9bc097a-ce51-4036-9562-d2ade882db0d"},"signature":"`+signatureOf(es256)+`"}`)
	f("RFC 7520 §4.5: detached HS256", "eyJhbGciOiJIUzI1NiIsImtpZCI6IjAxOGMwYWU1LTRkOWItNDcxYi1iZmQ2LWVlZjMxNGJjNzAzNyJ9..s0h6KThzkfBBBkLspW1h84VsJZFTsPPqMDA7g1Md7p0")
	f("RFC 7797 §4.1: b64 absent", "eyJhbGciOiJIUzI1NiJ9.JC4wMg.5mvfOroL-g7HyqJoozehmsaqmvTYGEq5jTI1gVvoEoQ")
	f("RFC 7797 §4.2: b64 false", "eyJhbGciOiJIUzI1NiIsImI2NCI6ZmFsc2UsImNyaXQiOlsiYjY0Il19..A5dxf2s96_n5FLueVuW1Z_vh161FwXZC4YLPff6dmDY")
}

// RFC 7797 with a key of ours: a payload that is signed unencoded is refused, in every
// combination of b64 and crit, and so is a b64 that changes nothing.
func TestRFC7797(t *testing.T) {
	k := newKey(t, EdDSA)
	for _, extension := range []string{
		`"b64":false,"crit":["b64"],`, `"b64":false,`, `"b64":true,"crit":["b64"],`, `"b64":true,`, `"crit":["b64"],`, `"b64":null,`,
	} {
		head := with(t, goodHead(k), `"typ"`, extension+`"typ"`)
		mustRefuse(t, k, signParts(t, k, encode(head), goodBody()), Malformed)
		mustRefuse(t, k, forge(t, k, head, goodBody()), Malformed)
	}
}

// RFC 7638 §3.1 is in TestThumbprintVectors. An absent or another kid, alg or use, and
// the order of the members, change nothing in the thumbprint (§3.2).
func TestRFC7638OnlyRequiredMembers(t *testing.T) {
	f := func(name, jwk, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if got := onlyKey(t, jwk).thumbprint(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	const want = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
	f("as printed", edKey, want)
	f("more members", strings.Replace(edKey, `{`, `{"use":"sig","alg":"EdDSA","key_ops":["verify"],"x5t":"a",`, 1), want)
	f("another order", `{"kid":"b","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","crv":"Ed25519","kty":"OKP"}`, want)
}

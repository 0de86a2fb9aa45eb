package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/golang-jwt/jwt/v5"
)

func TestRow012AlgNone(t *testing.T) {
	for _, a := range algorithms {
		k := newKey(t, a)
		for _, none := range []string{"none", "None", "NONE", "nOnE", "none ", ""} {
			head := with(t, goodHead(k), `"`+string(a)+`"`, `"`+none+`"`)
			mustRefuse(t, k, encode(head)+"."+encode(goodBody())+".", Malformed)
			mustRefuse(t, k, forge(t, k, head, goodBody()), Malformed)
		}
	}
}

func TestRow013AlgNoString(t *testing.T) {
	k := newKey(t, ES256)
	f := func(name, head string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { mustRefuse(t, k, forge(t, k, head, goodBody()), Malformed) })
	}
	f("missing", with(t, goodHead(k), `"alg":"ES256",`, ``))
	f("null", with(t, goodHead(k), `"ES256"`, `null`))
	f("number", with(t, goodHead(k), `"ES256"`, `256`))
	f("array", with(t, goodHead(k), `"ES256"`, `["ES256"]`))
	f("object", with(t, goodHead(k), `"ES256"`, `{"alg":"ES256"}`))
	f("another case of the name", with(t, goodHead(k), `"alg"`, `"Alg"`))
	f("another case of the value", with(t, goodHead(k), `"ES256"`, `"es256"`))
	f("header is an array", `["ES256"]`)
	f("header is a string", `"ES256"`)
	f("header is null", `null`)
	f("header is empty", ``)
}

func TestRow014PublicKeyAsHMACSecret(t *testing.T) {
	for _, a := range []Algorithm{RS256, ES256} {
		k := newKey(t, a)
		der, err := x509.MarshalPKIXPublicKey(k.Public().Key)
		if err != nil {
			t.Fatal(err)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		set := NewKeySet(k.Public())
		for _, secret := range [][]byte{der, text, set.Document(), []byte(strings.TrimSpace(string(text)))} {
			for _, m := range []*jwt.SigningMethodHMAC{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
				head := with(t, goodHead(k), `"`+string(a)+`"`, `"`+m.Alg()+`"`)
				input := encode(head) + "." + encode(goodBody())
				signature, err := m.Sign(input, secret)
				if err != nil {
					t.Fatal(err)
				}
				mustRefuse(t, k, input+"."+base64.RawURLEncoding.EncodeToString(signature), Malformed)
				// The same under the key's own alg is a wrong signature.
				input = encode(goodHead(k)) + "." + encode(goodBody())
				if signature, err = m.Sign(input, secret); err != nil {
					t.Fatal(err)
				}
				mustRefuse(t, k, input+"."+base64.RawURLEncoding.EncodeToString(signature), BadSignature)
			}
		}
	}
}

func TestRow015AlgOfAnotherKey(t *testing.T) {
	for _, a := range algorithms {
		k := newKey(t, a)
		for _, alg := range []string{"ES256", "RS256", "EdDSA", "ES384", "ES512", "RS384", "RS512", "PS256", "Ed25519", "HS256", "ES256K"} {
			if alg == string(a) {
				continue
			}
			// Signed well, with the key's own algorithm: only the header lies.
			mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `"`+string(a)+`"`, `"`+alg+`"`), goodBody()), Malformed)
		}
	}
	// One key's token under another key's kid.
	es, ed := newKey(t, ES256), newKey(t, EdDSA)
	raw := forge(t, es, with(t, goodHead(es), es.ID(), ed.ID()), goodBody())
	if _, err := Verify([]byte(raw), NewKeySet(es.Public(), ed.Public()), expect, start); err != error(Malformed) {
		t.Errorf("got %v", err)
	}
}

func TestRow016Signature(t *testing.T) {
	for _, a := range algorithms {
		k := newKey(t, a)
		raw := sign(t, k, good())
		other := good()
		other.Client = "another"
		input, signature := raw[:strings.LastIndexByte(raw, '.')+1], raw[strings.LastIndexByte(raw, '.')+1:]
		mustRefuse(t, k, input, BadSignature)
		foreign := sign(t, k, other)
		mustRefuse(t, k, input+foreign[strings.LastIndexByte(foreign, '.')+1:], BadSignature)
		own, _ := base64.RawURLEncoding.DecodeString(signature)
		mustRefuse(t, k, input+encode(string(own[:len(own)-1])), BadSignature)
		mustRefuse(t, k, input+encode(string(own)+"\x00"), BadSignature)
	}
}

func TestRow017ECDSASignatureForm(t *testing.T) {
	k := newKey(t, ES256)
	raw := sign(t, k, good())
	input := raw[:strings.LastIndexByte(raw, '.')]
	signature, err := base64.RawURLEncoding.DecodeString(raw[len(input)+1:])
	if err != nil || len(signature) != 64 {
		t.Fatalf("%d bytes, %v", len(signature), err)
	}
	f := func(name string, changed []byte) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			mustRefuse(t, k, input+"."+base64.RawURLEncoding.EncodeToString(changed), BadSignature)
		})
	}
	r, s := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		t.Fatal(err)
	}
	digest := crypto.SHA256.New()
	digest.Write([]byte(input))
	if !ecdsa.VerifyASN1(k.Public().Key.(*ecdsa.PublicKey), digest.Sum(nil), der) {
		t.Fatal("the DER form is no signature: the test proves nothing")
	}
	zero := make([]byte, 32)
	order := k.Public().Key.(*ecdsa.PublicKey).Params().N.Bytes()
	join := func(parts ...[]byte) []byte {
		var all []byte
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	f("both zero", join(zero, zero))
	f("r zero", join(zero, signature[32:]))
	f("s zero", join(signature[:32], zero))
	f("r and s are the order", join(order, order))
	f("DER", der)
	f("one byte short", signature[:63])
	f("one byte long", join(signature, []byte{0}))
	f("padded to ES512", join(make([]byte, 34), signature[:32], make([]byte, 34), signature[32:]))
	f("r alone", signature[:32])
}

func TestRow020KeyID(t *testing.T) {
	k := newKey(t, ES256)
	f := func(name, kid string, want Invalid) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `"`+k.ID()+`"`, kid), goodBody()), want)
		})
	}
	f("path", `"../../dev/null"`, Malformed)
	f("absolute path", `"/dev/null"`, Malformed)
	f("SQL", `"x' UNION SELECT 'secret"`, Malformed)
	f("10 KB", `"`+strings.Repeat("k", 10_000)+`"`, Malformed)
	f("129 characters", `"`+strings.Repeat("k", 129)+`"`, Malformed)
	f("128 characters", `"`+strings.Repeat("k", 128)+`"`, UnknownKey)
	f("NUL", `"`+k.ID()+`\u0000"`, Malformed)
	f("empty", `""`, Malformed)
	f("null", `null`, Malformed)
	f("number", `1`, Malformed)
	f("array", `["`+k.ID()+`"]`, Malformed)
	f("trailing space", `"`+k.ID()+` "`, Malformed)
	f("another case", `"`+swapCase(k.ID())+`"`, UnknownKey)
	f("not ours", `"unknown"`, UnknownKey)
	mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `"kid":"`+k.ID()+`",`, ``), goodBody()), Malformed)
}

func swapCase(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z':
			return r ^ 0x20
		}
		return r
	}, s)
}

func TestRow021KeysInTheHeader(t *testing.T) {
	var fetched atomic.Int64
	k, evil := newKey(t, ES256), newKey(t, ES256)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetched.Add(1)
		_, _ = w.Write(NewKeySet(evil.Public()).Document())
	}))
	defer server.Close()
	document := string(NewKeySet(evil.Public()).Document())
	jwk := strings.TrimSuffix(strings.TrimPrefix(document, `{"keys":[`), `]}`)
	for _, extra := range []string{
		`"jku":"` + server.URL + `"`, `"x5u":"` + server.URL + `"`, `"jwk":` + jwk, `"x5c":["MIIB"]`,
		`"jku":7`, `"jwk":null`,
	} {
		head := with(t, goodHead(k), `"typ"`, extra+`,"typ"`)
		// Ours is good whatever hints it carries; theirs is bad under our kid and under its own.
		if got := mustAccept(t, k, forge(t, k, head, goodBody())); got != good() {
			t.Errorf("%s: got %+v", extra, got)
		}
		mustRefuse(t, k, forge(t, evil, head, goodBody()), BadSignature)
		mustRefuse(t, k, forge(t, evil, with(t, goodHead(evil), `"typ"`, extra+`,"typ"`), goodBody()), UnknownKey)
	}
	if n := fetched.Load(); n != 0 {
		t.Errorf("fetched %d times", n)
	}
}

func TestRow022Crit(t *testing.T) {
	k := newKey(t, ES256)
	for _, crit := range []string{`[]`, `["exp"]`, `["unknown"]`, `["b64"]`, `null`, `"exp"`, `{}`, `["alg"]`} {
		mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `"typ"`, `"crit":`+crit+`,"exp":1700007200,"typ"`), goodBody()), Malformed)
	}
	// Without crit the same header is good.
	mustAccept(t, k, forge(t, k, with(t, goodHead(k), `"typ"`, `"exp":1700007200,"typ"`), goodBody()))
}

func TestRow023UnencodedPayload(t *testing.T) {
	k := newKey(t, ES256)
	for _, b64 := range []string{`false`, `true`, `null`, `"false"`} {
		head := with(t, goodHead(k), `"typ"`, `"b64":`+b64+`,"typ"`)
		mustRefuse(t, k, forge(t, k, head, goodBody()), Malformed)
		mustRefuse(t, k, signParts(t, k, encode(head), goodBody()), Malformed)
	}
}

func TestRow024RepeatedMember(t *testing.T) {
	k := newKey(t, ES256)
	head, body := goodHead(k), goodBody()
	f := func(name, head, body string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { mustRefuse(t, k, forge(t, k, head, body), Malformed) })
	}
	f("header, same value", with(t, head, `"typ"`, `"alg":"ES256","typ"`), body)
	f("header, none last", strings.TrimSuffix(head, "}")+`,"alg":"none"}`, body)
	f("header, escaped", with(t, head, `"typ"`, `"\u0061lg":"ES256","typ"`), body)
	f("header, unknown member", with(t, head, `"typ"`, `"x":1,"x":1,"typ"`), body)
	f("header, inside", with(t, head, `"typ"`, `"x":{"y":[{"a":1,"a":2}]},"typ"`), body)
	f("claims, client_id", head, strings.TrimSuffix(body, "}")+`,"client_id":"efb3ed15-0052-4e00-9584-1365510b547d"}`)
	f("claims, exp", head, with(t, body, `"exp"`, `"exp":9999999999,"exp"`))
	f("claims, escaped", head, with(t, body, `"oid"`, `"\u006fid":"x","oid"`))
	f("claims, inside", head, with(t, body, `"oid"`, `"x":[[{"y":{"a":1,"b":2,"a":3}}]],"oid"`))
	// Names that differ in case alone are different names, and the one that counts is the exact one.
	raw := forge(t, k, with(t, head, `"typ"`, `"ALG":"none","Kid":"x","typ"`), with(t, body, `"oid"`, `"OID":"evil","Sub":"x","oid"`))
	if got := mustAccept(t, k, raw); got != good() {
		t.Errorf("got %+v", got)
	}
}

func TestRow025Base64(t *testing.T) {
	k := newKey(t, ES256)
	// Spaces make both parts end in two loose bits and hold every odd length.
	for pad := range 3 {
		head, body := encode(goodHead(k)+strings.Repeat(" ", pad)), encode(goodBody()+strings.Repeat(" ", pad))
		mustAccept(t, k, signParts(t, k, head, body))
		raw := signParts(t, k, head, body)
		signature := raw[strings.LastIndexByte(raw, '.')+1:]
		for _, spoil := range []func(string) string{
			func(p string) string { return p + "=" },
			func(p string) string { return p + "==" },
			func(p string) string { return p + strings.Repeat("=", (4-len(p)%4)%4) + "\n" },
			func(p string) string { return p + "\n" },
			func(p string) string { return p + "\r" },
			func(p string) string { return p + "\r\n" },
			func(p string) string { return p[:10] + "\n" + p[10:] },
			func(p string) string { return p[:4] + "\n\n\n\n" + p[4:] },
			func(p string) string { return " " + p },
			func(p string) string { return p[:8] + "+" + p[9:] },
			func(p string) string { return p[:8] + "/" + p[9:] },
			func(p string) string { return p[:8] + "\x00" + p[9:] },
			func(p string) string { return p[:8] + "\xc3\xa9" + p[10:] },
			func(p string) string { return p + "A" + strings.Repeat("A", (4-len(p)%4)%4) }, // 1 mod 4
		} {
			mustRefuse(t, k, signParts(t, k, spoil(head), body), Malformed)
			mustRefuse(t, k, signParts(t, k, head, spoil(body)), Malformed)
			mustRefuse(t, k, head+"."+body+"."+spoil(signature), Malformed)
		}
		if loose := looseBit(head); loose != head {
			mustRefuse(t, k, signParts(t, k, loose, body), Malformed)
		}
		if loose := looseBit(body); loose != body {
			mustRefuse(t, k, signParts(t, k, head, loose), Malformed)
		}
		loose := looseBit(signature)
		if loose == signature {
			t.Fatal("a signature of 64 bytes has loose bits")
		}
		mustRefuse(t, k, head+"."+body+"."+loose, Malformed)
	}
}

// looseBit sets the last bit of p where it carries nothing, so that lax decoders read the same.
func looseBit(p string) string {
	if len(p)%4 == 0 {
		return p
	}
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	i := strings.IndexByte(alphabet, p[len(p)-1])
	return p[:len(p)-1] + alphabet[i|1:i|1+1]
}

func TestRow026Parts(t *testing.T) {
	k := newKey(t, ES256)
	raw := sign(t, k, good())
	parts := strings.Split(raw, ".")
	f := func(name, raw string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { mustRefuse(t, k, raw, Malformed) })
	}
	f("none", "")
	f("one", parts[0])
	f("two", parts[0]+"."+parts[1])
	f("the guide's old shape", parts[1]+"."+parts[2])
	f("four", raw+".")
	f("four, first empty", "."+raw)
	f("five: JWE", strings.Join([]string{parts[0], "", "", parts[1], parts[2]}, "."))
	f("five", raw+"."+parts[1]+"."+parts[2])
	f("two dots", "..")
	f("no header", "."+parts[1]+"."+parts[2])
	f("no claims", parts[0]+".."+parts[2])
	f("flattened JSON", `{"payload":"`+parts[1]+`","protected":"`+parts[0]+`","signature":"`+parts[2]+`"}`)
	f("general JSON", `{"payload":"`+parts[1]+`","signatures":[{"protected":"`+parts[0]+`","signature":"`+parts[2]+`"}]}`)
	f("spaces around", " "+raw+" ")
	f("newline after", raw+"\n")
}

// The front refuses such a head before anything is verified; here it must cost nothing either.
func TestRow027Dots(t *testing.T) {
	k := newKey(t, ES256)
	keys := NewKeySet(k.Public())
	for _, size := range []int{MaxSize + 1, 1 << 20} {
		dots := []byte(strings.Repeat(".", size))
		var err error
		if n := testing.AllocsPerRun(100, func() { _, err = Verify(dots, keys, expect, start) }); n != 0 || err != error(Malformed) {
			t.Errorf("%d bytes: %v allocations, %v", size, n, err)
		}
	}
	mustRefuse(t, k, strings.Repeat(".", MaxSize), Malformed)
	// One byte over is refused although it is well signed; at the limit it is read.
	fit := func(size int) string {
		body := goodBody()
		overhead := len(signParts(t, k, encode(goodHead(k)), ""))
		body += strings.Repeat(" ", (size-overhead)*3/4-len(body))
		return forge(t, k, goodHead(k), body)
	}
	if raw := fit(MaxSize); len(raw) > MaxSize || len(raw) < MaxSize-3 {
		t.Fatalf("%d bytes", len(raw))
	} else {
		mustAccept(t, k, raw)
	}
	mustRefuse(t, k, fit(MaxSize+4), Malformed)
}

func TestRow035Typ(t *testing.T) {
	k := newKey(t, ES256)
	f := func(name, typ string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `"at+jwt"`, typ), goodBody()), Malformed)
		})
	}
	f("ID token", `"JWT"`)
	f("lower case", `"jwt"`)
	f("refresh token", `"rt+jwt"`)
	f("logout token", `"logout+jwt"`)
	f("another case", `"AT+JWT"`)
	f("full media type", `"application/at+jwt"`)
	f("null", `null`)
	f("array", `["at+jwt"]`)
	f("empty", `""`)
	mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `,"typ":"at+jwt"`, ``), goodBody()), Malformed)
	mustRefuse(t, k, forge(t, k, with(t, goodHead(k), `"typ"`, `"cty"`), goodBody()), Malformed)
}

func TestRow043TruncatedOrFlipped(t *testing.T) {
	for _, a := range algorithms {
		t.Run(string(a), func(t *testing.T) {
			k := newKey(t, a)
			keys := NewKeySet(k.Public())
			raw := []byte(sign(t, k, good()))
			for n := range raw {
				if c, err := Verify(raw[:n], keys, expect, start); err == nil || c != (Claims{}) {
					t.Errorf("cut to %d bytes: %+v, %v", n, c, err)
				}
			}
			for i := range raw {
				for bit := range 8 {
					raw[i] ^= 1 << bit
					c, err := Verify(raw, keys, expect, start)
					if _, ok := err.(Invalid); !ok || c != (Claims{}) {
						t.Errorf("bit %d of byte %d flipped: %+v, %v", bit, i, c, err)
					}
					raw[i] ^= 1 << bit
				}
			}
			if c := mustAccept(t, k, string(raw)); c != good() {
				t.Errorf("unchanged: %+v", c)
			}
		})
	}
}

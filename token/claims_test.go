package token

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestRow029ExpiryIsExact(t *testing.T) {
	k := newKey(t, ES256)
	keys := NewKeySet(k.Public())
	raw := []byte(sign(t, k, good()))
	end := time.Unix(good().Expires, 0)
	f := func(name string, now time.Time, want error) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			// A leeway of an hour must not matter.
			e := expect
			e.Leeway = time.Hour
			if _, err := Verify(raw, keys, e, now); err != want {
				t.Errorf("got %v, want %v", err, want)
			}
		})
	}
	f("a second before", end.Add(-time.Second), nil)
	f("a nanosecond before", end.Add(-1), nil)
	f("at exp", end, Expired)
	f("a second after", end.Add(time.Second), Expired)
}

// refuseClaim replaces one claim in a token that is signed well.
func refuseClaim(t *testing.T, k *SigningKey, old, new string, want Invalid) {
	t.Helper()
	mustRefuse(t, k, forge(t, k, goodHead(k), with(t, goodBody(), old, new)), want)
}

func TestRow030NoExpiry(t *testing.T) {
	k := newKey(t, ES256)
	refuseClaim(t, k, `"exp":1700007200,`, ``, Malformed)
	refuseClaim(t, k, `"exp"`, `"Exp"`, Malformed)
	refuseClaim(t, k, `"exp":1700007200`, `"exp":null`, Malformed)
	refuseClaim(t, k, `"iat":1700000000,`, ``, Malformed)
	refuseClaim(t, k, `"jti":"018bcfe5-6800-7000-8000-000000000001",`, ``, Malformed)
	refuseClaim(t, k, `,"client_id":"efb3ed15-0052-4e00-9584-1365510b547d"`, ``, Malformed)
	refuseClaim(t, k, `"sub":"Client::efb3ed15-0052-4e00-9584-1365510b547d",`, ``, Malformed)
}

func TestRow031NumericDates(t *testing.T) {
	k := newKey(t, ES256)
	for _, date := range []string{
		`"1700007200"`, `1e400`, `17e8`, `1.7000072e9`, `1700007200.0`, `1700007200.5`, `-1`, `-1700007200`, `0`, `-0`, `NaN`, `Infinity`,
		`9007199254740993`, `99999999999999999999999999`, `18446744075409558816`, `01700007200`, `+1700007200`,
		`null`, `true`, `[1700007200]`, `{}`, `0x6553F100`,
	} {
		refuseClaim(t, k, `"exp":1700007200`, `"exp":`+date, Malformed)
		refuseClaim(t, k, `"iat":1700000000`, `"iat":`+date, Malformed)
		refuseClaim(t, k, `"iat":1700000000`, `"iat":1700000000,"nbf":`+date, Malformed)
	}
	raw := forge(t, k, goodHead(k), with(t, goodBody(), `"exp":1700007200`, `"exp":9007199254740992`))
	if got := mustAccept(t, k, raw); got.Expires != 1<<53 {
		t.Errorf("2^53: got %d", got.Expires)
	}
}

func TestRow032NotYetValid(t *testing.T) {
	k := newKey(t, ES256)
	edge := good().IssuedAt + 30 // the leeway
	dated := func(iat, nbf int64) string {
		body := with(t, goodBody(), `"iat":1700000000`, `"iat":`+strconv.FormatInt(iat, 10))
		if nbf != 0 {
			body = with(t, body, `"exp"`, `"nbf":`+strconv.FormatInt(nbf, 10)+`,"exp"`)
		}
		return forge(t, k, goodHead(k), body)
	}
	mustAccept(t, k, dated(edge, 0))
	mustAccept(t, k, dated(start.Unix(), edge))
	mustRefuse(t, k, dated(edge+1, 0), NotYetValid)
	mustRefuse(t, k, dated(start.Unix(), edge+1), NotYetValid)
	if _, err := Verify([]byte(dated(start.Unix()+1, 0)), NewKeySet(k.Public()), Expect{Issuer: expect.Issuer, Audience: expect.Audience}, start); err != error(NotYetValid) {
		t.Errorf("without leeway: got %v", err)
	}
}

func TestRow033Issuer(t *testing.T) {
	k := newKey(t, ES256)
	iss := `"iss":"https://api.example.com"`
	refuseClaim(t, k, iss, `"iss":"https://evil.example.com"`, WrongIssuer)
	refuseClaim(t, k, iss, `"iss":"https://api.example.com/"`, WrongIssuer)
	refuseClaim(t, k, iss, `"iss":"https://API.example.com"`, WrongIssuer)
	refuseClaim(t, k, iss, `"iss":"http://api.example.com"`, WrongIssuer)
	refuseClaim(t, k, iss, `"iss":"https://api.example.com\u0000"`, WrongIssuer)
	refuseClaim(t, k, iss, `"iss":""`, WrongIssuer)
	refuseClaim(t, k, iss+`,`, ``, WrongIssuer)
	refuseClaim(t, k, iss, `"ISS":"https://api.example.com"`, WrongIssuer)
	refuseClaim(t, k, iss, `"iss":null`, Malformed)
	refuseClaim(t, k, iss, `"iss":["https://api.example.com"]`, Malformed)
	// Another spelling of the same string is the same issuer.
	mustAccept(t, k, forge(t, k, goodHead(k), with(t, goodBody(), iss, `"iss":"https:\/\/api.example.c\u006fm"`)))
}

func TestRow034Audience(t *testing.T) {
	k := newKey(t, ES256)
	aud, ours := `"aud":"https://api.example.com/v1"`, `"https://api.example.com/v1"`
	refuseClaim(t, k, aud, `"aud":"https://api.example.com/v2"`, WrongAudience)
	refuseClaim(t, k, aud, `"aud":"https://api.example.com/v1/"`, WrongAudience)
	refuseClaim(t, k, aud, `"aud":"HTTPS://api.example.com/v1"`, WrongAudience)
	refuseClaim(t, k, aud, `"aud":""`, WrongAudience)
	refuseClaim(t, k, aud+`,`, ``, WrongAudience)
	refuseClaim(t, k, aud, `"aud":[]`, WrongAudience)
	refuseClaim(t, k, aud, `"aud":["https://a.example.com","https://b.example.com"]`, WrongAudience)
	refuseClaim(t, k, aud, `"aud":null`, Malformed)
	refuseClaim(t, k, aud, `"aud":7`, Malformed)
	refuseClaim(t, k, aud, `"aud":{"0":`+ours+`}`, Malformed)
	refuseClaim(t, k, aud, `"aud":[[`+ours+`]]`, Malformed)
	refuseClaim(t, k, aud, `"aud":[`+ours+`,["x"]]`, Malformed)
	refuseClaim(t, k, aud, `"aud":[`+ours+`,7]`, Malformed)
	refuseClaim(t, k, aud, `"aud":[null,`+ours+`]`, Malformed)
	for _, listed := range []string{`[` + ours + `]`, `["x",` + ours + `]`, ` [ ` + ours + ` , "x\"]" ] `, `["https:\/\/api.example.com\/v1"]`} {
		if got := mustAccept(t, k, forge(t, k, goodHead(k), with(t, goodBody(), aud, `"aud":`+listed))); got != good() {
			t.Errorf("%s: got %+v", listed, got)
		}
	}
}

func TestRow036NoOrganization(t *testing.T) {
	k := newKey(t, ES256)
	oid := `"oid":"e4587784-e0a4-43ff-8466-bf17afbb352c"`
	refuseClaim(t, k, oid+`,`, ``, Malformed)
	refuseClaim(t, k, oid, `"oid":""`, Malformed)
	refuseClaim(t, k, oid, `"oid":null`, Malformed)
	refuseClaim(t, k, oid, `"oid":["e4587784-e0a4-43ff-8466-bf17afbb352c"]`, Malformed)
	refuseClaim(t, k, oid, `"OID":"e4587784-e0a4-43ff-8466-bf17afbb352c"`, Malformed)
}

func TestRow037UnsafeIdentifiers(t *testing.T) {
	k := newKey(t, ES256)
	f := func(name, id, spelled string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			// At verify, signed well.
			refuseClaim(t, k, `"oid":"e4587784-e0a4-43ff-8466-bf17afbb352c"`, `"oid":"`+spelled+`"`, Malformed)
			body := strings.ReplaceAll(goodBody(), `efb3ed15-0052-4e00-9584-1365510b547d`, spelled)
			mustRefuse(t, k, forge(t, k, goodHead(k), body), Malformed)
			// At issue.
			c := good()
			c.Organization = id
			if signed, err := k.Sign(c); signed != "" || err == nil || err.Error() != "sign token: the claim oid is not fit for a token" {
				t.Errorf("organization: %q, %v", signed, err)
			}
			c = good()
			c.Client = id
			if signed, err := k.Sign(c); signed != "" || err == nil || err.Error() != "sign token: the claim client_id is not fit for a token" {
				t.Errorf("client: %q, %v", signed, err)
			}
		})
	}
	f("CR LF", "a\r\nX-Organization-Id: b", `a\r\nX-Organization-Id: b`)
	f("NUL", "a\x00", `a\u0000`)
	f("8-bit", "caf\u00e9", "caf\u00e9")
	f("8-bit, escaped", "caf\u00e9", `caf\u00e9`)
	f("10 KB", strings.Repeat("a", 10_000), strings.Repeat("a", 10_000))
	f("129 characters", strings.Repeat("a", 129), strings.Repeat("a", 129))
	f("space", "a b", "a b")
	f("comma", "a,b", "a,b")
	f("slash", "a/b", "a/b")
	f("colon", "a:b", "a:b")
	f("DEL", "a\x7f", "a\x7f")
	f("empty", "", "")

	longest := good()
	longest.Organization, longest.Client = strings.Repeat("A", 128), "azAZ09._~-"
	if got := mustAccept(t, k, sign(t, k, longest)); got != longest {
		t.Errorf("got %+v", got)
	}
}

func TestSubject(t *testing.T) {
	k := newKey(t, ES256)
	sub := `"sub":"Client::efb3ed15-0052-4e00-9584-1365510b547d"`
	for _, other := range []string{
		`"User::efb3ed15-0052-4e00-9584-1365510b547d"`, `"efb3ed15-0052-4e00-9584-1365510b547d"`, `"Client::"`, `"Client:"`, `""`,
		`"client::efb3ed15-0052-4e00-9584-1365510b547d"`, `"Client::efb3ed15-0052-4e00-9584-1365510b547e"`,
		`"Client::efb3ed15-0052-4e00-9584-1365510b547d "`, `null`, `["Client::efb3ed15-0052-4e00-9584-1365510b547d"]`,
	} {
		refuseClaim(t, k, sub, `"sub":`+other, Malformed)
	}
}

func TestTokenID(t *testing.T) {
	k := newKey(t, ES256)
	jti := `"jti":"018bcfe5-6800-7000-8000-000000000001"`
	for _, other := range []string{
		`"018BCFE5-6800-7000-8000-000000000001"`, `"{018bcfe5-6800-7000-8000-000000000001}"`, `"urn:uuid:018bcfe5-6800-7000-8000-000000000001"`,
		`"018bcfe5680070008000000000000001"`, `"018bcfe5-6800-7000-8000-00000000000g"`, `"018bcfe5-6800-7000-8000-00000000001"`,
		`"018bcfe56-800-7000-8000-000000000001"`, `"00000000-0000-0000-0000-000000000000"`, `""`, `null`, `1`,
		`"\u00318bcfe5-6800-7000-8000-000000000001"`,
	} {
		refuseClaim(t, k, jti, `"jti":`+other, Malformed)
	}
}

func TestScope(t *testing.T) {
	k := newKey(t, ES256)
	scope := `"scope":"search tag"`
	for _, other := range []string{
		`""`, `" "`, `" search"`, `"search "`, `"search  tag"`, `"search\ttag"`, `"a\u0022b"`, `"a\\b"`, `"caf\u00e9"`, `"a\u007f"`,
		`null`, `["search","tag"]`, `7`,
	} {
		refuseClaim(t, k, scope, `"scope":`+other, Malformed)
	}
	if got := mustAccept(t, k, forge(t, k, goodHead(k), with(t, goodBody(), `,`+scope, ``))); got.Scope != "" {
		t.Errorf("got %q", got.Scope)
	}
	if got := mustAccept(t, k, forge(t, k, goodHead(k), with(t, goodBody(), scope, `"scope":"!#[]~ a:b/c"`))); got.Scope != "!#[]~ a:b/c" {
		t.Errorf("got %q", got.Scope)
	}
}

func TestKeyNotAfter(t *testing.T) {
	k := newKey(t, ES256)
	public := k.Public()
	public.NotAfter = start.Unix() + 60
	keys := NewKeySet(public)
	raw := []byte(sign(t, k, good()))
	if _, err := Verify(raw, keys, expect, start.Add(60*time.Second)); err != nil {
		t.Errorf("at the end: %v", err)
	}
	if _, err := Verify(raw, keys, expect, start.Add(61*time.Second)); err != error(UnknownKey) {
		t.Errorf("after the end: %v", err)
	}
}

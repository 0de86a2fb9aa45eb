package issuer

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/registry"
	"postern/token"
)

const formField = "Content-Type: application/x-www-form-urlencoded"

// form writes names and values, in turn, as a form.
func form(pairs ...string) string {
	var parts []string
	for n := 0; n < len(pairs); n += 2 {
		parts = append(parts, url.QueryEscape(pairs[n])+"="+url.QueryEscape(pairs[n+1]))
	}
	return strings.Join(parts, "&")
}

// grant is the form of a token request with the world's client in it, and more.
func (w *world) grant(more ...string) string {
	return form(append([]string{"grant_type", "client_credentials", "client_id", w.client.ID, "client_secret", w.secret.Reveal()}, more...)...)
}

// submit sends a form to the token route or, with a suffix, below it.
func (w *world) submit(suffix, content string, fields ...string) reply {
	w.t.Helper()
	return w.send(postTo(testPath+suffix, content, append([]string{formField}, fields...)...))
}

// basic is the world's client by HTTP Basic.
func (w *world) basic() string { return basic(w.client.ID, w.secret.Reveal()) }

// wantOAuth asserts a refusal in the form of RFC 6749 §5.2.
func (w *world) wantOAuth(r reply, status int, code answer.Reason) {
	w.t.Helper()
	var got map[string]string
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || len(got) != 2 || got["error"] != string(code) || got["error_description"] == "" || r.StatusCode != status {
		w.t.Fatalf("got %d %s, want %d %s (%v)", r.StatusCode, r.body, status, code, err)
	}
	if got := <-w.served; got != code {
		w.t.Fatalf("the front was told %s, want %s", got, code)
	}
	challenge := ""
	if status == http.StatusUnauthorized {
		challenge = `Basic realm="Example API"`
	}
	for field, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache", "X-Request-Id": testID, "WWW-Authenticate": challenge,
	} {
		if got := r.Header.Get(field); got != want {
			w.t.Fatalf("%s: %q, want %q", field, got, want)
		}
	}
	if status == http.StatusServiceUnavailable && r.Header.Get("Retry-After") == "" {
		w.t.Fatal("503 without Retry-After")
	}
	if strings.Contains(r.body, w.secret.Reveal()) || strings.Contains(r.body, w.client.ID) {
		w.t.Fatalf("the answer quotes the request: %s", r.body)
	}
}

// granted is RFC 6749 §5.1's answer as a reader decodes it.
type granted struct {
	AccessToken string      `json:"access_token"`
	TokenType   string      `json:"token_type"`
	ExpiresIn   json.Number `json:"expires_in"`
	Scope       *string     `json:"scope"`
}

// wantGranted asserts a 200 with a token and returns what it says, and the verified claims.
func (w *world) wantGranted(r reply) (granted, token.Claims) {
	w.t.Helper()
	if r.StatusCode != http.StatusOK {
		w.t.Fatalf("got %d, want 200: %s", r.StatusCode, r.body)
	}
	if got := <-w.served; got != answer.OK {
		w.t.Fatalf("the front was told %s, want ok", got)
	}
	var got granted
	decoder := json.NewDecoder(strings.NewReader(r.body))
	decoder.DisallowUnknownFields()
	w.check(decoder.Decode(&got))
	keys, _ := w.directory.Keys()
	claims, err := token.Verify([]byte(got.AccessToken), keys, token.Expect{Issuer: testIssuer, Audience: testIssuer}, w.now())
	w.check(err)
	return got, claims
}

func TestRow068FormGrant(t *testing.T) {
	w := start(t, registry.Terms{Products: products("search", "tracks")})
	f := func(name, content string, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			r := w.submit("", content, fields...)
			got, claims := w.wantGranted(r)
			want := fmt.Sprintf(`{"access_token":%q,"token_type":"Bearer","expires_in":7200,"scope":"search tracks"}`, got.AccessToken)
			if r.body != want {
				t.Errorf("got  %s\nwant %s", r.body, want)
			}
			for field, want := range map[string]string{
				"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache", "X-Request-Id": testID, "X-Postern-Notice": "",
			} {
				if got := r.Header.Get(field); got != want {
					t.Errorf("%s: %q, want %q", field, got, want)
				}
			}
			record, err := w.store.Token(t.Context(), claims.ID.String())
			w.check(err)
			if record.SubjectID != w.client.ID || int64(record.ExpiresAt)/1000 != claims.Expires {
				t.Errorf("record %+v", record)
			}
		})
	}
	f("form fields", w.grant())
	f("Basic", "grant_type=client_credentials", w.basic())
	f("Basic, with credentials that are there without a value", "grant_type=client_credentials&client_id=&client_secret", w.basic())
	f("unknown parameters", w.grant("audience", "x", "resource", "", "x y", "&=%"))
	f("escaped names, empty pairs", "&&grant%5Ftype=client%5fcredentials&&client_id="+w.client.ID+"&client_secret="+w.secret.Reveal()+"&")
	f("an empty scope is none", w.grant("scope", ""))

	// In chunks, in another spelling of the type.
	text := strings.Replace(postTo(testPath, w.grant(), "Content-Type: Application/X-WWW-Form-URLencoded; charset=UTF-8"),
		fmt.Sprint("Content-Length: ", len(w.grant())), "Transfer-Encoding: chunked", 1)
	w.wantGranted(w.send(strings.Replace(text, w.grant(), fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(w.grant()), w.grant()), 1)))
}

func TestRow057DuplicateParameter(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	f := func(name, content string, fields ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { w.wantOAuth(w.submit("", content, fields...), 400, answer.InvalidRequest) })
	}
	f("client_id", w.grant("client_id", w.client.ID))
	f("client_secret", w.grant("client_secret", w.secret.Reveal()))
	f("grant_type", w.grant("grant_type", "client_credentials"))
	f("scope", w.grant("scope", "a", "scope", "b"))
	f("scope, once without a value", w.grant("scope", "", "scope", "b"))
	f("scope, escaped", w.grant("scope", "a")+"&sc%6Fpe=b")
	f("an unknown one", w.grant("x", "1", "x", "2"))
	f("with Basic", "grant_type=client_credentials&grant_type=client_credentials", w.basic())
	f("a broken escape", w.grant()+"&x=%zz")
	f("a broken name", w.grant()+"&%=1")
	var many strings.Builder
	for n := range maxParameters {
		fmt.Fprintf(&many, "&%x", n)
	}
	f("too many", w.grant()+many.String())
	w.wantOAuth(w.submit("/revoke", w.grant("token", "x", "token", "x")), 400, answer.InvalidRequest)
}

func TestRow061WrongSecretByForm(t *testing.T) {
	w := start(t, registry.Terms{})
	w.wantOAuth(w.submit("", "grant_type=client_credentials", basic(w.client.ID, strange(t).Reveal())), 401, answer.InvalidClient)
	for name, content := range map[string]string{
		"wrong":  form("grant_type", "client_credentials", "client_id", w.client.ID, "client_secret", strange(t).Reveal()),
		"none":   form("grant_type", "client_credentials", "client_id", w.client.ID),
		"empty":  form("grant_type", "client_credentials", "client_id", w.client.ID, "client_secret", ""),
		"no id":  form("grant_type", "client_credentials", "client_secret", w.secret.Reveal()),
		"nobody": "grant_type=client_credentials",
		"NUL":    w.grant() + "%00",
	} {
		t.Run(name, func(t *testing.T) { w.wantOAuth(w.submit("", content), 401, answer.InvalidClient) })
	}
	// The same back-off, in the same dialect; a correct secret always passes.
	bad := form("grant_type", "client_credentials", "client_id", w.client.ID, "client_secret", strange(t).Reveal())
	limited := reply{}
	for range 2 * backoffFailures {
		if limited = w.submit("", bad); limited.StatusCode == 429 {
			break
		}
		<-w.served
	}
	w.wantOAuth(limited, 429, answer.RateLimited)
	if limited.Header.Get("Retry-After") == "" {
		t.Error("429 without Retry-After")
	}
	w.wantGranted(w.submit("", w.grant()))
}

func TestRow062CredentialsInFormAndBasic(t *testing.T) {
	w := start(t, registry.Terms{})
	for name, content := range map[string]string{
		"both": w.grant(), "an identifier": form("grant_type", "client_credentials", "client_id", w.client.ID),
		"a secret": form("grant_type", "client_credentials", "client_secret", "x"),
	} {
		t.Run(name, func(t *testing.T) {
			w.wantOAuth(w.submit("", content, w.basic()), 400, answer.InvalidRequest)
		})
	}
	w.wantOAuth(w.submit("", "grant_type=client_credentials", w.basic(), w.basic()), 400, answer.InvalidRequest)
	for _, suffix := range []string{"/refresh", "/revoke", "/introspect"} {
		w.wantOAuth(w.submit(suffix, w.grant("token", "x"), w.basic()), 400, answer.InvalidRequest)
	}
}

func TestRow063FormEncoded(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	var escaped strings.Builder
	for _, c := range []byte(w.secret.Reveal()) {
		fmt.Fprintf(&escaped, "%%%02X", c)
	}
	got, _ := w.wantGranted(w.submit("", "grant_type=client_credentials&client_id="+w.client.ID+"&client_secret="+escaped.String()+"&scope=b+a"))
	if got.Scope == nil || *got.Scope != "b a" {
		t.Errorf("scope %v", got.Scope)
	}
	w.wantGranted(w.submit("", "grant_type=client_credentials", basic(url.QueryEscape(w.client.ID), escaped.String())))
}

func TestRow064FormCredentialsInQuery(t *testing.T) {
	w := start(t, registry.Terms{})
	for _, query := range []string{"?client_id=x", "?client%5Fsecret=" + w.secret.Reveal(), "?a&client_secret"} {
		w.wantOAuth(w.submit(query, w.grant()), 400, answer.InvalidRequest)
		w.wantOAuth(w.submit(query, "grant_type=client_credentials", w.basic()), 400, answer.InvalidRequest)
	}
	for _, suffix := range []string{"/refresh", "/revoke", "/introspect"} {
		w.wantOAuth(w.submit(suffix+"?token=x", w.grant("token", "x")), 400, answer.InvalidRequest)
	}
	// A grant type in the query counts for nothing, and hides nothing.
	w.wantOAuth(w.submit("?grant_type=client_credentials", form("client_id", w.client.ID, "client_secret", w.secret.Reveal())), 400, answer.InvalidRequest)
	if strings.Contains(w.log.String(), w.secret.Reveal()) {
		t.Error("a secret was logged")
	}
}

// TestJSONAnnouncedAsForm: who forgets the Content-Type with curl is told that, and not that
// the other dialect's parameters are missing.
func TestJSONAnnouncedAsForm(t *testing.T) {
	w := start(t, registry.Terms{})
	f := func(path, content string, told bool, fields ...string) {
		t.Helper()
		t.Run(path+" "+content[:1], func(t *testing.T) {
			r := w.send(postTo(path, content, append(fields, "Content-Type: application/x-www-form-urlencoded")...))
			w.wantOAuth(r, 400, answer.InvalidRequest)
			if strings.Contains(r.body, "send Content-Type: application/json") != told {
				t.Error(r.body)
			}
		})
	}
	f(testPath, w.good(), true)
	f(testPath, "\n "+w.good(), true)
	f(testPath, `{"x":"100%"}`, true, w.basic())
	f(testPath+"/revoke", `{"token":"x"}`, true, w.basic())
	f(testPath, "client_id={", false)
	w.wantGranted(w.submit("", "{&grant_type=client_credentials", w.basic())) // unknown parameters are ignored
}

func TestRow065GrantType(t *testing.T) {
	w := start(t, registry.Terms{})
	f := func(grant string, code answer.Reason) {
		t.Helper()
		t.Run(grant, func(t *testing.T) {
			w.wantOAuth(w.submit("", form("grant_type", grant), w.basic()), 400, code)
			w.wantOAuth(w.submit("", form("grant_type", grant, "client_id", w.client.ID, "client_secret", strange(t).Reveal())), 400, code)
		})
	}
	f("", answer.InvalidRequest)
	f("password", answer.UnsupportedGrantType)
	f("refresh_token", answer.UnsupportedGrantType)
	f("authorization_code", answer.UnsupportedGrantType)
	f("Client_Credentials", answer.UnsupportedGrantType)
	f("client_credentials ", answer.UnsupportedGrantType)
	f("\x00", answer.UnsupportedGrantType)
	w.wantOAuth(w.submit("", "", w.basic()), 400, answer.InvalidRequest)
	w.wantOAuth(w.submit("", w.good()), 400, answer.InvalidRequest) // JSON under the wrong name
	w.want(w.send(postTo(testPath, w.grant(), "Content-Type: application/json")), 400, answer.InvalidRequest)
}

func TestRow066FormAgreementNotInForce(t *testing.T) {
	w := start(t, registry.Terms{})
	a, err := w.store.CreateAgreement(t.Context(), operator, registry.NewAgreement{OrganizationID: w.organization.ID, Name: "over", StartsAt: 1, EndsAt: 2})
	w.check(err)
	w.client, w.secret = w.newClient(a.ID)
	w.want(w.ask(w.good()), 400, answer.UnauthorizedClient)
	w.wantOAuth(w.submit("", w.grant()), 400, answer.UnauthorizedClient)
}

func TestRow067FormScope(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	w.wantOAuth(w.submit("", w.grant("scope", "a c")), 400, answer.InvalidScope)
	w.wantOAuth(w.submit("", w.grant("scope", `"`)), 400, answer.InvalidScope)
	f := func(asked, want string) {
		t.Helper()
		got, claims := w.wantGranted(w.submit("", w.grant("scope", asked)))
		if got.Scope == nil || *got.Scope != want || claims.Scope != want {
			t.Errorf("asked %q: %+v", asked, got)
		}
	}
	f("", "a b")
	f("b", "b")
	// Where nothing is licensed by name there is no scope: an empty one is none (RFC 6749 §3.3).
	_, err := w.store.ChangeOrganization(t.Context(), operator, w.organization.ID, registry.OrganizationChange{Terms: func(t *registry.Terms) { *t = registry.Terms{} }})
	w.check(err)
	w.catchUp()
	if got, _ := w.wantGranted(w.submit("", w.grant())); got.Scope != nil {
		t.Errorf("scope %q", *got.Scope)
	}
}

func TestFormFaults(t *testing.T) {
	w := start(t, registry.Terms{})
	r := w.submit("", w.grant("x", strings.Repeat("a", maxBody)))
	w.wantOAuth(r, 413, answer.TooLarge)
	if !r.closed {
		t.Error("the connection stays open")
	}
	w.wantGranted(w.submit("", w.grant()))
	w.store.away.Store(true)
	w.wantOAuth(w.submit("", w.grant()), 503, answer.TemporarilyUnavailable)
	for _, suffix := range []string{"", "/refresh", "/revoke", "/introspect"} {
		r := w.send("GET " + testPath + suffix + " HTTP/1.1\r\nHost: a\r\n" + formField + "\r\n\r\n")
		w.want(r, 405, answer.MethodNotAllowed)
		if allow := r.Header.Get("Allow"); allow != "POST" {
			t.Errorf("%s: Allow: %q", suffix, allow)
		}
		w.want(w.send(postTo(testPath+suffix, "x", "Content-Type: text/plain")), 415, answer.UnsupportedMediaType)
	}
}

func TestMetadata(t *testing.T) {
	w := start(t, registry.Terms{})
	const want = `{"issuer":"https://api.example.com","token_endpoint":"https://api.example.com/oauth/token",` +
		`"jwks_uri":"https://api.example.com/.well-known/jwks.json","revocation_endpoint":"https://api.example.com/oauth/token/revoke",` +
		`"introspection_endpoint":"https://api.example.com/oauth/token/introspect","grant_types_supported":["client_credentials"],` +
		`"response_types_supported":[],"scopes_supported":[],"token_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"],` +
		`"revocation_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"],` +
		`"introspection_endpoint_auth_methods_supported":["client_secret_basic","client_secret_post"],` +
		`"subject_types_supported":["public"],"id_token_signing_alg_values_supported":["ES256"]}`
	for _, path := range []string{"/.well-known/oauth-authorization-server", "/.well-known/openid-configuration"} {
		for method, body := range map[string]string{"GET": want, "HEAD": ""} {
			r := w.send(method + " " + path + " HTTP/1.1\r\nHost: a\r\n\r\n")
			if reason := <-w.served; reason != answer.OK || r.StatusCode != 200 || r.body != body || r.ContentLength != int64(len(want)) {
				t.Errorf("%s %s: %s, %d\n%s", method, path, reason, r.StatusCode, r.body)
			}
			if got := r.Header.Get("Content-Type") + " " + r.Header.Get("Cache-Control"); got != "application/json public, max-age=300" {
				t.Errorf("%s: %s", path, got)
			}
		}
		w.want(w.send("POST "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"), 405, answer.MethodNotAllowed)
	}
	keys, _ := w.directory.Keys()
	other := string(metadata(Options{URL: testIssuer, TokenPath: "/t", Algorithm: token.EdDSA, Scopes: []string{"a", "b"}}, keys))
	// What an earlier algorithm signed is still out there.
	for _, part := range []string{`"scopes_supported":["a","b"]`, `["ES256","EdDSA"]`, `"token_endpoint":"https://api.example.com/t"`} {
		if !strings.Contains(other, part) {
			t.Errorf("%s is not in %s", part, other)
		}
	}
}

// FuzzForm sends any form to each route: there is no panic, and the answer is one of the closed set.
func FuzzForm(f *testing.F) {
	w := start(f, registry.Terms{Products: products("a", "b")})
	for _, seed := range []string{
		w.grant(), w.grant("scope", "a b"), w.grant("token", "x"), "", "&", "=", "%", "grant_type=", "client_id=a&client_id=b", "grant_type=%00&token=%ff;x",
	} {
		f.Add([]byte(seed), uint8(0))
	}
	suffixes := []string{"", "/refresh", "/revoke", "/introspect"}
	f.Fuzz(func(t *testing.T, body []byte, at uint8) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI(testPath + suffixes[int(at)%len(suffixes)])
		ctx.Request.Header.SetContentType(formType)
		ctx.Request.SetBody(body)
		w.closedSet(t, &ctx, body)
	})
}

// FuzzBasic sends any Authorization header.
func FuzzBasic(f *testing.F) {
	w := start(f, registry.Terms{})
	for _, seed := range []string{w.basic(), "Basic", "Basic Og==", "basic  YTpi", "Bearer x", "Basic YTpi, Basic YTpi", "Basic JXp6OmE=", "\x00", "Basic \t"} {
		f.Add(strings.TrimPrefix(seed, "Authorization: "))
	}
	f.Fuzz(func(t *testing.T, field string) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI(testPath)
		ctx.Request.Header.SetContentType(formType)
		ctx.Request.Header.Set("Authorization", field)
		ctx.Request.SetBodyString("grant_type=client_credentials")
		w.closedSet(t, &ctx, []byte(field))
	})
}

// expires_in is what the terms make of it.
func TestExpiresInFollowsTheToken(t *testing.T) {
	w := start(t, registry.Terms{TokenLifetime: value(600)})
	got, claims := w.wantGranted(w.submit("", w.grant()))
	if got.ExpiresIn != "600" || claims.Expires-claims.IssuedAt != 600 || time.Duration(claims.Expires-w.now().Unix())*time.Second > 10*time.Minute {
		t.Errorf("expires_in %s, %d s", got.ExpiresIn, claims.Expires-claims.IssuedAt)
	}
}

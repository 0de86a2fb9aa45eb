package issuer

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"postern/answer"
	"postern/registry"
)

func newBare(path string) *Issuer {
	return New(nil, nil, Options{URL: testIssuer, TokenPath: path, Now: time.Now, Random: rand.Reader})
}

// lookalikes are spellings that some upstream reads as the token path or as something below it.
var lookalikes = []string{
	"/oauth/token/", "/oauth//token", "//oauth/token", "/oauth/token//", "/OAuth/Token", "/oauth/token;v=1", "/oauth;a=b/token",
	"/oauth/token;", "/oauth/;x/token", "/oauth%2ftoken", "/oauth%2Ftoken", "/%6fauth/token", "/oauth/toke%6E", "/oauth/token%2f", "/oauth/token%3bx",
	"/oauth/./token", "/oauth/token/.", "/x/../oauth/token", "/oauth/x/../token", "/x/..;/oauth/token", "/x/%2e%2e/oauth/token", "/../oauth/token",
	"/x/%2E./oauth/token", "/oauth/token/../x", "/oauth\\token", "/oauth%5ctoken", "\\oauth/token", "oauth/token", "/x/y/../../oauth/token",
	"/oauth/token/refresh/", "/oauth/token/Refresh", "/oauth/token/%72evoke", "/oauth/token//introspect", "/oauth/token/introspect;x", "/oauth/token/anything/below", "/oauth/token/%00", "/OAUTH/TOKEN/%ff",
}

var strangers = []string{
	"/", "", "/oauth", "/oauth/", "/oauth/tokens", "/oauth/toke", "/oauth/token2", "/oauthtoken", "/oauth/xtoken", "/x/oauth/token", "/oauth/x/token",
	"/oauth%252ftoken", "/%256fauth/token", "/oauth/token%20", "/oauth/token.", "/oauth/token%", "/oauth/tok%zzen", "/oauth/../token", "/oauth/../x/token", "/token",
	"/oauth/.token", "/oauth/...", "/oauth/..;/token", "/.well-known/jwks.json/", "/.well-known/JWKS.json", "/.well-known/jwks.json;x", "/.well-known/%6awks.json",
	"/.well-known/oauth-authorization-server/", "/.well-known/oauth-authorization-server/oauth/token2", "/.well-known/openid-configuration;x", "/.well-known/OpenID-configuration", "/x/..;y/z/oauth/token", "/api/v1/tracks/4711", strings.Repeat("/a", 4000) + "%", strings.Repeat("/..", 2000),
}

func TestRow110Owns(t *testing.T) {
	i := newBare(testPath)
	f := func(path string, want bool) {
		t.Helper()
		if got := i.Owns([]byte(path)); got != want {
			t.Errorf("%.60q: %t, want %t", path, got, want)
		}
	}
	f(testPath, true)
	f("/oauth/token/refresh", true)
	f("/oauth/token/revoke", true)
	f("/oauth/token/introspect", true)
	f("/.well-known/jwks.json", true)
	f("/.well-known/oauth-authorization-server", true)
	f("/.well-known/openid-configuration", true)
	for _, path := range lookalikes {
		f(path, true)
	}
	for _, path := range strangers {
		f(path, false)
	}
	i = newBare("/Token")
	f("/Token", true)
	f("/token", true)
	f("/token/x", true)
	f("/oauth/token", false)
	if n := testing.AllocsPerRun(100, func() { i.Owns([]byte("/x/..;/%54oken")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRow110LookalikesAreOurs404(t *testing.T) {
	w := start(t, registry.Terms{})
	for _, path := range lookalikes {
		if !strings.HasPrefix(path, "/") {
			continue // no request target
		}
		r := w.send(postTo(path, w.good(), "Content-Type: application/json"))
		w.want(r, 404, answer.NotFound)
		if !r.closed {
			t.Errorf("%s: the body was not read and the connection stays open", path)
		}
	}
	r := w.send(postTo("http://api.example.com"+testPath+"/", w.good(), "Content-Type: application/json"))
	w.want(r, 404, answer.NotFound)
	w.wantIssued(w.send(postTo("http://api.example.com"+testPath, w.good(), "Content-Type: application/json")))
}

func BenchmarkOwns(b *testing.B) {
	i := newBare(testPath)
	for _, path := range []string{"/api/v1/tracks/4711/similar", "/oauth/token", "/api/caf%C3%A9/x"} {
		b.Run(path, func(b *testing.B) {
			raw := []byte(path)
			b.ReportAllocs()
			for b.Loop() {
				i.Owns(raw)
			}
		})
	}
}

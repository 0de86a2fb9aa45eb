package issuer

import (
	"strings"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

func TestJWKSet(t *testing.T) {
	w := start(t, registry.Terms{})
	const target = " /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n"
	keys, _ := w.directory.Keys()
	f := func(method, body string) {
		t.Helper()
		r := w.send(method + target)
		if reason := <-w.served; reason != answer.OK || r.StatusCode != 200 || r.body != body || r.ContentLength != int64(len(keys.Document())) {
			t.Errorf("%s: %s, %d, %d bytes: %s", method, reason, r.StatusCode, r.ContentLength, r.body)
		}
		for field, want := range map[string]string{"Content-Type": "application/jwk-set+json", "Cache-Control": "public, max-age=300", "X-Request-Id": testID} {
			if got := r.Header.Get(field); got != want {
				t.Errorf("%s: %s: %q, want %q", method, field, got, want)
			}
		}
	}
	f("GET", string(keys.Document()))
	f("HEAD", "")
	if set, dropped, err := token.ParseJWKSet(keys.Document()); err != nil || len(set) != 1 || len(dropped) != 0 {
		t.Errorf("%d keys, dropped %v, %v", len(set), dropped, err)
	}
	r := w.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
	if reason := <-w.served; reason != answer.OK || !r.closed {
		t.Errorf("with content: %s, closed %t", reason, r.closed)
	}
	for _, method := range []string{"POST", "OPTIONS", "DELETE"} {
		r := w.send(method + target)
		w.want(r, 405, answer.MethodNotAllowed)
		if allow := r.Header.Get("Allow"); allow != "GET, HEAD" {
			t.Errorf("Allow: %q", allow)
		}
	}
}

// Nobody may keep the set for longer than a key is in it before it signs.
func TestJWKSetAge(t *testing.T) {
	w := start(t, registry.Terms{})
	for publish, want := range map[time.Duration]string{
		24 * time.Hour: "public, max-age=300", 10 * time.Minute: "public, max-age=300", 10 * time.Second: "public, max-age=5",
		time.Second: "public, max-age=0", 0: "public, max-age=0",
	} {
		o := w.issuer.options
		o.KeyPublish = publish
		w.issuer = New(w.directory, w.store, o)
		if got := w.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n").Header.Get("Cache-Control"); got != want {
			t.Errorf("published for %s: %q, want %q", publish, got, want)
		}
	}
}

// Before anything was loaded an empty set would be kept by others for minutes.
func TestJWKSetWithoutKeys(t *testing.T) {
	w := start(t, registry.Terms{})
	w.issuer.directory = noKeys{w.directory}
	w.want(w.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n"), 503, answer.Unavailable)
}

// noKeys is a directory before its first load.
type noKeys struct{ *directory.Directory }

func (noKeys) Keys() (*token.KeySet, uint64) { return token.NewKeySet(), 0 }

// What is served there verifies what is issued here, and holds nothing that signs.
func TestRow049JWKSetHoldsNoSecret(t *testing.T) {
	w := start(t, registry.Terms{})
	got, _ := w.wantIssued(w.ask(w.good()))
	document := w.send("GET /.well-known/jwks.json HTTP/1.1\r\nHost: a\r\n\r\n").body
	set, _, err := token.ParseJWKSet([]byte(document))
	w.check(err)
	if _, err := token.Verify([]byte(got.Data.Token), token.NewKeySet(set...), token.Expect{Issuer: testIssuer, Audience: testIssuer}, w.now()); err != nil {
		t.Error(err)
	}
	for _, private := range []string{`"d"`, `"k"`, `"p"`, `"q"`, `"dp"`, `"dq"`, `"qi"`, `"oct"`} {
		if strings.Contains(document, private) {
			t.Errorf("the JWK Set has %s", private)
		}
	}
}

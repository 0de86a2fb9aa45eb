package main

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestReadmeLegacy runs the README's route to an older API that knows one fixed password.
func TestReadmeLegacy(t *testing.T) {
	up := startUpstream(t)
	credentials := base64.StdEncoding.EncodeToString([]byte("postern:not-for-clients"))
	text := strings.NewReplacer("http://127.0.0.1:3000", "{upstream}", "${LEGACY_CREDENTIALS}", credentials).Replace(readmeBlocks(t, "legacy")[0])
	s := serve(t, up, text)
	licensed := s.command("organization", "create", "--name", "Licensed", "--products", "search")["id"].(string)
	good, other := s.goodToken(s.client(licensed)), s.goodToken(s.client(""))

	r := s.do("GET", "/legacy/tracks?q=x", "", "Authorization", "Bearer "+good, "Origin", "https://app.example.com")
	if r.status != 200 || r.header.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	seen := strings.Join(up.requests(), "")
	for _, want := range []string{"GET /v1/tracks?q=x HTTP/1.1\r\n", "\r\nAuthorization: Basic " + credentials + "\r\n", "\r\nX-Scopes: search\r\n"} {
		if strings.Count(seen, want) != 1 {
			t.Errorf("the upstream received %q, want %q in it", seen, want)
		}
	}
	if strings.Contains(seen, good) || strings.Count(seen, "Authorization:") != 1 {
		t.Errorf("the upstream received %q", seen)
	}
	if r := s.get("/legacy/tracks", other); r.status != 403 || !strings.Contains(r.header.Get("WWW-Authenticate"), `error="insufficient_scope", scope="search"`) {
		t.Errorf("%d %v %s", r.status, r.header, r.body)
	}
	if r := s.do("GET", "/legacy/tracks", "", "Authorization", "Basic "+credentials); r.status != 401 {
		t.Errorf("with the upstream's own password: %d %s", r.status, r.body)
	}
	if r := s.do("OPTIONS", "/legacy/tracks", "", "Origin", "https://app.example.com", "Access-Control-Request-Method", "GET", "Access-Control-Request-Headers", "authorization"); r.status != 204 {
		t.Errorf("preflight: %d %v %s", r.status, r.header, r.body)
	}
	if n := len(up.requests()); n != 1 {
		t.Errorf("the upstream received %d requests", n)
	}
	if strings.Contains(s.logs.String(), credentials) {
		t.Error("the log holds the password")
	}
}

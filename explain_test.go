package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// verdict is what became of a request: "200 ok /path Name: value …" of one that the upstream
// saw, with the identity fields that it got; "status code" of a refusal.
func (s *served) verdict(up *upstream, method, target string, header ...string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(s.front, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	before := len(up.requests())
	if _, err := io.WriteString(c, method+" "+target+" HTTP/1.1\r\n"+strings.Join(header, "\r\n")+"\r\n\r\n"); err != nil {
		s.t.Fatal(err)
	}
	r, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, target, err)
	}
	defer r.Body.Close()
	var content struct{ Error struct{ Code string } }
	_ = json.NewDecoder(r.Body).Decode(&content)
	if passed := up.requests()[before:]; len(passed) == 1 {
		_, rest, _ := strings.Cut(passed[0], " ")
		path, _, _ := strings.Cut(rest, " ")
		path, _, _ = strings.Cut(path, "?")
		fields := map[string]string{}
		for line := range strings.Lines(passed[0]) {
			name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
			if slices.Contains([]string{"X-Organization-Id", "X-Client-Id", "X-Client-Environment", "X-Token-Id", "X-Agreement-Id", "X-Catalog-Id", "X-Scopes"}, name) {
				fields[name] = value
			}
		}
		return forwarded(path, fields)
	} else if len(passed) > 1 {
		s.t.Fatalf("%s %s: the upstream saw %q", method, target, passed)
	}
	return fmt.Sprint(r.StatusCode, " ", content.Error.Code)
}

func forwarded(path string, fields map[string]string) string {
	text := "forwarded " + path
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		text += " " + name + ": " + fields[name]
	}
	return text
}

// explained asks the command for the same. "own" is what postern answers itself.
func (s *served) explained(token, method, target string, header ...string) (verdict string, said explained) {
	s.t.Helper()
	args := []string{"explain", method, target, "--config", s.file, "--json"}
	if token != "" {
		args = append(args, "--token", token)
	}
	for _, h := range header {
		args = append(args, "--header", h)
	}
	var out, errs bytes.Buffer
	code := run(s.t.Context(), args, nil, &out, &errs)
	if err := json.Unmarshal(out.Bytes(), &said); err != nil || (code == 0) == said.Refused || code > 1 {
		s.t.Fatalf("explain %s %s: exit code %d, %v: %s%s", method, target, code, err, &out, &errs)
	}
	if token != "" && strings.Contains(out.String(), token) {
		s.t.Errorf("the token is in %s", &out)
	}
	switch {
	case said.Refused:
		return fmt.Sprint(said.Status, " ", said.Code), said
	case said.Own:
		return "own", said
	}
	return forwarded(said.ForwardedPath, said.Fields), said
}

// agree sends a request through postern and explains it: both must say the same. want is how
// it begins, so that the table says what happens; failed is the step that refuses.
func (s *served) agree(up *upstream, want, failed, token, method, target string, header ...string) {
	s.t.Helper()
	sent := header
	if !slices.ContainsFunc(header, func(h string) bool { return strings.HasPrefix(h, "Host: ") }) {
		sent = append([]string{"Host: api.example.com"}, sent...)
	}
	if token != "" {
		sent = append(sent, "Authorization: Bearer "+token)
	}
	got := s.verdict(up, method, target, sent...)
	explained, said := s.explained(token, method, target, header...)
	if want == "own" {
		if explained != "own" || strings.HasPrefix(got, "forwarded") {
			s.t.Errorf("%s %s: was %q, explained as %q", method, target, got, explained)
		}
		return
	}
	if got != explained || !strings.HasPrefix(got, want) {
		s.t.Errorf("%s %s: was\n%q, explained as\n%q, want\n%q", method, target, got, explained, want)
	}
	var steps []string
	for _, f := range said.Steps {
		if f.Result == "failed" && !strings.HasPrefix(f.Name, "token ") {
			steps = append(steps, f.Name)
		}
	}
	if !slices.Contains(steps, failed) && failed != "" || failed == "" && len(steps) > 0 {
		s.t.Errorf("%s %s: steps %q failed, want %q", method, target, steps, failed)
	}
}

const explainRoutes = `
issuer: {url: "https://api.example.com"}
front: {max_body: 1MiB}
routes:
  - {name: api, path: /, upstream: ["{upstream}"]}
  - {name: search, path: /search, methods: [GET, POST], upstream: ["{upstream}"], scopes: [search], scopes_any: [tag, rare]}
  - {name: shown, path: /shown, match: exact, upstream: ["{upstream}"], access: public}
  - {name: maybe, path: /maybe, upstream: ["{upstream}"], access: optional, strip_prefix: /maybe, add_prefix: /v1}
  - {name: page, path: /page, upstream: ["{upstream}"], cors: {origins: ["https://app.example.com"]}}
  - {name: socket, path: /socket, upstream: ["{upstream}"], websocket: {enabled: true, query: t, origins: ["https://app.example.com"]}}
  - {name: other, host: other.example.com, path: /only, upstream: ["{upstream}"], access: public}
`

// TestExplainAgrees: explain and a postern that serves come to the same verdict, and tell the
// upstream the same.
func TestExplainAgrees(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, explainRoutes)
	licensed := s.command("organization", "create", "--name", "Licensed", "--products", "search tag")["id"].(string)
	c, plain := s.client(licensed), s.client("")
	token, other := s.goodToken(c), s.goodToken(plain)
	f := func(want, failed, token, method, target string, header ...string) {
		t.Helper()
		s.agree(up, want, failed, token, method, target, header...)
	}
	f("forwarded /a X-Client-Environment: production X-Client-Id: "+c.id, "", token, "GET", "/a?b=c")
	f("forwarded /a%2Fb X-Client", "", token, "DELETE", "/a%2Fb")
	f("forwarded /search", "", token, "GET", "/search/x", "X-Client-Id: evil", "X_Scopes: all")
	f("forwarded /shown", "", "", "GET", "/shown", "X-Client-Id: evil")
	f("forwarded /shown", "", other, "GET", "/shown")
	f("forwarded /v1/a", "", "", "GET", "/maybe/a")
	f("forwarded /v1 X-Client", "", token, "GET", "/maybe")
	f("forwarded /only", "", "", "GET", "/only", "Host: other.example.com:8080")
	f("forwarded /page", "", token, "OPTIONS", "/page")
	f("forwarded /socket", "", token, "GET", "/socket")

	// the head
	f("400 invalid_request", "head", token, "GET", "//a")
	f("400 invalid_request", "head", token, "GET", "/a/../b")
	f("400 invalid_request", "head", token, "GET", "/a b")
	f("400 invalid_request", "head", token, "GET", "*")
	f("400 invalid_request", "head", token, "GET", "/a", "Host: a", "Host: b")
	f("400 invalid_request", "head", token, "GET", "/a", "X y: z")
	f("414 invalid_request", "head", token, "GET", "/"+strings.Repeat("a", 9000))
	f("431 invalid_request", "head", token, "GET", "/a", "X-Large: "+strings.Repeat("a", 40000))
	f("417 invalid_request", "head", token, "GET", "/a", "Expect: more")
	f("508 invalid_request", "head", token, "GET", "/a", "Via: "+strings.Repeat("1.1 postern, ", 9))
	f("405 method_not_allowed", "head", token, "TRACE", "/a")
	// the route
	f("404 not_found", "route", "", "GET", "/else", "Host: other.example.com")
	f("405 method_not_allowed", "route", token, "PUT", "/search")
	f("400 invalid_request", "route", "", "GET", "/maybe%2Fx")
	f("400 invalid_request", "route", token, "GET", "/m%61ybe/x")
	f("own", "", "", "OPTIONS", "/page", "Origin: https://app.example.com", "Access-Control-Request-Method: POST")
	f("403 invalid_request", "route", "", "OPTIONS", "/page", "Origin: https://evil.example", "Access-Control-Request-Method: PUT")
	f("own", "", "", "POST", "/oauth/token")
	f("own", "", token, "GET", "/OAuth/token/x")
	f("own", "", "", "GET", "/.well-known/jwks.json")
	// the token
	f("401 missing_token", "token", "", "GET", "/a")
	f("401 missing_token", "token", "", "GET", "/a", "Authorization: Basic YTpi")
	f("400 invalid_request", "token", token, "GET", "/a", "Authorization: Bearer a")
	f("400 invalid_request", "token", token, "GET", "/a?access_token=x")
	f("400 invalid_request", "token", "", "GET", "/a", "Authorization: Bearer")
	f("401 invalid_token", "token", "a.b.c", "GET", "/a")
	f("401 invalid_token", "token", token[:len(token)-4]+"AAAA", "GET", "/maybe")
	f("401 missing_token", "token", "", "GET", "/maybe", "Authorization: Basic YTpi")
	foreign := s.configured("token", "issue", "--client", c.id, "--issuer-url", "https://else.example.com")["token"].(string)
	f("401 invalid_token", "token", foreign, "GET", "/a")
	// WebSockets
	handshake := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	f("403 invalid_request", "websocket", token, "GET", "/socket", append([]string{"Origin: https://evil.example"}, handshake...)...)
	f("400 invalid_request", "token", token, "GET", "/socket?t="+token, handshake...)
	// what it may
	f("403 insufficient_scope", "scopes", other, "GET", "/search")
	f("413 too_large", "content", token, "POST", "/search", "Content-Length: 2000000")

	// what changes about the client
	short := s.configured("token", "issue", "--client", c.id, "--lifetime", "1s")["token"].(string)
	s.command("token", "revoke", s.record(token))
	eventually(t, 5*time.Second, "the token is revoked", func() bool { return s.get("/a", token).status == 401 })
	eventually(t, 5*time.Second, "the token expires", func() bool { return s.get("/a", short).status == 401 })
	f("401 invalid_token", "token", token, "GET", "/a")
	f("401 invalid_token", "token", short, "GET", "/a")
	s.command("client", "disable", plain.id)
	eventually(t, 5*time.Second, "the client is disabled", func() bool { return s.get("/a", other).status == 401 })
	f("401 invalid_token", "token", other, "GET", "/a")
	f("401 invalid_token", "client", other, "GET", "/a")
}

// record is the id of a token.
func (s *served) record(token string) string {
	s.t.Helper()
	return s.configured("token", "inspect", token)["claims"].(map[string]any)["jti"].(string)
}

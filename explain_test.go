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
  - {name: tracks, path: /catalogs, upstream: ["{upstream}"], catalog: {path: 2}}
  - {name: asked, path: /asked, upstream: ["{upstream}"], access: optional, catalog: {query: c, required: true}}
  - {name: trial, path: /trial, upstream: ["{upstream}"], scopes: [rare], catalog: {header: X-Catalog, required: true}, enforce: shadow}
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

// TestExplainAgreesOnTerms: agreements, catalogs, quotas, and what is in shadow.
func TestExplainAgreesOnTerms(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "usage: {interval: 1s}"+explainRoutes)
	owner := s.command("organization", "create", "--name", "Owner")["id"].(string)
	organization := s.command("organization", "create", "--name", "Licensed", "--products", "search tag", "--catalogs", "")["id"].(string)
	for _, one := range [][]string{{"jazz", "--organization", owner}, {"blues", "--organization", owner}, {"free", "--public"}, {"own", "--organization", organization}} {
		s.command(append([]string{"catalog", "create", one[0], "--name", one[0]}, one[1:]...)...)
	}
	agreement := func(more ...string) string {
		return s.command(append([]string{"agreement", "create", "--organization", organization, "--name", "Gold", "--starts", "2020-01-01"}, more...)...)["id"].(string)
	}
	client := func(agreement string) credentials {
		c := s.command("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production", "--allow-duplicate", "--agreement", agreement)
		return credentials{organization, c["client_id"].(string), c["client_secret"].(string)}
	}
	gold, lenient, quota := agreement("--catalogs", "jazz"), agreement("--enforce", "shadow", "--quota-day", "0", "--catalogs", "jazz"), agreement("--quota-day", "3")
	token, shadowed, few := s.goodToken(client(gold)), s.goodToken(client(lenient)), s.goodToken(client(quota))
	none := s.goodToken(client(agreement("--request-rate", "0", "--concurrent", "5")))
	f := func(want, failed, token, method, target string, header ...string) {
		t.Helper()
		s.agree(up, want, failed, token, method, target, header...)
	}
	// catalogs
	f("forwarded /catalogs/jazz/tracks X-Agreement-Id: "+gold+" X-Catalog-Id: jazz", "", token, "GET", "/catalogs/jazz/tracks")
	f("forwarded /catalogs/free X-Agreement-Id: "+gold+" X-Catalog-Id: free", "", token, "GET", "/catalogs/free")
	f("forwarded /catalogs/%6fwn", "", token, "GET", "/catalogs/%6fwn")
	f("forwarded /catalogs X-Agreement-Id", "", token, "GET", "/catalogs")
	f("403 forbidden_catalog", "catalog", token, "GET", "/catalogs/blues")
	f("403 forbidden_catalog", "catalog", token, "GET", "/catalogs/there-is-none")
	f("403 forbidden_catalog", "catalog", token, "GET", "/catalogs/a%20b")
	f("400 invalid_request", "catalog name", token, "GET", "/catalogs/a;b")
	f("401 missing_token", "token", "", "GET", "/catalogs/free")
	f("forwarded /asked X-Catalog-Id: free", "", "", "GET", "/asked?c=free")
	f("403 forbidden_catalog", "catalog", "", "GET", "/asked?c=jazz")
	f("forwarded /asked", "", token, "GET", "/asked?c=jazz&c=own")
	f("400 invalid_request", "catalog", "", "GET", "/asked")
	f("400 invalid_request", "catalog", token, "GET", "/asked?c=")
	f("400 invalid_request", "catalog name", token, "GET", "/asked?c=%zz")
	// shadow: of a route, and of an agreement
	f("forwarded /trial", "", token, "GET", "/trial", "X-Catalog: jazz")
	f("forwarded /trial", "", "", "GET", "/trial", "X-Catalog: jazz")
	f("forwarded /trial", "", "a.b.c", "GET", "/trial", "X-Catalog: blues")
	f("400 invalid_request", "catalog", "a.b.c", "GET", "/trial")
	f("400 invalid_request", "token", token, "GET", "/trial?access_token=x", "X-Catalog: jazz")
	f("forwarded /a", "", shadowed, "GET", "/a")
	f("forwarded /catalogs/blues", "", shadowed, "GET", "/catalogs/blues")
	f("403 forbidden_catalog", "catalog", s.goodToken(client(agreement("--enforce", "shadow"))), "GET", "/catalogs/blues") // its organization's terms
	f("403 insufficient_scope", "scopes", s.goodToken(s.client("")), "GET", "/search")
	if _, said := s.explained(shadowed, "GET", "/catalogs/blues"); !stepIs(said, "catalog", "shadow") {
		t.Errorf("not told of the shadow: %+v", said.Steps)
	}
	if _, said := s.explained("", "GET", "/trial", "X-Catalog: jazz"); !stepIs(said, "token", "shadow") || !stepIs(said, "catalog", "skipped") {
		t.Errorf("not told of the shadow: %+v", said.Steps)
	}
	// limits: what the store knows was spent
	f("429 rate_limited", "limits", none, "GET", "/a")
	for range 3 {
		if r := s.get("/a", few); r.status != 200 {
			t.Fatalf("within the quota: %d %s", r.status, r.body)
		}
	}
	eventually(t, 20*time.Second, "the store knows", func() bool {
		_, said := s.explained(few, "GET", "/a")
		return said.Refused
	})
	f("429 quota_exceeded", "limits", few, "GET", "/a")
	// the agreement
	s.command("agreement", "change", gold, "--ends", "2021-01-01")
	eventually(t, 5*time.Second, "the agreement has ended", func() bool { return s.get("/a", token).status == 403 })
	f("403 forbidden_agreement", "agreement", token, "GET", "/a")
	f("403 forbidden_agreement", "agreement", token, "GET", "/catalogs/jazz")
	s.command("agreement", "change", lenient, "--ends", "2021-01-01")
	f("forwarded /a", "", shadowed, "GET", "/a")
	s.command("agreement", "remove", gold, "--yes")
	f("403 forbidden_agreement", "agreement", token, "GET", "/a")
}

// stepIs reports whether a step has this result.
func stepIs(said explained, name, result string) bool {
	return slices.ContainsFunc(said.Steps, func(f finding) bool { return f.Name == name && f.Result == result })
}

// record is the id of a token.
func (s *served) record(token string) string {
	s.t.Helper()
	return s.configured("token", "inspect", token)["claims"].(map[string]any)["jti"].(string)
}

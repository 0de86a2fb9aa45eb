package main

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"
)

// refusals asks the running postern by the command, and returns "reason method path" of each.
func (s *served) refusals(args ...string) (all []string, out string) {
	s.t.Helper()
	var stdout, errs bytes.Buffer
	if code := run(s.t.Context(), append([]string{"refusals", "--url", s.admin}, args...), nil, &stdout, &errs); code != 0 {
		s.t.Fatalf("exit code %d: %s", code, &errs)
	}
	for line := range strings.Lines(stdout.String()) {
		if fields := strings.Fields(line); len(fields) > 5 && fields[0] != "TIME" {
			all = append(all, strings.Join(append(fields[3:5:5], append(fields[len(fields)-2:], fields[1])...), " "))
		}
	}
	return all, stdout.String() + errs.String()
}

// TestRefusals: what was refused to a client can be asked for at once, by the client or by
// the request, at the issuer as at the front, and nobody else's is among it.
func TestRefusals(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "routes:\n  - {name: api, path: /, upstream: [\"{upstream}\"]}\n  - {name: search, path: /search, upstream: [\"{upstream}\"], scopes: [search]}\n")
	c, other := s.client(""), s.client("")
	token := s.goodToken(c)
	if all, out := s.refusals("--client", c.id); len(all) != 0 || !strings.Contains(out, "none since 20") {
		t.Errorf("at first: %s", out)
	}
	ask := func(method, path, id, token string) {
		s.do(method, path, "", "X-Request-Id", id, "Authorization", "Bearer "+token)
	}
	ask("GET", "/", "fine", token)
	ask("GET", "/search/a?token=SECRET", "scope", token)
	wrong := fmt.Sprintf(`{"client_id": %q, "client_secret": "not the secret"}`, c.id)
	s.do("POST", "/oauth/token", wrong, "Content-Type", "application/json", "X-Request-Id", "secret")
	s.do("POST", "/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "scope": "a"}`, c.id, c.secret), "Content-Type", "application/json", "X-Request-Id", "scopes")
	s.do("POST", "/oauth/token", `{"client_id": "nobody", "client_secret": "not the secret"}`, "Content-Type", "application/json", "X-Request-Id", "nobody")
	s.command("client", "disable", c.id)
	eventually(t, time.Second, "the client is refused", func() bool { return s.get("/", token).status == 401 })
	ask("GET", "/v1/%41", "disabled", token)

	all, out := s.refusals("--client", c.id)
	got := strings.Join(all, "\n")
	for _, want := range []string{
		"401 invalid_token GET /v1/%41 disabled", "400 invalid_scope POST /oauth/token scopes", "401 invalid_client POST /oauth/token secret",
		"403 insufficient_scope GET /search/a scope",
	} {
		at := strings.Index(got, want)
		if at < 0 {
			t.Errorf("no %q in\n%s", want, out)
			continue
		}
		got = got[at:] // the newest first
	}
	if strings.Contains(out, "SECRET") || strings.Contains(out, "fine") || strings.Contains(out, token) {
		t.Errorf("told too much:\n%s", out)
	}
	if all, out := s.refusals("--client", other.id); len(all) != 0 {
		t.Errorf("another client's: %s", out)
	}
	if all, out := s.refusals("--client", "nobody"); len(all) != 0 {
		t.Errorf("of a client that is none: %s", out)
	}
	if all, out := s.refusals("--request-id", "disabled"); len(all) != 1 || !strings.HasPrefix(all[0], "401 invalid_token GET /v1/%41") || !strings.Contains(out, c.id) {
		t.Errorf("by the request: %s", out)
	}
	if r, err := send(t.Context(), "GET", s.admin+"/refusals", ""); err != nil || r.status != 400 || !strings.Contains(r.body, "request_id=ID") {
		t.Errorf("of nobody: %d %s %v", r.status, r.body, err)
	}
	if r, err := send(t.Context(), "GET", s.front+"/refusals?client="+c.id, "", "Authorization", "Bearer "+token); err != nil || r.status != 401 {
		t.Errorf("at the front: %d %s %v", r.status, r.body, err)
	}
}

// TestRefusalsInShadow: what a route in shadow would have refused is among it, and marked.
func TestRefusalsInShadow(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "routes:\n  - {name: api, path: /, upstream: [\"{upstream}\"], scopes: [search], enforce: shadow}\n")
	c := s.client("")
	if r := s.do("GET", "/a", "", "X-Request-Id", "shown", "Authorization", "Bearer "+s.goodToken(c)); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	all, out := s.refusals("--client", c.id)
	if len(all) != 1 || !strings.HasPrefix(all[0], "200 insufficient_scope GET /a shown") || !strings.Contains(out, "(shadow: it was forwarded) the access token's scope") {
		t.Errorf("%s", out)
	}
	if _, out := s.refusals("--request-id", "shown", "--json"); !strings.Contains(out, `"shadowed": true`) {
		t.Errorf("%s", out)
	}
}

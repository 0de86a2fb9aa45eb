package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
)

// issuedUntil is when a token expires that the token route answered with, in Unix milliseconds.
func issuedUntil(t *testing.T, r reply) (expires int64) {
	t.Helper()
	var envelope struct {
		Data struct {
			Expires int64 `json:"expires_at"`
		}
	}
	if err := json.Unmarshal([]byte(r.body), &envelope); err != nil || envelope.Data.Expires == 0 {
		t.Fatalf("no token: %d %s", r.status, r.body)
	}
	return envelope.Data.Expires
}

// TestTokensAndTheirAgreement: no token is issued or refreshed past the end of its agreement,
// and one that was is refused from the end on when that is brought forward, whatever its exp.
func TestTokensAndTheirAgreement(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
	c := s.client("")
	ends := at(10 * time.Minute)
	agreement := s.command("agreement", "create", "--organization", c.organization, "--name", "2026", "--starts", at(-time.Hour), "--ends", ends)
	id := agreement["id"].(string)
	end := int64(agreement["ends_at"].(float64))
	s.command("client", "change", c.id, "--agreement", id)

	var token string
	var r reply
	eventually(t, time.Second, "the agreement bounds a token", func() bool {
		token, r = s.token(c)
		return issuedUntil(t, r) == end
	})
	refresh := func() reply {
		return s.do("POST", "/oauth/token/refresh", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "token": %q}`, c.id, c.secret, token), "Content-Type", "application/json")
	}
	if r := refresh(); r.status != 201 || issuedUntil(t, r) != end {
		t.Errorf("a refreshed token: %d %s, want one until %d", r.status, r.body, end)
	}
	if r := s.get("/", token); r.status != 200 || !strings.Contains(r.body, "X-Agreement-Id: "+id) {
		t.Fatalf("before the end: %d %s", r.status, r.body)
	}
	f := func(what string, change []string, wantUse int, code string, wantToken int) {
		t.Helper()
		s.command(change...)
		eventually(t, time.Second, what, func() bool { return s.get("/", token).status == wantUse })
		if r := s.get("/", token); !strings.Contains(r.body, code) {
			t.Errorf("%s: %s, want %s", what, r.body, code)
		}
		if _, r := s.token(c); r.status != wantToken {
			t.Errorf("%s: a new token: %d %s", what, r.status, r.body)
		}
		if r := refresh(); r.status != wantToken {
			t.Errorf("%s: a refreshed one: %d %s", what, r.status, r.body)
		}
	}
	change := func(flags ...string) []string { return append([]string{"agreement", "change", id}, flags...) }
	f("the end is brought forward", change("--ends", at(-time.Second)), 403, "forbidden_agreement", 400)
	f("and put off again", change("--ends", ends), 200, "X-Agreement-Id: "+id, 201)
	f("the beginning is put off", change("--starts", at(5*time.Minute)), 403, "forbidden_agreement", 400)
	f("always", change("--starts", "always", "--ends", "never"), 200, "X-Agreement-Id: "+id, 201)
	f("removed", []string{"agreement", "remove", id, "--yes"}, 403, "forbidden_agreement", 400)
	f("linked to none", []string{"client", "change", c.id, "--no-agreement"}, 200, "X-Client-Id: "+c.id, 201)
}

// TestProducts: the token route issues for what is licensed, and a route demands it.
func TestProducts(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "routes:\n  - {path: /tracks, upstream: [\"{upstream}\"], scopes: [tracks]}\n  - {path: /search, upstream: [\"{upstream}\"], scopes: [search]}\n")
	organization := s.command("organization", "create", "--name", "Acme", "--products", "tracks")["id"].(string)
	c := s.client(organization)
	ask := func(scope string) (string, reply) {
		r := s.do("POST", "/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "scope": %q}`, c.id, c.secret, scope), "Content-Type", "application/json")
		var envelope struct{ Data struct{ Token string } }
		_ = json.Unmarshal([]byte(r.body), &envelope)
		return envelope.Data.Token, r
	}
	uses := func(what, token string, tracks, search int) {
		t.Helper()
		for path, want := range map[string]int{"/tracks": tracks, "/search": search} {
			r := s.get(path, token)
			if r.status != want || want == 403 && !strings.Contains(r.body, "insufficient_scope") {
				t.Errorf("%s: %s: %d %s, want %d", what, path, r.status, r.body, want)
			}
		}
	}
	old := s.goodToken(c)
	uses("what the organization licenses", old, 200, 403)
	if _, r := ask("search"); r.status != 400 || !strings.Contains(r.body, "invalid_scope") {
		t.Errorf("what it does not license: %d %s", r.status, r.body)
	}
	id := s.command("agreement", "create", "--organization", organization, "--name", "search", "--products", "search")["id"].(string)
	s.command("client", "change", c.id, "--agreement", id)
	var token string
	eventually(t, time.Second, "the agreement's products hold", func() bool {
		var r reply
		token, r = ask("search")
		return r.status == 201
	})
	uses("what the agreement licenses instead", token, 403, 200)
	uses("a token from before", old, 200, 403) // its scope is its own until it expires
	if _, r := ask("tracks"); r.status != 400 {
		t.Errorf("what the agreement does not license: %d %s", r.status, r.body)
	}
	s.command("agreement", "change", id, "--products", "inherit")
	eventually(t, time.Second, "the organization's products hold again", func() bool { _, r := ask("tracks"); return r.status == 201 })
	s.command("organization", "change", organization, "--products", "unlimited")
	eventually(t, time.Second, "everything is licensed", func() bool { _, r := ask("tracks search other"); return r.status == 201 })
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"postern/registry/pgtest"
)

// contract makes an organization with an agreement on these terms, and a client that is
// linked to it.
func (s *served) contract(terms ...string) (c credentials, agreement string) {
	s.t.Helper()
	organization := s.command("organization", "create", "--name", "Acme")["id"].(string)
	agreement = s.command(append([]string{"agreement", "create", "--organization", organization, "--name", "2026"}, terms...)...)["id"].(string)
	made := s.command("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production", "--agreement", agreement)
	return credentials{organization, made["client_id"].(string), made["client_secret"].(string)}, agreement
}

// code is the error's in our envelope.
func (r reply) code() string {
	var envelope struct{ Error struct{ Code string } }
	_ = json.Unmarshal([]byte(r.body), &envelope)
	return envelope.Error.Code
}

// becomes waits until requests for path are answered so, which must be within a second.
func (s *served) becomes(path, token string, status int, code string) reply {
	s.t.Helper()
	var r reply
	eventually(s.t, time.Second, fmt.Sprintf("%s is answered %d %s", path, status, code), func() bool {
		r = s.get(path, token)
		return r.status == status && (status < 400 || r.code() == code)
	})
	return r
}

func TestLimitsAtTheWire(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")

	t.Run("quota", func(t *testing.T) {
		c, agreement := s.contract("--quota-day", "3")
		token := s.goodToken(c)
		for left := 2; left >= 0; left-- {
			r := s.get("/a", token)
			if r.status != 200 || r.header.Get("RateLimit-Policy") != `"client-day";q=3;w=86400` || !strings.HasPrefix(r.header.Get("RateLimit"), fmt.Sprintf(`"client-day";r=%d;t=`, left)) {
				t.Errorf("%d left: %d %v", left, r.status, r.header)
			}
		}
		r := s.get("/a", token)
		if r.status != 429 || r.code() != "quota_exceeded" || r.header.Get("Retry-After") == "" || !strings.HasPrefix(r.header.Get("RateLimit"), `"client-day";r=0;t=`) {
			t.Errorf("the fourth: %d %v %s", r.status, r.header, r.body)
		}
		// New terms act at once, and what was spent stays spent.
		s.command("agreement", "change", agreement, "--quota-day", "4")
		s.becomes("/a", token, 200, "")
		if r := s.get("/a", token); r.status != 429 {
			t.Errorf("one more of one more: %d", r.status)
		}
		s.command("agreement", "change", agreement, "--quota-day", "unlimited")
		if r := s.becomes("/a", token, 200, ""); r.header.Get("RateLimit") != "" {
			t.Errorf("without a limit: %v", r.header)
		}
	})
	t.Run("rate", func(t *testing.T) {
		c, _ := s.contract("--request-rate", "1", "--request-burst", "2")
		token := s.goodToken(c)
		begun, passed := time.Now(), 0
		for range 6 {
			if r := s.get("/a", token); r.status == 200 {
				passed++
			} else if r.code() != "rate_limited" || r.header.Get("Retry-After") != "1" {
				t.Errorf("%d %v %s", r.status, r.header, r.body)
			}
		}
		if most := 2 + int(time.Since(begun).Seconds()) + 1; passed < 2 || passed > most {
			t.Errorf("%d of 6 passed, %d at most", passed, most)
		}
	})
	t.Run("concurrency", func(t *testing.T) {
		c, _ := s.contract("--concurrent", "1")
		token := s.goodToken(c)
		up.slow(500 * time.Millisecond)
		before := len(up.requests())
		var first sync.WaitGroup
		first.Go(func() {
			if r := s.get("/slow", token); r.status != 200 {
				t.Errorf("the first: %d", r.status)
			}
		})
		eventually(t, time.Second, "the first is at the upstream", func() bool { return len(up.requests()) > before })
		if r := s.get("/a", token); r.status != 429 || r.code() != "concurrency_limited" {
			t.Errorf("the second: %d %s", r.status, r.body)
		}
		first.Wait()
		up.slow(0)
		s.becomes("/a", token, 200, "")
	})
	t.Run("organization", func(t *testing.T) {
		organization := s.command("organization", "create", "--name", "Two", "--quota-day", "2")["id"].(string)
		one, other := s.goodToken(s.client(organization)), s.goodToken(s.client(organization))
		if a, b, c := s.get("/a", one), s.get("/a", other), s.get("/a", one); a.status != 200 || b.status != 200 || c.status != 429 || !strings.Contains(c.header.Get("RateLimit"), `"org-day"`) {
			t.Errorf("%d %d %d %v", a.status, b.status, c.status, c.header)
		}
	})
	t.Run("issuing", func(t *testing.T) {
		c, _ := s.contract("--issue-rate", "2")
		token := s.goodToken(c)
		if r := s.do("POST", "/oauth/token/refresh", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "token": %q}`, c.id, c.secret, token), "Content-Type", "application/json"); r.status != 201 || r.header.Get("RateLimit-Policy") != `"client-issue";q=2;w=60` {
			t.Errorf("refresh: %d %v %s", r.status, r.header, r.body)
		}
		if _, r := s.token(c); r.status != 429 || r.code() != "rate_limited" || r.header.Get("Retry-After") == "" || r.header.Get("RateLimit") == "" {
			t.Errorf("the guide's: %d %v %s", r.status, r.header, r.body)
		}
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {c.id}, "client_secret": {c.secret}}
		r := s.do("POST", "/oauth/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		if r.status != 429 || !strings.HasPrefix(r.body, `{"error":"rate_limited","error_description":"`) || r.header.Get("Retry-After") == "" {
			t.Errorf("a form: %d %v %s", r.status, r.header, r.body)
		}
		form.Set("client_secret", "wrong")
		if r := s.do("POST", "/oauth/token", form.Encode(), "Content-Type", "application/x-www-form-urlencoded"); r.status != 401 {
			t.Errorf("a wrong secret: %d %s", r.status, r.body)
		}
	})
	if s.metric("postern_limits_refused_total") == 0 {
		t.Error("nothing is counted")
	}
}

// TestLimitsAloneWarns: replicas may share a PostgreSQL, and not its limits, once there are any.
func TestLimitsAloneWarns(t *testing.T) {
	up, store := startUpstream(t), pgtest.Start(t).Fresh(t)
	key := sha256.Sum256([]byte("a master key"))
	more := "issuer: {url: \"https://api.example.com\"}\nkeys: {master_key: " + hex.EncodeToString(key[:]) + "}\nroutes: [{path: /, upstream: [\"{upstream}\"]}]\n"
	warns := func(what, more, want string, rest func(*served)) {
		t.Helper()
		s := serveOn(t, up, store, more)
		said := ""
		for line := range strings.Lines(s.logs.String()) {
			if strings.Contains(line, "limits are not shared") {
				said += line
			}
		}
		if (said != "") != (want != "") || !strings.Contains(said, want) {
			t.Errorf("%s: %q", what, said)
		}
		if r, err := send(t.Context(), "GET", s.admin+"/readyz", ""); err != nil || r.status != 200 {
			t.Errorf("%s: not ready: %v %v", what, r, err)
		}
		rest(s)
		s.stop()
	}
	nothing := func(*served) {}
	warns("without a limit", more, "", func(s *served) {
		s.configured("organization", "create", "--name", "Acme", "--quota-day", "0")
	})
	warns("with one", more, "set redis to share them, or say how many replicas there are", nothing)
	warns("with replicas", more+"limits: {replicas: 3}\n", "its equal part of every limit", nothing)
	// Nobody answers there: it starts, and is ready.
	warns("with redis", more+"redis: \"redis://127.0.0.1:1\"\n", "", nothing)
}

// TestAgreementInForce: on both sides of each date, while requests run.
func TestAgreementInForce(t *testing.T) {
	up, _ := startSocketUpstream(t)
	s := serve(t, up, "routes:\n  - {path: /chat, upstream: [\"{upstream}\"], websocket: {enabled: true}}\n")
	c, agreement := s.contract()
	token := s.goodToken(c)
	change := func(args ...string) {
		t.Helper()
		s.command(append([]string{"agreement", "change", agreement}, args...)...)
	}
	at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339Nano) }
	closes := func(when string) {
		t.Helper()
		w, err := s.connect(token, websocket.DialOptions{})
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		done := make(chan error, 1)
		go func() {
			_, _, err := w.Read(t.Context())
			done <- err
		}()
		switch when {
		case "ended":
			change("--ends", at(-time.Second))
		case "not begun":
			change("--starts", at(time.Hour))
		case "removed":
			s.command("agreement", "remove", agreement, "--yes")
		}
		select {
		case err := <-done:
			if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
				t.Errorf("%s: the WebSocket ended with %v", when, err)
			}
		case <-time.After(20 * time.Second):
			t.Errorf("%s: the WebSocket is open", when)
		}
		s.becomes("/chat", token, 403, "forbidden_agreement")
		if _, r := s.token(c); r.status != 400 || r.code() != "unauthorized_client" {
			t.Errorf("%s: a token is answered %d %s", when, r.status, r.body)
		}
	}
	closes("ended")
	change("--ends", "never")
	s.becomes("/chat", token, 426, "") // the upstream wants a WebSocket
	closes("not begun")
	change("--starts", "always")
	s.becomes("/chat", token, 426, "")
	// A date that passes by itself, with nothing written.
	change("--ends", at(3*time.Second))
	if got := s.goodToken(c); got == "" {
		t.Error("no token before the end")
	}
	s.becomes("/chat", token, 403, "forbidden_agreement")
	change("--ends", "never")
	s.becomes("/chat", token, 426, "")
	closes("removed")
}

// TestCatalogsWhileRequestsRun: grants and owners act within a second, and so does a route.
func TestCatalogsWhileRequestsRun(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "routes:\n  - {name: api, path: /, upstream: [\"{upstream}\"], catalog: {path: 2}}\n")
	c, agreement := s.contract()
	other := s.command("organization", "create", "--name", "Label")["id"].(string)
	token := s.goodToken(c)
	s.command("catalog", "create", "theirs", "--organization", other)
	if r := s.get("/catalogs/theirs", token); r.status != 403 || r.code() != "forbidden_catalog" {
		t.Errorf("%d %s", r.status, r.body)
	}
	s.command("agreement", "change", agreement, "--catalogs", "theirs")
	if r := s.becomes("/catalogs/theirs/tracks", token, 200, ""); !strings.Contains(r.body, "\r\nX-Catalog-Id: theirs\r\n") {
		t.Errorf("the upstream received %q", r.body)
	}
	s.command("agreement", "change", agreement, "--catalogs", "unlimited")
	s.becomes("/catalogs/theirs", token, 200, "")
	if r := s.get("/catalogs/nobodys", token); r.status != 403 || r.code() != "forbidden_catalog" { // to be allowed all is no sign that one exists
		t.Errorf("%d %s", r.status, r.body)
	}
	s.command("agreement", "change", agreement, "--catalogs", "inherit")
	s.becomes("/catalogs/theirs/tracks", token, 403, "forbidden_catalog")
	s.command("catalog", "change", "theirs", "--public")
	s.becomes("/catalogs/theirs/tracks", token, 200, "")
	s.command("catalog", "change", "theirs", "--private")
	s.becomes("/catalogs/theirs/tracks", token, 403, "forbidden_catalog")

	s.rewrite("path: 2", "path: 1")
	s.becomes("/catalogs", token, 403, "forbidden_catalog")
	s.rewrite("catalog: {path: 1}", "enforce: shadow, catalog: {path: 1}")
	s.becomes("/catalogs", token, 200, "")
	if s.metric(`postern_shadowed_total{reason="forbidden_catalog",route="api"}`) == 0 {
		t.Error("it is not counted")
	}
	if !strings.Contains(s.logs.String(), "is shadow: what would be refused on this route is forwarded") {
		t.Error("no warning")
	}
	if r := s.do("GET", "/catalogs", "", "X-Client-Id", "evil"); r.status != 200 || strings.Contains(r.body, "X-Client-Id") {
		t.Errorf("without a token: %d %q", r.status, r.body)
	}
}

// rewrite changes the configuration of a running postern, which sees it by itself.
func (s *served) rewrite(from, to string) {
	s.t.Helper()
	text := readFile(s.t, s.file)
	if !strings.Contains(text, from) {
		s.t.Fatalf("%q is not in %s", from, text)
	}
	writeFile(s.t, s.file, strings.Replace(text, from, to, 1))
}

// TestShadowRefusesNothingOfItsOwn: dates and products of an agreement in shadow refuse no token, and its client is told of no limit; what it leaves to its organization is refused.
func TestShadowRefusesNothingOfItsOwn(t *testing.T) {
	s := serve(t, startUpstream(t), "routes:\n  - {name: api, path: /, upstream: [\"{upstream}\"], catalog: {path: 2}}\n")
	c, agreement := s.contract("--enforce", "shadow", "--products", "tracks", "--ends", "2020-01-01", "--request-rate", "100", "--issue-rate", "100")
	issue := func(scope string) reply {
		return s.do("POST", "/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "scope": %q}`, c.id, c.secret, scope), "Content-Type", "application/json")
	}
	counted := func(reason string, want float64) {
		t.Helper()
		if got := s.metric(`postern_issue_shadowed_total{reason="` + reason + `"}`); got != want {
			t.Errorf("%s: counted %v times, want %v", reason, got, want)
		}
	}
	if r := issue("search"); r.status != 201 || r.header.Get("RateLimit-Policy") != "" {
		t.Errorf("after its end: %d %v %s", r.status, r.header, r.body)
	}
	counted("unauthorized_client", 1)
	if r := issue(`a"b`); r.status != 400 || r.code() != "invalid_scope" {
		t.Errorf("a malformed scope: %d %s", r.status, r.body)
	}
	counted("unauthorized_client", 1) // not what was refused after all
	s.command("agreement", "change", agreement, "--ends", "never")
	eventually(t, time.Second, "its products alone are counted", func() bool {
		if r := issue("search"); r.status != 201 {
			t.Fatalf("a scope that is not licensed: %d %s", r.status, r.body)
		}
		return s.metric(`postern_issue_shadowed_total{reason="invalid_scope"}`) > 0
	})
	token := s.goodToken(c)
	if r := s.get("/a", token); r.status != 200 || r.header.Get("RateLimit") != "" || r.header.Get("RateLimit-Policy") != "" {
		t.Errorf("within its limits: %d %v", r.status, r.header)
	}
	s.command("catalog", "create", "theirs", "--organization", s.command("organization", "create", "--name", "Label")["id"].(string))
	if r := s.get("/catalogs/theirs", token); r.status != 403 || r.code() != "forbidden_catalog" {
		t.Errorf("a catalog that it says nothing about: %d %s", r.status, r.body)
	}
	s.command("agreement", "change", agreement, "--catalogs", "")
	s.becomes("/catalogs/theirs", token, 200, "")
	s.command("organization", "change", c.organization, "--quota-day", "0")
	r := s.becomes("/a", token, 429, "quota_exceeded")
	if got := r.header.Get("RateLimit-Policy"); got != `"org-day";q=0;w=86400` || r.header.Get("RateLimit") == "" {
		t.Errorf("its organization's limit: %v", r.header)
	}
	s.command("organization", "change", c.organization, "--quota-day", "inherit", "--products", "tracks")
	s.command("agreement", "change", agreement, "--products", "inherit")
	eventually(t, time.Second, "its organization's products refuse", func() bool { return issue("search").status == 400 })
}

// TestAgreementInShadow: what its dates and terms refuse is let through and counted, until
// it is told to enforce.
func TestAgreementInShadow(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	c, agreement := s.contract("--enforce", "shadow", "--quota-day", "1", "--issue-rate", "1")
	token := s.goodToken(c)
	for range 3 {
		if r := s.get("/a", token); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
	}
	if got := s.metric(`postern_shadowed_total{reason="quota_exceeded",route="api"}`); got != 2 {
		t.Errorf("%v requests over the quota were counted, not 2", got)
	}
	s.goodToken(c)
	s.command("agreement", "change", agreement, "--ends", "2020-01-01")
	eventually(t, time.Second, "its end is noted", func() bool {
		if r := s.get("/a", token); r.status != 200 {
			t.Fatalf("%d %s", r.status, r.body)
		}
		return s.metric(`postern_shadowed_total{reason="forbidden_agreement"`) > 0
	})
	s.goodToken(c) // which does not end with it
	for name, want := range map[string]float64{
		`postern_issue_shadowed_total{reason="rate_limited"}`:             1, // the second has ended, too
		`postern_issue_shadowed_total{reason="unauthorized_client"}`:      1,
		`postern_refusals_total{reason="quota_exceeded"}`:                 0,
		`postern_requests_total{class="4xx",reason="ok",route="api"}`:     0,
		`postern_requests_total{class="4xx",reason="forbidden_agreement"`: 0,
	} {
		if got := s.metric(name); got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	s.command("agreement", "change", agreement, "--enforce", "enforce")
	s.becomes("/a", token, http.StatusForbidden, "forbidden_agreement")
	s.command("agreement", "change", agreement, "--ends", "never")
	s.becomes("/a", token, http.StatusTooManyRequests, "quota_exceeded")
}

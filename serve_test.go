package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// TestGuideAsPrinted runs the customer guide: get a token, use it.
func TestGuideAsPrinted(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	c := s.client("")
	token, r := s.token(c)
	if r.status != 201 || r.header.Get("Cache-Control") != "no-store" || r.header.Get("Content-Type") != "application/json" {
		t.Fatalf("%d %v %s", r.status, r.header, r.body)
	}
	// Field for field, in the guide's order, nulls included, times in milliseconds.
	const uuid = `[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`
	shape := regexp.MustCompile(`^\{"status":201,"timestamp":(\d{13}),"data":\{"id":"(` + uuid + `)","removed_at":null,"refreshed_at":null,` +
		`"revoked_at":null,"subject_type":"Client","subject_id":"` + c.id + `","issued_at":(\d{13}),"expires_at":(\d{13}),` +
		`"issuer_type":null,"issuer_id":null,"organization_id":"` + c.organization + `","token":"([^"]+)"\}\}\n?$`)
	m := shape.FindStringSubmatch(r.body)
	if m == nil {
		t.Fatalf("not the guide's envelope: %s", r.body)
	}
	var issued, expires int64
	fmt.Sscan(m[3], &issued)
	fmt.Sscan(m[4], &expires)
	if expires-issued != 7_200_000 {
		t.Errorf("a token lives %d ms", expires-issued)
	}
	if age := time.Now().UnixMilli() - issued; age < 0 || age > 30_000 {
		t.Errorf("issued %d ms ago", age)
	}
	parts := strings.Split(token, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var h, got map[string]any
	if json.Unmarshal(header, &h) != nil || json.Unmarshal(claims, &got) != nil {
		t.Fatalf("token of %d parts: %s %s", len(parts), header, claims)
	}
	if h["typ"] != "at+jwt" || h["alg"] != "ES256" || h["kid"] == "" || len(h) != 3 {
		t.Errorf("header %s", header)
	}
	want := map[string]any{"jti": m[2], "oid": c.organization, "sub": "Client::" + c.id, "client_id": c.id, "iss": s.front, "aud": s.front,
		"iat": float64(issued / 1000), "exp": float64(expires / 1000)}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("claim %s is %v, want %v", name, got[name], value)
		}
	}
	if len(got) != len(want) {
		t.Errorf("claims %s", claims)
	}

	r = s.get("/v1/tracks?catalog=blue-note", token)
	if r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	seen := up.requests()
	if len(seen) != 1 || !strings.HasPrefix(seen[0], "GET /v1/tracks?catalog=blue-note HTTP/1.1\r\n") {
		t.Fatalf("upstream saw %q", seen)
	}
	for _, line := range []string{"X-Organization-Id: " + c.organization, "X-Client-Id: " + c.id, "X-Client-Environment: production", "X-Token-Id: " + m[2]} {
		if strings.Count(seen[0], "\r\n"+line+"\r\n") != 1 {
			t.Errorf("upstream did not get %q once: %q", line, seen[0])
		}
	}
	if strings.Contains(seen[0], parts[2]) || strings.Contains(strings.ToLower(seen[0]), "authorization") {
		t.Errorf("upstream got the token: %q", seen[0])
	}
	if n := s.metric("postern_tokens_issued_total"); n != 1 {
		t.Errorf("%v tokens counted", n)
	}
}

// TestRow038RevokedSameReplica: once a revocation is committed and read, the next
// request is refused, cache or not.
func TestRow038RevokedSameReplica(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	token := s.goodToken(s.client(""))
	if r := s.get("/", token); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	id := regexp.MustCompile(`X-Token-Id: (\S+)`).FindStringSubmatch(up.requests()[0])[1]
	s.command("token", "revoke", id)
	eventually(t, time.Second, "the revoked token is refused", func() bool { return s.get("/", token).status == 401 })
	r := s.get("/", token)
	if want := `Bearer realm="postern", error="invalid_token", error_description="the access token was revoked"`; r.header.Get("WWW-Authenticate") != want {
		t.Errorf("%v", r.header)
	}
	if n := len(up.requests()); s.get("/", token).status != 401 || len(up.requests()) != n {
		t.Error("a refused request reached the upstream")
	}
}

// TestChangesSeenWithoutRestart makes each change by the command line, another process
// to the server, and waits until a request shows it.
func TestChangesSeenWithoutRestart(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	f := func(name string, change func(c credentials, token string), wantOld, wantNew int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			s.t = t
			c := s.client("")
			token := s.goodToken(c)
			if r := s.get("/", token); r.status != 200 {
				t.Fatalf("before: %d", r.status)
			}
			change(c, token)
			eventually(t, time.Second, fmt.Sprintf("the old token gets %d", wantOld), func() bool { return s.get("/", token).status == wantOld })
			if _, r := s.token(c); r.status != wantNew {
				t.Errorf("a new token: %d %s", r.status, r.body)
			}
		})
	}
	f("client disabled", func(c credentials, _ string) { s.command("client", "disable", c.id) }, 401, 401)
	f("client disabled and enabled", func(c credentials, token string) {
		s.command("client", "disable", c.id)
		eventually(s.t, time.Second, "refused", func() bool { return s.get("/", token).status == 401 })
		s.command("client", "enable", c.id)
	}, 200, 201)
	f("client removed", func(c credentials, _ string) { s.command("client", "remove", c.id) }, 401, 401)
	f("organization disabled", func(c credentials, _ string) { s.command("organization", "disable", c.organization) }, 401, 401)
	f("organization removed", func(c credentials, _ string) { s.command("organization", "remove", c.organization, "--yes") }, 401, 401)
	f("all tokens of the client revoked", func(c credentials, _ string) { s.command("token", "revoke", "--client", c.id) }, 401, 201)
	f("all tokens of the organization revoked", func(c credentials, _ string) { s.command("token", "revoke", "--organization", c.organization) }, 401, 201)
	f("secret killed", func(c credentials, token string) {
		s.command("client", "rotate", c.id, "--overlap", "0")
		eventually(s.t, time.Second, "the old secret is refused", func() bool { _, r := s.token(c); return r.status == 401 })
	}, 200, 401)
	f("secret rotated with overlap", func(c credentials, _ string) {
		fresh := s.command("client", "rotate", c.id)
		s.goodToken(credentials{c.organization, c.id, fresh["client_secret"].(string)})
	}, 200, 201)
	f("key rotated", func(credentials, string) { s.command("key", "rotate") }, 200, 201)
	t.Run("the token after a revoke-all is good at once", func(t *testing.T) {
		s.t = t
		c := s.client("")
		s.goodToken(c)
		s.command("token", "revoke", "--client", c.id)
		if r := s.get("/", s.goodToken(c)); r.status != 200 {
			t.Errorf("%d %s", r.status, r.body)
		}
	})
}

// TestVerifyOnly: with issuing off, the token route and the documents are the
// upstream's, and tokens that another postern issued from the same store are verified.
func TestVerifyOnly(t *testing.T) {
	up := startUpstream(t)
	issuing := serve(t, up, "")
	c := issuing.client("")
	token := issuing.goodToken(c)
	more := "issuer: {enabled: false, url: \"" + issuing.front + "\"}\nroutes:\n  - {path: /oauth, upstream: [\"{upstream}\"], access: public}\n  - {path: /, upstream: [\"{upstream}\"]}\n"
	s := serveOn(t, up, issuing.store, more)
	if r := s.get("/x", token); r.status != 200 || !strings.Contains(r.body, "X-Client-Id: "+c.id) {
		t.Errorf("%d %s", r.status, r.body)
	}
	if r := s.do("POST", "/oauth/token", "{}", "Content-Type", "application/json"); r.status != 200 || !strings.HasPrefix(r.body, "POST /oauth/token HTTP/1.1") {
		t.Errorf("the token route was not the upstream's: %d %s", r.status, r.body)
	}
}

// TestRow173AdminDoor: metrics and health are on their own listener alone, and hold
// neither secrets nor labels that grow with clients.
func TestRow173AdminDoor(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	c := s.client("")
	token := s.goodToken(c)
	for _, path := range []string{"/metrics", "/livez", "/readyz", "/debug/pprof/", "/quit", "/reload", "/config"} {
		if r := s.do("GET", path, ""); r.status != 401 {
			t.Errorf("GET %s through the front: %d", path, r.status)
		}
		if r := s.get(path, token); r.status != 200 || !strings.HasPrefix(r.body, "GET "+path+" ") {
			t.Errorf("GET %s with a token is not the upstream's: %d %s", path, r.status, r.body)
		}
	}
	for path, want := range map[string]int{"/livez": 200, "/readyz": 200, "/metrics": 200, "/debug/pprof/": 200, "/quit": 405, "/": 404} {
		r, err := send(t.Context(), "GET", s.admin+path, "")
		if err != nil || r.status != want {
			t.Errorf("GET %s on the admin door: %d %v", path, r.status, err)
		}
	}
	r, _ := send(t.Context(), "GET", s.admin+"/metrics", "")
	for _, forbidden := range []string{c.id, c.organization, c.secret, token} {
		if strings.Contains(r.body, forbidden) {
			t.Errorf("metrics hold %q", forbidden)
		}
	}
	for _, name := range []string{"postern_requests_total{", "postern_request_duration_seconds_count{", "postern_upstream_duration_seconds_count{",
		"postern_verifications_total{", "postern_cache_hits_total", "postern_cache_misses_total", "postern_cache_bytes", "postern_tokens_issued_total 1",
		"postern_refusals_total{reason=\"missing_token\"} 7", "postern_feed_age_seconds", "postern_build_info{", "go_goroutines", "process_resident_memory_bytes"} {
		if !strings.Contains(r.body, "\n"+name) {
			t.Errorf("metrics lack %s", name)
		}
	}
}

// TestTermination: SIGTERM makes postern unready, finishes what is in flight, and ends
// with 0 within the deadline.
func TestTermination(t *testing.T) {
	up := startUpstream(t)
	s := start(t, t.TempDir(), "--upstream", "http://"+up.address, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	token := s.goodToken(s.client(""))
	if r := s.get("/", token); r.status != 200 {
		t.Fatalf("%d", r.status)
	}
	up.slow(2 * time.Second)
	var flight sync.WaitGroup
	statuses := make([]int, 20)
	for i := range statuses {
		flight.Go(func() {
			r, err := send(t.Context(), "GET", s.front+"/slow", "", "Authorization", "Bearer "+token)
			if err == nil {
				statuses[i] = r.status
			}
		})
	}
	eventually(t, time.Second, "the requests are at the upstream", func() bool { return len(up.requests()) == 21 })
	s.signal(syscall.SIGTERM)
	unready := false
	for !unready {
		r, err := send(t.Context(), "GET", s.admin+"/readyz", "")
		if err != nil {
			break
		}
		unready = r.status == http.StatusServiceUnavailable && strings.Contains(r.body, "draining")
	}
	if !unready {
		t.Error("the admin door closed without saying that postern drains")
	}
	flight.Wait()
	if slices.ContainsFunc(statuses, func(status int) bool { return status != 200 }) {
		t.Errorf("requests in flight got %v", statuses)
	}
	if code := s.ends(3 * time.Second); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	if _, err := send(t.Context(), "GET", s.front+"/", ""); err == nil {
		t.Error("still answering")
	}
}

// TestRow046NoIdentityMixedAtTheWire: two organizations, many tokens, 64 workers over
// reused connections; each answer names the client whose token was sent.
func TestRow046NoIdentityMixedAtTheWire(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	clients := []credentials{s.client(""), s.client("")}
	const workers, rounds = 64, 20
	transport := &http.Transport{MaxIdleConnsPerHost: workers, MaxConnsPerHost: workers}
	defer transport.CloseIdleConnections()
	client := http.Client{Transport: transport}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			c := clients[w%2]
			token, r := s.token(c)
			if r.status != 201 {
				t.Errorf("no token: %d %s", r.status, r.body)
				return
			}
			for range rounds {
				request, _ := http.NewRequestWithContext(t.Context(), "GET", s.front+"/", http.NoBody)
				request.Header.Set("Authorization", "Bearer "+token)
				answer, err := client.Do(request)
				if err != nil {
					t.Error(err)
					return
				}
				content, err := io.ReadAll(answer.Body)
				answer.Body.Close()
				if err != nil {
					t.Error(err)
					return
				}
				if got := string(content); !strings.Contains(got, "X-Client-Id: "+c.id) || !strings.Contains(got, "X-Organization-Id: "+c.organization) {
					t.Errorf("%s: another's identity: %s", answer.Status, got)
					return
				}
			}
		})
	}
	all.Wait()
}

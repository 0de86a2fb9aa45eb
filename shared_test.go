package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// shared is several posterns, each a process of its own, on one store. Each has a link of
// its own to a PostgreSQL; to a file there are none.
type shared struct {
	*served                // an operator's command line, straight to the store
	server  *pgtest.Server // nil: SQLite
	dsn     string         // straight to the store
	up      *upstream
	dir     string
	files   []string // each one's configuration
	nodes   []*process
	links   []*link
	client  *http.Client
}

// startShared starts n posterns on a new database of server, or on an SQLite file when that
// is nil. verify is what each has under verify.
func startShared(t *testing.T, server *pgtest.Server, n int, verify string) *shared {
	t.Helper()
	dir := t.TempDir()
	s := &shared{server: server, dir: dir, dsn: "sqlite:" + dir + "/postern.db", up: startUpstream(t), client: &http.Client{
		Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64},
	}}
	t.Cleanup(s.client.CloseIdleConnections)
	if server != nil {
		s.dsn = server.Fresh(t)
	}
	master := make([]byte, 32)
	_, _ = rand.Read(master)
	write := func(name, dsn string) string {
		file := filepath.Join(dir, name)
		writeFile(t, file, fmt.Sprintf(`front: {listen: "127.0.0.1:0", drain: 2s}
admin: {listen: "127.0.0.1:0"}
issuer: {url: "https://api.example.com"}
keys: {master_key: %q}
store: %q
verify: {%s}
routes: [{name: api, path: /, upstream: ["http://%s"]}]
`, base64.StdEncoding.EncodeToString(master), dsn, verify, s.up.address))
		return file
	}
	s.served = &served{t: t, file: write("operator.yaml", s.dsn), store: s.dsn, logs: &buffer{}}
	for i := range n {
		dsn := s.dsn
		if server != nil {
			u, err := url.Parse(dsn)
			if err != nil {
				t.Fatal(err)
			}
			l := startLink(t, u.Host)
			u.Host = l.address
			s.links, dsn = append(s.links, l), u.String()
		}
		s.files = append(s.files, write(fmt.Sprintf("%d.yaml", i), dsn))
		s.nodes = append(s.nodes, start(t, dir, "--config", s.files[i]))
	}
	return s
}

// stop ends node i; again starts another one in its place.
func (s *shared) stop(i int) {
	s.t.Helper()
	s.nodes[i].signal(syscall.SIGTERM)
	if code := s.nodes[i].ends(3 * time.Second); code != exitDone {
		s.t.Errorf("exit code %d", code)
	}
}

func (s *shared) again(i int) {
	s.t.Helper()
	s.nodes[i] = start(s.t, s.dir, "--config", s.files[i])
}

// driver is what database/sql needs to open the store.
func (s *shared) driver() (driver, dsn string) {
	if path, ok := strings.CutPrefix(s.dsn, "sqlite:"); ok {
		return "sqlite", path
	}
	return "pgx", s.dsn + "&connect_timeout=2"
}

// query runs SQL in the store and returns the first column of the first row; "": none.
func (s *shared) query(text string, args ...any) string {
	s.t.Helper()
	db, err := sql.Open(s.driver())
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	var value sql.NullString
	if err := db.QueryRow(text, args...).Scan(&value); err != nil && !errors.Is(err, sql.ErrNoRows) {
		s.t.Fatalf("%s: %v", text, err)
	}
	return value.String
}

// kept reports whether the record of a token is there, and revoked if it must be.
func (s *shared) kept(id string, revoked bool) bool {
	s.t.Helper()
	row := s.query("SELECT CASE WHEN revoked_at IS NULL THEN 'valid' ELSE 'revoked' END FROM token WHERE id = $1", id)
	return row == "revoked" || row == "valid" && !revoked
}

// newClient makes one by the command line.
func (s *shared) newClient() credentials {
	s.t.Helper()
	organization := s.configured("organization", "create", "--name", "Acme")["id"].(string)
	c := s.configured("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production")
	return credentials{organization, c["client_id"].(string), c["client_secret"].(string)}
}

// call sends a request to node i over connections that are kept.
func (s *shared) call(i int, method, path, body string, header ...string) (reply, error) {
	request, err := http.NewRequestWithContext(context.Background(), method, s.nodes[i].front+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := s.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return reply{answer.StatusCode, answer.Header, string(content)}, err
}

// use sends a request with an access token and returns the status.
func (s *shared) use(i int, token string) int {
	r, err := s.call(i, "GET", "/tracks", "", "Authorization", "Bearer "+token)
	if err != nil {
		return 0
	}
	return r.status
}

// issue asks node i for an access token; id is its record's.
func (s *shared) issue(i int, c credentials) (token, id string, r reply) {
	r, err := s.call(i, "POST", "/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q}`, c.id, c.secret), "Content-Type", "application/json")
	if err != nil {
		return "", "", reply{body: err.Error()}
	}
	var envelope struct{ Data struct{ ID, Token string } }
	_ = json.Unmarshal([]byte(r.body), &envelope)
	return envelope.Data.Token, envelope.Data.ID, r
}

// revoke asks node i to revoke a token.
func (s *shared) revoke(i int, c credentials, token string) reply {
	form := url.Values{"client_id": {c.id}, "client_secret": {c.secret}, "token": {token}}.Encode()
	r, err := s.call(i, "POST", "/oauth/token/revoke", form, "Content-Type", "application/x-www-form-urlencoded")
	if err != nil {
		return reply{body: err.Error()}
	}
	return r
}

// mustIssue is issue for a token that there must be.
func (s *shared) mustIssue(i int, c credentials) string {
	s.t.Helper()
	token, _, r := s.issue(i, c)
	if r.status != 201 {
		s.t.Fatalf("issue: %d %s", r.status, r.body)
	}
	return token
}

// warm makes a client whose token every node knows well, and one that none has in memory.
// What the feed says about new clients takes them out of memory; here it has said all.
func (s *shared) warm() (known credentials, token string, unknown credentials, unknownToken string) {
	s.t.Helper()
	known, unknown = s.newClient(), s.newClient()
	s.settle()
	token, unknownToken = s.mustIssue(0, known), s.mustIssue(0, unknown)
	s.configured("organization", "change", unknown.organization, "--name", "Renamed")
	s.settle()
	for i := range s.nodes {
		if status := s.use(i, token); status != 200 {
			s.t.Fatalf("node %d: %d", i, status)
		}
	}
	return known, token, unknown, unknownToken
}

// settle waits for the second within which every change is in effect at every node.
func (s *shared) settle() {
	s.t.Helper()
	time.Sleep(time.Second)
}

// recovers waits until node i issues again, and holds it to the five seconds that are
// promised after since.
func (s *shared) recovers(i int, c credentials, since time.Time) {
	s.t.Helper()
	eventually(s.t, time.Second, "it issues again", func() bool { _, _, r := s.issue(i, c); return r.status == 201 })
	if took := time.Since(since); took > 5*time.Second {
		s.t.Errorf("node %d issues again after %s only", i, took)
	} else {
		s.t.Logf("node %d issues again after %s", i, took.Round(time.Millisecond))
	}
}

// unavailable holds a refusal to what a client is promised while the store is away.
func (s *shared) unavailable(what string, r reply) {
	s.t.Helper()
	if r.status != 503 || r.header.Get("Retry-After") == "" {
		s.t.Errorf("%s: %d %v %s", what, r.status, r.header, r.body)
	}
}

// storeAway holds node 0 to what is promised while the store does not answer: verifying
// goes on, and what needs the store gets 503 within two seconds.
func (s *shared) storeAway(known credentials, token, unknownToken string) {
	s.t.Helper()
	quick := func(what string, f func() reply) {
		s.t.Helper()
		started := time.Now()
		s.unavailable(what, f())
		if took := time.Since(started); took > 2500*time.Millisecond {
			s.t.Errorf("%s took %s", what, took)
		}
	}
	quick("issuing", func() reply { _, _, r := s.issue(0, known); return r })
	quick("revoking", func() reply { return s.revoke(0, known, token) })
	quick("refreshing", func() reply {
		r, _ := s.call(0, "POST", "/oauth/token/refresh", fmt.Sprintf(`{"client_id": %q, "client_secret": %q, "token": %q}`, known.id, known.secret, token), "Content-Type", "application/json")
		return r
	})
	quick("a client that is not in memory", func() reply {
		r, _ := s.call(0, "GET", "/tracks", "", "Authorization", "Bearer "+unknownToken)
		return r
	})
	// Many at once: none waits in a queue behind the others.
	var all sync.WaitGroup
	started := time.Now()
	for range 64 {
		all.Go(func() { _, _, r := s.issue(0, known); s.unavailable("one of many", r) })
	}
	warm := time.Now()
	for range 200 {
		if status := s.use(0, token); status != 200 {
			s.t.Fatalf("verifying got %d", status)
		}
	}
	took := time.Since(warm)
	all.Wait()
	if all := time.Since(started); took > 5*time.Second || all > 5*time.Second {
		s.t.Errorf("200 requests with a known token took %s, 64 that need the store %s", took, all)
	}
	if r, err := send(s.t.Context(), "GET", s.nodes[0].admin+"/livez", ""); err != nil || r.status != 200 {
		s.t.Errorf("/livez: %d %v", r.status, err)
	}
}

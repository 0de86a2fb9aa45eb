package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// buffer is a writer that a running command and a test share.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// eventually waits until what holds, at most ten times the promise.
func eventually(t *testing.T, promise time.Duration, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * promise); ; time.Sleep(10 * time.Millisecond) {
		if holds() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", 10*promise, what)
		}
	}
}

// upstream is a real listener that records every byte of each request and answers with
// 200 and the request's head as content.
type upstream struct {
	address string
	mu      sync.Mutex
	seen    []string
	delay   time.Duration
}

func startUpstream(t *testing.T) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{address: l.Addr().String()}
	var conns sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			context.AfterFunc(ctx, func() { _ = c.Close() })
			conns.Go(func() { u.answer(c) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = l.Close()
		conns.Wait()
	})
	return u
}

func (u *upstream) answer(c net.Conn) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		var head bytes.Buffer
		request, err := http.ReadRequest(bufio.NewReader(io.TeeReader(&lineReader{r: r, out: &head}, io.Discard)))
		if err != nil {
			return
		}
		if request.ContentLength > 0 {
			if _, err := io.CopyN(&head, r, request.ContentLength); err != nil {
				return
			}
		}
		u.mu.Lock()
		u.seen = append(u.seen, head.String())
		delay := u.delay
		u.mu.Unlock()
		time.Sleep(delay)
		fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", head.Len(), head.String())
	}
}

// lineReader hands out one head, line by line, and keeps it.
type lineReader struct {
	r    *bufio.Reader
	out  *bytes.Buffer
	rest []byte
	done bool
}

func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.rest) == 0 {
		if l.done {
			return 0, io.EOF
		}
		line, err := l.r.ReadBytes('\n')
		if err != nil {
			return 0, err
		}
		l.out.Write(line)
		l.rest, l.done = line, string(line) == "\r\n"
	}
	n := copy(p, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// requests returns what was received so far, byte for byte.
func (u *upstream) requests() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.seen...)
}

func (u *upstream) slow(d time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.delay = d
}

// served is a postern that runs in this process by its own command line.
type served struct {
	t            *testing.T
	front, admin string // http://host:port
	store, file  string // DSN and configuration
	logs         *buffer
	stop         func() int // ends it and returns its exit code
}

// serve runs "postern serve" on a fresh store. more is YAML behind doors and store; with
// "{upstream}" in it replaced.
func serve(t *testing.T, up *upstream, more string) *served {
	t.Helper()
	return serveOn(t, up, "sqlite:"+filepath.Join(t.TempDir(), "postern.db"), more)
}

// serveOn is serve on a store that may exist.
func serveOn(t *testing.T, up *upstream, store, more string) *served {
	t.Helper()
	s := &served{t: t, store: store, file: filepath.Join(t.TempDir(), "postern.yaml"), logs: &buffer{}}
	if more == "" {
		more = "routes:\n  - {name: public, path: /public, upstream: [\"{upstream}\"], access: public}\n  - {name: api, path: /, upstream: [\"{upstream}\"]}\n"
	}
	front, fixed := "front: {", "listen: \"127.0.0.1:0\", drain: 10s"
	if i := strings.Index(more, front); i >= 0 { // what more says of the front
		more = more[:i] + front + fixed + ", " + more[i+len(front):]
	} else {
		more = front + fixed + "}\n" + more
	}
	text := "admin: {listen: \"127.0.0.1:0\"}\nstore: " + s.store + "\n" + strings.ReplaceAll(more, "{upstream}", "http://"+up.address)
	if err := os.WriteFile(s.file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	code, ended := 0, make(chan struct{})
	go func() {
		defer close(ended)
		code = run(ctx, []string{"serve", "--config", s.file}, nil, io.Discard, s.logs)
	}()
	s.stop = func() int {
		cancel()
		<-ended
		return code
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("postern said:\n%.20000s", s.logs)
		}
	})
	s.await(ended)
	return s
}

// await reads the doors' addresses from the log.
func (s *served) await(ended chan struct{}) {
	s.t.Helper()
	eventually(s.t, 20*time.Second, "postern serves", func() bool {
		select {
		case <-ended:
			s.t.Fatalf("postern ended: %s", s.logs)
		default:
		}
		s.front, s.admin = doors(s.logs.String())
		return s.front != ""
	})
}

func doors(logs string) (front, admin string) {
	for line := range strings.Lines(logs) {
		var entry struct{ Msg, Front, Admin string }
		if json.Unmarshal([]byte(line), &entry) == nil && entry.Msg == "serving" {
			return "http://" + entry.Front, "http://" + entry.Admin
		}
	}
	return "", ""
}

// command runs another postern command against the same store and decodes its JSON.
func (s *served) command(args ...string) map[string]any {
	s.t.Helper()
	return s.run(append(args, "--store", s.store, "--json")...)
}

// configured is command with the server's own configuration, and so its master key.
func (s *served) configured(args ...string) map[string]any {
	s.t.Helper()
	return s.run(append(args, "--config", s.file, "--json")...)
}

func (s *served) run(args ...string) map[string]any {
	s.t.Helper()
	var out, errs bytes.Buffer
	if code := run(s.t.Context(), args, nil, &out, &errs); code != 0 {
		s.t.Fatalf("postern %s: exit code %d: %s", strings.Join(args, " "), code, &errs)
	}
	var object map[string]any
	if err := json.Unmarshal(out.Bytes(), &object); err != nil && out.Len() > 0 {
		s.t.Fatalf("postern %s: %v in %s", strings.Join(args, " "), err, &out)
	}
	return object
}

// credentials of a client made by the command line.
type credentials struct{ organization, id, secret string }

func (s *served) client(organization string) credentials {
	s.t.Helper()
	if organization == "" {
		organization = s.command("organization", "create", "--name", "Acme")["id"].(string)
	}
	c := s.command("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production", "--allow-duplicate")
	return credentials{organization, c["client_id"].(string), c["client_secret"].(string)}
}

// reply is an answer, read whole.
type reply struct {
	status int
	header http.Header
	body   string
}

func (s *served) do(method, path, body string, header ...string) reply {
	s.t.Helper()
	r, err := send(s.t.Context(), method, s.front+path, body, header...)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func send(ctx context.Context, method, url, body string, header ...string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	return reply{answer.StatusCode, answer.Header, string(content)}, err
}

// token asks for one as the guide says; the status is for the caller to judge.
func (s *served) token(c credentials) (string, reply) {
	s.t.Helper()
	r := s.do("POST", "/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q}`, c.id, c.secret), "Content-Type", "application/json")
	var envelope struct{ Data struct{ Token string } }
	_ = json.Unmarshal([]byte(r.body), &envelope)
	return envelope.Data.Token, r
}

// goodToken is token for a client that must get one.
func (s *served) goodToken(c credentials) string {
	s.t.Helper()
	token, r := s.token(c)
	if r.status != 201 || token == "" {
		s.t.Fatalf("no token: %d %s", r.status, r.body)
	}
	return token
}

func (s *served) get(path, token string) reply {
	s.t.Helper()
	return s.do("GET", path, "", "Authorization", "Bearer "+token)
}

// metric is the sum of a metric's samples whose line begins with prefix.
func (s *served) metric(prefix string) float64 {
	s.t.Helper()
	r, err := send(s.t.Context(), "GET", s.admin+"/metrics", "")
	if err != nil {
		s.t.Fatal(err)
	}
	sum := 0.0
	for line := range strings.Lines(r.body) {
		if strings.HasPrefix(line, prefix) {
			var value float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &value); err != nil {
				s.t.Fatal(err)
			}
			sum += value
		}
	}
	return sum
}

// binary is postern as a program: TestMain puts it on the path.
func binary(t *testing.T) string {
	t.Helper()
	path, err := exec.LookPath("postern")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needs skips loudly where a program is missing; in CI that is a failure.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing, and this is CI", program)
		}
		t.Skipf("SKIPPED: %s is missing; install it to run this test", program)
	}
	return path
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

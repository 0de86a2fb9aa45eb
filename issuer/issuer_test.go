package issuer

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/secret"
	"postern/token"
	"postern/verifier"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// These two of fasthttp sleep on after their server has stopped.
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

const (
	testIssuer = "https://api.example.com"
	testPath   = "/oauth/token"
	testID     = "req-1" // the request id that the front would have made
)

var operator = registry.Actor{Kind: "operator", ID: "test"}

// watchedStore is a registry that can be watched and made to fail.
type watchedStore struct {
	*registry.Registry
	grants      atomic.Int64 // reads of a client
	issues      atomic.Int64
	revocations atomic.Int64 // that were asked for
	away        atomic.Bool
	before      atomic.Pointer[func(context.Context)] // called before a record is kept
	alter       atomic.Pointer[func(*registry.Grant)] // called on what was read
}

func (s *watchedStore) Grant(ctx context.Context, id string) (registry.Grant, error) {
	s.grants.Add(1)
	if s.away.Load() {
		return registry.Grant{}, registry.ErrUnavailable
	}
	g, err := s.Registry.Grant(ctx, id)
	if alter := s.alter.Load(); alter != nil {
		(*alter)(&g)
	}
	return g, err
}

func (s *watchedStore) IssueToken(ctx context.Context, t registry.Token, secretID string) error {
	s.issues.Add(1)
	if s.away.Load() {
		return registry.ErrUnavailable
	}
	if before := s.before.Load(); before != nil {
		(*before)(ctx)
	}
	return s.Registry.IssueToken(ctx, t, secretID)
}

func (s *watchedStore) RefreshToken(ctx context.Context, id, subjectID string, now, expires registry.Time) (registry.Token, error) {
	if s.away.Load() {
		return registry.Token{}, registry.ErrUnavailable
	}
	if before := s.before.Load(); before != nil {
		(*before)(ctx)
	}
	return s.Registry.RefreshToken(ctx, id, subjectID, now, expires)
}

// overtake does something when the next record is on its way to the store.
func (s *watchedStore) overtake(do func()) {
	before := func(context.Context) { do() }
	s.before.Store(&before)
}

func (s *watchedStore) RevokeToken(ctx context.Context, a registry.Actor, id string) (registry.Token, error) {
	s.revocations.Add(1)
	if s.away.Load() {
		return registry.Token{}, registry.ErrUnavailable
	}
	return s.Registry.RevokeToken(ctx, a, id)
}

// world is one issuer with everything real around it: a store in a fresh file, a
// directory that follows it when told to, and a server set up as the front sets its up.
type world struct {
	t         testing.TB
	issuer    *Issuer
	store     *watchedStore
	directory *directory.Directory
	verifier  *verifier.Verifier // the front's, and the issuer's own
	address   string
	skew      *atomic.Int64 // nanoseconds that all clocks here are ahead
	served    chan answer.Reason
	log       *logBuffer

	organization registry.Organization
	client       registry.Client
	secret       secret.Secret
}

// start makes a world with one organization that has terms and one client.
func start(t testing.TB, terms registry.Terms) *world {
	t.Helper()
	w := &world{t: t, skew: new(atomic.Int64), served: make(chan answer.Reason, 1<<16), log: new(logBuffer)}
	now := func() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }
	log := slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), w.log), nil))
	ctx := t.Context()

	r, err := registry.Open(ctx, registry.Options{
		DSN: secret.Secret("sqlite:" + filepath.Join(t.TempDir(), "test.db")), Now: now, Random: rand.Reader, Log: log,
	})
	w.check(err)
	t.Cleanup(func() { r.Close() })
	w.store = &watchedStore{Registry: r}
	w.addKey()
	feed, err := r.Feed(ctx)
	w.check(err)
	t.Cleanup(func() { feed.Close() })
	// It follows when a test says so: what is held stays as old as the test wants it.
	w.directory, err = directory.Open(ctx, w.store, feed, directory.Options{Poll: time.Hour, Now: now, Log: log})
	w.check(err)
	t.Cleanup(w.directory.Close)

	w.organization, err = r.CreateOrganization(ctx, operator, "Example", terms)
	w.check(err)
	w.client, w.secret = w.newClient("")
	w.verifier, err = verifier.New(w.directory, verifier.Options{Issuer: testIssuer, Audience: testIssuer, Leeway: 30 * time.Second, Now: now})
	w.check(err)
	t.Cleanup(w.verifier.Close)
	w.issuer = New(w.directory, w.store, Options{
		URL: testIssuer, Realm: "Example API", TokenPath: testPath, Verifier: w.verifier,
		Lifetime: 2 * time.Hour, MaxLifetime: 24 * time.Hour, KeyPublish: 2 * time.Hour, Now: now, Random: rand.Reader, Log: log,
	})
	w.address = serve(t, w.handle, 10*time.Second)
	return w
}

// handle does what the front does.
func (w *world) handle(ctx *fasthttp.RequestCtx) {
	if !w.issuer.Owns(ctx.URI().PathOriginal()) {
		ctx.Error("forwarded", fasthttp.StatusTeapot)
		return
	}
	reason := w.issuer.Serve(ctx, testID)
	select {
	case w.served <- reason:
	default:
	}
}

// logBuffer keeps what was logged.
type logBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// serve runs handler on a server with the settings of the front.
func serve(t testing.TB, handler fasthttp.RequestHandler, readTimeout time.Duration) (address string) {
	t.Helper()
	server := &fasthttp.Server{
		Handler: handler, StreamRequestBody: true, MaxRequestBodySize: 8 << 10, DisablePreParseMultipartForm: true,
		NoDefaultServerHeader: true, NoDefaultDate: true, NoDefaultContentType: true,
		ReadBufferSize: 32 << 10, ReadTimeout: readTimeout, WriteTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
		CloseOnShutdown: true,
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		if err := errors.Join(server.Shutdown(), <-done); err != nil {
			t.Error(err)
		}
	})
	return listener.Addr().String()
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addKey() {
	w.t.Helper()
	_, err := w.store.EnsureKey(w.t.Context(), operator, string(token.ES256), time.Minute, time.Hour, func() (registry.Key, error) {
		return *w.newKey(), nil
	})
	w.check(err)
}

func (w *world) newKey() *registry.Key {
	w.t.Helper()
	key, err := token.GenerateSigningKey(token.ES256, rand.Reader)
	w.check(err)
	der, err := key.MarshalPKCS8()
	w.check(err)
	return &registry.Key{ID: key.ID(), Algorithm: string(token.ES256), Private: der}
}

func (w *world) newClient(agreementID string) (registry.Client, secret.Secret) {
	w.t.Helper()
	c, s, err := w.store.CreateClient(w.t.Context(), operator, registry.NewClient{
		OrganizationID: w.organization.ID, AgreementID: agreementID, Application: "player", Environment: "production", AllowDuplicate: true,
	})
	w.check(err)
	return c, s
}

// catchUp brings the directory up to date.
func (w *world) catchUp() {
	w.t.Helper()
	w.check(w.directory.CatchUp(w.t.Context()))
}

func (w *world) now() time.Time { return time.Now().Add(time.Duration(w.skew.Load())) }

// reply is one answer, with its body as it came.
type reply struct {
	*http.Response
	body   string
	closed bool // the server closed the connection after it
}

func (r reply) code() string {
	var envelope struct{ Error struct{ Code string } }
	if json.Unmarshal([]byte(r.body), &envelope) != nil {
		return "no JSON"
	}
	return envelope.Error.Code
}

// send writes text to a new connection and reads the answer to it.
func (w *world) send(text string) reply {
	w.t.Helper()
	r, err := exchange(w.address, text)
	w.check(err)
	return r
}

func exchange(address, text string) (reply, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return reply{}, err
	}
	go io.WriteString(conn, text) //nolint:errcheck // a refusal may come, and close, before all of it is out
	in := bufio.NewReader(conn)
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(in, &http.Request{Method: method})
	if err != nil {
		return reply{}, fmt.Errorf("read answer: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return reply{}, fmt.Errorf("read answer's body: %w", err)
	}
	r := reply{Response: res, body: string(body)}
	if res.Close {
		_, err := in.ReadByte()
		r.closed = err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
	}
	return r, nil
}

// post is a request to the token route with content; fields are further field lines.
func post(content string, fields ...string) string {
	return postTo(testPath, content, append([]string{"Content-Type: application/json"}, fields...)...)
}

func postTo(target, content string, fields ...string) string {
	fields = append([]string{"Host: api.example.com", fmt.Sprint("Content-Length: ", len(content))}, fields...)
	return "POST " + target + " HTTP/1.1\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + content
}

// credentialsOf is the content of the guide's request.
func credentialsOf(id string, s secret.Secret) string {
	return fmt.Sprintf(`{"client_id": %q, "client_secret": %q}`, id, s.Reveal())
}

func (w *world) good() string { return credentialsOf(w.client.ID, w.secret) }

// ask sends the guide's request for the world's client, with what mod makes of the content.
func (w *world) ask(content string) reply { w.t.Helper(); return w.send(post(content)) }

// want asserts a refusal: its status, its code, its reason as the front is told it, and
// what holds for every refusal.
func (w *world) want(r reply, status int, code answer.Reason) {
	w.t.Helper()
	if r.StatusCode != status || r.code() != string(code) {
		w.t.Fatalf("got %d %s, want %d %s\n%s", r.StatusCode, r.code(), status, code, r.body)
	}
	if got := <-w.served; got != code {
		w.t.Fatalf("the front was told %s, want %s", got, code)
	}
	f := func(field, want string) {
		w.t.Helper()
		if got := r.Header.Get(field); got != want {
			w.t.Fatalf("%s: %q, want %q", field, got, want)
		}
	}
	f("Content-Type", "application/json")
	f("Cache-Control", "no-store")
	f("X-Request-Id", testID)
	challenge := ""
	if status == http.StatusUnauthorized {
		challenge = `Basic realm="Example API"`
	}
	f("WWW-Authenticate", challenge)
	if status == http.StatusServiceUnavailable && r.Header.Get("Retry-After") == "" {
		w.t.Fatal("503 without Retry-After")
	}
	if strings.Contains(r.body, w.secret.Reveal()) || strings.Contains(r.body, w.client.ID) {
		w.t.Fatalf("the answer quotes the request: %s", r.body)
	}
}

// issued is the guide's envelope as a reader decodes it.
type issued struct {
	Status    int
	Timestamp int64
	Data      struct {
		ID             string `json:"id"`
		SubjectID      string `json:"subject_id"`
		IssuedAt       int64  `json:"issued_at"`
		ExpiresAt      int64  `json:"expires_at"`
		OrganizationID string `json:"organization_id"`
		Token          string `json:"token"`
	}
}

// wantIssued asserts a 201 and returns what it says, and the verified claims.
func (w *world) wantIssued(r reply) (issued, token.Claims) {
	w.t.Helper()
	if r.StatusCode != http.StatusCreated {
		w.t.Fatalf("got %d, want 201: %s", r.StatusCode, r.body)
	}
	if got := <-w.served; got != answer.OK {
		w.t.Fatalf("the front was told %s, want ok", got)
	}
	var got issued
	w.check(json.Unmarshal([]byte(r.body), &got))
	keys, _ := w.directory.Keys()
	claims, err := token.Verify([]byte(got.Data.Token), keys, token.Expect{Issuer: testIssuer, Audience: testIssuer}, w.now())
	w.check(err)
	if claims.ID != uuid.MustParse(got.Data.ID) {
		w.t.Fatalf("jti %s, id %s", claims.ID, got.Data.ID)
	}
	return got, claims
}

func value(n int64) registry.Limit { return registry.Limit{State: registry.Value, Value: n} }
func products(names ...string) registry.Set {
	return registry.Set{State: registry.Value, Values: names}
}

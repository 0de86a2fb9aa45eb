package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/secret"
)

var operator = Actor{Kind: "operator", ID: "root", Address: "127.0.0.1"}

// clock is a clock that a test sets. Safe for concurrent use.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.UnixMilli(1_605_548_750_000)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// store makes the place of a new store: a path, or the DSN of an empty database.
type store func(testing.TB) string

// onBoth runs a test on each engine.
func onBoth(t *testing.T, f func(t *testing.T, file store)) {
	t.Run("sqlite", func(t *testing.T) { f(t, file) })
	t.Run("postgres", func(t *testing.T) { f(t, shared.Fresh) })
}

func file(t testing.TB) string { return filepath.Join(t.TempDir(), "postern.db") }

// least are the least options of a store: PostgreSQL wants a master key.
func least(path string) Options {
	if strings.HasPrefix(path, "postgres://") {
		return Options{DSN: secret.Secret(path), MasterKey: secret.Secret(strings.Repeat("k", dataKeySize))}
	}
	return Options{DSN: secret.Secret("sqlite:" + path)}
}

// open opens the store in path and closes it when the test ends.
func open(t testing.TB, path string, change ...func(*Options)) *Registry {
	t.Helper()
	o := least(path)
	for _, f := range change {
		f(&o)
	}
	r, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func at(c *clock) func(*Options) { return func(o *Options) { o.Now = c.now } }

func master(key string) func(*Options) {
	return func(o *Options) { o.MasterKey = secret.Secret(key) }
}

// logTo collects the log. Read it after the registry was closed, or when nothing logs.
func logTo(b *bytes.Buffer) func(*Options) {
	return func(o *Options) { o.Log = slog.New(slog.NewTextHandler(b, nil)) }
}

// must is for steps that only prepare.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// newClient makes an organization with one client.
func newClient(t testing.TB, r *Registry) (Client, secret.Secret) {
	t.Helper()
	o := must(r.CreateOrganization(context.Background(), operator, "Blue Note", Terms{}))(t)
	c, s, err := r.CreateClient(context.Background(), operator, NewClient{OrganizationID: o.ID, Application: "player", Environment: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

// newToken is the record of a token for c, issued now for two hours.
func newToken(t testing.TB, now time.Time, c Client) Token {
	t.Helper()
	id, err := NewID(now, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return Token{ID: id.String(), SubjectType: "Client", SubjectID: c.ID, OrganizationID: c.OrganizationID,
		Scope: "tracks:read", KeyID: "key-1", IssuedAt: At(now), ExpiresAt: At(now).later(2 * time.Hour)}
}

// issued stores a new token for c.
func issued(t testing.TB, r *Registry, c Client) Token {
	t.Helper()
	token := newToken(t, r.options.Now(), c)
	if err := r.IssueToken(context.Background(), token, ""); err != nil {
		t.Fatal(err)
	}
	return token
}

// newKey is a key whose private part is as random and as long as a PKCS #8 of P-256.
func newKey(t testing.TB, id, algorithm string) Key {
	t.Helper()
	private := make([]byte, 138)
	if _, err := io.ReadFull(rand.Reader, private); err != nil {
		t.Fatal(err)
	}
	return Key{ID: id, Algorithm: algorithm, Private: secret.Secret(private)}
}

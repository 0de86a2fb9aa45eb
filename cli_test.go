package main

import (
	"bytes"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"postern/registry"
	"postern/secret"
	"postern/token"
)

// TestRunReadsItsOwnEnvironment: run is postern as a function, so what the process around
// it has in its environment does not matter.
func TestRunReadsItsOwnEnvironment(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("POSTERN_STORE", "sqlite:"+filepath.Join(dir, "process.db"))
	var stdout, stderr bytes.Buffer
	environ := []string{"POSTERN_STORE=sqlite:" + filepath.Join(dir, "first.db"), "POSTERN_STORE=sqlite:" + filepath.Join(dir, "given.db")}
	if code := run(t.Context(), []string{"organization", "create", "--name", "Acme"}, environ, &stdout, &stderr); code != exitDone {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "given.db") {
			t.Errorf("it made %s", entry.Name())
		}
	}
}

// TestEventsNameTheOperator: what the command line does is told in the audit trail, with
// the operator's name and without a secret.
func TestEventsNameTheOperator(t *testing.T) {
	dsn := "sqlite:" + filepath.Join(t.TempDir(), "postern.db")
	var stdout, stderr bytes.Buffer
	e := newEnvironment(nil, &stdout, &stderr)
	if code := run(t.Context(), []string{"organization", "create", "--name", "Acme", "--store", dsn}, nil, &stdout, &stderr); code != exitDone {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret(dsn)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	events, err := r.Events(t.Context(), 10)
	if err != nil || len(events) != 1 {
		t.Fatalf("events: %+v, %v", events, err)
	}
	if got := events[0]; got.Actor != e.actor() || got.Actor.Kind != "operator" || got.Actor.ID == "" || got.Action != "create" {
		t.Errorf("event: %+v", got)
	}
}

// TestStoreLocked: a store that another process holds is waited for, then told as what it is.
func TestStoreLocked(t *testing.T) {
	t.Parallel() // it waits for as long as the store does
	path := filepath.Join(t.TempDir(), "postern.db")
	var stdout, stderr bytes.Buffer
	postern := func(args ...string) int {
		stdout.Reset()
		stderr.Reset()
		return run(t.Context(), append(args, "--store", "sqlite:"+path), nil, &stdout, &stderr)
	}
	if code := postern("organization", "create", "--name", "Acme"); code != exitDone {
		t.Fatalf("exit code %d: %s", code, &stderr)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	conn, err := db.Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if code := postern("organization", "create", "--name", "Bits"); code != exitFailed || stdout.Len() > 0 ||
		!strings.HasPrefix(stderr.String(), "postern: cannot create organization: open store: ") ||
		!strings.HasSuffix(stderr.String(), "hint: another process may hold the store, or its disk may be full or read-only; see to that and try again\n") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, &stdout, &stderr)
	}
	if _, err := conn.ExecContext(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if code := postern("organization", "list", "--json"); code != exitDone || strings.Contains(stdout.String(), "Bits") {
		t.Errorf("exit code %d, stdout %s, stderr %s", code, &stdout, &stderr)
	}
}

// TestNewKeyReadsAsNoFlag: a key's id can be an argument, whatever its thumbprint.
func TestNewKeyReadsAsNoFlag(t *testing.T) {
	for range 400 { // by chance 399 in 400 times at least one would begin with a hyphen
		k, err := newKey(token.EdDSA, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(k.ID, "-") {
			t.Fatalf("kid %s", k.ID)
		}
	}
}

func TestPrintable(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := printable(text); got != want {
			t.Errorf("printable(%q) = %q, want %q", text, got, want)
		}
	}
	f("Bits & Pieces", "Bits & Pieces")
	f("Ünïcödé 日本 \U0001f600", "Ünïcödé 日本 \U0001f600")
	f("a\x1b[31mb", `a\x1b[31mb`)
	f("a\r\n\tb\x00\x7f", `a\x0d\x0a\x09b\x00\x7f`)
	f("c1\u009b", `c1\x9b`)
	f("\u202eevil\u2066", `\u202eevil\u2066`)
	f("zero\u200bwidth", `zero\u200bwidth`)
	f("bad\xff\xc3", `bad\xff\xc3`)
	f("\ufffd", "\ufffd")
	f("\U000e0041", `\U000e0041`)
	f("", "")
}

// TestHints: what to do next is said once, by whoever knows best.
func TestHints(t *testing.T) {
	n := next{notFound: "list them", other: "look around"}
	f := func(err error, wantCode int, want string) {
		t.Helper()
		var stderr bytes.Buffer
		if code := newEnvironment(nil, io.Discard, &stderr).report(err); code != wantCode || stderr.String() != want {
			t.Errorf("%v: exit code %d, want %d; stderr %q, want %q", err, code, wantCode, &stderr, want)
		}
	}
	f(nil, exitDone, "")
	f(cannot("show it", fmt.Errorf("read: %w", registry.ErrNotFound), n), exitFailed, "postern: cannot show it: read: not found\nhint: list them\n")
	f(cannot("show it", registry.ErrConflict, n), exitFailed, "postern: cannot show it: conflict\n")
	f(cannot("show it", registry.ErrUnavailable, n), exitFailed,
		"postern: cannot show it: store unavailable\nhint: another process may hold the store, or its disk may be full or read-only; see to that and try again\n")
	f(cannot("show it", errors.New("broken"), n), exitFailed, "postern: cannot show it: broken\nhint: look around\n")
	f(cannot("show it", errors.New("broken"), next{}), exitFailed, "postern: cannot show it: broken\n")
	f(cannot("show it", refuse("pay first", "no money: %w", registry.ErrNotFound), n), exitFailed, "postern: cannot show it: no money: not found\nhint: pay first\n")
	f(errors.New("two\nlines \x1b[1m"), exitFailed, "postern: two\nlines \\x1b[1m\n")
}

func TestVersion(t *testing.T) {
	f := func(info *debug.BuildInfo, ok bool, version, revision string) {
		t.Helper()
		got := builtFrom(info, ok)
		if got.Version != version || got.Revision != revision || !strings.HasPrefix(got.Go, "go") || !strings.Contains(got.Platform, "/") {
			t.Errorf("%+v, want version %s, revision %s", got, version, revision)
		}
	}
	info := func(version string, settings ...debug.BuildSetting) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Version: version}, Settings: settings}
	}
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"}
	f(nil, false, "(unknown)", "")
	f(info(""), true, "(unknown)", "")
	f(info("v1.2.3", revision), true, "v1.2.3", "0123456789ab")
	f(info("(devel)", revision, debug.BuildSetting{Key: "vcs.modified", Value: "true"}), true, "(devel)", "0123456789ab-dirty")
	f(info("(devel)", debug.BuildSetting{Key: "vcs.modified", Value: "true"}), true, "(devel)", "")
}

func TestDoorURL(t *testing.T) {
	f := func(listen, want string) {
		t.Helper()
		if got, err := doorURL(listen, "/readyz"); got != want || err != nil {
			t.Errorf("doorURL(%q) = %q, %v, want %q", listen, got, err, want)
		}
	}
	f("127.0.0.1:9090", "http://127.0.0.1:9090/readyz")
	f("localhost:1", "http://localhost:1/readyz")
	f(":9090", "http://127.0.0.1:9090/readyz")
	f("0.0.0.0:9090", "http://127.0.0.1:9090/readyz")
	f("[::]:9090", "http://[::1]:9090/readyz")
	f("[::1]:9090", "http://[::1]:9090/readyz")
	if _, err := doorURL("nowhere", "/"); err == nil {
		t.Error("no port, and no error")
	}
}

//go:build unix

package pgtest

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestServer does to one server all that a test may do, and finds the committed row again.
func TestServer(t *testing.T) {
	s := Start(t, "max_connections=20")
	dsn := s.Fresh(t)
	db, err := sql.Open("pgx", dsn+"&connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ask := func(query string) (n int, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return n, db.QueryRowContext(ctx, query).Scan(&n)
	}
	want := func(when, query string, want int) {
		t.Helper()
		n, err := ask(query)
		if err != nil { // a connection of before; the pool drops it
			n, err = ask(query)
		}
		if err != nil || n != want {
			t.Fatalf("%s: got %d, %v, want %d", when, n, err, want)
		}
	}
	if _, err := db.Exec("CREATE TABLE one (n INTEGER)"); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("INSERT INTO one VALUES (7)"); err != nil {
		t.Fatal(err)
	}
	want("settings", "SELECT setting::int FROM pg_settings WHERE name = 'max_connections'", 20)
	s.Freeze(t)
	if _, err := ask("SELECT 1"); err == nil {
		t.Error("a frozen server answered")
	}
	s.Thaw(t)
	want("thawed", "SELECT n FROM one", 7)
	s.Kill(t)
	if _, err := ask("SELECT 1"); err == nil {
		t.Error("a killed server answered")
	}
	s.Restart(t)
	want("restarted after kill", "SELECT n FROM one", 7)
	s.Stop(t)
	if _, err := ask("SELECT 1"); err == nil {
		t.Error("a stopped server answered")
	}
	s.Restart(t)
	want("restarted after stop", "SELECT n FROM one", 7)
	s.Freeze(t) // a frozen server can be removed
}

func TestShared(t *testing.T) {
	var shared Shared
	defer shared.Close()
	if a, b := shared.Fresh(t), shared.Fresh(t); a == b {
		t.Errorf("two fresh databases are one: %s", a)
	}
}

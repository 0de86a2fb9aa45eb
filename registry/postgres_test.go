package registry

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// TestRow159PostgresHangs freezes the server: callers get ErrUnavailable within the statement
// timeout, no connection stays taken, and it goes on by itself.
func TestRow159PostgresHangs(t *testing.T) {
	ctx := context.Background()
	server := pgtest.Start(t)
	r := open(t, server.Fresh(t), func(o *Options) { o.StatementTimeout = 300 * time.Millisecond })
	c, _ := newClient(t, r)
	ask := func() map[string]error {
		_, grant := r.Grant(ctx, c.ID)
		return map[string]error{
			"grant": grant, "issue": r.IssueToken(ctx, newToken(t, time.Now(), c), ""), "change": r.RevokeClientTokens(ctx, operator, c.ID),
		}
	}
	refused := func(name string) {
		t.Helper()
		started := time.Now()
		for what, err := range ask() {
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if took := time.Since(started); took > 10*900*time.Millisecond {
			t.Errorf("%s took %s", name, took)
		}
	}
	healthy := func() { // a busy machine may be slower than the timeout, once
		t.Helper()
		eventually(t, func() error {
			var failed error
			for what, err := range ask() {
				if err != nil {
					failed = fmt.Errorf("%s: %w", what, err)
				}
			}
			return failed
		})
	}
	healthy()
	server.Freeze(t)
	for range 5 {
		refused("frozen")
	}
	server.Thaw(t)
	healthy()
	server.Kill(t)
	refused("killed")
	server.Restart(t)
	healthy()
}

// eventually waits for success, ten times as long as recovery may take.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	for deadline := time.Now().Add(50 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// TestPostgresReadOnly: a server that has become read-only is away, and its connections are
// left for those of the one that can be written to.
func TestPostgresReadOnly(t *testing.T) {
	ctx := context.Background()
	server := pgtest.Start(t)
	dsn := server.Fresh(t)
	r := open(t, dsn)
	c, _ := newClient(t, r)
	server.Exec(t, "fresh1", "ALTER DATABASE fresh1 SET default_transaction_read_only = on")
	server.Exec(t, "postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'fresh1'")
	eventually(t, func() error {
		if err := r.IssueToken(ctx, newToken(t, time.Now(), c), ""); !errors.Is(err, ErrUnavailable) {
			return errors.New("it was written to")
		}
		return nil
	})
	server.Exec(t, "postgres", "ALTER DATABASE fresh1 SET default_transaction_read_only = off")
	// The connections of the read-only time are still read-only.
	eventually(t, func() error { return r.IssueToken(ctx, newToken(t, time.Now(), c), "") })
}

// TestPostgresConnectionsAreDurable: whatever the role or the database says.
func TestPostgresConnectionsAreDurable(t *testing.T) {
	server := shared.Server(t)
	dsn := server.Fresh(t)
	r := open(t, dsn)
	var name string
	if err := r.engine.write.QueryRow(`SELECT current_database()`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	server.Exec(t, name, "ALTER DATABASE "+name+" SET synchronous_commit = off")
	again := open(t, dsn)
	for _, p := range []*pool{again.engine.write, again.engine.read} {
		var commit string
		if err := p.QueryRow(`SELECT current_setting('synchronous_commit')`).Scan(&commit); err != nil || commit != "on" {
			t.Errorf("synchronous_commit is %q, %v", commit, err)
		}
	}
}

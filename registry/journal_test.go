package registry

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/secret"
)

// whole fails the test unless SQLite finds nothing wrong with a store.
func whole(t *testing.T, path string) {
	t.Helper()
	report, err := Check(context.Background(), secret.Secret("sqlite:"+path), "", nil)
	if err != nil || len(report.Faults) > 0 {
		t.Errorf("check of %s: %v %q", path, err, report.Faults)
	}
}

// TestRow163LargeJournal: a reader that never ends lets the write-ahead log grow, far beyond
// what is kept of it. All goes on, and when the reader is gone the log shrinks by itself.
// POSTERN_JOURNAL=1024 makes it 1 GiB, which takes a minute.
func TestRow163LargeJournal(t *testing.T) {
	const step = 16 << 20
	size := int64(80 << 20)
	if text := os.Getenv("POSTERN_JOURNAL"); text != "" {
		size = int64(must(strconv.Atoi(text))(t)) << 20
	}
	ctx := context.Background()
	path := file(t)
	r := open(t, path)
	c, _ := newClient(t, r)
	stuck := must(r.engine.read.BeginTx(ctx, nil))(t)
	defer stuck.Rollback()
	var n int
	if err := stuck.QueryRow(`SELECT count(*) FROM token`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	journal := func() int64 { return must(os.Stat(path + "-wal"))(t).Size() }
	for i := 0; journal() < size; i++ {
		detail := strings.Repeat(string(rune('a'+i%26)), step)
		if _, err := r.engine.write.ExecContext(ctx, `UPDATE event SET detail = $1 WHERE seq = 1`, detail); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Now()
	before := issued(t, r, c)
	must(r.Grant(ctx, c.ID))(t)
	must(r.RevokeToken(ctx, operator, before.ID))(t)
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("issuing and revoking took %v", took)
	}
	whole(t, path)
	if err := stuck.Rollback(); err != nil {
		t.Fatal(err)
	}
	// The first write empties the log, the second begins it anew.
	for range 3 {
		issued(t, r, c)
	}
	if got := journal(); got > 65<<20 {
		t.Errorf("the log still has %d bytes", got)
	}
	whole(t, path)
	if _, err := r.Revocation(ctx, before.ID); err != nil {
		t.Error(err)
	}
}

// TestRow163NothingIsDamaged: what failed while the store was locked, read-only or somewhere
// else left it whole.
func TestRow163NothingIsDamaged(t *testing.T) {
	ctx := context.Background()
	f := func(name string, breakIt func(t *testing.T, r *Registry, path string) (mend func())) {
		t.Run(name, func(t *testing.T) {
			path := file(t)
			r := open(t, path)
			c, _ := newClient(t, r)
			before := issued(t, r, c)
			mend := breakIt(t, r, path)
			ending, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
			defer cancel()
			if err := r.DisableClient(ending, operator, c.ID); !errors.Is(err, ErrUnavailable) {
				t.Errorf("DisableClient: %v", err)
			}
			if err := r.IssueToken(ending, newToken(t, time.Now(), c), ""); !errors.Is(err, ErrUnavailable) {
				t.Errorf("IssueToken: %v", err)
			}
			mend()
			whole(t, path)
			if _, err := r.RevokeToken(ctx, operator, before.ID); err != nil {
				t.Errorf("afterwards: %v", err)
			}
			whole(t, path)
		})
	}
	f("locked", func(t *testing.T, r *Registry, _ string) func() { return lockStore(t, r) })
	f("read-only", func(t *testing.T, r *Registry, _ string) func() {
		set := func(value string) {
			if _, err := r.engine.write.Exec("PRAGMA query_only = " + value); err != nil {
				t.Fatal(err)
			}
		}
		set("1")
		return func() { set("0") }
	})
	f("replaced", func(t *testing.T, _ *Registry, path string) func() {
		move := func(from, to string) {
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
		}
		move(path, path+".away")
		return func() { move(path+".away", path) }
	})
}

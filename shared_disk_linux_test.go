package main

import (
	"context"
	"database/sql"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// TestRow162PostgresDiskFull: the disk below PostgreSQL is full while tokens are issued and
// revoked and keys rotated. Nothing that was acknowledged is lost, no key is half, and all
// goes on once there is space.
func TestRow162PostgresDiskFull(t *testing.T) {
	disk := smallDisk(t, 192<<20)
	t.Setenv("TMPDIR", disk) // where pgtest keeps the data
	server := pgtest.Start(t, "max_wal_size=64MB", "min_wal_size=32MB", "wal_recycle=off", "restart_after_crash=on")
	t.Setenv("TMPDIR", t.TempDir())
	s := startShared(t, server, 1, "")
	known, token, _, _ := s.warm()
	revoked := map[string]bool{}
	full := fillDisk(t, disk)
	refused := 0
	for deadline := time.Now().Add(60 * time.Second); refused < 5 && time.Now().Before(deadline); {
		more, id, r := s.issue(0, known)
		switch r.status {
		case 201:
			revoked[id] = s.revoke(0, known, more).status == 200
		default:
			s.unavailable("issuing", r)
			refused++
		}
		if refused == 0 && len(revoked)%200 == 0 { // the log's segment is there already: fill it
			s.ballast()
		}
	}
	if refused == 0 {
		t.Fatal("the disk is not full")
	}
	rotation := exec.Command(binary(t), "key", "rotate", "--config", s.file)
	out, err := rotation.CombinedOutput()
	t.Logf("rotating: %v: %s", err, out)
	if status := s.use(0, token); status != 200 {
		t.Errorf("a known token: %d", status)
	}
	if err := os.Remove(full); err != nil {
		t.Fatal(err)
	}
	if !s.ballast() { // it gave up; whoever runs it starts it again
		server.Restart(t)
	}
	s.recovers(0, known, time.Now())
	for id, gone := range revoked {
		if !s.kept(id, gone) {
			t.Errorf("an acknowledged token is lost, or its revocation: %v", gone)
		}
	}
	t.Logf("%d tokens were acknowledged", len(revoked))
	s.configured("key", "rotate")
	fresh := s.mustIssue(0, known)
	if status := s.use(0, fresh); status != 200 {
		t.Errorf("a new token: %d", status)
	}
}

// smallDisk is a file system of its own with so many bytes. Only root may mount one.
func smallDisk(t *testing.T, size int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "postern-disk-")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=777,size="+strconv.Itoa(size)); err != nil {
		_ = os.Remove(dir)
		t.Skipf("SKIPPED: this user or machine cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
		_ = os.Remove(dir)
	})
	return dir
}

// fillDisk leaves no byte free, and returns the file that holds them.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "full"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	piece := make([]byte, 64<<10)
	for {
		if _, err := f.Write(piece); err != nil {
			return f.Name()
		}
	}
}

// ballast writes four megabytes into the store's database, and reports whether they fit.
func (s *shared) ballast() bool {
	db, err := sql.Open(s.driver())
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	_, err = db.ExecContext(ctx, "CREATE TABLE IF NOT EXISTS ballast (t TEXT)")
	if err == nil {
		_, err = db.ExecContext(ctx, "INSERT INTO ballast SELECT repeat('x', 1000) FROM generate_series(1, 4000)")
	}
	return err == nil
}

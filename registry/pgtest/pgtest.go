//go:build unix

// Package pgtest runs private PostgreSQL servers for tests: real ones, that a test may
// stop, freeze and kill. Only tests import it. Start reading at Start, or at Shared for
// tests that need nothing but an empty database.
//
// A server listens on a port of its own of 127.0.0.1, takes any user without a password
// and keeps its data in a temporary directory. It does not flush to disk (a machine that
// loses power is no subject of a test), but what was committed survives kill -9.
package pgtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// Server is one PostgreSQL server. Its methods but DSN and Fresh are for one goroutine at
// a time. They fail the test that they are given.
type Server struct {
	// Directory is the server's data directory.
	Directory string
	// Port is where it listens, on 127.0.0.1. It stays the same over a restart.
	Port int

	temp      string // holds the data, the socket and the log
	bin       string
	owner     *syscall.Credential // nil: ourselves
	settings  []string
	cmd       *exec.Cmd // nil: not running
	databases atomic.Int64
}

// patience is the most that starting and stopping may take.
const patience = 30 * time.Second

// Start starts a server for t alone and removes it when t ends. settings are lines of
// postgresql.conf like "max_connections=20"; the last of a name counts. Where there is no
// PostgreSQL, the test is skipped, and fails in CI.
func Start(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := start(settings)
	if errors.Is(err, exec.ErrNotFound) {
		missing(t)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.remove(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// missing ends t where the programs are missing.
func missing(t testing.TB) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("PostgreSQL (initdb, postgres) is missing, and this is CI")
	}
	t.Skip("SKIPPED: PostgreSQL (initdb, postgres) is missing; install it to run this test")
}

// start makes a server without a test.
func start(settings []string) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin, settings: settings}
	if os.Geteuid() == 0 { // PostgreSQL refuses to run as root
		if s.owner, err = ordinary(); err != nil {
			return nil, err
		}
	}
	// Not below t.TempDir: that name may be too long for a socket, and the directories
	// above may be closed to the server's user.
	if s.temp, err = os.MkdirTemp("", "pgtest-"); err != nil {
		return nil, err
	}
	s.Directory = filepath.Join(s.temp, "data")
	if err := s.create(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(s.temp))
	}
	if err := s.run(); err != nil {
		return nil, errors.Join(err, s.remove())
	}
	return s, nil
}

// programs finds the directory of PostgreSQL's programs: that of the path, else the newest
// that Debian installed.
func programs() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			return filepath.Dir(path), nil
		}
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("find initdb: %w", exec.ErrNotFound)
	}
	version := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

// ordinary is a user to run PostgreSQL as.
func ordinary() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr == nil && gidErr == nil {
			return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid), NoSetGroups: true}, nil
		}
	}
	return nil, errors.New("run PostgreSQL: root may not, and there is neither a user postgres nor nobody")
}

// create makes the data directory.
func (s *Server) create() error {
	if s.owner != nil {
		if err := os.Chown(s.temp, int(s.owner.Uid), int(s.owner.Gid)); err != nil {
			return err
		}
	}
	cmd := exec.Command(filepath.Join(s.bin, "initdb"), "--no-sync", "--no-instructions", "--auth=trust", "--username=postgres",
		"--encoding=UTF8", "--no-locale", "--pgdata="+s.Directory)
	s.prepare(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run initdb: %w: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s.Port = l.Addr().(*net.TCPAddr).Port
	return l.Close()
}

// prepare makes cmd run as the server's user, and die with the test.
func (s *Server) prepare(cmd *exec.Cmd) {
	cmd.Dir = s.temp
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Credential = s.owner
}

// run starts the server and waits until it answers.
func (s *Server) run() error {
	log, err := os.OpenFile(filepath.Join(s.temp, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"-D", s.Directory, "-p", strconv.Itoa(s.Port)}
	for _, setting := range append([]string{
		"listen_addresses=127.0.0.1", "unix_socket_directories=" + s.temp, "fsync=off", "full_page_writes=off",
		"max_connections=200", "shared_buffers=32MB", "max_wal_size=256MB",
	}, s.settings...) {
		args = append(args, "-c", setting)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...)
	cmd.Stdout, cmd.Stderr = log, log // files: no goroutine copies
	s.prepare(cmd)
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	return s.ready()
}

func (s *Server) ready() error {
	db, err := sql.Open("pgx", s.DSN("postgres")+"&connect_timeout=1")
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		err := db.PingContext(ctx)
		if err == nil {
			return nil
		}
		if exited(s.cmd.Process.Pid) || ctx.Err() != nil {
			text, _ := os.ReadFile(filepath.Join(s.temp, "log"))
			return fmt.Errorf("start postgres: %w\n%s", err, text[max(0, len(text)-4096):])
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// DSN names a database of the server, for the user that may do everything.
func (s *Server) DSN(database string) string {
	return (&url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(s.Port)),
		Path: "/" + database, RawQuery: "sslmode=disable",
	}).String()
}

// Log is the file that the server logs to.
func (s *Server) Log() string { return filepath.Join(s.temp, "log") }

// Fresh makes an empty database, removed when t ends, and returns its DSN. Safe for
// concurrent use.
func (s *Server) Fresh(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("fresh%d", s.databases.Add(1))
	if err := s.exec("CREATE DATABASE " + name + " TEMPLATE template0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Only to save space: a server that the test has stopped is removed whole.
		_ = s.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)")
	})
	return s.DSN(name)
}

// Exec runs one statement in database, as the user that may do everything.
func (s *Server) Exec(t testing.TB, database, statement string, args ...any) {
	t.Helper()
	if err := s.execIn(database, statement, args...); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) exec(statement string) error { return s.execIn("postgres", statement) }

func (s *Server) execIn(database, statement string, args ...any) error {
	db, err := sql.Open("pgx", s.DSN(database)+"&connect_timeout=2")
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err = db.ExecContext(ctx, statement, args...)
	return err
}

//go:build unix

package pgtest

import (
	"errors"
	"os/exec"
	"sync"
	"testing"
)

// Shared is one server for all tests of a test binary, started when the first one asks for
// it: a variable of the test files. TestMain calls Close at the end:
//
//	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { shared.Close(); os.Exit(code) }))
//
// Tests must not stop or freeze it. Safe for concurrent use.
type Shared struct {
	once   sync.Once
	server *Server
	err    error
}

// Server starts the server, once. Where there is no PostgreSQL, the test is skipped, and
// fails in CI.
func (s *Shared) Server(t testing.TB) *Server {
	t.Helper()
	s.once.Do(func() { s.server, s.err = start(nil) })
	if errors.Is(s.err, exec.ErrNotFound) {
		missing(t)
	}
	if s.err != nil {
		t.Fatal(s.err)
	}
	return s.server
}

// Fresh is an empty database of the server, removed when t ends: its DSN.
func (s *Shared) Fresh(t testing.TB) string {
	t.Helper()
	return s.Server(t).Fresh(t)
}

// Close ends the server, if one was started.
func (s *Shared) Close() {
	s.once.Do(func() { s.err = errors.New("the shared server is closed") })
	if s.server != nil {
		_ = s.server.remove()
	}
}

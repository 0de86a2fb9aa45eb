package registry

import (
	"os"
	"testing"

	"go.uber.org/goleak"

	"postern/registry/pgtest"
)

// shared is the PostgreSQL server of all tests that do it no harm.
var shared pgtest.Shared

// TestMain turns the test binary into a child process when a test started it as one.
func TestMain(m *testing.M) {
	if job := os.Getenv(childJob); job != "" {
		os.Exit(child(job))
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		shared.Close()
		os.Exit(code)
	}))
}

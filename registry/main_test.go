package registry

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// TestMain turns the test binary into a child process when a test started it as one.
func TestMain(m *testing.M) {
	if job := os.Getenv(childJob); job != "" {
		os.Exit(child(job))
	}
	goleak.VerifyTestMain(m)
}

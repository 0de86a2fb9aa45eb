package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// TestStoreFailsOverToOlderState: the store comes back as it was before some changes, as
// after a fail-over to a standby that lagged, or a backup. Every posterns' memory is of a
// history that did not happen: it takes all from the store again.
func TestStoreFailsOverToOlderState(t *testing.T) {
	t.Parallel() // it waits most of the time
	// overtaken: more happened in the other history than the replicas had seen of the first,
	// before they look again. What they ask for, all after their position, has no gap.
	f := func(name string, overtaken bool) {
		t.Run(name, func(t *testing.T) {
			server := pgtest.Start(t)
			s := startShared(t, server, 3, "")
			known, token, _, _ := s.warm()
			server.Stop(t)
			older := filepath.Join(filepath.Dir(server.Directory), "older")
			copyTree(t, server.Directory, older)
			server.Restart(t)
			for i := range s.nodes {
				s.recovers(i, known, time.Now())
			}
			// What will not have happened: the client is disabled, and much else.
			s.configured("client", "disable", known.id)
			for range 3 {
				s.newClient()
			}
			for i := range s.nodes {
				eventually(t, time.Second, "it refuses the client", func() bool { return s.use(i, token) == 401 })
			}
			if overtaken {
				for _, l := range s.links {
					l.cut()
				}
			}
			server.Stop(t)
			if err := os.RemoveAll(server.Directory); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(older, server.Directory); err != nil {
				t.Fatal(err)
			}
			server.Restart(t)
			if overtaken {
				for range 10 {
					s.newClient()
				}
				for _, l := range s.links {
					l.heal()
				}
			}
			back := time.Now()
			for i := range s.nodes {
				eventually(t, time.Second, fmt.Sprintf("node %d believes the store", i), func() bool { return s.use(i, token) == 200 })
				t.Logf("node %d believes the store after %s", i, time.Since(back).Round(time.Millisecond))
			}
			// And what happens now is followed.
			if r := s.revoke(1, known, token); r.status != 200 {
				t.Errorf("revoke: %d %s", r.status, r.body)
			}
			for i := range s.nodes {
				eventually(t, time.Second, "it refuses the token", func() bool { return s.use(i, token) == 401 })
			}
		})
	}
	f("behind", false)
	f("overtaken", true)
}

// copyTree copies a directory with owners and modes.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

package registry

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The variables by which a test tells a child process what to do.
const (
	childJob   = "POSTERN_TEST_JOB"
	childStore = "POSTERN_TEST_STORE"
)

// child does a job until it is killed, and prints a line for each step that was acknowledged.
func child(job string) int {
	ctx := context.Background()
	o := least(os.Getenv(childStore))
	if job == "rewrap-step" {
		o.MasterKey = masterKey
	}
	r, err := Open(ctx, o)
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	say := func(format string, a ...any) {
		// One write for each line: a pipe does not cut it.
		_, _ = os.Stdout.WriteString(fmt.Sprintf(format, a...) + "\n")
	}
	if job == "open" {
		say("opened")
		if err := r.Close(); err != nil {
			return 1
		}
		return 0
	}
	if strings.HasSuffix(job, "-step") {
		if err := childRotates(ctx, r, job); err != nil {
			say("failed: %v", err)
			return 1
		}
		return 0
	}
	clients, err := r.Clients(ctx, "")
	if err != nil || len(clients) == 0 {
		say("failed: no client: %v", err)
		return 1
	}
	failed := make(chan error)
	for range map[string]int{"issue": 16, "revoke": 16, "rotate": 2}[job] {
		go func() {
			for {
				line, err := step(ctx, r, job, clients[0])
				if err != nil {
					failed <- err
					return
				}
				say("%s", line)
			}
		}()
	}
	say("failed: %v", <-failed)
	return 1
}

func step(ctx context.Context, r *Registry, job string, c Client) (string, error) {
	if job == "rotate" {
		k, err := r.RotateKey(ctx, operator, childKey(), 0, time.Hour)
		return k.ID, err
	}
	id, err := NewID(time.Now(), rand.Reader)
	if err != nil {
		return "", err
	}
	now := At(time.Now())
	t := Token{ID: id.String(), SubjectType: "Client", SubjectID: c.ID, OrganizationID: c.OrganizationID, IssuedAt: now, ExpiresAt: now.later(time.Hour)}
	err = r.IssueToken(ctx, t, c.Secrets[0].ID)
	if err == nil && job == "revoke" {
		_, err = r.RevokeToken(ctx, operator, t.ID)
	}
	return t.ID, err
}

// startChild starts this test binary on a job and returns its lines.
func startChild(t *testing.T, job, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childJob+"="+job, childStore+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// kills is how often a test kills its child: POSTERN_KILLS, else 20 in CI, else 5.
func kills(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("POSTERN_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("POSTERN_KILLS=%s is no count", text)
		}
		return n
	}
	if os.Getenv("CI") == "true" {
		return 20
	}
	return 5
}

// killAtWork lets children do a job on one store and kills each with SIGKILL while it is busy.
// After each kill, check sees the store, reopened, and the lines that the child had printed.
func killAtWork(t *testing.T, job string, check func(t *testing.T, r *Registry, acknowledged []string)) {
	onBoth(t, func(t *testing.T, file store) { killChildren(t, job, file(t), check) })
}

func killChildren(t *testing.T, job, path string, check func(t *testing.T, r *Registry, acknowledged []string)) {
	r := open(t, path)
	newClient(t, r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	rounds := kills(t)
	if strings.HasPrefix(path, "postgres://") {
		rounds = (rounds + 1) / 2 // opening it takes longer
	}
	for round := range rounds {
		cmd, lines := startChild(t, job, path)
		var acknowledged []string
		for lines.Scan() {
			if strings.HasPrefix(lines.Text(), "failed") {
				t.Fatalf("the child: %s", lines.Text())
			}
			if acknowledged = append(acknowledged, lines.Text()); len(acknowledged) == 1 {
				// Somewhere else in its work at each round.
				time.AfterFunc(time.Duration(round%7)*17*time.Millisecond, func() { _ = cmd.Process.Kill() })
			}
		}
		_ = cmd.Wait()
		if len(acknowledged) == 0 {
			t.Fatal("the child did nothing")
		}
		r := open(t, path)
		check(t, r, acknowledged)
		var verdict string
		if strings.HasPrefix(path, "postgres://") {
			verdict = "ok" // the server was not killed
		} else if err := r.engine.read.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil {
			t.Fatal(err)
		}
		if verdict != "ok" {
			t.Fatalf("integrity_check: %q", verdict)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRow164KillDuringIssue(t *testing.T) {
	killAtWork(t, "issue", func(t *testing.T, r *Registry, acknowledged []string) {
		for _, id := range acknowledged {
			if _, err := r.Token(context.Background(), id); err != nil {
				t.Errorf("acknowledged token %s: %v", id, err)
			}
		}
	})
}

func TestRow165KillDuringRevoke(t *testing.T) {
	killAtWork(t, "revoke", func(t *testing.T, r *Registry, acknowledged []string) {
		for _, id := range acknowledged {
			if _, err := r.Revocation(context.Background(), id); err != nil {
				t.Errorf("acknowledged revocation %s: %v", id, err)
			}
		}
	})
}

func TestRow166KillDuringRotation(t *testing.T) {
	killAtWork(t, "rotate", func(t *testing.T, r *Registry, acknowledged []string) {
		keys := must(r.Keys(context.Background()))(t)
		whole, signing := make(map[string]bool), 0
		for _, k := range keys {
			whole[k.ID] = len(k.Private.Reveal()) == 138
			if k.VerifiesUntil == 0 {
				signing++
			}
		}
		if signing != 1 {
			t.Errorf("%d keys sign, want 1", signing)
		}
		for _, id := range acknowledged {
			if !whole[id] {
				t.Errorf("acknowledged key %s is not there as a whole", id)
			}
		}
	})
}

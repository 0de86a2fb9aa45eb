package main

import (
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// process is a postern of its own: this test binary run as the program. Or another program
// that a test binary can be.
type process struct {
	*served
	command *exec.Cmd
	out     *buffer    // its standard output; logs is standard error
	exited  chan error // how it ended
	ended   chan struct{}
}

// start runs "postern serve" with args in dir, and waits until it serves.
func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	p := launch(t, dir, append([]string{binary(t), "serve"}, args...)...)
	p.store = "sqlite:" + dir + "/postern.db"
	p.await(p.ended)
	return p
}

// launch runs a command line in dir, and ends it with the test.
func launch(t *testing.T, dir string, line ...string) *process {
	t.Helper()
	p := &process{served: &served{t: t, logs: &buffer{}}, out: &buffer{}, exited: make(chan error, 1), ended: make(chan struct{})}
	p.command = exec.Command(line[0], line[1:]...)
	p.command.Dir, p.command.Stdout, p.command.Stderr = dir, p.out, p.logs
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.exited <- p.command.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("%s said:\n%.20000s%.20000s", filepath.Base(line[0]), p.out, p.logs)
		}
	})
	return p
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.command.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// ends waits until the process has ended, at most ten times the promise, and returns its
// exit code; -1: a signal ended it.
func (p *process) ends(promise time.Duration) int {
	p.t.Helper()
	select {
	case err := <-p.exited:
		p.exited <- err
		return p.command.ProcessState.ExitCode()
	case <-time.After(10 * promise):
		p.t.Fatalf("still running after %s", 10*promise)
		return -1
	}
}

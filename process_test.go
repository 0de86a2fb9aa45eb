package main

import (
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// process is a postern of its own: this test binary run as the program.
type process struct {
	*served
	command *exec.Cmd
	exited  chan error // how it ended
}

// start runs "postern serve" with args in dir, and waits until it serves.
func start(t *testing.T, dir string, args ...string) *process {
	t.Helper()
	logs := &buffer{}
	p := &process{served: &served{t: t, logs: logs, store: "sqlite:" + dir + "/postern.db"}, exited: make(chan error, 1)}
	p.command = exec.Command(binary(t), append([]string{"serve"}, args...)...)
	p.command.Dir, p.command.Stderr = dir, logs
	if err := p.command.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		p.exited <- p.command.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		_ = p.command.Process.Kill()
		<-ended
		if t.Failed() {
			t.Logf("postern said:\n%.20000s", logs)
		}
	})
	p.await(ended)
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

//go:build unix

package pgtest

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

// Freeze stops every process of the server without ending a connection: a host that hangs.
func (s *Server) Freeze(t testing.TB) {
	t.Helper()
	if err := s.signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

// Thaw makes a frozen server go on.
func (s *Server) Thaw(t testing.TB) {
	t.Helper()
	if err := s.signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// Kill ends every process of the server as kill -9 does.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
}

// Stop ends the server as its administrator does: connections are told (57P01) and closed.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.stop(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
}

// Restart starts the server again, on the same port and data, and waits until it answers.
// One that runs is stopped before.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	if s.cmd != nil {
		s.Stop(t)
	}
	if err := s.run(); err != nil {
		t.Fatal(err)
	}
}

// signal sends one signal to the server's first process and all its children. The first
// one goes first, so that a frozen server has no new children.
func (s *Server) signal(sig syscall.Signal) error {
	if s.cmd == nil {
		return errors.New("signal postgres: it does not run")
	}
	pid := s.cmd.Process.Pid
	if err := syscall.Kill(pid, sig); err != nil {
		return fmt.Errorf("signal postgres: %w", err)
	}
	for _, child := range children(pid) {
		if err := syscall.Kill(child, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("signal postgres: %w", err)
		}
	}
	return nil
}

func (s *Server) kill() error {
	if s.cmd == nil {
		return nil
	}
	pid := s.cmd.Process.Pid
	_ = syscall.Kill(pid, syscall.SIGSTOP) // no new children
	all := children(pid)
	for _, child := range append(all, pid) {
		if err := syscall.Kill(child, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill postgres: %w", err)
		}
	}
	_ = s.cmd.Wait() // it says that it was killed
	s.cmd = nil
	// A new server does not start as long as one of the old one's processes is there.
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		alive := false
		for _, child := range all {
			alive = alive || !exited(child)
		}
		if !alive {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("kill postgres: a process of it stays")
		}
	}
}

func (s *Server) stop(sig syscall.Signal) error {
	if s.cmd == nil {
		return nil
	}
	if err := s.signal(syscall.SIGCONT); err != nil && !errors.Is(err, syscall.ESRCH) {
		return err
	}
	if err := syscall.Kill(s.cmd.Process.Pid, sig); err != nil {
		return fmt.Errorf("stop postgres: %w", err)
	}
	for deadline := time.Now().Add(patience); !exited(s.cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.Join(errors.New("stop postgres: it does not end"), s.kill())
		}
	}
	_ = s.cmd.Wait()
	s.cmd = nil
	return nil
}

// remove ends the server and removes its files.
func (s *Server) remove() error { return errors.Join(s.kill(), os.RemoveAll(s.temp)) }

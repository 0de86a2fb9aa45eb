package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// QuitCommand ends a running postern: a Job is done when all its containers have ended.
type QuitCommand struct {
	door
	Timeout time.Duration `default:"3s" placeholder:"DURATION" help:"How long to try to reach postern."`
	Wait    time.Duration `default:"0s" placeholder:"DURATION" help:"Return when postern has finished what was in flight and its admin door is closed; fail when that takes longer."`
	Command []string      `arg:"" optional:"" name:"command" help:"A program and its arguments, behind --. When it has ended, however it ended, postern is told to quit."`
}

// Help says what happens to the command and gives examples.
func (QuitCommand) Help() string {
	return "Does what SIGTERM does, from beside it: postern finishes what is in flight and ends with 0. With a command: runs it, passes SIGTERM, SIGINT, SIGHUP and SIGQUIT " +
		"on to it, and ends with its exit code, 128 and the signal's number when one ended it, whether postern could be reached or not.\n\n" +
		example("postern quit --wait 30s", "postern quit -- /job --all", "postern quit --url http://127.0.0.1:9090 -- /job")
}

// Validate refuses times that are none.
func (c *QuitCommand) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout: use a duration above 0, for example 3s")
	}
	if c.Wait < 0 {
		return errors.New("--wait: use a duration that is not negative, for example 30s")
	}
	return c.door.Validate()
}

// Run runs the command, if any, and tells postern to quit.
func (c *QuitCommand) Run(ctx context.Context, e *environment) error {
	const task = "tell postern to quit"
	target, err := c.at(e, "/quit") // a wrong one is told before the command runs
	if err != nil {
		return cannot(task, err, next{})
	}
	if len(c.Command) == 0 {
		if err := c.quit(ctx, target); err != nil {
			return cannot(task, err, next{})
		}
		return nil
	}
	end := e.child(ctx, c.Command)
	if err := c.quit(context.WithoutCancel(ctx), target); err != nil {
		e.note("warning: cannot %s: %v", task, err)
	}
	return end
}

// quit asks for the end. Where nobody answers, postern may be about to start.
func (c *QuitCommand) quit(ctx context.Context, target string) error {
	within, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var refused error
	err := until(within, func(ctx context.Context) error {
		err := ask(ctx, http.MethodPost, target, http.StatusAccepted)
		if _, unanswered := errors.AsType[*url.Error](err); unanswered {
			return err
		}
		refused = err
		return nil
	}, func(error) {})
	if err = errors.Join(err, refused); err != nil || c.Wait == 0 {
		return err
	}
	u, err := url.Parse(target)
	if err != nil {
		return fmt.Errorf("read the door's address: %w", err)
	}
	draining, cancelDrain := context.WithTimeout(ctx, c.Wait)
	defer cancelDrain()
	return until(draining, func(ctx context.Context) error {
		if err := listens(ctx, u.Host); err != nil && ctx.Err() == nil {
			return nil
		}
		return refuse("what is in flight has front.drain to finish; its log says what it waits for", "%s is still open after %s", u.Host, c.Wait)
	}, func(error) {})
}

// child runs command as a child, which has this process's files and gets its signals, and
// returns nil when it ended well.
func (e *environment) child(ctx context.Context, command []string) error {
	path, err := program(command)
	if err != nil {
		return err
	}
	// Whoever else looked for these would end this process, and leave the child behind. They
	// stay caught after its end: its exit code counts, whatever comes then.
	passed := []os.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT}
	signal.Reset(passed...)
	signals := make(chan os.Signal, 16)
	for _, s := range passed {
		if !signal.Ignored(s) { // as nohup does: it stays so, in the child too
			signal.Notify(signals, s)
		}
	}
	if ctx.Err() != nil {
		return refuse("", "told to end before %s began", command[0])
	}
	cmd := &exec.Cmd{Path: path, Args: command, Env: e.Environ, Stdin: e.Stdin, Stdout: e.Stdout, Stderr: e.Stderr}
	if err := cmd.Start(); err != nil {
		return cannotRun(path, err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	told := ctx.Done()
	for {
		select {
		case s := <-signals:
			_ = cmd.Process.Signal(s) // an error: it has ended
		case <-told:
			told = nil
			_ = cmd.Process.Signal(syscall.SIGTERM)
		case err := <-exited:
			return endOf(cmd.ProcessState, err)
		}
	}
}

// endOf is how a child ended, as a shell tells it; nil: well.
func endOf(state *os.ProcessState, err error) error {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return &ended{code: 128 + int(status.Signal())}
	}
	if code := state.ExitCode(); code != exitDone {
		return &ended{code: code}
	}
	return err // of the files that it was given
}

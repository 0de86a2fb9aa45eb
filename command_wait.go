package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	// pollInterval is between two looks at what is not so yet.
	pollInterval = 100 * time.Millisecond
	// pollAttempt bounds one look: what accepts and does not answer is looked at again.
	pollAttempt = 3 * time.Second
	// pollNotice is between two lines about what is waited for.
	pollNotice = 5 * time.Second
)

// WaitCommand waits for postern, or for what postern needs: for containers that start
// beside each other in no order.
type WaitCommand struct {
	door
	TCP     []string      `name:"tcp" placeholder:"HOST:PORT" help:"Wait until somebody listens there, and for postern only with --url too. Again for more."`
	Timeout time.Duration `default:"60s" placeholder:"DURATION" help:"How long to wait."`
	Command []string      `arg:"" optional:"" name:"command" help:"A program and its arguments, behind --. It takes this one's place."`
}

// Help says what is waited for and gives examples.
func (WaitCommand) Help() string {
	return "Returns when /readyz answers 200; with a command, becomes it then: process number, signals and exit code are the command's. " +
		"Exit code 1 when it takes too long; 127 when there is no such command, 126 when it cannot be run.\n\n" +
		example("postern wait --timeout 2m -- java -jar app.jar", "postern wait --tcp 127.0.0.1:3000 -- postern serve --config postern.yaml")
}

// Validate refuses what can never come.
func (c *WaitCommand) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout: use a duration above 0, for example 60s")
	}
	for _, address := range c.TCP {
		if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
			return errors.New("--tcp: use HOST:PORT, for example 127.0.0.1:3000")
		}
	}
	return c.door.Validate()
}

// Run waits, and becomes the command.
func (c *WaitCommand) Run(ctx context.Context, e *environment) error {
	path, err := program(c.Command) // a wrong name is told at once
	if err != nil {
		return err
	}
	if err := c.wait(ctx, e); err != nil {
		return cannot("wait any longer", err, next{})
	}
	if path == "" {
		return nil
	}
	if ctx.Err() != nil {
		return refuse("", "told to end")
	}
	return cannotRun(path, syscall.Exec(path, c.Command, e.Environ))
}

func (c *WaitCommand) wait(ctx context.Context, e *environment) error {
	within, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var looks []func(context.Context) error
	for _, address := range c.TCP {
		looks = append(looks, func(ctx context.Context) error { return listens(ctx, address) })
	}
	if len(c.TCP) == 0 || c.URL != "" {
		target, err := c.at(e, "/readyz")
		if err != nil {
			return err
		}
		looks = append(looks, func(ctx context.Context) error { return ask(ctx, http.MethodGet, target, http.StatusOK) })
	}
	var told time.Time
	for _, look := range looks {
		err := until(within, look, func(err error) {
			if now := e.Now(); now.Sub(told) >= pollNotice {
				told = now
				e.note("waiting: %v", err)
			}
		})
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return refuse("", "told to end; %w", err)
		default:
			return fmt.Errorf("not within %s: %w", c.Timeout, err)
		}
	}
	return nil
}

// until looks, at once and then again and again, until look returns nil or ctx ends. Then it
// returns the last reason that look had of its own.
func until(ctx context.Context, look func(context.Context) error, yet func(error)) error {
	var last error
	for {
		attempt, cancel := context.WithTimeout(ctx, pollAttempt)
		err := look(attempt)
		cancel()
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
			yet(err)
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pollInterval):
		}
	}
}

// listens connects once.
func listens(ctx context.Context, address string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// program finds the program of a command line; "" for an empty one. Where no postern is in
// the path, as in its image and in a volume, it is this one.
func program(command []string) (path string, err error) {
	if len(command) == 0 {
		return "", nil
	}
	path, err = exec.LookPath(command[0])
	if err != nil && command[0] == "postern" {
		path, err = os.Executable()
	}
	if err != nil {
		return "", cannotRun(command[0], err)
	}
	return path, nil
}

// cannotRun ends with the exit code that a shell has for such a failure.
func cannotRun(name string, err error) error {
	code := 126
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, syscall.ENOENT) {
		code = 127
	}
	if own, ok := errors.AsType[*exec.Error](err); ok {
		err = own.Err // the name is said already
	}
	return &ended{fmt.Errorf("cannot run %s: %w", name, err), code}
}

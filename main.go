// Command postern is the small gate beside the main one: a reverse proxy that
// authenticates. It gives clients their access tokens, checks the Bearer token of
// every other request, tells the upstream who is asking, and forwards.
//
// This package is the command line and the wiring, never logic. Start reading at run,
// then the command that you came for: serve.go, or command_<noun>.go.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := context.WithCancel(context.Background())
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	go func() { // until the process ends
		<-signals
		stop() // the first signal asks to end
		<-signals
		os.Exit(exitFailed) // the second ends at once, as process 1 of a container too
	}()
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// run is postern as a function: it parses args (without the program's name), runs the
// command that they name until it is done or ctx ends, and returns the exit code: 0 done,
// 1 refused or failed, 2 not understood. It reads no environment but environ and
// writes nowhere but to stdout and stderr.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	e := newEnvironment(environ, stdout, stderr)
	answered := false // by --help, which ends the parse
	parser, err := newParser(e, func(int) { answered = true })
	if err != nil {
		return e.report(err)
	}
	parsed, err := parser.Parse(args)
	if answered {
		return exitDone
	}
	if err != nil {
		return e.report(err)
	}
	parsed.BindTo(ctx, (*context.Context)(nil))
	return e.report(parsed.Run(e))
}

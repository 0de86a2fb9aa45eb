package main

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"postern/registry"
)

// Exit codes, for scripts.
const (
	exitDone    = 0
	exitFailed  = 1 // refused, or something went wrong
	exitMisused = 2 // the command line was not understood
)

// commands is the command line: one field for each noun, and the verbs that stand alone.
type commands struct {
	Demo  DemoCommand  `cmd:"" help:"Try postern: everything on loopback, with two curl commands ready to paste."`
	Serve ServeCommand `cmd:"" help:"Serve: issue access tokens, authenticate requests, forward them."`
	Check CheckCommand `cmd:"" help:"Check a configuration and report every fault in it."`

	Apply        ApplyCommand        `cmd:"" help:"Bring the store to what a file declares: organizations, agreements, catalogs, clients."`
	Organization OrganizationCommand `cmd:"" help:"Organizations: the companies that use the services."`
	Agreement    AgreementCommand    `cmd:"" help:"Agreements: an organization's licence contracts, with dates and terms."`
	Catalog      CatalogCommand      `cmd:"" help:"Catalogs: what requests target, public or an organization's own."`
	Client       ClientCommand       `cmd:"" help:"Clients: one application of an organization in one stage."`
	Token        TokenCommand        `cmd:"" help:"Access tokens: issue, inspect, list, revoke."`
	Key          KeyCommand          `cmd:"" help:"Signing keys: list, rotate, remove."`
	Store        StoreCommand        `cmd:"" help:"The store as a whole: back up, restore, copy, check, migrate."`

	Explain  ExplainCommand  `cmd:"" help:"Say what postern would do with a request, and why."`
	Refusals RefusalsCommand `cmd:"" help:"Ask a running postern what it refused a client lately, and why."`

	Healthcheck HealthcheckCommand `cmd:"" help:"Ask a running postern whether it is ready."`
	Wait        WaitCommand        `cmd:"" help:"Wait until a postern is ready, then run a command."`
	Quit        QuitCommand        `cmd:"" help:"Tell a running postern to end, when a command has ended."`
	Install     InstallCommand     `cmd:"" help:"Copy this program into a directory, for other images to run."`
	Version     VersionCommand     `cmd:"" help:"Print the version and how it was built."`
}

// environment is all that a command gets from the outside world beside its context.
type environment struct {
	Stdin   io.Reader // what an argument of - stands for
	Stdout  io.Writer // answers
	Stderr  io.Writer // errors, notes and logs
	Environ []string  // NAME=value
	Now     func() time.Time
	Random  io.Reader
}

func newEnvironment(environ []string, stdout, stderr io.Writer) *environment {
	return &environment{Stdin: os.Stdin, Stdout: stdout, Stderr: stderr, Environ: environ, Now: time.Now, Random: rand.Reader}
}

// Getenv returns the last value of name in Environ; "" when there is none.
func (e *environment) Getenv(name string) string {
	value := ""
	for _, entry := range e.Environ {
		if v, ok := strings.CutPrefix(entry, name+"="); ok {
			value = v
		}
	}
	return value
}

// Logger makes a logger that writes to Stderr: "json", one object a line, or "text".
func (e *environment) Logger(format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(e.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(e.Stderr, options))
}

// actor is who the audit trail says did it: the operator, by the name that the system
// knows this process's user by, or by its number where it knows none (a scratch image).
func (e *environment) actor() registry.Actor {
	id := "uid " + strconv.Itoa(os.Getuid())
	if u, err := user.Current(); err == nil && u.Username != "" {
		id = u.Username
	}
	return registry.Actor{Kind: "operator", ID: id}
}

// newParser builds the parser. kong ends a parse that --help answered by calling exit,
// which may return.
func newParser(e *environment, exit func(int)) (*kong.Kong, error) {
	parser, err := kong.New(&commands{},
		kong.Name("postern"),
		kong.Description("postern stands in front of Web API services: it gives clients their access tokens, "+
			"authenticates every other request, and forwards."),
		kong.Writers(e.Stdout, e.Stderr),
		kong.Exit(exit),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
	)
	if err != nil {
		return nil, fmt.Errorf("build command line: %w", err)
	}
	return parser, nil
}

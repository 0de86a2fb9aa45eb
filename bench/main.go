// Command bench measures postern beside its peers on one machine: nginx and HAProxy as plain proxies, HAProxy
// verifying the very same access token, and a bare fasthttp proxy. The peers take turns within each round, so that
// a machine that grows warm or busy slows all of them alike, and what is compared is the ratio within a round.
//
// It must never leave a process or a file behind, and never print a figure of a run that had errors as if it counted.
//
// Start reading at run; README.md says how to read the table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// fasthttpProxy is the hidden first argument with which this program starts itself as a peer.
const fasthttpProxy = "fasthttp-proxy"

const (
	modeWarm  = "warm"  // one token, verified before: every request is a cache hit
	modeCold  = "cold"  // each token is seen once: every request is a miss
	modeIssue = "issue" // the token route

	modeStress = "stress" // trouble makers, and what others see beside them
)

// settings are the command line.
type settings struct {
	mode                 string
	seconds, rounds      int
	connections, threads int
	tokens               int // distinct tokens that the load goes round
	rate, idlers         int // of a stress run, as the next
	bytes                int64
	only                 []string
	json                 bool
	source, postern, dir string
	against              string // another build of postern
	proxyCore, loadCore  int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures what args ask for and prints the table (or JSON) to out and progress to progress. All children have
// ended and the temporary directory is gone when it returns. A row with errors is an error, a missed goal is not.
func run(ctx context.Context, args []string, out, progress io.Writer) (err error) {
	switch {
	case len(args) == 3 && args[0] == fasthttpProxy:
		return serveFasthttp(ctx, args[1], args[2])
	case len(args) == 2 && args[0] == stressUpstream:
		return serveStressUpstream(ctx, args[1])
	}
	s, err := parse(args, progress)
	if err != nil {
		return err
	}
	b := &bench{settings: s, progress: progress, gates: map[string]*gate{}, keys: map[string]*credentials{}}
	defer func() {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted: %w", context.Cause(ctx))
		}
		err = errors.Join(err, b.close())
	}()
	if s.mode == modeStress {
		return b.stress(ctx, out)
	}
	rows, err := b.choose()
	if err != nil {
		return err
	}
	if err := b.prepare(ctx, rows); err != nil {
		return err
	}
	if err := b.rounds(ctx, rows); err != nil {
		return err
	}
	r := b.report(rows)
	if s.json {
		err = r.writeJSON(out)
	} else {
		err = r.writeTable(out)
	}
	return errors.Join(err, r.invalid())
}

func parse(args []string, progress io.Writer) (settings, error) {
	var s settings
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(progress)
	cold := flags.Bool("cold", false, "measure tokens that are each seen once, against HAProxy ES256")
	issue := flags.Bool("issue", false, "measure the issuing of tokens")
	stress := flags.Bool("stress", false, "measure what clients see beside idle connections, slow ones, and large transfers")
	flags.IntVar(&s.rate, "rate", 500, "--stress: requests a second of the clients at ease")
	flags.IntVar(&s.idlers, "idle", 10000, "--stress: idle connections")
	flags.Int64Var(&s.bytes, "bytes", 10<<30, "--stress: size of a large transfer")
	flags.IntVar(&s.seconds, "seconds", 0, "length of one measurement in whole seconds (default 5; --cold: 2)")
	flags.IntVar(&s.rounds, "rounds", 3, "rounds; the median counts")
	flags.IntVar(&s.connections, "connections", 64, "keep-alive connections of the load")
	flags.IntVar(&s.threads, "threads", 1, "threads of wrk; one is used where there are many tokens")
	flags.IntVar(&s.tokens, "tokens", 0, "distinct tokens issued before (default 1; --cold: 40000)")
	only := flags.String("only", "", "rows to measure, by name, separated by commas")
	flags.BoolVar(&s.json, "json", false, "print JSON")
	flags.StringVar(&s.source, "source", "..", "directory of postern's module, built first")
	flags.StringVar(&s.postern, "postern", "", "a ready postern binary instead")
	flags.StringVar(&s.against, "against", "", "a postern binary to compare the warm ES256 row with, such as one of before a change")
	flags.StringVar(&s.dir, "dir", os.TempDir(), "where the temporary directory and with it the store is made")
	flags.IntVar(&s.proxyCore, "proxy-core", 0, "core of the measured proxy")
	flags.IntVar(&s.loadCore, "load-core", 1, "core of the load and of the upstream")
	if err := flags.Parse(args); err != nil {
		return s, err
	}
	s.mode = modeWarm
	seconds, tokens := 5, 1
	switch {
	case *cold && *issue || *stress && (*cold || *issue):
		return s, errors.New("choose one of --cold, --issue and --stress")
	case *stress:
		s.mode, seconds = modeStress, 10
	case *cold:
		s.mode, seconds, tokens = modeCold, 2, 40000
	case *issue:
		s.mode = modeIssue
	}
	if s.seconds == 0 {
		s.seconds = seconds
	}
	if s.tokens == 0 {
		s.tokens = tokens
	}
	if s.tokens > 1 {
		s.threads = 1 // each thread has its own script: two would send the same tokens
	}
	if s.against != "" {
		var err error
		if s.against, err = filepath.Abs(s.against); err != nil {
			return s, err
		}
	}
	if *only != "" {
		s.only = strings.Split(*only, ",")
	}
	if flags.NArg() > 0 || min(s.seconds, s.rounds, s.connections, s.threads, s.tokens) < 1 || s.threads > s.connections {
		return s, errors.New("read the command line: no arguments, numbers of 1 or more, no more threads than connections")
	}
	return s, nil
}

// bench is one run: what was started and what is known about it. It is used by one goroutine.
type bench struct {
	settings
	progress        io.Writer
	temp            string
	ram             string // a directory on tmpfs, for --issue; may be empty
	upstream        string // base URL
	upstreamProcess *process
	started         []*process
	gates           map[string]*gate        // by algorithm, and by row for --issue
	keys            map[string]*credentials // by algorithm
	builtin         bool                    // no postern row: tokens are signed here
	fsync           time.Duration           // of the store's directory, for --issue
}

// close ends every child, the last started first, and removes the temporary directories.
func (b *bench) close() error {
	for _, p := range slices.Backward(b.started) {
		p.stop()
	}
	var errs []error
	for _, dir := range []string{b.temp, b.ram} {
		if dir != "" {
			errs = append(errs, os.RemoveAll(dir))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) say(format string, a ...any) { fmt.Fprintf(b.progress, format+"\n", a...) }

// prepare checks the machine, makes the temporary directory, builds postern if a row needs it and starts the
// upstream and every row that lives through all rounds.
func (b *bench) prepare(ctx context.Context, rows []*row) error {
	b.builtin = !slices.ContainsFunc(rows, func(r *row) bool { return strings.HasPrefix(r.Name, "postern") })
	if err := b.checkMachine(rows); err != nil {
		return err
	}
	var err error
	if b.temp, err = os.MkdirTemp(b.dir, "postern-bench-"); err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	if err := os.WriteFile(filepath.Join(b.temp, "load.lua"), []byte(loadScript), 0o600); err != nil {
		return fmt.Errorf("write the load script: %w", err)
	}
	if b.mode == modeIssue {
		if b.fsync, err = probeFsync(b.temp); err != nil {
			return err
		}
	}
	if !b.builtin && b.postern == "" {
		if err := b.build(ctx); err != nil {
			return err
		}
	}
	if err := b.startUpstream(ctx); err != nil {
		return err
	}
	for _, r := range rows {
		if r.fresh {
			continue
		}
		if err := b.open(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) build(ctx context.Context) error {
	b.say("building postern")
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	b.postern = filepath.Join(b.temp, "postern")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", b.postern, ".")
	build.Dir = b.source
	build.WaitDelay = 5 * time.Second
	if text, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build postern in %s: %w\n%s", b.source, err, strings.TrimSpace(string(text)))
	}
	return nil
}

// open starts r and proves that it does the job that it is measured for.
func (b *bench) open(ctx context.Context, r *row) error {
	t, err := r.start(ctx)
	if err != nil {
		return fmt.Errorf("start %s: %w", r.Name, err)
	}
	r.target = t
	if err := r.target.check(ctx); err != nil {
		return fmt.Errorf("check %s: %w", r.Name, err)
	}
	if r.idle == 0 {
		u, err := t.process.usage()
		if err != nil {
			return fmt.Errorf("read usage of %s: %w", r.Name, err)
		}
		r.idle = u.rss
	}
	return nil
}

// rounds measures every row once a round. The order turns by one each round, so that no row always follows the same one.
func (b *bench) rounds(ctx context.Context, rows []*row) error {
	for round := range b.settings.rounds {
		for i := range rows {
			r := rows[(i+round)%len(rows)]
			if r.fresh {
				if err := b.open(ctx, r); err != nil {
					return err
				}
			}
			m, err := b.measure(ctx, r.target)
			if err != nil {
				return fmt.Errorf("measure %s: %w", r.Name, err)
			}
			if r.fresh {
				r.target.process.stop()
			}
			r.Rounds = append(r.Rounds, m)
			b.say("round %d/%d  %-16s %9s/s  %7.1f us  errors %d", round+1, b.settings.rounds, r.Name,
				thousands(m.PerSecond), m.CPUMicros, m.Errors)
		}
	}
	return nil
}

func core(n int) string { return strconv.Itoa(n) }

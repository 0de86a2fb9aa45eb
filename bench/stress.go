package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A stress run has somebody at postern who harms others at a careless proxy, and beside them
// clients at ease: what they see is compared with what they saw alone just before.

// harm is one kind of trouble. begin returns once it is under way; wait ends it and says how it went.
type harm struct {
	Name, Title string
	begin       func(ctx context.Context, g *gate) (wait func() error, err error)
	// whole: the others are measured until it has ended by itself, not for --seconds.
	whole bool
}

// stressed is a row of the table.
type stressed struct {
	Name   string `json:"name"`
	Title  string `json:"title"`
	Alone  ease   `json:"alone"`
	Beside ease   `json:"beside"`
	RSS    int64  `json:"peak_rss_bytes"`
	Took   string `json:"took"`

	bounded bool // mostMemory holds
}

const (
	mostMemory = 40 << 20 // of postern, however large what goes through it
	slowPeople = 50
	slowSize   = 10 << 20
)

func (b *bench) harms() []harm {
	return []harm{
		{Name: "idle", Title: strconv.Itoa(b.idlers) + " idle connections", begin: b.idleConnections},
		{Name: "slow-head", Title: "slowhttptest, slow head", begin: b.slowhttptest("-H", "-c", "1000", "-r", "500", "-i", "5", "/")},
		{Name: "slow-body", Title: "slowhttptest, slow body", begin: b.slowhttptest("-B", "-c", "1000", "-r", "500", "-i", "5", "-s", "8192", "/public/sink")},
		{Name: "slow-read", Title: "slowhttptest, slow read", begin: b.slowhttptest("-X", "-c", "500", "-r", "250", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-k", "1", "/public/bytes/10485760")},
		{Name: "download", Title: sizeName(b.bytes) + " down", begin: b.transfer(true), whole: true},
		{Name: "upload", Title: sizeName(b.bytes) + " up", begin: b.transfer(false), whole: true},
		{Name: "slow-down", Title: "50 slow clients, 10 MiB down each", begin: b.slowClients(true), whole: true},
		{Name: "slow-up", Title: "50 slow clients, 10 MiB up each", begin: b.slowClients(false), whole: true},
	}
}

// stress measures each harm and prints the table.
func (b *bench) stress(ctx context.Context, out io.Writer) error {
	var err error
	if b.temp, err = os.MkdirTemp(b.dir, "postern-bench-"); err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	if b.postern == "" {
		if err := b.build(ctx); err != nil {
			return err
		}
	}
	if err := b.startStressUpstream(ctx); err != nil {
		return err
	}
	var rows []stressed
	for _, h := range b.harms() {
		if len(b.only) > 0 && !slices.Contains(b.only, h.Name) {
			continue
		}
		row, err := b.suffer(ctx, h)
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		b.say("%-36s p99 %7.2f ms alone, %7.2f ms beside; RSS %s; %s", row.Title, row.Alone.P99, row.Beside.P99, mebibytes(row.RSS), row.Took)
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return errors.New("no such row; the rows are idle, slow-head, slow-body, slow-read, download, upload, slow-down and slow-up")
	}
	if b.json {
		return errors.Join(json.NewEncoder(out).Encode(rows), failures(rows))
	}
	return errors.Join(writeStressed(out, rows), failures(rows))
}

// suffer measures one harm, at a postern of its own.
func (b *bench) suffer(ctx context.Context, h harm) (stressed, error) {
	row := stressed{Name: h.Name, Title: h.Title, bounded: h.whole}
	g, err := b.gate(ctx, "stress-"+h.Name, "ES256", b.temp)
	if err != nil {
		return row, err
	}
	defer g.process.stop()
	token, err := g.issue(ctx)
	if err != nil {
		return row, err
	}
	limit := time.Duration(b.seconds) * time.Second
	if row.Alone, err = atEase(ctx, g.url+"/", token, b.rate, limit, nil); err != nil {
		return row, err
	}
	peak := g.process.watch(ctx)
	began := time.Now()
	wait, err := h.begin(ctx, g)
	if err != nil {
		peak()
		return row, err
	}
	ended := make(chan error, 1)
	var until chan struct{}
	if h.whole {
		until = make(chan struct{})
		limit = 10 * time.Minute
		go func() { ended <- wait(); close(until) }()
	}
	row.Beside, err = atEase(ctx, g.url+"/", token, b.rate, limit, until)
	if !h.whole {
		ended <- wait()
	}
	err = errors.Join(err, <-ended)
	row.Took = time.Since(began).Round(100 * time.Millisecond).String()
	row.RSS = peak()
	return row, err
}

// watch samples the memory of p until the function that it returns is called, which
// returns the most that was seen.
func (p *process) watch(ctx context.Context) (peak func() int64) {
	ctx, stop := context.WithCancel(ctx)
	var most int64
	var sampler sync.WaitGroup
	sampler.Go(func() {
		for ctx.Err() == nil {
			if u, err := p.usage(); err == nil {
				most = max(most, u.rss)
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() int64 { stop(); sampler.Wait(); return most }
}

// slowhttptest runs that program for --seconds against a path, which is the last argument.
func (b *bench) slowhttptest(args ...string) func(context.Context, *gate) (func() error, error) {
	return func(ctx context.Context, g *gate) (func() error, error) {
		path := args[len(args)-1]
		argv := append(append([]string{}, args[:len(args)-1]...), "-l", strconv.Itoa(b.seconds+2), "-u", g.url+path)
		c := exec.CommandContext(ctx, "slowhttptest", argv...)
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		c.Dir = b.temp
		var text strings.Builder
		c.Stdout, c.Stderr = &text, &text
		if err := c.Start(); err != nil {
			return nil, fmt.Errorf("start slowhttptest: %w", err)
		}
		time.Sleep(time.Second) // its connections come in
		return func() error {
			err := c.Wait()
			if exit, ok := err.(*exec.ExitError); ok && exit.ExitCode() == 1 && ctx.Err() == nil {
				err = nil // it says so when it ends before its connections do
			}
			if err != nil {
				return fmt.Errorf("slowhttptest: %w\n%.2000s", err, text.String())
			}
			return nil
		}, nil
	}
}

func sizeName(n int64) string {
	switch {
	case n >= 1<<30 && n%(1<<30) == 0:
		return fmt.Sprintf("%d GiB", n>>30)
	case n >= 1<<20:
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%d B", n)
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

func writeStressed(out io.Writer, rows []stressed) error {
	_, err := fmt.Fprintf(out, "\n| beside | p50 alone ms | p99 alone ms | p50 ms | p99 ms | p99 to alone | errors | peak RSS | took |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		if err == nil {
			_, err = fmt.Fprintf(out, "| %s | %.2f | %.2f | %.2f | %.2f | %.2f | %d | %s | %s |\n", r.Title, r.Alone.P50, r.Alone.P99,
				r.Beside.P50, r.Beside.P99, r.Beside.P99/r.Alone.P99, r.Beside.Errors, mebibytes(r.RSS), r.Took)
		}
	}
	return err
}

// failures says which rows do not count, or took more memory than was promised.
func failures(rows []stressed) error {
	var bad []error
	for _, r := range rows {
		if n := r.Beside.Errors + r.Alone.Errors; n > 0 {
			bad = append(bad, fmt.Errorf("%s: %d requests of clients at ease failed", r.Title, n))
		}
		if r.bounded && r.RSS > mostMemory {
			bad = append(bad, fmt.Errorf("%s: took %s, more than %s", r.Title, mebibytes(r.RSS), sizeName(mostMemory)))
		}
	}
	return errors.Join(bad...)
}

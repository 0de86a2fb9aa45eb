package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test binary start itself as a peer or an upstream, as the command does.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && (os.Args[1] == fasthttpProxy || os.Args[1] == stressUpstream) {
		if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// need skips, or fails where CI=true, unless the programs are installed.
func need(t *testing.T, programs ...string) {
	t.Helper()
	for _, program := range programs {
		if _, err := exec.LookPath(program); err == nil {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", program)
		}
		t.Skipf("SKIPPED, NOTHING WAS TESTED: %s is not installed", program)
	}
}

// nothingLeft fails if dir holds a file or is the working directory of a process.
func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left in the temporary directory: %v, error %v", entries, err)
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if at, err := os.Readlink(link); err == nil && strings.HasPrefix(at, dir) {
			t.Errorf("a process was left running: %s is %s", link, at)
		}
	}
}

// shortRound runs one round of 1 s, the shortest that wrk knows, and returns the rows by name.
func shortRound(t *testing.T, args ...string) map[string]rowReport {
	t.Helper()
	dir := t.TempDir()
	var out, progress bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	args = append([]string{"--seconds", "1", "--rounds", "1", "--connections", "8", "--json", "--dir", dir}, args...)
	if err := run(ctx, args, &out, &progress); err != nil {
		t.Fatalf("run: %v\n%s", err, &progress)
	}
	nothingLeft(t, dir)
	var r report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatalf("read the report: %v\n%s", err, &out)
	}
	rows := map[string]rowReport{}
	for _, w := range r.Rows {
		rows[w.Name] = w
		m := w.Median
		if m.Requests == 0 || m.Errors != 0 || m.CPUMicros <= 0 || m.RSS <= 0 || m.P50Millis <= 0 || m.P99Millis < m.P50Millis {
			t.Errorf("%s: figures that cannot be: %+v", w.Name, m)
		}
	}
	return rows
}

func TestPeersShortRound(t *testing.T) {
	need(t, "nginx", "haproxy", "wrk", "taskset")
	rows := shortRound(t, "--only", "nginx,haproxy,fasthttp,haproxy-es256,haproxy-rs256")
	if len(rows) != 5 {
		t.Errorf("%d rows, wanted 5", len(rows))
	}
	if r := rows["haproxy-es256"].CPU; r < 1.5 {
		t.Errorf("HAProxy ES256 took %.2f of nginx's CPU: it cannot have verified each request", r)
	}
}

func TestPosternShortRound(t *testing.T) {
	need(t, "nginx", "haproxy", "wrk", "taskset")
	if testing.Short() {
		t.Skip("builds postern: not with -short")
	}
	binary := filepath.Join(t.TempDir(), "postern")
	build := exec.Command("go", "build", "-o", binary, ".")
	build.Dir = ".."
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build postern: %v\n%s", err, text)
	}
	f := func(mode string, want ...string) {
		t.Helper()
		t.Run(mode, func(t *testing.T) {
			rows := shortRound(t, "--postern", binary, mode, "--only", strings.Join(want, ","))
			for _, name := range want {
				if _, ok := rows[name]; !ok {
					t.Errorf("no row %s", name)
				}
			}
		})
	}
	f("--tokens=1", "nginx", "postern-public", "postern-es256", "postern-limits", "postern-rs256", "haproxy-es256", "haproxy-rs256")
	f("--cold", "postern-es256", "haproxy-es256")
	f("--issue", "postern-es256", "postern-es256-memory", "postern-rs256")
}

func TestInterruptLeavesNothing(t *testing.T) {
	need(t, "nginx", "wrk", "taskset")
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	start := time.Now()
	err := run(ctx, []string{"--seconds", "60", "--only", "nginx,fasthttp", "--dir", dir}, &bytes.Buffer{}, &bytes.Buffer{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(err.Error(), "interrupted: ") {
		t.Errorf("run said %v", err)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("it took %s to stop", took)
	}
	nothingLeft(t, dir)
}

func TestMissingPrograms(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	dir := t.TempDir()
	err := run(t.Context(), []string{"--dir", dir}, &bytes.Buffer{}, &bytes.Buffer{})
	want := "missing programs: haproxy (Debian package haproxy), nginx (Debian package nginx-light), taskset (Debian package util-linux), wrk (Debian package wrk)"
	if err == nil || err.Error() != want {
		t.Errorf("run said %v", err)
	}
	nothingLeft(t, dir)
}

func TestCommandLine(t *testing.T) {
	f := func(args, want string) {
		t.Helper()
		err := run(t.Context(), strings.Fields(args), &bytes.Buffer{}, &bytes.Buffer{})
		if err == nil || err.Error() != want {
			t.Errorf("%s: %v", args, err)
		}
	}
	numbers := "read the command line: no arguments, numbers of 1 or more, no more threads than connections"
	f("--cold --issue", "choose one of --cold, --issue and --stress")
	f("--rounds 0", numbers)
	f("--connections 1 --threads 2", numbers)
	f("nginx", numbers)
	f("--cold --only nginx,caddy", "read --only: the rows of this mode are nginx,postern-es256,haproxy-es256")
}

func TestParseLoad(t *testing.T) {
	m, err := parseLoad("Running 1s test\n  1 threads\nmeasured 2000000 90000 3 1300 2500\nRequests/sec: 1\n")
	if want := (measurement{Requests: 90000, Errors: 3, PerSecond: 45000, P50Millis: 1.3, P99Millis: 2.5}); err != nil || m != want {
		t.Errorf("%+v, error %v", m, err)
	}
	if _, err := parseLoad("unable to connect\n"); err == nil {
		t.Error("no figures were taken for figures")
	}
}

func TestReport(t *testing.T) {
	rounds := func(cpu ...float64) (all []measurement) {
		for _, c := range cpu {
			all = append(all, measurement{Requests: 100, PerSecond: 1000, CPUMicros: c, Hits: 99, Misses: 1})
		}
		return all
	}
	b := &bench{settings: settings{mode: modeWarm, tokens: 1, dir: t.TempDir()}}
	rows := []*row{
		{Name: "nginx", Rounds: rounds(10, 20, 40)}, // the machine slows down: ratios within a round do not
		{Name: "postern-es256", Rounds: rounds(10.5, 24, 42), idle: 20e6},
		{Name: "postern-rs256", Rounds: rounds(9, 18, 36)},
		{Name: "haproxy-es256", Rounds: rounds(44, 72, 400)},
	}
	rows[3].Rounds[1].Errors = 1
	r := b.report(rows)
	if cpu := r.Rows[1].CPU; cpu < 1.0499 || cpu > 1.0501 {
		t.Errorf("postern to nginx %v, wanted 1.05, the median of 1.05, 1.20, 1.05", cpu)
	}
	if w := r.Rows[3]; w.Invalid != "1 errors in one round" || w.CPU != 0 {
		t.Errorf("row with an error: %q, ratio %v", w.Invalid, w.CPU)
	}
	if err := r.invalid(); err == nil || err.Error() != "rows that do not count: haproxy-es256" {
		t.Errorf("invalid said %v", err)
	}
	rows[0].Rounds[2].Elsewhere = 0.54
	warnings := `
INVALID: : 1 errors in one round

noisy: CPU per request moved between rounds: nginx by 150 %, postern-es256 by 131 %, postern-rs256 by 150 %

noisy: other programs took up to 0.5 of the cores: do not compare these figures
`
	if got := b.report(rows).warnings(); got != warnings {
		t.Errorf("warnings:\n%s", got)
	}
	var got []string
	for _, g := range r.Goals {
		got = append(got, g.Name+": "+amount(g.Value, g.Unit)+" "+g.bound()+" "+g.verdict())
	}
	want := []string{
		"CPU, ES256 warm, to nginx with no auth: first: 1.05x <= 1.10x reached, 5 % to spare",
		"CPU, ES256 warm, to nginx with no auth: then: 1.05x <= 0.95x missed by 11 %",
		"CPU, RS256 warm, to nginx with no auth: first: 0.90x <= 1.10x reached, 18 % to spare",
		"CPU, RS256 warm, to nginx with no auth: then: 0.90x <= 0.95x reached, 5 % to spare",
		"memory, idle: 20.00 MB <= 25.00 MB reached, 20 % to spare",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("goals:\n%s", strings.Join(got, "\n"))
	}
}

func TestRowsThatDoNotCount(t *testing.T) {
	f := func(mode string, m measurement, want string) {
		t.Helper()
		b := &bench{settings: settings{mode: mode, tokens: 100}}
		if mode == modeWarm {
			b.tokens = 1
		}
		if got := b.invalid(&row{target: &target{tokens: "file", metrics: "url"}, Rounds: []measurement{m}}); got != want {
			t.Errorf("%s %+v: %q", mode, m, got)
		}
	}
	f(modeWarm, measurement{}, "no answers")
	f(modeWarm, measurement{Requests: 1000, Hits: 900, Misses: 100}, "cache was missed 100 times of 1000")
	f(modeWarm, measurement{Requests: 1000, Hits: 999, Misses: 1}, "")
	f(modeCold, measurement{Requests: 101, Misses: 101}, "101 requests with 100 tokens: tokens were seen again (raise --tokens)")
	f(modeCold, measurement{Requests: 100, Hits: 2, Misses: 98}, "cache was hit 2 times of 100")
	f(modeCold, measurement{Requests: 100, Misses: 100}, "")
	f(modeIssue, measurement{Requests: 500, Hits: 1}, "")
	f(modeWarm, measurement{Requests: 500}, "postern's cache counters did not move: it is not known whether the cache was warm")
}

// TestStressShort: each trouble maker for a moment, and nobody else is failed.
func TestStressShort(t *testing.T) {
	need(t, "taskset", "slowhttptest")
	if testing.Short() {
		t.Skip("builds postern: not with -short")
	}
	dir := t.TempDir()
	var out, progress bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err := run(ctx, []string{"--stress", "--seconds", "1", "--rate", "100", "--idle", "100", "--bytes", "100000000",
		"--only", "idle,slow-head,slow-body,slow-read,download,upload", "--json", "--dir", dir}, &out, &progress)
	if err != nil {
		t.Fatalf("run: %v\n%s", err, &progress)
	}
	nothingLeft(t, dir)
	var rows []stressed
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		t.Fatalf("read the report: %v\n%s", err, &out)
	}
	if len(rows) != 6 {
		t.Errorf("%d rows, wanted 6", len(rows))
	}
	for _, r := range rows {
		if r.Alone.Requests == 0 || r.Beside.Requests == 0 || r.Alone.Errors+r.Beside.Errors > 0 || r.RSS == 0 {
			t.Errorf("%+v", r)
		}
	}
}

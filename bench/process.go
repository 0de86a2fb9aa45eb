package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one child with all that it started: they are one process group, which is how they are counted and ended.
type process struct {
	name string
	pid  int    // of the leader, and the number of the group
	log  string // file with what it printed
	done chan struct{}
}

// start runs a program on one core. The child dies with this program even when that is killed.
func (b *bench) start(name string, onCore int, env []string, argv ...string) (*process, error) {
	p := &process{name: name, log: filepath.Join(b.temp, name+".log"), done: make(chan struct{})}
	log, err := os.Create(p.log)
	if err != nil {
		return nil, fmt.Errorf("create log of %s: %w", name, err)
	}
	defer log.Close()
	c := exec.Command("taskset", append([]string{"-c", core(onCore)}, argv...)...)
	c.Env = append(os.Environ(), env...)
	c.Dir = b.temp
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.pid = c.Process.Pid
	go func() {
		_ = c.Wait() // how it ended is in its log; that it ended is all that matters here
		close(p.done)
	}()
	b.started = append(b.started, p)
	return p, nil
}

// stop ends the group, politely for 5 s, and waits for the leader. It may be called twice.
func (p *process) stop() {
	if p.pid == 0 {
		return
	}
	_ = syscall.Kill(-p.pid, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
	}
	_ = syscall.Kill(-p.pid, syscall.SIGKILL) // what the leader left behind; ESRCH is the rule
	<-p.done
	p.pid = 0
}

// ready waits until url answers with anything but 503, for 15 s at most.
func (p *process) ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	for {
		answer, err := get(ctx, url, "")
		if err == nil && answer.status != http.StatusServiceUnavailable {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w\n%s", p.name, errors.Join(ctx.Err(), err), p.tail())
		case <-p.done:
			return fmt.Errorf("%s ended at once\n%s", p.name, p.tail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// tail is the last 2 KiB of what p printed.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-2048):]))
}

const tick = 10 * time.Millisecond // of /proc: USER_HZ is 100 on every architecture that Go runs on

// usage is what a process group used.
type usage struct {
	cpu time.Duration // user and system, since its start; in steps of 10 ms
	rss int64         // bytes, shared pages counted once for each process
}

// usage adds up /proc/PID/stat (proc_pid_stat(5)) over the group.
func (p *process) usage() (usage, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return usage{}, err
	}
	var u usage
	found := false
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		// The name, in parentheses, may hold blanks: the fields are counted after it, from the third.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) < 22 || fields[2] != strconv.Itoa(p.pid) {
			continue
		}
		var n [3]int64
		for i, at := range []int{11, 12, 21} { // utime, stime, rss
			if n[i], err = strconv.ParseInt(fields[at], 10, 64); err != nil {
				return usage{}, fmt.Errorf("read %s: %w", file, err)
			}
		}
		found = true
		u.cpu += time.Duration(n[0]+n[1]) * tick
		u.rss += n[2] * int64(os.Getpagesize())
	}
	if !found {
		return usage{}, fmt.Errorf("%s has ended\n%s", p.name, p.tail())
	}
	return u, nil
}

// loadScript is what wrk runs. Arguments: the file with the tokens, one a line, and the file with the body, "-" where
// there is none. One token is a constant header; of many, each request takes the next.
const loadScript = `
function init(args)
  if args[1] ~= "-" then
    local tokens = {}
    for token in io.lines(args[1]) do tokens[#tokens + 1] = "Bearer " .. token end
    if #tokens == 1 then
      wrk.headers["Authorization"] = tokens[1]
    else
      local requests, sent = {}, 0
      for i = 1, #tokens do
        wrk.headers["Authorization"] = tokens[i]
        requests[i] = wrk.format()
      end
      request = function()
        sent = sent % #requests + 1
        return requests[sent]
      end
    end
  end
  if args[2] ~= "-" then
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/json"
    wrk.body = io.open(args[2]):read("*a")
  end
end

function done(summary, latency)
  local e = summary.errors
  io.write(string.format("measured %d %d %d %d %d\n", summary.duration, summary.requests,
    e.connect + e.read + e.write + e.timeout + e.status, latency:percentile(50), latency:percentile(99)))
end
`

// measurement is one row in one round.
type measurement struct {
	Requests  int     `json:"requests"`
	Errors    int     `json:"errors"` // no answer, or a status of 400 and above
	PerSecond float64 `json:"requests_per_second"`
	CPUMicros float64 `json:"cpu_us_per_request"`
	P50Millis float64 `json:"p50_ms"`
	P99Millis float64 `json:"p99_ms"`
	RSS       int64   `json:"rss_bytes"`
	Hits      float64 `json:"cache_hits,omitempty"`
	Misses    float64 `json:"cache_misses,omitempty"`
	Elsewhere float64 `json:"cpu_elsewhere"` // cores that other programs, or other machines on this host, took meanwhile
}

// measure loads t once and reads what t used meanwhile.
func (b *bench) measure(ctx context.Context, t *target) (measurement, error) {
	hits, misses, err := t.cache(ctx)
	if err != nil {
		return measurement{}, err
	}
	before, err := b.snapshot(t)
	if err != nil {
		return measurement{}, err
	}
	m, loadCPU, err := b.wrk(ctx, t)
	if err != nil {
		return measurement{}, err
	}
	after, err := b.snapshot(t)
	if err != nil {
		return measurement{}, err
	}
	proxyCPU := after.proxy.cpu - before.proxy.cpu
	others := after.machine - before.machine - proxyCPU - loadCPU - (after.upstream.cpu - before.upstream.cpu)
	m.Elsewhere = max(0, others.Seconds()/after.at.Sub(before.at).Seconds())
	if m.Hits, m.Misses, err = t.cache(ctx); err != nil {
		return measurement{}, err
	}
	m.Hits, m.Misses = m.Hits-hits, m.Misses-misses
	m.CPUMicros = float64(proxyCPU.Microseconds()) / float64(max(m.Requests, 1))
	m.RSS = after.proxy.rss
	return m, nil
}

// snapshot is what everything had used at one moment.
type snapshot struct {
	at              time.Time
	machine         time.Duration // all programs and what the host gave to other machines, over all cores
	proxy, upstream usage
}

func (b *bench) snapshot(t *target) (s snapshot, err error) {
	s.at = time.Now()
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return s, fmt.Errorf("read the machine's load: %w", err)
	}
	var user, nice, system, idle, wait, irq, softirq, steal int64
	if _, err = fmt.Sscanf(string(text), "cpu %d %d %d %d %d %d %d %d", &user, &nice, &system, &idle, &wait, &irq, &softirq, &steal); err != nil {
		return s, fmt.Errorf("read the machine's load: %w", err)
	}
	s.machine = time.Duration(user+nice+system+steal) * tick // interrupts are mostly our own packets
	if s.upstream, err = b.upstreamProcess.usage(); err != nil {
		return s, err
	}
	s.proxy, err = t.process.usage()
	return s, err
}

// wrk also returns the CPU time that the load itself took.
func (b *bench) wrk(ctx context.Context, t *target) (measurement, time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(b.seconds)*time.Second+30*time.Second)
	defer cancel()
	c := exec.CommandContext(ctx, "taskset", "-c", core(b.loadCore), "wrk", "-t", strconv.Itoa(b.threads),
		"-c", strconv.Itoa(b.connections), "-d", strconv.Itoa(b.seconds)+"s", "--timeout", "10s",
		"-s", filepath.Join(b.temp, "load.lua"), t.url, "--", orDash(t.tokens), orDash(t.body))
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	c.WaitDelay = 2 * time.Second
	text, err := c.CombinedOutput()
	if err != nil {
		return measurement{}, 0, fmt.Errorf("run wrk: %w\n%s", errors.Join(err, ctx.Err()), bytes.TrimSpace(text))
	}
	m, err := parseLoad(string(text))
	return m, c.ProcessState.UserTime() + c.ProcessState.SystemTime(), err
}

// parseLoad reads the line that loadScript's done printed.
func parseLoad(text string) (measurement, error) {
	for line := range strings.Lines(text) {
		var micros, p50, p99 float64
		var m measurement
		if n, _ := fmt.Sscanf(line, "measured %f %d %d %f %f", &micros, &m.Requests, &m.Errors, &p50, &p99); n != 5 {
			continue
		}
		if micros <= 0 {
			break
		}
		m.PerSecond = float64(m.Requests) / micros * 1e6
		m.P50Millis, m.P99Millis = p50/1e3, p99/1e3
		return m, nil
	}
	return measurement{}, fmt.Errorf("read what wrk printed: no line with figures in:\n%s", text)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// freeAddress is a loopback address that nobody listened on a moment ago.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

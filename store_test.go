package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLockedStore: with the store locked by another process, warm requests go on and
// send it no query; issuing and unknown clients get 503, never 401; all recovers by itself.
func TestLockedStore(t *testing.T) {
	t.Parallel() // it waits most of the time
	up := startUpstream(t)
	s := serve(t, up, "")
	c, cold := s.client(""), s.client("")
	// What the feed says about the new clients takes them out of memory once more.
	time.Sleep(500 * time.Millisecond)
	token := s.goodToken(c)
	coldToken := s.goodToken(cold)
	if r := s.get("/", token); r.status != 200 {
		t.Fatalf("%d", r.status)
	}
	// The organization's change takes the cold client out of memory.
	s.command("organization", "change", cold.organization, "--name", "Renamed")
	eventually(t, time.Second, "one client is held", func() bool { return s.metric("postern_directory_clients") == 1 })

	release := lockStore(t, s.store)
	queries := func() float64 {
		return s.metric("postern_store_duration_seconds_count") - s.metric(`postern_store_duration_seconds_count{operation="poll"`)
	}
	before, hits := queries(), s.metric("postern_cache_hits_total")
	const warm = 200
	started := time.Now()
	for range warm {
		if r := s.get("/", token); r.status != 200 {
			t.Fatalf("a warm request got %d %s", r.status, r.body)
		}
	}
	if took := time.Since(started); took > 20*time.Second {
		t.Errorf("%d warm requests took %s", warm, took)
	}
	if got := queries() - before; got != 0 {
		t.Errorf("%d warm requests sent %v queries", warm, got)
	}
	if got := s.metric("postern_cache_hits_total") - hits; got != warm {
		t.Errorf("%v cache hits", got)
	}
	_, r := s.token(c)
	if r.status != 503 || !strings.Contains(r.body, `"code":"temporarily_unavailable"`) || r.header.Get("Retry-After") == "" {
		t.Errorf("issuing: %d %v %s", r.status, r.header, r.body)
	}
	if r := s.get("/", coldToken); r.status != 503 || !strings.Contains(r.body, `"code":"unavailable"`) || r.header.Get("Retry-After") == "" {
		t.Errorf("a client that is not in memory: %d %v %s", r.status, r.header, r.body)
	}
	if r := s.get("/", token); r.status != 200 {
		t.Errorf("after the failures a warm request got %d", r.status)
	}
	release()
	eventually(t, time.Second, "issuing again", func() bool { _, r := s.token(c); return r.status == 201 })
	if r := s.get("/", coldToken); r.status != 200 {
		t.Errorf("the cold client: %d %s", r.status, r.body)
	}
}

// lockStore holds every lock of a SQLite store from another process, as a stuck one
// would: nobody reads and nobody writes until release.
func lockStore(t *testing.T, store string) (release func()) {
	t.Helper()
	process := exec.Command("hold-locks", strings.TrimPrefix(store, "sqlite:")+"-shm")
	stdin, err := process.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("cannot lock the store: %q %v", line, err)
	}
	return func() {
		_ = stdin.Close()
		_ = process.Wait()
	}
}

// holdLocks is the program hold-locks: it takes the eight lock bytes of a wal-index
// (https://www.sqlite.org/walformat.html, "WAL Locks") and keeps them until its standard
// input ends.
func holdLocks() {
	f, err := os.OpenFile(os.Args[1], os.O_RDWR, 0)
	if err == nil {
		err = syscall.FcntlFlock(f.Fd(), syscall.F_SETLKW, &syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: 120, Len: 8})
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("locked")
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestRow164SyncBeforeAnswer watches the system calls of a real process: for each token,
// a sync of the write-ahead log returns before the first byte of the 201.
func TestRow164SyncBeforeAnswer(t *testing.T) {
	strace := needs(t, "strace")
	up := startUpstream(t)
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	logs := &buffer{}
	process := exec.Command(strace, "-f", "-y", "-o", trace, "-s", "32", "-e", "trace=fsync,fdatasync,write,writev", binary(t),
		"serve", "--upstream", "http://"+up.address, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
	process.Dir, process.Stderr = dir, logs
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	end := func(signal syscall.Signal) { _ = syscall.Kill(-process.Process.Pid, signal) }
	defer end(syscall.SIGKILL)
	s := &served{t: t, store: "sqlite:" + dir + "/postern.db", logs: logs}
	eventually(t, 10*time.Second, "postern serves", func() bool { s.front, s.admin = doors(logs.String()); return s.front != "" })
	c := s.client("")
	const tokens = 5
	for range tokens {
		s.goodToken(c)
	}
	end(syscall.SIGTERM)
	_ = process.Wait()
	text, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	answers, err := syncedAnswers(string(text))
	if err != nil || answers != tokens {
		t.Errorf("%d of %d answers stand behind a sync: %v", answers, tokens, err)
	}
}

// syncedAnswers counts the 201s in a trace; it fails at one that no finished sync of the
// write-ahead log precedes since the one before.
func syncedAnswers(trace string) (n int, err error) {
	synced := false
	unfinished := map[string]bool{} // threads that are in a sync of the log
	whole := regexp.MustCompile(`^(\d+)\s+(?:fsync|fdatasync)\(\d+<[^>]*-wal>\)\s+= 0`)
	begun := regexp.MustCompile(`^(\d+)\s+(?:fsync|fdatasync)\(\d+<[^>]*-wal> <unfinished`)
	resumed := regexp.MustCompile(`^(\d+)\s+<\.\.\. (?:fsync|fdatasync) resumed>\)\s+= 0`)
	for line := range strings.Lines(trace) {
		switch {
		case whole.MatchString(line):
			synced = true
		case begun.MatchString(line):
			unfinished[begun.FindStringSubmatch(line)[1]] = true
		case resumed.MatchString(line):
			synced = synced || unfinished[resumed.FindStringSubmatch(line)[1]]
			delete(unfinished, resumed.FindStringSubmatch(line)[1])
		case strings.Contains(line, `"HTTP/1.1 201`):
			if !synced {
				return n, fmt.Errorf("not synced before: %s", line)
			}
			n++
			synced = false
		}
	}
	return n, nil
}

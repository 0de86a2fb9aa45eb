package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/config"
)

// unitSettings reads a unit: its settings in their order, each with all its values.
func unitSettings(t *testing.T, file string) map[string][]string {
	t.Helper()
	all := map[string][]string{}
	for _, m := range regexp.MustCompile(`(?m)^([A-Za-z]+)=(.*)$`).FindAllStringSubmatch(readFile(t, file), -1) {
		all[m[1]] = append(all[m[1]], m[2])
	}
	return all
}

// TestUnits: systemd understands the units, and finds little that the services could do
// beyond what postern needs.
func TestUnits(t *testing.T) {
	analyze := needs(t, "systemd-analyze")
	dir := t.TempDir()
	var files []string
	for _, name := range []string{"postern.service", "postern-backup.service", "postern-backup.timer"} {
		// verify looks for the programs; this one is not where it will be.
		text := strings.ReplaceAll(readFile(t, "docs/systemd/"+name), "/usr/local/bin/postern", binary(t))
		files = append(files, filepath.Join(dir, name))
		writeFile(t, files[len(files)-1], text)
	}
	f := func(args ...string) {
		t.Helper()
		command := exec.Command(analyze, args...)
		command.Env = append(os.Environ(), "SYSTEMD_LOG_LEVEL=notice")
		// verify warns with exit code 0 too.
		if out, err := command.CombinedOutput(); err != nil || args[0] == "verify" && strings.Contains(string(out), dir) {
			t.Errorf("systemd-analyze %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	f(append([]string{"verify"}, files...)...)
	f("security", "--offline=true", "--threshold=15", files[0])
	f("security", "--offline=true", "--threshold=15", files[1])
}

// TestUnitNumbers: the limits in the unit leave room for the settings' defaults, and what
// docs/linux.md says of it is so.
func TestUnitNumbers(t *testing.T) {
	unit := unitSettings(t, "docs/systemd/postern.service")
	c, err := config.Load(config.Source{Flags: map[string]string{}, Upstream: "http://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	one := func(name string) string {
		t.Helper()
		if len(unit[name]) != 1 {
			t.Fatalf("%s: %q", name, unit[name])
		}
		return unit[name][0]
	}
	if stop, err := time.ParseDuration(one("TimeoutStopSec")); err != nil || stop < time.Duration(c.Front.DrainDelay+c.Front.Drain)+5*time.Second {
		t.Errorf("systemd kills after %s (%v), the drain takes %s and %s", stop, err, c.Front.DrainDelay, c.Front.Drain)
	}
	if files, err := strconv.Atoi(one("LimitNOFILE")); err != nil || files < c.Front.MaxConnections*4/3+64 {
		t.Errorf("%d files for %d connections: %v", files, c.Front.MaxConnections, err)
	}
	environment := map[string]string{}
	for _, entry := range unit["Environment"] {
		name, value, _ := strings.Cut(entry, "=")
		environment[name] = value
	}
	memory, err := strconv.Atoi(strings.TrimSuffix(one("MemoryMax"), "M"))
	if limit, err2 := strconv.Atoi(strings.TrimSuffix(environment["GOMEMLIMIT"], "MiB")); err != nil || err2 != nil || limit != memory*9/10 {
		t.Errorf("GOMEMLIMIT %s is not nine tenths of MemoryMax %s", environment["GOMEMLIMIT"], one("MemoryMax"))
	}
	// 18 KB for each connection: bench/README.md.
	if need := 64<<20 + 18<<10*c.Front.MaxConnections + int(c.Verify.Cache); memory<<20*9/10 < need {
		t.Errorf("MemoryMax %d MiB is too little for %d bytes", memory, need)
	}
	if unit["Type"][0] == "notify" {
		t.Error("postern does not tell systemd that it is ready")
	}
	doc := readFile(t, "docs/linux.md")
	for _, shown := range []string{environment["POSTERN_CONFIG"], strings.Split(unit["LoadCredential"][0], ":")[1], one("WorkingDirectory")} {
		if !strings.Contains(doc, shown) {
			t.Errorf("docs/linux.md does not say %s", shown)
		}
	}
	// A reload must tell of a fault before it tells postern to reload.
	if reload := unit["ExecReload"]; len(reload) != 2 || !strings.HasSuffix(reload[0], "postern check") || !strings.HasPrefix(reload[1], "/bin/kill -HUP") {
		t.Errorf("ExecReload %q", reload)
	}
}

// TestUnitSystemCalls watches what a serving postern, and the commands beside it, ask of
// the kernel: nothing that the units' filters refuse.
func TestUnitSystemCalls(t *testing.T) {
	needs(t, "strace")
	allowed := unitSystemCalls(t, "docs/systemd/postern.service")
	if backup := unitSystemCalls(t, "docs/systemd/postern-backup.service"); !maps.Equal(allowed, backup) {
		t.Error("the filters of the units differ")
	}
	up := startUpstream(t)
	dir := t.TempDir()
	writeFile(t, dir+"/key", "q8VZl4m3mJ0oYkq1w7bXn0Zr5cT2eFhGi9LpSdKuAvE=\n")
	file := dir + "/postern.yaml"
	text := "front: {listen: \"127.0.0.1:0\", drain: 10s}\nadmin: {listen: \"127.0.0.1:0\"}\nstore: sqlite:" + dir + "/postern.db\nkeys: {master_key_file: " + dir +
		"/key}\nlog: {access: true}\nroutes:\n  - {name: name, path: /name, upstream: [\"http://localhost" + up.address[strings.LastIndex(up.address, ":"):] +
		"\"]}\n  - {name: api, path: /, upstream: [\"http://" + up.address + "\"]}\n"
	writeFile(t, file, text)

	logs, trace := &buffer{}, dir+"/serve.trace"
	process := exec.Command("strace", watching(allowed, trace, binary(t), "serve", "--config", file)...)
	process.Stderr = logs
	process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	end := func(signal syscall.Signal) { _ = syscall.Kill(-process.Process.Pid, signal) }
	defer end(syscall.SIGKILL)
	s := &served{t: t, store: "sqlite:" + dir + "/postern.db", logs: logs}
	eventually(t, 10*time.Second, "postern serves", func() bool { s.front, s.admin = doors(logs.String()); return s.front != "" })
	token := s.goodToken(s.client(""))
	for _, path := range []string{"/tracks", "/name"} {
		if r := s.get(path, token); r.status != 200 {
			t.Errorf("%s: %d %s", path, r.status, r.body)
		}
	}
	if s.metric("process_start_time_seconds") == 0 || s.metric("process_max_fds") == 0 {
		t.Error("no metrics of the process")
	}
	writeFile(t, file, text+"headers: {client: X-Who}\n")
	eventually(t, 3*time.Second, "the configuration is loaded anew", func() bool { return strings.Contains(s.get("/tracks", token).body, "X-Who:") })
	end(syscall.SIGTERM)
	if err := process.Wait(); err != nil {
		t.Errorf("%v: %s", err, logs)
	}
	judgeTrace(t, trace)

	for _, args := range [][]string{{"check", "--config", file}, {"store", "backup", dir + "/backup.db", "--config", file}, {"wait", "--tcp", up.address}} {
		trace := filepath.Join(dir, args[0]+".trace")
		if out, err := exec.Command("strace", watching(allowed, trace, binary(t), args...)...).CombinedOutput(); err != nil {
			t.Errorf("postern %s: %v: %s", args[0], err, out)
		}
		judgeTrace(t, trace)
	}
}

// watching returns strace's arguments that write to trace what a program asks for beyond
// allowed, its sockets, and the memory that it maps.
func watching(allowed map[string]bool, trace, program string, args ...string) []string {
	var quiet []string
	for name := range allowed {
		switch name {
		case "socket", "mmap", "mprotect", "pkey_mprotect", "execve": // execve: so that no trace is empty
		default:
			quiet = append(quiet, "?"+name)
		}
	}
	slices.Sort(quiet)
	return append([]string{"-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-o", trace, "-e", "trace=!" + strings.Join(quiet, ","), program}, args...)
}

// judgeTrace fails at each line that the units refuse.
func judgeTrace(t *testing.T, trace string) {
	t.Helper()
	call := regexp.MustCompile(`^\d+\s+(?:<\.\.\. )?(\w+)(?: resumed>)?[(]?(.*)`)
	seen := map[string]bool{}
	for line := range strings.Lines(readFile(t, trace)) {
		m := call.FindStringSubmatch(line)
		if m == nil {
			t.Errorf("cannot read %q", line)
			continue
		}
		seen[m[1]] = true
		bad := false
		switch m[1] {
		case "execve":
		case "fchown": // SQLite gives its journal to the store's owner where it is root, which the service is not
			bad = os.Geteuid() != 0
		case "socket":
			bad = !strings.HasPrefix(m[2], "AF_INET,") && !strings.HasPrefix(m[2], "AF_INET6,") && !strings.HasPrefix(m[2], "AF_UNIX,") && !strings.Contains(line, "resumed")
		case "mmap":
			bad = strings.Contains(m[2], "PROT_EXEC") && strings.Contains(m[2], "PROT_WRITE")
		case "mprotect", "pkey_mprotect":
			bad = strings.Contains(m[2], "PROT_EXEC")
		default:
			bad = true
		}
		if bad {
			t.Errorf("the units refuse: %s", line)
		}
	}
	if !seen["execve"] || !seen["mmap"] {
		t.Errorf("%s saw nothing", trace)
	}
}

// unitSystemCalls returns the system calls that a unit's filter lets pass.
func unitSystemCalls(t *testing.T, file string) map[string]bool {
	t.Helper()
	analyze := needs(t, "systemd-analyze")
	sets := map[string][]string{}
	out, err := exec.Command(analyze, "syscall-filter", "--no-pager").Output()
	if err != nil {
		t.Fatal(err)
	}
	name := ""
	for line := range strings.Lines(string(out)) {
		word := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(line, "@"):
			name = word
		case strings.HasPrefix(line, "# "):
			name = "" // what follows are calls of this kernel that are in no set
		case word != "" && !strings.HasPrefix(word, "#"):
			sets[name] = append(sets[name], word)
		}
	}
	var each func(name string, do func(string))
	each = func(name string, do func(string)) {
		if !strings.HasPrefix(name, "@") {
			do(name)
			return
		}
		if len(sets[name]) == 0 {
			t.Fatalf("%s: systemd knows no %s", file, name)
		}
		for _, member := range sets[name] {
			each(member, do)
		}
	}
	allowed := map[string]bool{}
	allow := func(name string) { allowed[name] = true }
	each("@default", allow)
	filters := unitSettings(t, file)["SystemCallFilter"]
	if len(filters) < 2 || strings.HasPrefix(filters[0], "~") {
		t.Fatalf("%s: SystemCallFilter %q", file, filters)
	}
	for _, filter := range filters {
		names, refused := strings.CutPrefix(filter, "~")
		for name := range strings.FieldsSeq(names) {
			if refused {
				each(name, func(name string) { delete(allowed, name) })
			} else {
				each(name, allow)
			}
		}
	}
	if !allowed["read"] || allowed["mount"] || allowed["chroot"] || len(allowed) < 100 {
		t.Fatal(fmt.Sprint("the filter was not read well: ", slices.Sorted(maps.Keys(allowed))))
	}
	return allowed
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/answer"
	"postern/config"
)

// TestReadmeTables holds the tables that repeat code equal to the code. To write them:
// go test -run TestReadmeTables . -update-readme
func TestReadmeTables(t *testing.T) {
	readme := readFile(t, "README.md")
	want := readme
	for name, table := range map[string]string{
		"settings": config.Reference(), "reasons": reasonsTable(), "metrics": metricsTable(t),
	} {
		begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->"
		before, rest, ok := strings.Cut(want, begin)
		_, after, closed := strings.Cut(rest, end)
		if !ok || !closed {
			t.Fatalf("README.md has no section %q", name)
		}
		want = before + begin + strings.TrimSpace(table) + "\n" + end + after
	}
	if want == readme {
		return
	}
	if flag.Lookup("update-readme").Value.String() != "true" {
		t.Fatal("README.md repeats code that changed: go test -run TestReadmeTables . -update-readme")
	}
	if err := os.WriteFile("README.md", []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

var _ = flag.Bool("update-readme", false, "write README.md's tables")

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func reasonsTable() string {
	var b strings.Builder
	b.WriteString("| code | status | what it says |\n|---|---|---|\n")
	for _, r := range answer.Reasons() {
		if r != answer.OK {
			fmt.Fprintf(&b, "| `%s` | %d | %s |\n", r, r.Status(), strings.ReplaceAll(r.Message(), "<", "&lt;"))
		}
	}
	return b.String()
}

// metricsTable describes what a postern that issues, shares its limits and writes an access log exports.
func metricsTable(t *testing.T) string {
	t.Helper()
	up := startUpstream(t)
	dir := t.TempDir()
	source := config.Source{Upstream: "http://" + up.address, Flags: map[string]string{
		"front.listen": "127.0.0.1:0", "admin.listen": "127.0.0.1:0", "store": "sqlite:" + filepath.Join(dir, "p.db"), "log.access": "true", "log.level": "error",
		"redis": "redis://127.0.0.1:1",
	}}
	c, err := config.Load(source)
	if err != nil {
		t.Fatal(err)
	}
	p, err := assemble(t.Context(), newEnvironment(nil, io.Discard, io.Discard), source, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	collectors := []prometheus.Collector{buildInfo()}
	for _, room := range p.admin.rooms() {
		collectors = append(collectors, room.Collectors()...)
	}
	form := regexp.MustCompile(`^Desc\{fqName: "([^"]+)", help: "([^"]+)", unit: "[^"]*", constLabels: \{([^}]*)\}, variableLabels: \{([^}]*)\}\}$`)
	var lines []string
	for _, collector := range collectors {
		descriptions := make(chan *prometheus.Desc, 10)
		collector.Describe(descriptions)
		close(descriptions)
		for d := range descriptions {
			m := form.FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("cannot read %s", d)
			}
			labels := regexp.MustCompile(`[a-z_]+=`).FindAllString(m[3], -1)
			for i := range labels {
				labels[i] = strings.TrimSuffix(labels[i], "=")
			}
			if m[4] != "" {
				labels = append(labels, strings.Split(m[4], ",")...)
			}
			lines = append(lines, fmt.Sprintf("| `%s` | %s | %s |", m[1], strings.Join(labels, ", "), m[2]))
		}
	}
	slices.Sort(lines)
	return "| metric | labels | meaning |\n|---|---|---|\n" + strings.Join(lines, "\n") + "\n"
}

// TestReadmeLimits: the table of limits repeats settings and their defaults.
func TestReadmeLimits(t *testing.T) {
	_, table, _ := strings.Cut(readFile(t, "README.md"), "### Limits and timeouts\n\n")
	table, _, _ = strings.Cut(table, "\n\n")
	found := 0
	for _, line := range strings.Split(table, "\n") {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 {
			continue
		}
		for key := range strings.SplitSeq(cells[1], ", ") {
			if strings.HasPrefix(key, "`") {
				found++
				if !strings.Contains(config.Reference(), "\n| "+key+" | "+cells[2]+" | ") {
					t.Errorf("%s has another default than %s", key, cells[2])
				}
			}
		}
	}
	if found < 15 {
		t.Errorf("%d settings are in the table", found)
	}
}

// TestReadmePromises: every test that the README names exists where it says.
func TestReadmePromises(t *testing.T) {
	links := regexp.MustCompile(`\[((?:Test|Fuzz|Benchmark)\w+)\]\(([^)]+)\)`).FindAllStringSubmatch(readFile(t, "README.md"), -1)
	if len(links) < 15 {
		t.Fatalf("%d promises", len(links))
	}
	for _, link := range links {
		if text, err := os.ReadFile(link[2]); err != nil || !strings.Contains(string(text), "\nfunc "+link[1]+"(") {
			t.Errorf("README.md: %s is not in %s", link[1], link[2])
		}
	}
	for _, link := range regexp.MustCompile(`\]\(([^)#]+)\)`).FindAllStringSubmatch(readFile(t, "README.md"), -1) {
		if _, err := os.Stat(link[1]); err != nil && !strings.HasPrefix(link[1], "https://") {
			t.Errorf("README.md: %v", err)
		}
	}
}

// TestReadmeExample: the example configuration is valid.
func TestReadmeExample(t *testing.T) {
	key := filepath.Join(t.TempDir(), "master-key")
	if err := os.WriteFile(key, []byte("q8VZl4m3mJ0oYkq1w7bXn0Zr5cT2eFhGi9LpSdKuAvE=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "postern.yaml")
	text := strings.ReplaceAll(readmeBlocks(t, "example")[0], "/run/secrets/postern-master-key", key)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"check", "--config", file}, nil, &out, &errs); code != 0 {
		t.Errorf("exit code %d: %s%s", code, &out, &errs)
	}
}

// readmeBlocks returns the fenced blocks of a section.
func readmeBlocks(t *testing.T, section string) []string {
	t.Helper()
	_, rest, _ := strings.Cut(readFile(t, "README.md"), "<!-- begin "+section+" -->")
	rest, _, ok := strings.Cut(rest, "<!-- end "+section+" -->")
	if !ok {
		t.Fatalf("README.md has no section %q", section)
	}
	var blocks []string
	for _, m := range regexp.MustCompile("(?s)```[a-z]*\n(.*?)```").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// masked replaces what differs from run to run.
func masked(text string) string {
	for form, name := range map[string]string{
		`eyJ[\w-]+\.[\w-]+\.[\w-]+`: "TOKEN", `pst_[\w-]{48}`: "SECRET", `\b1[78]\d{11}\b`: "MS", `127\.0\.0\.1:\d+`: "ADDRESS",
		`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`: "UUID",
	} {
		text = regexp.MustCompile(form).ReplaceAllString(text, name)
	}
	return strings.TrimSpace(text)
}

// TestDemo runs the demo as a user would: reads the two commands, pastes them into a
// shell, compares with the README, and ends it with a signal's context.
func TestDemo(t *testing.T) {
	needs(t, "curl")
	t.Setenv("TMPDIR", t.TempDir())
	out, errs := &buffer{}, &buffer{}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	code := make(chan int, 1)
	go func() { code <- run(ctx, []string{"demo"}, nil, out, errs) }()
	commands := regexp.MustCompile(`(?s)\n(curl --location --request POST .*?\n\}')\n.*?\n(curl --location --request GET .*?')\n\nWhat`)
	var pasted []string
	eventually(t, 3*time.Second, "the demo prints its commands", func() bool {
		pasted = commands.FindStringSubmatch(out.String())
		return pasted != nil
	})
	paste := func(command string) string {
		t.Helper()
		answer, err := exec.Command("sh", "-c", strings.Replace(command, "curl ", "curl --silent --show-error ", 1)).Output()
		if err != nil {
			t.Fatalf("%v: %s", err, errs)
		}
		return string(answer)
	}
	get, use := readmeBlocks(t, "curl-token"), readmeBlocks(t, "curl-use")
	for what, pair := range map[string][2]string{
		"first command": {get[0], pasted[1]}, "its answer": {get[1], paste(pasted[1])},
		"second command": {strings.ReplaceAll(use[0], "{YOUR_ACCESS_TOKEN}", "TOKEN"), pasted[2]},
	} {
		if masked(pair[0]) != masked(pair[1]) {
			t.Errorf("the README's %s is not the demo's:\n%s\n%s", what, masked(pair[0]), masked(pair[1]))
		}
	}
	// The second answer is shortened in the README: all that it shows is there.
	var shown, got map[string]any
	if err := json.Unmarshal([]byte(masked(use[1])), &shown); err != nil {
		t.Fatal(err)
	}
	answer := paste(pasted[2])
	if err := json.Unmarshal([]byte(masked(answer)), &got); err != nil {
		t.Fatalf("%v in %s", err, answer)
	}
	if missing := missingFrom(got, shown, ""); missing != "" {
		t.Errorf("the README shows %s, which is not in %s", missing, answer)
	}
	if strings.Contains(answer, "Authorization") {
		t.Errorf("the upstream got the token: %s", answer)
	}
	for name := range strings.FieldsSeq("metrics readyz") {
		url := regexp.MustCompile(`curl (http://\S+/` + name + `)\n`).FindStringSubmatch(out.String())
		if url == nil || paste("curl --fail "+url[1]) == "" {
			t.Errorf("no %s", name)
		}
	}
	cancel()
	if c := <-code; c != 0 || errs.String() != "" {
		t.Errorf("exit code %d: %s", c, errs)
	}
	if left, _ := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// missingFrom names the first part of want that got has not; "" when it has all.
func missingFrom(got, want any, at string) string {
	object, ok := want.(map[string]any)
	if !ok {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("%s: %v", at, want)
		}
		return ""
	}
	there, _ := got.(map[string]any)
	for name, value := range object {
		if missing := missingFrom(there[name], value, at+"/"+name); missing != "" {
			return missing
		}
	}
	return ""
}

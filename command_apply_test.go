package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestApplyAtTheWire applies the README's example beside a postern that runs: what it
// declares is in effect within a second, with every secret that it names.
func TestApplyAtTheWire(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	example := readFile(t, "testdata/domain.yaml")
	if block := readmeBlocks(t, "domain")[0]; block != example {
		t.Errorf("the README's example is not testdata/domain.yaml:\n%s", block)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "domain.yaml")
	if err := os.Mkdir(filepath.Join(dir, "secrets"), 0o700); err != nil {
		t.Fatal(err)
	}
	const weak, older, digested = "hunter2 and more", "pst_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAZClWt", "an example, and no secret"
	writeFile(t, filepath.Join(dir, "secrets", "new"), weak+"\n")
	writeFile(t, filepath.Join(dir, "secrets", "old"), older+"\n")
	apply := func(text string, args ...string) map[string]any {
		t.Helper()
		writeFile(t, file, text)
		return s.command(append([]string{"apply", "-f", file}, args...)...)
	}
	enabled := strings.Replace(example, "disabled: true", "disabled: false", 1)
	done := apply(enabled)
	if done["created"] != 6.0 {
		t.Fatalf("created %v", done)
	}
	var radio string
	for _, one := range done["changes"].([]any) {
		if step := one.(map[string]any); step["name"] == "Acme / Radio / production" {
			radio = step["id"].(string)
		}
	}
	// The operator's clock is the server's: no wait, unless something was remembered of these.
	s.goodToken(credentials{id: radio, secret: digested})
	token := s.goodToken(credentials{id: "acme-radio-staging", secret: weak})
	s.goodToken(credentials{id: "acme-radio-staging", secret: older})
	if r := s.get("/x", token); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	if again := apply(enabled); len(again["changes"].([]any)) != 0 || again["unchanged"] != 6.0 {
		t.Errorf("the second time: %v", again)
	}
	apply(example)
	eventually(t, time.Second, "the disabled client's token is refused", func() bool { return s.get("/x", token).status == 401 })
	if _, r := s.token(credentials{id: "acme-radio-staging", secret: weak}); r.status != 401 {
		t.Errorf("a disabled client: %d %s", r.status, r.body)
	}
	apply(strings.Replace(enabled, "[secrets/new, secrets/old]", "secrets/new", 1), "--prune", "--overlap", "0")
	eventually(t, time.Second, "the client is enabled", func() bool {
		_, r := s.token(credentials{id: "acme-radio-staging", secret: weak})
		return r.status == 201
	})
	eventually(t, time.Second, "an ended secret is refused", func() bool {
		_, r := s.token(credentials{id: "acme-radio-staging", secret: older})
		return r.status == 401
	})
}

// TestApplyMany: a file of 10,000 clients is applied and found unchanged again, and tells how far it is.
func TestApplyMany(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it writes 10,000 clients")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "domain.yaml")
	var text strings.Builder
	text.WriteString("organizations:\n  - name: Acme\n    clients:\n")
	for i := range 10_000 {
		text.WriteString("      - application: a" + strings.Repeat("b", i%100) + "-" + strings.Repeat("c", i/100) + "\n        environment: production\n" +
			"        secret_sha256: d387ff76a792c69de8edf436ab1bed27686c439a92f56eef49690d8c896660af\n")
	}
	writeFile(t, file, text.String())
	f := func(want, progress string) {
		t.Helper()
		var out, errs bytes.Buffer
		start := time.Now()
		if code := run(t.Context(), []string{"apply", "-f", file, "--store", "sqlite:" + filepath.Join(dir, "p.db")}, nil, &out, &errs); code != 0 {
			t.Fatalf("exit code %d: %.1000s", code, &errs)
		}
		t.Logf("took %s", time.Since(start))
		if !strings.HasSuffix(out.String(), want) || !strings.Contains(errs.String(), progress) {
			t.Errorf("said %.200s, %.1000s", out.String()[max(0, out.Len()-200):], &errs)
		}
	}
	f("10001 created, 0 changed, 0 removed; 0 unchanged\n", "postern: wrote 10001 of 10001\n")
	f("0 created, 0 changed, 0 removed; 10001 unchanged\n", "")
}

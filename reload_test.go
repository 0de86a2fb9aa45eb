package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// edit replaces the configuration in one step, as an editor or a ConfigMap does.
func (s *served) edit(change func(text string) string) {
	s.t.Helper()
	text, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	writeFile(s.t, s.file+".new", change(string(text)))
	if err := os.Rename(s.file+".new", s.file); err != nil {
		s.t.Fatal(err)
	}
}

// replace is for edit.
func replace(t *testing.T, old, new string) func(string) string {
	return func(text string) string {
		t.Helper()
		if !strings.Contains(text, old) {
			t.Fatalf("no %q in %s", old, text)
		}
		return strings.Replace(text, old, new, 1)
	}
}

// ask sends a request to the admin door.
func (s *served) ask(method, path string) reply {
	s.t.Helper()
	r, err := send(s.t.Context(), method, s.admin+path, "")
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

const twoRoutes = "routes:\n  - {name: public, path: /public, upstream: [\"{upstream}\"], access: public}\n  - {name: api, path: /, upstream: [\"{upstream}\"]}\n"

// TestRow142ReloadBadFileUnderLoad: while requests run, files that cannot be used change
// nothing but a metric and the log; the next good one is applied. No request fails.
func TestRow142ReloadBadFileUnderLoad(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, twoRoutes)
	token := s.goodToken(s.client(""))
	var load sync.WaitGroup
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended); load.Wait() })
	defer end()
	var sent, failed atomic.Int64
	for range 4 {
		load.Go(func() {
			for {
				select {
				case <-ended:
					return
				case <-time.After(2 * time.Millisecond):
				}
				sent.Add(1)
				if r, err := send(t.Context(), "GET", s.front+"/", "", "Authorization", "Bearer "+token); err != nil || r.status != 200 {
					failed.Add(1)
					t.Errorf("%d %s %v", r.status, r.body, err)
					return
				}
			}
		})
	}
	good, err := os.ReadFile(s.file)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		"routes: [", "", "unknown: 1\n" + string(good),
		strings.Replace(string(good), "access: public", "access: nobody", 1),
		strings.Replace(string(good), "path: /,", "path: /public,", 1),
		strings.Replace(string(good), "front: {", "front: {tls: {certificate: /nowhere, key: /nowhere}, ", 1),
		strings.ReplaceAll(string(good), "routes:", "routs:"),
	} {
		s.edit(func(string) string { return bad })
		eventually(t, time.Second, "the metric says that the file is bad", func() bool { return s.metric("postern_config_reload_failed") == 1 })
		if r := s.ask("POST", "/reload"); r.status != 422 || !strings.Contains(r.body, s.file) {
			t.Errorf("POST /reload: %d %s", r.status, r.body)
		}
		if r := s.do("GET", "/public", ""); r.status != 200 {
			t.Errorf("the old route is gone: %d", r.status)
		}
		s.edit(func(string) string { return string(good) })
		eventually(t, time.Second, "the metric says that the file is good", func() bool { return s.metric("postern_config_reload_failed") == 0 })
	}
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Second, "the metric says that the file is away", func() bool { return s.metric("postern_config_reload_failed") == 1 })
	writeFile(t, s.file, strings.Replace(string(good), "path: /public", "path: /open", 1))
	eventually(t, time.Second, "the new route is open", func() bool { return s.do("GET", "/open", "").status == 200 })
	if r := s.do("GET", "/public", ""); r.status != 401 {
		t.Errorf("the old route is still open: %d", r.status)
	}
	end()
	if sent.Load() < 100 || failed.Load() > 0 {
		t.Errorf("%d of %d requests failed", failed.Load(), sent.Load())
	}
}

// TestReload: each way to ask for a reload applies the same, and what needs a restart is
// told and left alone.
func TestReload(t *testing.T) {
	up := startUpstream(t)
	dir := t.TempDir()
	writeFile(t, dir+"/postern.yaml", "front: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\nverify: {leeway: 30s}\n"+strings.ReplaceAll(twoRoutes, "{upstream}", "http://"+up.address))
	p := start(t, dir, "--config", "postern.yaml")
	p.file = dir + "/postern.yaml"
	open := func(path string) bool { return p.do("GET", path, "").status == 200 }

	p.edit(replace(t, "path: /public", "path: /watched"))
	eventually(t, time.Second, "the changed file is seen", func() bool { return open("/watched") })

	before := p.metric("postern_config_reloaded_timestamp_seconds")
	if now := float64(time.Now().Unix()); before < now-60 || before > now {
		t.Errorf("reloaded at %v", before)
	}
	// The door comes first or second, as the watch is late or early: what it answers is
	// the same unless there is nothing left to do.
	p.edit(replace(t, "leeway: 30s", "leeway: 20s"))
	r := p.ask("POST", "/reload")
	var answer struct {
		OK      bool
		Changes []struct {
			Key, Old, New string
			Restart       bool
		}
	}
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil || r.status != 200 || !answer.OK || len(answer.Changes) != 1 ||
		answer.Changes[0].Key != "verify.leeway" || answer.Changes[0].Old != "30s" || answer.Changes[0].New != "20s" || !answer.Changes[0].Restart {
		t.Errorf("%d %s", r.status, r.body)
	}
	eventually(t, time.Second, "the log says what needs a restart", func() bool { return strings.Contains(p.logs.String(), "needs a restart: verify.leeway") })
	if r := p.ask("GET", "/config"); strings.Contains(r.body, "verify.leeway") {
		t.Errorf("what needs a restart was applied: %s", r.body)
	}

	lines := strings.Count(p.logs.String(), `"msg":"reloaded"`)
	p.signal(syscall.SIGHUP) // nothing changed
	p.ask("POST", "/reload")
	time.Sleep(300 * time.Millisecond)
	if n := strings.Count(p.logs.String(), `"msg":"reloaded"`); n != lines {
		t.Errorf("an unchanged file was loaded %d times", n-lines)
	}
	p.signal(syscall.SIGTERM)
	if code := p.ends(time.Second); code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestReloadBetweenLooks: a file that was read while it was another one for a moment, so
// short that the watch sees nothing new, is read again.
func TestReloadBetweenLooks(t *testing.T) {
	t.Parallel() // it waits
	up := startUpstream(t)
	s := serve(t, up, twoRoutes)
	time.Sleep(4 * time.Second) // the first look is over
	f := func(what string, other func(string) string, want int, undone func() bool) {
		t.Helper()
		good, err := os.ReadFile(s.file)
		if err != nil {
			t.Fatal(err)
		}
		s.edit(other)
		if r := s.ask("POST", "/reload"); r.status != want {
			t.Errorf("%s: %d %s", what, r.status, r.body)
		}
		s.edit(func(string) string { return string(good) })
		eventually(t, 3*time.Second, what, undone)
	}
	f("the fault is over", func(string) string { return "routes: [" }, 422, func() bool { return s.metric("postern_config_reload_failed") == 0 })
	f("the old route is back", replace(t, "path: /public", "path: /open"), 200, func() bool { return s.do("GET", "/public", "").status == 200 })
}

// TestReloadHangup: SIGHUP reloads where no watch can see a change: here of a file that
// is reached through a directory that was exchanged.
func TestReloadHangup(t *testing.T) {
	up := startUpstream(t)
	dir := t.TempDir()
	write := func(version, path string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, version), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, version, "postern.yaml"), "front: {listen: \"127.0.0.1:0\"}\nadmin: {listen: \"127.0.0.1:0\"}\n"+
			strings.ReplaceAll(strings.ReplaceAll(twoRoutes, "{upstream}", "http://"+up.address), "/public", path))
		link := filepath.Join(dir, "current")
		_ = os.Remove(link)
		if err := os.Symlink(version, link); err != nil {
			t.Fatal(err)
		}
	}
	write("1", "/one")
	p := start(t, dir, "--config", "current/postern.yaml")
	if r := p.do("GET", "/one", ""); r.status != 200 {
		t.Fatalf("%d", r.status)
	}
	write("2", "/two")
	p.signal(syscall.SIGHUP)
	eventually(t, time.Second, "the new file is in force", func() bool { return p.do("GET", "/two", "").status == 200 })
	if r := p.do("GET", "/one", ""); r.status != 401 {
		t.Errorf("the old route: %d", r.status)
	}
}

// TestCheckAgainstRunning: check --diff asks the admin door what is in force.
func TestCheckAgainstRunning(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "keys: {master_key: \"q8VZl4m3mJ0oYkq1w7bXn0Zr5cT2eFhGi9LpSdKuAvE=\"}\n"+twoRoutes)
	if r := s.ask("GET", "/config"); r.status != 200 || strings.Contains(r.body, "q8VZ") || !strings.Contains(r.body, `{"key":"keys.master_key","value":"[redacted]"}`) ||
		!strings.Contains(r.body, `{"key":"routes[public].access","value":"public"}`) {
		t.Errorf("%d %s", r.status, r.body)
	}
	changes := func() any { return s.run("check", "--config", s.file, "--diff", s.admin, "--json")["changes"] }
	if got := changes(); len(got.([]any)) != 0 {
		t.Errorf("nothing changed, and yet %v", got)
	}
	s.edit(replace(t, "drain: 10s", "drain: 20s, max_header: 32KiB"))
	s.edit(replace(t, "keys:", "verify: {leeway: 10s}\nkeys:"))
	eventually(t, time.Second, "what a reload applies is in force", func() bool { return strings.Contains(s.ask("GET", "/config").body, "max_header") })
	want := map[string]any{"key": "verify.leeway", "old": "30s", "new": "10s", "restart": true}
	if diff := cmp.Diff([]any{want}, changes()); diff != "" {
		t.Error(diff)
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestMonitoringRuns: a real Prometheus scrapes a postern that serves, loads the alerts as
// they are, and has an answer to each query of the dashboard.
func TestMonitoringRuns(t *testing.T) {
	needs(t, "prometheus")
	up := startUpstream(t)
	s := serve(t, up, `log: {access: true}
routes:
  - {name: public, path: /public, upstream: ["{upstream}"], access: public}
  - {name: trial, path: /trial, upstream: ["{upstream}"], enforce: shadow}
  - {name: api, path: /, upstream: ["{upstream}"]}
`)
	caller := s.client("")
	token := s.goodToken(caller)
	busy, _ := s.contract("--quota-day", "1")
	spent := s.goodToken(busy)
	if r := s.get("/tracks", spent); r.status != 200 {
		t.Fatalf("within the quota: answered %d", r.status)
	}
	p := startPrometheus(t, strings.TrimPrefix(s.admin, "http://"))
	eventually(t, 2*time.Second, "postern is scraped", func() bool { return len(p.query("postern_build_info")) > 0 })
	traffic := func() {
		for _, r := range []struct {
			path, token string
			status      int
		}{{"/public", token, 200}, {"/tracks", token, 200}, {"/tracks", "wrong", 401}, {"/trial", "wrong", 200}, {"/tracks", spent, 429}} {
			if got := s.get(r.path, r.token); got.status != r.status {
				t.Fatalf("%s: answered %d and not %d", r.path, got.status, r.status)
			}
		}
		s.goodToken(caller)
	}
	// Rates need two scrapes with traffic between them.
	eventually(t, 3*time.Second, "a rate of requests is known", func() bool {
		traffic()
		return len(p.query(`rate(postern_requests_total{reason="ok",route="api"}[5s]) > 0`)) > 0
	})
	quiet := regexp.MustCompile("websockets|not_after|issue_shadowed|< 1e15") // what this postern has none of
	for _, panel := range readDashboard(t).Panels {
		for _, target := range panel.Targets {
			expr := filled(target.Expr)
			if quiet.MatchString(expr) {
				p.query(expr)
				continue
			}
			// On a busy machine a scrape may have been missed, and then there is nothing for a moment.
			eventually(t, time.Second, panel.Title+" shows something: "+expr, func() bool {
				if len(p.query(expr)) > 0 {
					return true
				}
				traffic()
				return false
			})
		}
	}
	for _, block := range fences(readFile(t, runbookFile), "promql") {
		for line := range strings.Lines(block) {
			p.query(strings.TrimSpace(line)) // it must be understood; most find nothing wrong
		}
	}
	eventually(t, 2*time.Second, "rules are evaluated", func() bool {
		return len(p.query("job_route:postern_request_duration_seconds:p99_5m")) > 0
	})
	for name, fault := range p.rules() {
		if fault != "" {
			t.Errorf("%s: %s", name, fault)
		}
	}
	if firing := p.query(`ALERTS{alertstate="firing"}`); len(firing) > 0 {
		t.Errorf("all is well, and there is an alert: %v", firing)
	}
	// An alert that comes from a running postern and not from numbers in a file.
	s.stop()
	eventually(t, 5*time.Second, "the end is noticed", func() bool {
		return len(p.query(`ALERTS{alertname="PosternAbsent"}`)) > 0 && len(p.query(`ALERTS{alertname="PosternInstanceDown"}`)) > 0
	})
}

// filled is a dashboard's query with all that can be chosen.
func filled(expr string) string {
	return strings.NewReplacer("$__rate_interval", "10s", "$job", ".*", "$namespace", ".*", "$instance", ".*", "$route", ".*").Replace(expr)
}

// prometheusServer is a real one.
type prometheusServer struct {
	t       *testing.T
	address string
}

// startPrometheus runs one that scrapes target, with the alerts as they are committed.
func startPrometheus(t *testing.T, target string) *prometheusServer {
	t.Helper()
	dir := t.TempDir()
	rules, err := filepath.Abs(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "prometheus.yml")
	writeFile(t, file, fmt.Sprintf(`global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}
rule_files: [%q]
scrape_configs:
  - {job_name: postern, static_configs: [{targets: [%q]}]}
`, rules, target))
	l, err := net.Listen("tcp", "127.0.0.1:0") // Prometheus does not tell which port it took
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheusServer{t, l.Addr().String()}
	_ = l.Close()
	logs := &buffer{}
	command := exec.Command("prometheus", "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.address)
	command.Stdout, command.Stderr = logs, logs
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			t.Logf("Prometheus said:\n%.5000s", logs)
		}
	})
	eventually(t, 5*time.Second, "Prometheus is ready", func() bool {
		r, err := send(t.Context(), "GET", "http://"+p.address+"/-/ready", "")
		return err == nil && r.status == 200
	})
	return p
}

// ask returns data of an answer of the HTTP API.
func (p *prometheusServer) ask(path string, data any) {
	p.t.Helper()
	r, err := send(p.t.Context(), "GET", "http://"+p.address+path, "")
	if err != nil {
		p.t.Fatal(err)
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal([]byte(r.body), &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s: %d %s %v", path, r.status, answer.Error, err)
	}
}

// query returns the series that expr results in.
func (p *prometheusServer) query(expr string) (series []map[string]string) {
	p.t.Helper()
	var data struct {
		Result []struct{ Metric map[string]string }
	}
	p.ask("/api/v1/query?query="+url.QueryEscape(expr), &data)
	for _, r := range data.Result {
		series = append(series, r.Metric)
	}
	return series
}

// rules returns each rule with what was wrong at its last evaluation.
func (p *prometheusServer) rules() map[string]string {
	p.t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	p.ask("/api/v1/rules", &data)
	faults := map[string]string{}
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			faults[r.Name] = r.LastError
			if r.Health != "ok" && r.LastError == "" {
				faults[r.Name] = "health " + r.Health
			}
		}
	}
	if len(faults) < 15 {
		p.t.Fatalf("%d rules are loaded", len(faults))
	}
	return faults
}

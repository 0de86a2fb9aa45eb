package main

import (
	"encoding/json"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"postern/config"
)

const (
	alertsFile    = "charts/postern/files/alerts.yaml"
	dashboardFile = "charts/postern/files/dashboard.json"
	runbookFile   = "docs/runbook.md"
)

// dashboard is what matters here of Grafana's model.
type dashboard struct {
	UID           string
	SchemaVersion int
	Panels        []panel
	Templating    struct {
		List []struct {
			Name, Type, Definition string
		}
	}
}

type panel struct {
	ID                       int
	Type, Title, Description string
	FieldConfig              struct{ Defaults struct{ Unit string } }
	Targets                  []struct{ Expr, LegendFormat string }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(readFile(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestDashboard: every panel says what it shows, and Grafana can tell panels and queries apart.
func TestDashboard(t *testing.T) {
	d := readDashboard(t)
	if d.UID != "postern" || d.SchemaVersion < 39 {
		t.Errorf("uid %q, schema version %d", d.UID, d.SchemaVersion)
	}
	ids, titles := map[int]bool{}, map[string]bool{}
	for _, p := range d.Panels {
		if p.Title == "" || ids[p.ID] || titles[p.Title] {
			t.Errorf("panel %d %q: a title of its own and an id of its own", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		if p.Type != "row" && (p.FieldConfig.Defaults.Unit == "" || p.Description == "" || len(p.Targets) == 0) {
			t.Errorf("panel %q: unit %q, description %q, %d queries", p.Title, p.FieldConfig.Defaults.Unit, p.Description, len(p.Targets))
		}
	}
	var variables []string
	for _, v := range d.Templating.List {
		variables = append(variables, v.Name)
	}
	if got := strings.Join(variables, " "); got != "datasource namespace job instance route" || len(ids) < 30 {
		t.Errorf("variables %s, %d panels", got, len(ids))
	}
}

// rule is one of alertsFile.
type rule struct {
	Record, Alert string // one of the two
	Expr          string
	Labels        map[string]string
	Annotations   map[string]string
}

func readRules(t *testing.T) (rules []rule) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal([]byte(readFile(t, alertsFile)), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) < 15 {
		t.Fatalf("%d rules", len(rules))
	}
	return rules
}

// exported is what can be asked for: each metric with its labels, those that Prometheus
// adds and those that rules record included.
type exported struct {
	labels map[string][]string
	scrape string // what a postern that serves says
}

func readExported(t *testing.T) exported {
	t.Helper()
	s := serve(t, startUpstream(t), "")
	r := s.do("GET", "/", "") // a refusal, so that more than the histograms have their labels
	if r.status != 401 {
		t.Fatalf("answered %d", r.status)
	}
	answer, err := send(t.Context(), "GET", s.admin+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	e := exported{map[string][]string{"up": nil}, answer.body}
	for _, m := range regexp.MustCompile("(?m)^\\| `(postern_\\w+)` \\| ([^|]*) \\|").FindAllStringSubmatch(metricsTable(t), -1) {
		e.labels[m[1]] = strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' || r == ' ' })
	}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (\w+) (\w+)$`).FindAllStringSubmatch(e.scrape, -1) {
		name, kind := m[1], m[2]
		if kind == "histogram" || kind == "summary" {
			e.labels[name+"_count"], e.labels[name+"_sum"] = e.labels[name], e.labels[name]
			e.labels[name+"_bucket"] = append(slices.Clone(e.labels[name]), "le")
			delete(e.labels, name) // a histogram has no value of its own
		} else if _, ours := e.labels[name]; !ours && !strings.HasPrefix(name, "postern_") {
			e.labels[name] = nil
		}
	}
	for _, r := range readRules(t) {
		if r.Record != "" {
			_, by, _ := strings.Cut(r.Expr, " by (")
			by, _, _ = strings.Cut(by, ")")
			e.labels[r.Record] = slices.DeleteFunc(strings.Split(by, ", "), func(l string) bool { return l == "le" })
		}
	}
	return e
}

// metricNames finds the metrics in an expression of ours, which looks at nobody else's.
func metricNames() *regexp.Regexp {
	return regexp.MustCompile(`\b(?:up|(?:postern|go|process)_\w+|\w+:\w+:\w+)\b`)
}

// faults tells what expr asks for and nobody exports: a metric, a label, or a value of a
// label whose values are a closed set.
func (e exported) faults(expr string) (faults []string) {
	target := []string{"job", "namespace", "instance"}
	metric := regexp.MustCompile(`(` + metricNames().String() + `)(?:\{([^}]*)\})?`)
	allowed := slices.Clone(target)
	found := metric.FindAllStringSubmatch(expr, -1)
	if len(found) == 0 {
		return []string{"it names no metric"}
	}
	for _, m := range found {
		labels, ok := e.labels[m[1]]
		if !ok {
			faults = append(faults, m[1]+" is exported by nobody")
		}
		labels = append(slices.Clone(labels), target...)
		allowed = append(allowed, labels...)
		for _, s := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`).FindAllStringSubmatch(m[2], -1) {
			if !slices.Contains(labels, s[1]) {
				faults = append(faults, m[1]+" has no label "+s[1])
			}
			if s[1] != "reason" && s[1] != "outcome" && s[1] != "operation" {
				continue
			}
			for value := range strings.SplitSeq(s[2], "|") {
				if !strings.Contains(e.scrape, s[1]+`="`+value+`"`) {
					faults = append(faults, m[1]+": no "+s[1]+" is "+value)
				}
			}
		}
	}
	for _, m := range regexp.MustCompile(`\b(?:by|without|on|ignoring) \(([^)]*)\)`).FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(m[1], ", ") {
			if !slices.Contains(allowed, label) {
				faults = append(faults, "nothing here has a label "+label)
			}
		}
	}
	return faults
}

// keeps reports whether what expr results in has label: where it aggregates, by that label,
// else where its metrics have it.
func (e exported) keeps(expr, label string) bool {
	if regexp.MustCompile(`\b(sum|min|max|count)\b`).MatchString(expr) {
		return regexp.MustCompile(`by \([^)]*\b` + label + `\b`).MatchString(expr)
	}
	return len(e.faults(expr+" by ("+label+")")) == 0
}

// TestMonitoringNames: what alerts, dashboard and runbook ask Prometheus for is exported,
// with those labels.
func TestMonitoringNames(t *testing.T) {
	e := readExported(t)
	check := func(where, expr string) {
		t.Helper()
		for _, fault := range e.faults(expr) {
			t.Errorf("%s: %s\n%s", where, fault, expr)
		}
	}
	for _, r := range readRules(t) {
		check(r.Record+r.Alert, r.Expr)
		for _, m := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(r.Annotations["description"], -1) {
			if !e.keeps(r.Expr, m[1]) {
				t.Errorf("%s: the result has no label %s", r.Alert, m[1])
			}
		}
	}
	for _, p := range readDashboard(t).Panels {
		for _, q := range p.Targets {
			check(p.Title, q.Expr)
			for _, m := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.LegendFormat, -1) {
				if !e.keeps(q.Expr, m[1]) {
					t.Errorf("%s: the result has no label %s\n%s", p.Title, m[1], q.Expr)
				}
			}
		}
	}
	asks := regexp.MustCompile(`label_values\((.*), (\w+)\)`)
	for _, v := range readDashboard(t).Templating.List {
		if m := asks.FindStringSubmatch(v.Definition); m != nil {
			check("variable "+v.Name, m[1]+" by ("+m[2]+")")
		} else if v.Type == "query" {
			t.Errorf("variable %s asks for %q", v.Name, v.Definition)
		}
	}
	asked := 0
	for _, block := range fences(readFile(t, runbookFile), "promql") {
		for line := range strings.Lines(block) {
			asked++
			check(runbookFile, line)
		}
	}
	if asked < 10 {
		t.Errorf("%s asks Prometheus for %d things", runbookFile, asked)
	}
	for _, name := range regexp.MustCompile("`(postern_\\w+)`").FindAllStringSubmatch(readFile(t, runbookFile), -1) {
		if _, histogram := e.labels[name[1]+"_bucket"]; !histogram {
			check(runbookFile, name[1])
		}
	}
	for bad, want := range map[string]string{ // what this test is for
		`rate(postern_request_total{job="postern"}[5m])`:                       "postern_request_total is exported by nobody",
		`postern_issue_duration_seconds`:                                       "postern_issue_duration_seconds is exported by nobody",
		`postern_connections{route="/"}`:                                       "postern_connections has no label route",
		`postern_refusals_total{reason="upstream_down"}`:                       "postern_refusals_total: no reason is upstream_down",
		`sum by (upstream) (postern_refusals_total{reason="upstream_failed"})`: "nothing here has a label upstream",
	} {
		if got := e.faults(bad); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q", bad, got)
		}
	}
}

// TestAlertThresholds: the chart's thresholds are those of the file, all of them, and what
// else its templates replace is there to be replaced.
func TestAlertThresholds(t *testing.T) {
	alerts := readFile(t, alertsFile)
	chart := map[string]string{}
	for _, v := range chartValues(t) {
		if name, ok := strings.CutPrefix(v.key, "monitoring.rules.thresholds."); ok {
			chart[name] = v.fallback
		}
	}
	file := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)[<>] ([0-9.]+) # (\w+)$`).FindAllStringSubmatch(alerts, -1) {
		file[m[2]] = m[1]
	}
	// Empty follows verify.max_staleness: the chart's own test has the values, here is the default.
	if chart["feedStale"] == `""` {
		chart["feedStale"] = strconv.Itoa(int((time.Duration(config.Default().Verify.MaxStaleness) - 2*time.Minute).Seconds()))
	}
	if len(file) < 10 || !maps.Equal(chart, file) {
		t.Errorf("the chart has %v, the file %v", chart, file)
	}
	for _, r := range readRules(t) {
		for _, at := range metricNames().FindAllStringIndex(r.Expr, -1) {
			if !strings.HasPrefix(r.Expr[at[1]:], `{job="postern"`) {
				t.Errorf("%s%s: %s is not limited to a job", r.Record, r.Alert, r.Expr[at[0]:at[1]])
			}
		}
	}
	for _, text := range []string{`{job="postern",route!~"none"}`, "runbook_url: docs/runbook.md#"} {
		if !strings.Contains(alerts, text) {
			t.Errorf("%s has no %s", alertsFile, text)
		}
	}
}

// TestAlertRules: Prometheus takes the rules, and each alert is silent before its time and
// while all is well, and fires when it should.
func TestAlertRules(t *testing.T) {
	cases := readFile(t, "testdata/alerts_test.yaml")
	for _, r := range readRules(t) {
		if r.Alert == "" {
			continue
		}
		silent := strings.Count(cases, "alertname: "+r.Alert+", exp_alerts: []")
		if fires := strings.Count(cases, "        alertname: "+r.Alert+"\n        exp_alerts:\n"); silent < 2 || fires == 0 {
			t.Errorf("%s is tried %d times silent and %d times firing", r.Alert, silent, fires)
		}
	}
	promtool := needs(t, "promtool")
	for _, args := range [][]string{{"check", "rules", alertsFile}, {"test", "rules", "testdata/alerts_test.yaml"}} {
		if out, err := exec.CommandContext(t.Context(), promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

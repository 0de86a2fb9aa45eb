package charts

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"
)

// ruleGroups are a file of Prometheus' rules, and the spec of a PrometheusRule.
type ruleGroups struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []struct {
			Record      string            `json:"record,omitempty"`
			Alert       string            `json:"alert,omitempty"`
			Expr        string            `json:"expr"`
			For         string            `json:"for,omitempty"`
			Labels      map[string]string `json:"labels,omitempty"`
			Annotations map[string]string `json:"annotations,omitempty"`
		} `json:"rules"`
	} `json:"groups"`
}

func parseRules(t *testing.T, text []byte) (rules ruleGroups) {
	t.Helper()
	if err := yaml.UnmarshalStrict(text, &rules); err != nil {
		t.Fatal(err)
	}
	return rules
}

// TestMonitoring: what the chart gives to the Prometheus operator and to Grafana conforms, and is
// what the tests of the root have tried: the alerts with nothing replaced but what a value says.
func TestMonitoring(t *testing.T) {
	tools := helms(t)
	v := openValidator(t)
	chart := filepath.Join("..", "postern")
	// render returns the objects of a release whose values are least and those in text.
	render := func(text string) []object {
		t.Helper()
		values := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(values, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		first := ""
		for _, h := range tools {
			out, failure, ok := h.template(t, chart, "--set", least, "--values", values)
			if !ok {
				t.Fatalf("helm %s: %s", h.name, failure)
			}
			out = afterDocument.ReplaceAllString(out, "\n$1")
			if first != "" && first != out {
				t.Errorf("the Helms render differently:\n%s", cmp.Diff(first, out))
			}
			first = out
		}
		report(t, conformFaults(v, first))
		return parseObjects(t, first)
	}
	rulesOf := func(objects []object) (ruleGroups, []byte) {
		t.Helper()
		rule, ok := find(objects, "PrometheusRule", "demo-postern")
		if !ok {
			t.Fatal("no PrometheusRule")
		}
		spec := as[struct {
			Spec json.RawMessage `json:"spec"`
		}](rule).Spec
		return parseRules(t, spec), spec
	}
	file, err := os.ReadFile(filepath.Join(chart, "files", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}

	t.Run("off", func(t *testing.T) {
		for _, o := range render("{}") {
			if slices.Contains([]string{"ServiceMonitor", "PodMonitor", "PrometheusRule"}, o.Kind) || strings.HasSuffix(o.Name, "-dashboard") {
				t.Errorf("%s is rendered, and nobody asked for it", o)
			}
		}
	})
	t.Run("as the file", func(t *testing.T) {
		got, _ := rulesOf(render(`monitoring: {rules: {enabled: true, selector: 'job="postern"'}}`))
		if diff := cmp.Diff(parseRules(t, file), got); diff != "" {
			t.Errorf("the chart's rules are not those that are tested (-file +chart):\n%s", diff)
		}
	})
	t.Run("each value", func(t *testing.T) {
		got, spec := rulesOf(render(`
monitoring:
  serviceMonitor: {enabled: true, labels: {release: stack}, interval: 15s}
  dashboard: {enabled: true, annotations: {grafana_folder: APIs}}
  rules:
    enabled: true
    labels: {release: stack}
    alertLabels: {team: api}
    runbookURL: https://git.example.com/runbook.md
    disabled: [PosternRetries]
    streamedRoutes: ["/down.loads"]
    thresholds: {failing: 0.1, feedStale: 1000000, credentialsRefused: 0.5, credentialsRefusedRate: "20"}
`))
		text := strings.NewReplacer(
			`job="postern"`, `job="demo-postern",namespace="demo"`,
			"docs/runbook.md#", "https://git.example.com/runbook.md#",
			`route!~"none"`, `route!~"none|/down\\.loads"`,
			"0.02 # failing\n", "0.1 # failing\n",
			"180 # feedStale\n", "1e+06 # feedStale\n",
			"0.25 # credentialsRefused\n", "0.5 # credentialsRefused\n",
			"1 # credentialsRefusedRate\n", "20 # credentialsRefusedRate\n",
		).Replace(string(file))
		want := parseRules(t, []byte(text))
		for i := range want.Groups {
			g := &want.Groups[i]
			for j := len(g.Rules) - 1; j >= 0; j-- {
				switch g.Rules[j].Alert {
				case "":
				case "PosternRetries":
					g.Rules = slices.Delete(g.Rules, j, j+1)
				default:
					g.Rules[j].Labels["team"] = "api"
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		checkRules(t, spec)
	})
	t.Run("follows the configuration", func(t *testing.T) {
		f := func(verify, feedStale, want string) {
			t.Helper()
			got, _ := rulesOf(render("config: {verify: {" + verify + "}}\nmonitoring: {rules: {enabled: true, thresholds: {" + feedStale + "}}}"))
			for _, g := range got.Groups {
				for _, r := range g.Rules {
					if _, limit, _ := strings.Cut(r.Expr, "> "); r.Alert == "PosternFeedStale" && limit != want+" # feedStale\n" {
						t.Errorf("%s, %s: fires from %q on, want %s", verify, feedStale, limit, want)
					}
				}
			}
		}
		f("on_stale: serve", "", "180")
		f("max_staleness: 5m", "", "180")
		f("max_staleness: 1h1m0.5s", "", "3540")
		f("max_staleness: 150000ms", "", "30")
		f("max_staleness: 1m", "", "10")
		f("max_staleness: '${STALENESS}'", "", "180")
		f("max_staleness: 1h", "feedStale: 90", "90")
		f("max_staleness: 1h", "feedStale: '90'", "90")
		f("max_staleness: 1h", "feedStale: 0", "0")
		f("max_staleness: 1h", "feedStale: null", "3480")
	})
	t.Run("sidecar", func(t *testing.T) {
		objects := render("mode: sidecar\nmonitoring: {podMonitor: {enabled: true}, rules: {enabled: true}, dashboard: {enabled: true}}")
		if _, ok := find(objects, "PodMonitor", "demo-postern"); !ok {
			t.Error("no PodMonitor")
		}
		dashboard, ok := find(objects, "ConfigMap", "demo-postern-dashboard")
		if !ok {
			t.Fatal("no dashboard")
		}
		got := as[corev1.ConfigMap](dashboard).Data["postern.json"]
		want, err := os.ReadFile(filepath.Join(chart, "files", "dashboard.json"))
		if err != nil {
			t.Fatal(err)
		}
		if got != strings.TrimSpace(string(want)) || dashboard.Labels["grafana_dashboard"] != "1" {
			t.Errorf("the dashboard is not the file, or Grafana does not find it: %v\n%s", dashboard.Labels, cmp.Diff(string(want), got))
		}
	})
	t.Run("refusals", func(t *testing.T) {
		for set, want := range map[string]string{
			"mode=sidecar,monitoring.serviceMonitor.enabled=true":                       "- monitoring.serviceMonitor is for mode gateway, and a sidecar has no Service of its own for its metrics: use monitoring.podMonitor",
			"monitoring.serviceMonitor.enabled=true,monitoring.podMonitor.enabled=true": "- monitoring.serviceMonitor and monitoring.podMonitor would both scrape each pod: enable one of the two",
			"monitoring.rules.disabled[0]=PosternSlowly":                                "- monitoring.rules.disabled names PosternSlowly, which is no alert: use some of PosternAbsent, ",
			"monitoring.rules.thresholds.faling=1":                                      "- at '/monitoring/rules/thresholds': additional properties 'faling' not allowed",
		} {
			for _, h := range tools {
				if _, failure, ok := h.template(t, chart, "--set", least+","+set); ok || !strings.HasPrefix(message(failure), want) {
					t.Errorf("helm %s, %s: %s", h.name, set, message(failure))
				}
			}
		}
	})
}

// checkRules has Prometheus' own tool read the rules.
func checkRules(t *testing.T, rules []byte) {
	t.Helper()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("promtool is missing, and this is CI")
		}
		t.Skip("SKIPPED: promtool is missing; install Prometheus to run this test")
	}
	file := filepath.Join(t.TempDir(), "rules.json") // JSON is YAML
	if err := os.WriteFile(file, rules, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
}

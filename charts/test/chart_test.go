package charts

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write testdata/golden anew")

// example is a chart with values that it must render.
type example struct {
	name  string
	chart string // a directory
	args  []string

	manifests string // what helm rendered
	objects   []object
}

// TestCharts renders every chart with every values file of its ci directory, and asks each of the others about it.
func TestCharts(t *testing.T) {
	tools := helms(t)
	dir := copyCharts(t, tools[0])
	examples := findExamples(t, dir)
	for i := range examples {
		e := &examples[i]
		t.Run("lint/"+e.name, func(t *testing.T) { testLint(t, tools, e) })
		t.Run("render/"+e.name, func(t *testing.T) { testRender(t, tools, e) })
	}
	v := openValidator(t)
	postern := buildPostern(t)
	for _, e := range examples {
		if len(e.objects) == 0 { // said already
			continue
		}
		t.Run("conform/"+e.name, func(t *testing.T) { report(t, conformFaults(v, e.manifests)) })
		t.Run("pods/"+e.name, func(t *testing.T) { report(t, podFaults(e.objects)) })
		t.Run("references/"+e.name, func(t *testing.T) { report(t, referenceFaults(e.objects)) })
		t.Run("hooks/"+e.name, func(t *testing.T) { report(t, hookFaults(e.objects)) })
		if strings.HasPrefix(e.name, "sidecar-example") {
			t.Run("sidecar/"+e.name, func(t *testing.T) { report(t, sidecarFaults(e.objects, !strings.Contains(e.name, "plain"))) })
		}
		t.Run("notes/"+e.name, func(t *testing.T) { testNotes(t, tools[1], postern, e) })
		t.Run("config/"+e.name, func(t *testing.T) { testConfig(t, postern, e.objects) })
	}
	t.Run("refusals", func(t *testing.T) { testRefusals(t, tools, filepath.Join(dir, "postern")) })
}

// findExamples are the values files in charts/*/ci, and what a chart renders with its own values alone.
func findExamples(t *testing.T, dir string) []example {
	t.Helper()
	examples := []example{{name: "sidecar-example", chart: filepath.Join(dir, "sidecar-example")}}
	files, err := filepath.Glob(filepath.Join(dir, "*", "ci", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no values in charts/*/ci: %v", err)
	}
	for _, file := range files {
		chart := filepath.Dir(filepath.Dir(file))
		name := filepath.Base(chart) + "-" + strings.TrimSuffix(strings.TrimSuffix(filepath.Base(file), ".yaml"), "-values")
		examples = append(examples, example{name: name, chart: chart, args: []string{"--values", file}})
	}
	return examples
}

func testLint(t *testing.T, tools []helm, e *example) {
	for _, h := range tools {
		args := append([]string{"lint", e.chart, "--strict", "--kube-version", kubeVersion}, e.args...)
		if out, failure, ok := h.run(t, args...); !ok {
			t.Errorf("helm %s lint: %s%s", h.name, out, failure)
		}
	}
}

// afterDocument are the empty lines that Helm 4 leaves at the end of some documents.
var afterDocument = regexp.MustCompile(`\n+(---\n|$)`)

// testRender holds that both Helms render the same, and that it is what was reviewed.
func testRender(t *testing.T, tools []helm, e *example) {
	for _, h := range tools {
		out, failure, ok := h.template(t, e.chart, e.args...)
		if !ok {
			t.Fatalf("helm %s template: %s", h.name, failure)
		}
		out = afterDocument.ReplaceAllString(out, "\n$1")
		if e.manifests != "" && out != e.manifests {
			t.Errorf("helm %s and %s render something else:\n%s", tools[0].name, h.name, lineDiff(e.manifests, out))
		}
		e.manifests = out
	}
	e.objects = parseObjects(t, e.manifests)
	golden(t, e.name+".yaml", strings.ReplaceAll(e.manifests, indented(t, "dashboard.json"), "    (files/dashboard.json)\n"))
}

// indented is a file of the chart as a ConfigMap holds it: it has been reviewed where it lies.
func indented(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "postern", "files", name))
	if err != nil {
		t.Fatal(err)
	}
	return "    " + strings.ReplaceAll(strings.TrimSpace(string(data)), "\n", "\n    ") + "\n"
}

// golden compares got with a file of testdata/golden.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", "golden", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v; go test -update writes it", err)
	}
	if diff := lineDiff(string(want), got); diff != "" {
		t.Errorf("not as in %s (-reviewed +rendered); if it is meant so, go test -update and review it:\n%s", file, diff)
	}
}

func lineDiff(a, b string) string { return cmp.Diff(strings.Split(a, "\n"), strings.Split(b, "\n")) }

func report(t *testing.T, faults []string) {
	t.Helper()
	for _, fault := range faults {
		t.Error(fault)
	}
}

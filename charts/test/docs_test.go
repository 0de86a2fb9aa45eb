package charts

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsValues renders what docs/kubernetes.md shows: the values of the gateway, alone and with each other config that
// the document puts in its place; and it holds the document's own objects, and those that it speaks of by name.
func TestDocsValues(t *testing.T) {
	text, err := os.ReadFile("../../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	tools := helms(t)
	chart := filepath.Join(copyCharts(t, tools[0]), "postern")
	v := openValidator(t)
	postern := buildPostern(t)
	render := func(values ...string) []object {
		t.Helper()
		var args []string
		for _, text := range values {
			file := filepath.Join(t.TempDir(), "values.yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			args = append(args, "--values", file)
		}
		out, failure, ok := tools[0].template(t, chart, args...)
		if !ok {
			t.Fatalf("helm template: %s\n%s", failure, strings.Join(values, "\n"))
		}
		report(t, conformFaults(v, out))
		objects := parseObjects(t, out)
		testConfig(t, postern, objects)
		return objects
	}
	gateway, values, objects := "", 0, 0
	for _, m := range regexp.MustCompile("(?sm)^```yaml\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		switch block := m[1]; {
		case strings.HasPrefix(block, "apiVersion:"):
			objects++
			report(t, conformFaults(v, block))
		case gateway == "":
			gateway = block
			render(gateway)
		default:
			values++
			render(gateway, block)
		}
	}
	if values != 2 || objects != 2 {
		t.Errorf("%d times other values, and %d objects", values, objects)
	}

	// What is typed in the document's commands, as a release called postern.
	out, failure, ok := tools[0].run(t, "template", "postern", chart, "--set", "config.issuer.url=https://api.example.com",
		"--set", "config.routes[0].upstream[0]=http://api-direct", "--kube-version", kubeVersion)
	if !ok {
		t.Fatal(failure)
	}
	rendered := parseObjects(t, out)
	for kind, name := range map[string]string{"Deployment": "postern", "Service": "postern"} {
		if _, ok := find(rendered, kind, name); !ok {
			t.Errorf("no %s %s", kind, name)
		}
	}
	for _, said := range []string{"app.kubernetes.io/name: postern", "app.kubernetes.io/instance: postern", "app.kubernetes.io/component: gateway", "targetPort: postern-front", "- name: postern\n"} {
		if !strings.Contains(out, said) {
			t.Errorf("the chart says %q no longer, and docs/kubernetes.md does", said)
		}
	}
}

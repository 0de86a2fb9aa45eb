package charts

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/yannh/kubeconform/pkg/validator"
)

// openValidator is kubeconform in its strict mode, with schemas from the module cache: it asks no network.
func openValidator(t *testing.T) validator.Validator {
	t.Helper()
	v, err := validator.New([]string{writeSchemas(t)}, validator.Opts{Strict: true})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// conformFaults are what an API server would refuse, or drop without a word, in the manifests.
func conformFaults(v validator.Validator, manifests string) []string {
	var faults []string
	for _, r := range v.Validate("manifests", io.NopCloser(strings.NewReader(manifests))) {
		switch r.Status {
		case validator.Valid, validator.Empty:
		default:
			name := "an object"
			if sig, err := r.Resource.Signature(); err == nil {
				name = sig.QualifiedName()
			}
			faults = append(faults, name+": "+r.Err.Error())
		}
	}
	return faults
}

// TestPlantedFaultsAreSeen plants one fault after the other into manifests that conform.
func TestPlantedFaultsAreSeen(t *testing.T) {
	v := openValidator(t)
	good, err := os.ReadFile(filepath.Join("testdata", "good.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if faults := conformFaults(v, string(good)); len(faults) > 0 {
		t.Fatalf("good.yaml does not conform:\n%s", strings.Join(faults, "\n"))
	}
	f := func(name, old, new, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			if strings.Count(string(good), old) != 1 {
				t.Fatalf("good.yaml holds %q %d times, want once", old, strings.Count(string(good), old))
			}
			faults := conformFaults(v, strings.Replace(string(good), old, new, 1))
			if len(faults) != 1 || !strings.Contains(faults[0], want) {
				t.Errorf("got %q, want one fault with %q", faults, want)
			}
		})
	}
	f("a field that is not one", "          ports:", "          containerPorts:", "additional properties 'containerPorts' not allowed")
	f("a word for a number", "replicas: 2", "replicas: two", "at '/spec/replicas': got string, want integer")
	f("a kind that is not one", "kind: HorizontalPodAutoscaler", "kind: HorizontalPodAutoScalers", "could not find schema for HorizontalPodAutoScalers")
	f("a version that is gone", "autoscaling/v2", "autoscaling/v2beta2", "could not find schema for HorizontalPodAutoscaler")
	f("a selector that is missing", "  selector: {matchLabels: {app: good}}\n  template", "  template", "missing property 'selector'")
	f("a field twice", "  replicas: 2", "  replicas: 2\n  replicas: 3", `key "replicas" already set`)
	f("a service monitor", "    - port: admin", "    - prot: admin", "additional properties 'prot' not allowed")
	f("a route of the gateway API", "    - backendRefs:", "    - backendRef:", "additional properties 'backendRef' not allowed")
	f("a rule for alerts", "          expr: up == 0", "          expression: up == 0", "additional properties 'expression' not allowed")
	f("metadata of a custom resource", "  annotations: {of: route}", "  annotation: {of: route}", "additional properties 'annotation' not allowed")
}

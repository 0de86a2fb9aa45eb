// Package charts holds what the charts beside it promise: that both Helms render the same of them, that an API server
// would take all of it, that the pods are restricted ones, and that postern starts with the configuration. It needs no
// cluster, and the network only for what the module cache does not hold yet. Start with TestCharts.
package charts

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kubeVersion is the cluster that is rendered for; each Helm would take another one by itself.
const kubeVersion = "1.37.2"

// helm is one of the Helms that users have.
type helm struct {
	name, path string
	env        []string
}

// helms builds both: they are tools of this module, and Go keeps the programs in its cache.
func helms(t *testing.T) []helm {
	t.Helper()
	home := t.TempDir() // nothing of the user's: no plugins, no repositories, no cluster
	env := append(os.Environ(), "HELM_CONFIG_HOME="+home, "HELM_CACHE_HOME="+home, "HELM_DATA_HOME="+home,
		"HELM_NAMESPACE=", "KUBECONFIG="+filepath.Join(home, "none"))
	var all []helm
	for _, name := range []string{"v3", "v4"} {
		cmd := exec.CommandContext(t.Context(), "go", "tool", "-n", "helm.sh/helm/"+name+"/cmd/helm")
		var failure bytes.Buffer
		cmd.Stderr = &failure
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("build helm %s: %v\n%s", name, err, &failure)
		}
		all = append(all, helm{name, strings.TrimSpace(string(out)), env})
	}
	return all
}

// run returns what was written to each of the outputs, and whether it went well.
func (h helm) run(t *testing.T, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), h.path, args...)
	var out, failure bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &out, &failure, h.env
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("run helm %s: %v", h.name, err)
	}
	return out.String(), failure.String(), err == nil
}

// template renders a chart as it would be installed first, in a namespace of its own.
func (h helm) template(t *testing.T, chart string, args ...string) (stdout, stderr string, ok bool) {
	t.Helper()
	return h.run(t, append([]string{"template", release, chart, "--namespace", "demo", "--kube-version", kubeVersion}, args...)...)
}

// copyCharts copies the charts, and gives those that depend on another one their archives: helm writes these into the
// chart, and the clone stays as it is.
func copyCharts(t *testing.T, h helm) string {
	t.Helper()
	dir := t.TempDir()
	for _, chart := range []string{"postern", "sidecar-example"} {
		if err := os.CopyFS(filepath.Join(dir, chart), os.DirFS(filepath.Join("..", chart))); err != nil {
			t.Fatal(err)
		}
		if out, failure, ok := h.run(t, "dependency", "build", filepath.Join(dir, chart)); !ok {
			t.Fatalf("helm %s dependency build %s: %s%s", h.name, chart, out, failure)
		}
	}
	return dir
}

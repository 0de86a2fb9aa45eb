package charts

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// source is a line of testdata/sources: a module that carries descriptions of Kubernetes objects. It is fetched into Go's
// module cache and never compiled: k8s.io/kubernetes cannot be required by a go.mod at all, for it replaces its own parts
// by directories.
type source struct {
	module, version string
	sum             string // as in a go.sum; another content is refused
	files           string // where the descriptions are
}

func sources(t *testing.T) []source {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "sources"))
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) != 4 {
			t.Fatalf("testdata/sources: want a module, its version, sum and files, not %q", line)
		}
		all = append(all, source{f[0], f[1], f[2], f[3]})
	}
	return all
}

// writeSchemas makes strict JSON Schemas of all kinds that are known, in a directory of the test's own, and returns
// where kubeconform finds them.
func writeSchemas(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, s := range sources(t) {
		files, err := filepath.Glob(filepath.Join(fetch(t, s), s.files))
		if err != nil || len(files) == 0 {
			t.Fatalf("no %s in %s %s: %v", s.files, s.module, s.version, err)
		}
		for _, file := range files {
			write := writeCRD
			if filepath.Ext(file) == ".json" {
				write = writeOpenAPI
			}
			if err := write(file, dir); err != nil {
				t.Fatalf("make schemas of %s: %v", file, err)
			}
		}
	}
	return dir + "/{{.Group}}_{{.ResourceAPIVersion}}_{{.ResourceKind}}.json"
}

// fetch returns the directory of the module in the module cache.
func fetch(t *testing.T, s source) string {
	t.Helper()
	// Outside of this module, whose go.mod would be asked for its requirements.
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", s.module+"@"+s.version)
	cmd.Dir = t.TempDir()
	out, err := cmd.Output()
	var got struct{ Dir, Sum, Error string }
	if parseErr := json.Unmarshal(out, &got); err != nil || parseErr != nil {
		t.Fatalf("go mod download %s@%s: %v %s", s.module, s.version, err, got.Error)
	}
	if got.Sum != s.sum {
		t.Fatalf("%s %s has the sum %s, want %s", s.module, s.version, got.Sum, s.sum)
	}
	return got.Dir
}

// writeOpenAPI writes the definitions of one group and version, and one small schema for each kind that leads there.
func writeOpenAPI(file, dir string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var api struct {
		Components struct {
			Schemas map[string]map[string]any `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(data, &api); err != nil {
		return err
	}
	base := filepath.Base(file)
	for name, schema := range api.Components.Schemas {
		strict(schema)
		kinds, _ := schema["x-kubernetes-group-version-kind"].([]any)
		if len(kinds) != 1 { // DeleteOptions and its like belong to every group
			continue
		}
		k, _ := kinds[0].(map[string]any)
		ref := map[string]any{"$ref": base + "#/components/schemas/" + name}
		if err := writeJSON(kindFile(dir, fmt.Sprint(k["group"]), fmt.Sprint(k["version"]), fmt.Sprint(k["kind"])), ref); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(dir, base), api)
}

// writeCRD writes the schema of each version of a CustomResourceDefinition; other documents it leaves out.
func writeCRD(file, dir string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var crd struct {
		Kind string `json:"kind"`
		Spec struct {
			Group string `json:"group"`
			Names struct {
				Kind string `json:"kind"`
			} `json:"names"`
			Versions []struct {
				Name   string `json:"name"`
				Schema struct {
					OpenAPIV3Schema map[string]any `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(data, &crd); err != nil || crd.Kind != "CustomResourceDefinition" {
		return err
	}
	for _, v := range crd.Spec.Versions {
		schema := v.Schema.OpenAPIV3Schema
		strict(schema)
		if properties, ok := schema["properties"].(map[string]any); ok { // a definition leaves it to the server
			properties["metadata"] = map[string]any{"$ref": "api__v1_openapi.json#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
		}
		if err := writeJSON(kindFile(dir, crd.Spec.Group, v.Name, crd.Spec.Names.Kind), schema); err != nil {
			return err
		}
	}
	return nil
}

// strict closes every object whose fields are listed: the server drops what is not listed, without a word.
func strict(schema any) {
	switch s := schema.(type) {
	case map[string]any:
		_, closed := s["additionalProperties"]
		if _, listed := s["properties"].(map[string]any); listed && s["type"] == "object" && !closed &&
			s["x-kubernetes-preserve-unknown-fields"] != true {
			s["additionalProperties"] = false
		}
		for _, v := range s {
			strict(v)
		}
	case map[string]map[string]any:
		for _, v := range s {
			strict(v)
		}
	case []any:
		for _, v := range s {
			strict(v)
		}
	}
}

// kindFile is named as kubeconform names a resource: the core group has no name, and its version stands there.
func kindFile(dir, group, version, kind string) string {
	if group == "" {
		group = version
	}
	return filepath.Join(dir, fmt.Sprintf("%s_%s_%s.json", group, version, strings.ToLower(kind)))
}

func writeJSON(file string, content any) error {
	data, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return os.WriteFile(file, slices.Concat(data, []byte("\n")), 0o600)
}

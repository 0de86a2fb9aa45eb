package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	"gopkg.in/yaml.v3"
)

var _ = flag.Bool("update-chart", false, "write what the chart repeats: values.schema.json and the table of values")

const chartDirectory = "charts/postern/"

// A chartValue is one value of the chart: where it is, and what values.yaml says of it.
// A whole one has no comments inside.
type chartValue struct {
	key, fallback, meaning string
	whole                  bool
}

// TestChartSchema holds the schema of the chart's values equal to what it repeats: the
// configuration's own schema, and the comments of values.yaml. To write it:
// go test -run TestChart . -update-chart
func TestChartSchema(t *testing.T) {
	const file = chartDirectory + "values.schema.json"
	text := readFile(t, file)
	var schema jsonschema.Schema
	if err := json.Unmarshal([]byte(text), &schema); err != nil {
		t.Fatal(err)
	}
	schema.Definitions = configDefinitions(t)
	whole := map[string]bool{}
	for _, v := range chartValues(t) {
		whole[v.key] = v.whole
		if strings.HasPrefix(v.key, "config.") {
			continue // postern's own, which describes itself
		}
		property := schemaAt(&schema, v.key)
		if property == nil {
			t.Errorf("%s has no %s", file, v.key)
			continue
		}
		property.Description = v.meaning
	}
	everySchema(&schema, "", func(key string, s *jsonschema.Schema) (deeper bool) {
		switch {
		case whole[key]:
			return false
		case s.Properties == nil && s.Description == "":
			t.Errorf("values.yaml has no %s, or no comment above it", key)
		case s.Properties != nil && !isFalse(t, s.AdditionalProperties):
			t.Errorf("%s takes unknown values below %q", file, key)
		}
		return true
	})
	want, err := json.MarshalIndent(&schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	holdChartFile(t, file, text, string(want)+"\n")
}

// TestChartReadme holds the README's table of values equal to values.yaml.
func TestChartReadme(t *testing.T) {
	const file = chartDirectory + "README.md"
	var table strings.Builder
	table.WriteString("| value | default | meaning |\n|---|---|---|\n")
	for _, v := range chartValues(t) {
		fallback := v.fallback
		if fallback != "" {
			fallback = "`" + fallback + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s |\n", v.key, fallback, strings.ReplaceAll(v.meaning, "|", `\|`))
	}
	text := readFile(t, file)
	before, rest, ok := strings.Cut(text, "<!-- begin values -->\n")
	_, after, closed := strings.Cut(rest, "<!-- end values -->")
	if !ok || !closed {
		t.Fatalf("%s has no section for values", file)
	}
	holdChartFile(t, file, text, before+"<!-- begin values -->\n"+table.String()+"<!-- end values -->"+after)
}

// TestChartRestart: what a running postern does not apply makes new pods.
func TestChartRestart(t *testing.T) {
	_, sum, _ := strings.Cut(readFile(t, chartDirectory+"templates/_helpers.tpl"), `define "postern.restartSum"`)
	sum, _, _ = strings.Cut(sum, "define ")
	n := 0
	for line := range strings.Lines(readFile(t, "README.md")) {
		key, ok := strings.CutPrefix(line, "| `")
		if !ok || !strings.HasSuffix(line, "needs a restart |\n") {
			continue
		}
		key, _, _ = strings.Cut(key, "`")
		section, name, _ := strings.Cut(key, ".")
		if section == "front" || section == "log" {
			section, _, _ = strings.Cut(name, ".") // these are in it setting by setting
		}
		if n++; !strings.Contains(sum, strconv.Quote(section)) {
			t.Errorf("%s needs a restart, and postern.restartSum has no %q", key, section)
		}
	}
	if n < 20 {
		t.Errorf("%d settings need a restart", n)
	}
}

func holdChartFile(t *testing.T, file, got, want string) {
	t.Helper()
	if got == want || t.Failed() {
		return
	}
	if flag.Lookup("update-chart").Value.String() != "true" {
		t.Fatalf("%s repeats what changed: go test -run TestChart . -update-chart", file)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
		t.Fatal(err)
	}
}

// configDefinitions is the configuration's schema as a part of another one.
func configDefinitions(t *testing.T) jsonschema.Definitions {
	t.Helper()
	var schema jsonschema.Schema
	if err := json.Unmarshal([]byte(readFile(t, "config/postern.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	all := schema.Definitions
	schema.Version, schema.Definitions = "", nil
	all["config"] = &schema
	return all
}

// chartValues reads values.yaml.
func chartValues(t *testing.T) []chartValue {
	t.Helper()
	var document yaml.Node
	if err := yaml.Unmarshal([]byte(readFile(t, chartDirectory+"values.yaml")), &document); err != nil {
		t.Fatal(err)
	}
	var all []chartValue
	var visit func(mapping *yaml.Node, prefix string)
	visit = func(mapping *yaml.Node, prefix string) {
		for i := 0; i < len(mapping.Content); i += 2 {
			name, node := mapping.Content[i], mapping.Content[i+1]
			v := chartValue{key: prefix + name.Value, meaning: sentence(name.HeadComment), whole: !commented(node)}
			if v.whole {
				v.fallback = flow(t, node)
			}
			if v.whole || v.meaning != "" {
				all = append(all, v)
			}
			if !v.whole {
				visit(node, v.key+".")
			}
		}
	}
	visit(document.Content[0], "")
	return all
}

// commented reports whether something inside node has a comment.
func commented(node *yaml.Node) bool {
	return slices.ContainsFunc(node.Content, func(n *yaml.Node) bool { return n.HeadComment != "" || commented(n) })
}

// sentence is a comment without its marks and line ends; of several blocks the last one.
func sentence(comment string) string {
	blocks := strings.Split(comment, "\n\n")
	var lines []string
	for line := range strings.Lines(blocks[len(blocks)-1]) {
		lines = append(lines, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "#")))
	}
	return strings.Join(lines, " ")
}

// flow is a value on one line.
func flow(t *testing.T, node *yaml.Node) string {
	t.Helper()
	var value any
	if err := node.Decode(&value); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(value); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

// schemaAt is what schema says of the value at key.
func schemaAt(schema *jsonschema.Schema, key string) *jsonschema.Schema {
	for name := range strings.SplitSeq(key, ".") {
		if schema == nil || schema.Properties == nil {
			return nil
		}
		schema, _ = schema.Properties.Get(name)
	}
	return schema
}

// everySchema calls do for each value that schema names, and for those inside while do
// says so.
func everySchema(schema *jsonschema.Schema, key string, do func(key string, s *jsonschema.Schema) (deeper bool)) {
	if !do(key, schema) || schema.Properties == nil {
		return
	}
	for pair := schema.Properties.Oldest(); pair != nil; pair = pair.Next() {
		everySchema(pair.Value, strings.TrimPrefix(key+"."+pair.Key, "."), do)
	}
}

func isFalse(t *testing.T, schema *jsonschema.Schema) bool {
	t.Helper()
	text, err := json.Marshal(schema)
	if err != nil {
		t.Fatal(err)
	}
	return string(text) == "false"
}

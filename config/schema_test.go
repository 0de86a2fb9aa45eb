package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/invopop/jsonschema"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write postern.schema.json anew")

const schemaFile = "postern.schema.json"

// TestSchema holds the shipped JSON Schema equal to the types; go generate writes it.
func TestSchema(t *testing.T) {
	schema := schemaOf(t, reflect.TypeFor[Config]())
	schema.Title, schema.Description = "postern.yaml", "the configuration of postern"
	sameSchema(t, schemaFile, schema)
}

// sameSchema holds a shipped schema equal to what the types say.
func sameSchema(t *testing.T, file string, schema *jsonschema.Schema) {
	t.Helper()
	want, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	want = append(want, '\n')
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not what the types say: run go generate ./config", file)
	}
}

// schemaOf reflects typ, and adds what its tags say beyond its types.
func schemaOf(t *testing.T, typ reflect.Type) *jsonschema.Schema {
	t.Helper()
	reflector := jsonschema.Reflector{
		FieldNameTag: "yaml", DoNotReference: true, RequiredFromJSONSchemaTags: true, Anonymous: true,
		Mapper: func(typ reflect.Type) *jsonschema.Schema {
			switch typ {
			case secretType:
				return &jsonschema.Schema{Type: "string"}
			case durationType:
				return &jsonschema.Schema{Type: "string", Pattern: durationPattern}
			case sizeType:
				return &jsonschema.Schema{Type: "string", Pattern: sizePattern}
			case reflect.TypeFor[Moment]():
				return &jsonschema.Schema{Type: "string", Pattern: `^$|^[0-9]{4}-[0-9]{2}-[0-9]{2}`}
			case reflect.TypeFor[Allowance]():
				return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "integer", Minimum: "0"}, {Type: "string", Enum: []any{unlimited}}}}
			case reflect.TypeFor[Span]():
				return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string", Pattern: durationPattern}, {Type: "string", Enum: []any{unlimited}}}}
			case namesType:
				return &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "array", Items: &jsonschema.Schema{Type: "string"}}, {Type: "string", Enum: []any{unlimited}}}}
			}
			return nil
		},
	}
	root := reflector.Reflect(reflect.New(typ).Interface())
	root.Definitions = jsonschema.Definitions{"reference": {
		Type: "string", Pattern: `\$\{[A-Za-z_][A-Za-z0-9_]*\}`,
		Description: "a value that an environment variable brings in",
	}}
	describe(t, root, typ, false)
	return root
}

func describe(t *testing.T, schema *jsonschema.Schema, typ reflect.Type, restart bool) {
	t.Helper()
	for _, s := range settingsOf(typ) {
		s.restart = s.restart || restart
		property, ok := schema.Properties.Get(s.name)
		if !ok {
			t.Fatalf("the schema has no %s", s.name)
		}
		if s.required {
			schema.Required = append(schema.Required, s.name)
		}
		switch {
		case isSingle(s.typ):
			property.AnyOf = append(property.AnyOf, &jsonschema.Schema{Ref: "#/$defs/reference"})
			if property.Type != "" {
				property.AnyOf = append(property.AnyOf, &jsonschema.Schema{Type: property.Type, Pattern: property.Pattern})
				property.Type, property.Pattern = "", ""
			}
		case s.typ.Kind() == reflect.Struct:
			describe(t, property, s.typ, s.restart)
		case isMappings(s.typ):
			describe(t, property.Items, s.typ.Elem(), s.restart)
			if s.shorthand != "" {
				property.Items = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{{Type: "string"}, property.Items}}
			}
		case isList(s.typ):
			for _, value := range s.enum {
				property.Items.Enum = append(property.Items.Enum, value)
			}
			if s.single {
				property = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{property.Items, property}}
				schema.Properties.Set(s.name, property)
			}
		default:
			property = scalarSchema(property, s)
			schema.Properties.Set(s.name, property)
		}
		property.Description = meaning(s)
	}
}

func scalarSchema(property *jsonschema.Schema, s setting) *jsonschema.Schema {
	for _, value := range s.enum {
		property.Enum = append(property.Enum, value)
	}
	if s.optional() {
		property.Pattern = "^$|" + property.Pattern
	}
	if s.typ.Kind() == reflect.Int {
		property.Minimum, property.Maximum = json.Number(s.min), json.Number(s.max)
	}
	if property.Type != "string" || property.Pattern != "" || property.Enum != nil {
		property = &jsonschema.Schema{AnyOf: []*jsonschema.Schema{property, {Ref: "#/$defs/reference"}}}
	}
	switch s.typ.Kind() {
	case reflect.Bool:
		property.Default = s.fallback == "true"
	case reflect.Int:
		property.Default = json.Number(s.fallback)
	default:
		property.Default = s.fallback
	}
	return property
}

// Each default that the shipped schema names is the one that Default gives.
func TestSchemaDefaults(t *testing.T) {
	schema := shipped(t, schemaFile)
	count := 0
	var visit func(schema map[string]any, v reflect.Value, prefix string)
	visit = func(schema map[string]any, v reflect.Value, prefix string) {
		properties, _ := schema["properties"].(map[string]any)
		for _, s := range settingsOf(v.Type()) {
			key := prefix + s.name
			property, _ := properties[s.name].(map[string]any)
			switch {
			case property == nil:
				t.Errorf("the schema has no %s", key)
			case s.typ.Kind() == reflect.Struct:
				visit(property, v.Field(s.index), key+".")
			case isMappings(s.typ):
				element := reflect.New(s.typ.Elem()).Elem()
				setDefaults(element)
				items := property["items"].(map[string]any)
				if choices := asList(items["anyOf"]); choices != nil {
					items = choices[1].(map[string]any)
				}
				visit(items, element, key+"[].")
			case !isList(s.typ):
				count++
				want := reflect.New(s.typ).Elem()
				if w := s.set(want, fmt.Sprint(property["default"])); w != (wrong{}) {
					t.Errorf("%s: the schema's default %s", key, w.problem)
				}
				if !reflect.DeepEqual(want.Interface(), v.Field(s.index).Interface()) {
					t.Errorf("%s is %v in the schema, %v by Default", key, property["default"], v.Field(s.index))
				}
			}
		}
	}
	visit(schema, reflect.ValueOf(Default()), "")
	if want := strings.Count(Reference(), "\n") - 2 - strings.Count(Reference(), "| `[]` |") - 1; count != want { // but lists, and routes[].upstream
		t.Errorf("%d defaults were compared, want %d", count, want)
	}
}

// The schema accepts what Load accepts, and refuses what a schema can refuse.
func TestSchemaAgreesWithLoad(t *testing.T) {
	schema := shipped(t, schemaFile)
	f := func(file, want string) {
		t.Helper()
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Helper()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var value any
			if err := yaml.Unmarshal(text, &value); err != nil {
				t.Fatal(err)
			}
			if got := conform(schema, schema, value, ""); got != want {
				t.Errorf("the schema says %q, want %q", got, want)
			}
		})
	}
	f("example.yaml", "")
	f(write(t, "minimal.yaml", minimal), "")
	f(write(t, "references.yaml", minimal+"log: {access: \"${A}\", level: \"${L}\"}\nfront: {max_connections: \"${N}\", drain: \"${D}\"}\n"), "")
	f("testdata/invalid-unknown-key.yaml", ".front.lisen is unknown")
	f("testdata/invalid-unknown-section.yaml", ".portal is unknown")
	f(write(t, "more.yaml", "routes: [{upstream: [{url: \"http://a\", weight: 2}, \"http://b\"], max_body: \"\", stall_timeout: 3s}]\nfront: {drain_delay: 0s, min_body_rate: 0B}\n"), "")
	f(write(t, "field.yaml", "routes: [{upstream: [x], request_headers: [{value: x}]}]\n"), ".routes[0].request_headers[0].name is missing")
	f(write(t, "upstream.yaml", "routes: [{upstream: [{weight: 1}]}]\n"), ".routes[0].upstream[0] fits nothing")
	f(write(t, "choice.yaml", minimal+"log: {access_fields: [nothing]}\n"), ".log.access_fields[0] is none of these")
	f("testdata/invalid-text-for-list.yaml", ".routes[0].upstream is no array")
	f("testdata/invalid-text-for-mapping.yaml", ".front is no object")
	f("testdata/invalid-number-for-text.yaml", ".issuer.audience is no string")
	f("testdata/invalid-boolean-quoted.yaml", ".log.access fits nothing")
	f("testdata/invalid-number-zero.yaml", ".front.max_connections fits nothing")
	f("testdata/invalid-choice.yaml", ".verify.on_stale fits nothing")
	f("testdata/invalid-duration-negative.yaml", ".issuer.lifetime fits nothing")
	f("testdata/invalid-duration-zero.yaml", ".front.drain fits nothing")
	f("testdata/invalid-duration-no-unit.yaml", ".verify.leeway fits nothing")
	f("testdata/invalid-size-no-unit.yaml", ".front.max_header fits nothing")
	f("testdata/invalid-upstream-missing.yaml", ".routes[0].upstream is missing")
}

func shipped(t *testing.T, file string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	return schema
}

// conform checks value against as much of JSON Schema as ours uses.
func conform(root, schema map[string]any, value any, at string) string {
	if ref, _ := schema["$ref"].(string); ref != "" {
		name := strings.TrimPrefix(ref, "#/$defs/")
		return conform(root, root["$defs"].(map[string]any)[name].(map[string]any), value, at)
	}
	if choices, _ := schema["anyOf"].([]any); choices != nil {
		for _, choice := range choices {
			if conform(root, choice.(map[string]any), value, at) == "" {
				return ""
			}
		}
		return at + " fits nothing"
	}
	types := map[string]bool{}
	switch value := value.(type) {
	case map[string]any:
		types["object"] = true
		properties, _ := schema["properties"].(map[string]any)
		for name, v := range value {
			property, ok := properties[name].(map[string]any)
			if !ok && schema["additionalProperties"] == false {
				return at + "." + name + " is unknown"
			}
			if bad := conform(root, property, v, at+"."+name); bad != "" {
				return bad
			}
		}
		for _, name := range asList(schema["required"]) {
			if _, ok := value[name.(string)]; !ok {
				return at + "." + name.(string) + " is missing"
			}
		}
	case []any:
		types["array"] = true
		items, _ := schema["items"].(map[string]any)
		for i, v := range value {
			if bad := conform(root, items, v, fmt.Sprintf("%s[%d]", at, i)); bad != "" {
				return bad
			}
		}
	case string:
		types["string"] = true
		if pattern, _ := schema["pattern"].(string); !regexp.MustCompile(pattern).MatchString(value) {
			return at + " does not match"
		}
	case bool:
		types["boolean"] = true
	case int:
		types["integer"] = true
		if least, ok := schema["minimum"].(float64); ok && float64(value) < least {
			return at + " is too small"
		}
		if most, ok := schema["maximum"].(float64); ok && float64(value) > most {
			return at + " is too large"
		}
	}
	if want, _ := schema["type"].(string); want != "" && !types[want] {
		return at + " is no " + want
	}
	if enum := asList(schema["enum"]); enum != nil {
		for _, v := range enum {
			if v == value {
				return ""
			}
		}
		return at + " is none of these"
	}
	return ""
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

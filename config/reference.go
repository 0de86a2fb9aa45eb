package config

import (
	"reflect"
	"strings"
)

// Reference is the table of all settings in Markdown: key, default, environment
// variable, meaning. The README carries it; it is made from the tags of Config. What
// says that it needs a restart stays as it is when the configuration is loaded anew.
func Reference() string {
	var b strings.Builder
	b.WriteString("| setting | default | variable | meaning |\n|---|---|---|---|\n")
	each(reflect.TypeFor[Config](), "", func(key string, s setting) {
		fallback := "`" + s.fallback + "`"
		switch {
		case s.required:
			fallback = "required"
		case isList(s.typ):
			fallback = "`[]`"
		case s.fallback == "":
			fallback = "empty"
		}
		name := variable(key, s)
		if name != "" {
			name = "`" + name + "`"
		}
		b.WriteString("| `" + key + "` | " + fallback + " | " + name + " | " + strings.ReplaceAll(meaning(s), "|", `\|`) + " |\n")
	})
	return b.String()
}

// meaning is a setting's doc, and what values it takes beside.
func meaning(s setting) string {
	text := s.doc
	if s.enum != nil {
		text += "; `" + strings.Join(s.enum, "`, `") + "`"
	}
	switch {
	case s.min != "" && s.max != "":
		text += "; from " + s.min + " to " + s.max
	case s.min != "":
		text += "; at least " + s.min
	case s.max != "":
		text += "; at most " + s.max
	}
	if s.restart {
		text += "; needs a restart"
	}
	return text
}

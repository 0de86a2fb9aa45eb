package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"postern/secret"
)

// Line is one setting and its value. Key is dotted; routes and fields stand in it by
// their names, upstreams by their place: routes[api].upstream[0]. Value never shows a
// secret.
type Line struct{ Key, Value string }

// Change is one setting that differs between two configurations. Old and New never show
// a secret, and are "" where a route, a field or an upstream is not.
type Change struct {
	Key, Old, New string
	Restart       bool // to load the configuration anew does not apply it
}

const (
	redacted        = "[redacted]"
	redactedChanged = "[redacted, changed]"
)

// Flat lists every setting that is not at its default, in the order of the reference.
func (c Config) Flat() []Line {
	var lines []Line
	for _, l := range c.leaves() {
		if !l.isDefault() {
			lines = append(lines, Line{l.key, l.text()})
		}
	}
	return lines
}

// Files lists every file that the configuration was read from or names: its own, those
// of secrets, certificates and keys. Each is listed once.
func (c Config) Files() []string {
	var files []string
	add := func(path string) {
		if path != "" && !slices.Contains(files, path) {
			files = append(files, path)
		}
	}
	add(c.file)
	for _, l := range c.leaves() {
		if l.file {
			add(l.value.String())
		}
	}
	return files
}

// Diff lists what is different in newer, in the order of the reference, then what only
// older had. The order of routes is no difference; that of upstreams is.
func Diff(older, newer Config) []Change {
	before := map[string]leaf{}
	all := older.leaves()
	for _, l := range all {
		before[l.key] = l
	}
	switched := older.Front.TLS.Enabled() != newer.Front.TLS.Enabled()
	var changes []Change
	note := func(l leaf, was, is string) {
		changes = append(changes, Change{l.key, was, is, l.takesRestart(switched)})
	}
	after := map[string]bool{}
	for _, l := range newer.leaves() {
		after[l.key] = true
		switch was, ok := before[l.key]; {
		case !ok && !l.isDefault():
			note(l, "", l.text())
		case ok && !reflect.DeepEqual(l.value.Interface(), was.value.Interface()):
			is := l.text()
			if is == redacted && was.text() == redacted {
				is = redactedChanged
			}
			note(l, was.text(), is)
		}
	}
	for _, l := range all {
		if !after[l.key] && !l.isDefault() {
			note(l, l.text(), "")
		}
	}
	return changes
}

// A leaf is a setting that is no section, and its value in some configuration.
type leaf struct {
	setting
	key   string
	value reflect.Value
}

// leaves lists all settings with their values, in order of declaration.
func (c Config) leaves() []leaf { return leavesOf(reflect.ValueOf(c), "", false) }

func leavesOf(v reflect.Value, prefix string, restart bool) (all []leaf) {
	for _, s := range settingsOf(v.Type()) {
		s.restart = s.restart || restart
		key, value := prefix+s.name, v.Field(s.index)
		switch {
		case s.typ.Kind() == reflect.Struct:
			all = append(all, leavesOf(value, key+".", s.restart)...)
		case isMappings(s.typ):
			for i := range value.Len() {
				all = append(all, elementLeaves(value.Index(i), s, key, i)...)
			}
		default:
			all = append(all, leaf{s, key, value})
		}
	}
	return all
}

// elementLeaves lists the settings of the mapping v, at place i of the list s. What the
// mapping is called by stands in their keys.
func elementLeaves(v reflect.Value, s setting, key string, i int) (all []leaf) {
	at := fmt.Sprintf("%s[%d]", key, i)
	if name := v.FieldByName("Name"); name.IsValid() {
		at = key + "[" + name.String() + "]"
	}
	for _, l := range leavesOf(v, at+".", s.restart) {
		switch l.key {
		case at + ".name":
			continue
		case at + "." + s.shorthand:
			l.key = at
		}
		all = append(all, l)
	}
	return all
}

// isDefault reports whether the value is the one that the setting has without anybody.
func (l leaf) isDefault() bool {
	if isList(l.typ) {
		return l.value.Len() == 0
	}
	return l.defaultValue().Equal(l.value)
}

// defaultValue is the default of a setting that is no list.
func (l leaf) defaultValue() reflect.Value {
	v := reflect.New(l.typ).Elem()
	l.set(v, l.fallback)
	return v
}

// takesRestart reports whether a reload cannot apply another value. switched: TLS at the
// front goes on or off.
func (l leaf) takesRestart(switched bool) bool {
	return l.restart || switched && strings.HasPrefix(l.key, "front.tls.")
}

// text is the value as one would write it, lists with commas.
func (l leaf) text() string {
	switch v := l.value.Interface().(type) {
	case secret.Secret:
		if v == "" {
			return ""
		}
		return redacted
	case []string:
		return strings.Join(v, ", ")
	default:
		if l.optional() && l.value.IsZero() {
			return ""
		}
		return fmt.Sprint(v)
	}
}

package config

import (
	"fmt"
	"reflect"
	"strings"

	"gopkg.in/yaml.v3"
)

// This file walks the parsed YAML and the types of Config side by side.

// here is the origin of a value at a line of the file.
func (l *loader) here(line int) origin {
	return origin{layer: fromFile, where: l.source.File, line: line, literal: true}
}

// mapping fills the struct into from n. key is that of the struct, "" for all.
func (l *loader) mapping(n *yaml.Node, into reflect.Value, key string) {
	switch {
	case opaque(n), n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return // a section with all its lines commented out is empty
	case n.Kind != yaml.MappingNode:
		l.fault(key, "is "+kind(n)+", not a mapping", "write its settings below it, each as key: value, indented alike")
		return
	}
	known := l.settingsOf(into.Type())
	lines := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		if opaque(name) || name.Tag == "!!merge" {
			continue
		}
		s, ok := find(known, name)
		if !ok {
			l.unknown(name, known, key)
			continue
		}
		full := dotted(key, s.name)
		if first := lines[s.name]; first != 0 {
			l.faultAt(l.here(name.Line), full, fmt.Sprintf("is set twice, first on line %d", first), "remove one of the two")
			continue
		}
		lines[s.name] = name.Line
		l.origins[full] = l.here(name.Line)
		l.value(value, into.Field(s.index), s, full)
	}
}

// settingsOf is settingsOf, remembered: a file may hold 20,000 routes.
func (l *loader) settingsOf(t reflect.Type) []setting {
	if l.known[t] == nil {
		l.known[t] = settingsOf(t)
	}
	return l.known[t]
}

func dotted(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func find(known []setting, name *yaml.Node) (setting, bool) {
	for _, s := range known {
		if name.Kind == yaml.ScalarNode && s.name == name.Value {
			return s, true
		}
	}
	return setting{}, false
}

// unknown refuses a key that no setting has, and names what the operator may have meant.
func (l *loader) unknown(n *yaml.Node, known []setting, key string) {
	if len(l.faults) >= maxNoted {
		l.unnoted++ // and spare the words: a file may hold 100,000 of these
		return
	}
	var names []string
	for _, s := range known {
		names = append(names, s.name)
	}
	fix := "the keys here are " + strings.Join(names, ", ")
	name := ""
	if n.Kind == yaml.ScalarNode {
		name = named(n.Value)
	}
	if name == "" {
		l.faultAt(l.here(n.Line), key, "has an unknown key", fix+"; a colon needs a space after it")
		return
	}
	if best, ok := nearest(name, names); ok {
		fix = "did you mean " + best + "? " + fix
	}
	l.faultAt(l.here(n.Line), dotted(key, name), "is an unknown key", fix)
}

// value fills into, whose type is the setting's or that of an element of its list.
func (l *loader) value(n *yaml.Node, into reflect.Value, s setting, key string) {
	switch {
	case opaque(n):
		l.failed[key] = true
	case into.Type() == namesType && n.Kind == yaml.SequenceNode:
		names := into.Addr().Interface().(*Names)
		names.Given = true
		l.list(n, reflect.ValueOf(&names.Values).Elem(), s, key)
	case into.Type() == namesType && (n.Kind != yaml.ScalarNode || n.Tag != "!!null" && n.Value != unlimited):
		l.fault(key, "is "+kind(n)+", neither a list nor unlimited", "write the names in brackets: [...], or unlimited")
	case isSingle(into.Type()):
		l.scalar(n, into, s, key)
	case isList(into.Type()) && s.single && n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		l.list(&yaml.Node{Kind: yaml.SequenceNode, Line: n.Line, Content: []*yaml.Node{n}}, into, s, key)
	case into.Kind() == reflect.Struct && s.shorthand != "" && n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		for _, inner := range l.settingsOf(into.Type()) {
			if inner.name == s.shorthand {
				l.scalar(n, into.Field(inner.index), inner, key)
			}
		}
	case into.Kind() == reflect.Struct:
		l.mapping(n, into, key)
	case isList(into.Type()):
		l.list(n, into, s, key)
	default:
		l.scalar(n, into, s, key)
	}
}

func (l *loader) list(n *yaml.Node, into reflect.Value, s setting, key string) {
	element := s
	element.typ = into.Type().Elem()
	switch {
	case n.Tag == "!!null" && element.typ.Kind() == reflect.Struct:
		return // like a section with all its lines commented out
	case n.Kind != yaml.SequenceNode:
		l.fault(key, "is "+kind(n)+", not a list", "write it in brackets: [...], or each element on a line of its own after a dash")
		return
	}
	fresh := reflect.New(element.typ).Elem()
	if element.typ.Kind() == reflect.Struct {
		setDefaults(fresh)
	}
	if len(n.Content) > 0 {
		into.Set(reflect.MakeSlice(into.Type(), 0, len(n.Content)))
	}
	for i, child := range n.Content {
		at := fmt.Sprintf("%s[%d]", key, i)
		l.origins[at] = l.here(child.Line)
		next := reflect.New(element.typ).Elem()
		next.Set(fresh)
		l.value(child, next, element, at)
		into.Set(reflect.Append(into, next))
	}
}

func (l *loader) scalar(n *yaml.Node, into reflect.Value, s setting, key string) {
	o := l.origins[key]
	o.shown = quoted(n.Value)
	if n.Kind != yaml.ScalarNode {
		l.fault(key, "is "+kind(n)+", not a single value", "write one value")
		return
	}
	if n.Tag == "!!null" {
		l.fault(key, "has no value", "give it one, or remove the key")
		return
	}
	text, expanded, w := expand(n.Value, l.env, s.hidden())
	if w != (wrong{}) {
		l.fault(key, w.problem, w.fix)
		return
	}
	o.literal = !expanded
	// What ${NAME} stands for is text whatever it looks like, so it is judged by its text alone.
	plain := n.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch {
	case expanded:
	case s.typ.Kind() == reflect.String && s.typ != secretType && kind(n) != "text":
		l.fault(key, o.shown+" is "+kind(n)+", not text", "put it in quotes")
		return
	case (s.typ.Kind() == reflect.Bool || s.typ.Kind() == reflect.Int) && !plain:
		l.fault(key, o.shown+" is text", "write it without quotes")
		return
	}
	l.set(key, s, into, text, o)
}

package config

import (
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

const variablePrefix = "POSTERN_"

// serviceLink is what Kubernetes and container links put in the environment of every
// pod beside a service that is called postern, or postern-something: not ours to judge.
// The one that could be somebody's idea of a setting, POSTERN_PORT, holds a URL there.
var serviceLink = regexp.MustCompile(`^POSTERN_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)=|^POSTERN_(\w+_)?PORT=(tcp|udp|sctp)://`)

// scalars returns the settings outside lists by key, and their keys in order.
func scalars() (map[string]setting, []string) {
	all := map[string]setting{}
	var keys []string
	each(reflect.TypeFor[Config](), "", func(key string, s setting) {
		if variable(key, s) != "" {
			all[key] = s
			keys = append(keys, key)
		}
	})
	return all, keys
}

// lists are the names that lists outside routes would have, were they variables.
func lists() (names []string) {
	each(reflect.TypeFor[Config](), "", func(key string, s setting) {
		if isList(s.typ) && !strings.Contains(key, "[]") {
			names = append(names, variablePrefix+strings.ToUpper(strings.ReplaceAll(key, ".", "_")))
		}
	})
	return names
}

// environment takes the settings that POSTERN_<SECTION>_<KEY> variables give.
func (l *loader) environment() {
	all, keys := scalars()
	byVariable := map[string]string{}
	var names []string
	for _, key := range keys {
		name := variable(key, all[key])
		byVariable[name] = key
		names = append(names, name)
	}
	for _, name := range slices.Sorted(maps.Keys(l.env)) {
		if !strings.HasPrefix(name, variablePrefix) || serviceLink.MatchString(name+"="+l.env[name]) {
			continue
		}
		key, ok := byVariable[name]
		if !ok {
			l.unknownVariable(name, names)
			continue
		}
		text := l.env[name]
		o := origin{layer: fromEnvironment, where: name, shown: quoted(text), literal: true}
		l.set(key, all[key], l.config.at(key), text, o)
	}
}

func (l *loader) unknownVariable(name string, names []string) {
	o := origin{layer: fromEnvironment, where: named(name)}
	if o.where == "" {
		o.where = variablePrefix + "…"
	}
	fix := suggest(o.where, names, variablePrefix)
	switch {
	case strings.HasPrefix(name, "POSTERN_ROUTES"):
		fix = "routes are set in the file alone"
	case slices.Contains(lists(), name):
		fix = "lists are set in the file alone"
	}
	l.faultAt(o, "", "is an unknown variable", fix)
}

// flags takes the settings that the command line gives.
func (l *loader) flags() {
	all, keys := scalars()
	for _, key := range slices.Sorted(maps.Keys(l.source.Flags)) {
		text := l.source.Flags[key]
		o := origin{layer: fromFlag, where: "flag", shown: quoted(text), literal: true}
		s, ok := all[key]
		switch {
		case !ok:
			l.faultAt(o, named(key), "is an unknown key", suggest(named(key), keys, ""))
		case key == "keys.master_key":
			l.faultAt(o, key, "is given on the command line, where every user of this machine can read it",
				"set "+variable(key, s)+" or keys.master_key_file")
		default:
			l.set(key, s, l.config.at(key), text, o)
		}
	}
}

// reference is ${NAME}; anything else after a $ that is not $$ is refused.
var reference = regexp.MustCompile(`\$(\$|\{[A-Za-z_][A-Za-z0-9_]*\})?`)

// expand replaces each ${NAME} in text by the variable's value and each $$ by $. It
// runs after the YAML is parsed, so what it brings in is one value and never structure.
func expand(text string, env map[string]string, hidden bool) (out string, expanded bool, w wrong) {
	out = reference.ReplaceAllStringFunc(text, func(match string) string {
		switch {
		case match == "$$":
			return "$"
		case match == "$":
			w = wrong{"has a $ that begins no ${NAME}", "write $$ for a $"}
			return ""
		}
		value, ok := env[match[2:len(match)-1]]
		switch {
		case ok:
			expanded = true
		case hidden && match != text:
			// In the middle of a secret it may be a part of it.
			w = wrong{"names a variable that is not set", "set it, or write $$ for a $"}
		default:
			w = wrong{match + " is not set", "set the variable, or write $$ for a $"}
		}
		return value
	})
	return out, expanded, w
}

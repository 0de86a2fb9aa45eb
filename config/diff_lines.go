package config

import "strings"

// DiffLines is Diff where all that is known of the older configuration is what its Flat
// listed, as with that of another process. A secret that changed is no difference here:
// a Line does not show it.
func DiffLines(older []Line, newer Config) []Change {
	before := map[string]string{}
	for _, l := range older {
		before[l.Key] = l.Value
	}
	// there reports whether the older one has what a key is part of: a route, a field or an
	// upstream has a line at least.
	there := func(key string) bool {
		end := strings.LastIndexByte(key, ']') + 1
		for _, l := range older {
			if end == 0 || l.Key == key[:end] || strings.HasPrefix(l.Key, key[:end]+".") {
				return true
			}
		}
		return end == 0
	}
	switched := (before["front.tls.certificate"] != "") != newer.Front.TLS.Enabled()
	var changes []Change
	after := map[string]bool{}
	for _, l := range newer.leaves() {
		after[l.key] = true
		was, ok := before[l.key]
		is := l.text()
		switch {
		case ok:
		case l.isDefault():
			continue
		case there(l.key):
			was = l.defaultText()
		}
		if was != is {
			changes = append(changes, Change{l.key, was, is, l.takesRestart(switched)})
		}
	}
	for _, l := range older {
		if !after[l.Key] {
			changes = append(changes, Change{l.Key, l.Value, "", false}) // of a list: a reload applies those
		}
	}
	return changes
}

// defaultText is the text of the setting's default.
func (l leaf) defaultText() string {
	if isList(l.typ) {
		return ""
	}
	l.value = l.defaultValue()
	return l.text()
}

package config

import (
	"cmp"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"postern/secret"
)

// A setting is one field of Config or of a struct in it, as its tags declare it.
type setting struct {
	name     string // one segment of its key
	index    int    // of the field in its struct
	fallback string // the default, as written
	required bool
	enum     []string
	min, max string
	zero     bool // a duration or a size may be nothing
	file     bool // it names a file
	restart  bool // to change it takes a restart; of each that is handed this, and of all in a section
	// shorthand is the key, in the mappings of this list, that a plain value stands for.
	shorthand string
	single    bool // a plain value stands for this list of plain values
	doc       string
	typ       reflect.Type
}

var (
	secretType   = reflect.TypeFor[secret.Secret]()
	durationType = reflect.TypeFor[Duration]()
	sizeType     = reflect.TypeFor[Size]()
	namesType    = reflect.TypeFor[Names]()
)

// hidden reports whether messages must not show a value: it is a secret, or the name of
// a file where somebody may have put the secret itself.
func (s setting) hidden() bool { return s.typ == secretType || s.file }

// settingsOf lists the fields of a struct type that have a key, in their order.
func settingsOf(t reflect.Type) []setting {
	var all []setting
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		s := setting{
			name: tag.Get("yaml"), index: i, typ: t.Field(i).Type,
			fallback: tag.Get("default"), required: tag.Get("required") == "true",
			min: tag.Get("min"), max: tag.Get("max"), doc: tag.Get("doc"),
			zero: tag.Get("zero") == "true", file: tag.Get("file") == "true", restart: tag.Get("restart") == "true",
			shorthand: tag.Get("shorthand"), single: tag.Get("single") == "true",
		}
		if enum := tag.Get("enum"); enum != "" {
			s.enum = strings.Split(enum, ",")
		}
		if s.name != "" {
			all = append(all, s)
		}
	}
	return all
}

// each visits every setting below t that is no section, in order of declaration, and
// the lists of mappings for which plain values may stand. In the key, [] stands for the
// place in a list: routes[].path.
func each(t reflect.Type, prefix string, visit func(key string, s setting)) {
	eachBelow(t, prefix, false, visit)
}

func eachBelow(t reflect.Type, prefix string, restart bool, visit func(key string, s setting)) {
	for _, s := range settingsOf(t) {
		s.restart = s.restart || restart
		key := prefix + s.name
		switch {
		case s.typ.Kind() == reflect.Struct:
			eachBelow(s.typ, key+".", s.restart, visit)
		case isMappings(s.typ):
			if s.shorthand != "" {
				visit(key, s)
			}
			eachBelow(s.typ.Elem(), key+"[].", s.restart, visit)
		default:
			visit(key, s)
		}
	}
}

// isSingle reports whether t is a single value, although it may be a struct.
func isSingle(t reflect.Type) bool {
	switch t {
	case namesType, reflect.TypeFor[Allowance](), reflect.TypeFor[Span](), reflect.TypeFor[Moment]():
		return true
	}
	return false
}

// isMappings reports whether t is a list of mappings.
func isMappings(t reflect.Type) bool { return isList(t) && t.Elem().Kind() == reflect.Struct }

// optional reports whether the setting may be left empty, though its type has no value
// that looks so: 0 stands for that.
func (s setting) optional() bool {
	return s.fallback == "" && !s.required && (s.typ == durationType || s.typ == sizeType)
}

func isList(t reflect.Type) bool { return t.Kind() == reflect.Slice }

// variable is the environment variable of the setting with this key, or "" for
// those in lists, which have none.
func variable(key string, s setting) string {
	if strings.Contains(key, "[]") || isList(s.typ) {
		return ""
	}
	return "POSTERN_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// at finds the field of c that a dotted key names.
func (c *Config) at(key string) reflect.Value {
	v := reflect.ValueOf(c).Elem()
	for name := range strings.SplitSeq(key, ".") {
		for _, s := range settingsOf(v.Type()) {
			if s.name == name {
				v = v.Field(s.index)
				break
			}
		}
	}
	return v
}

// setDefaults gives every field of the struct v its default. Lists stay empty.
func setDefaults(v reflect.Value) {
	for _, s := range settingsOf(v.Type()) {
		switch {
		case isSingle(s.typ): // their zero value says that they were left out
		case s.typ.Kind() == reflect.Struct:
			setDefaults(v.Field(s.index))
		case !isList(s.typ):
			if w := s.set(v.Field(s.index), s.fallback); w != (wrong{}) {
				panic(fmt.Sprintf("BUG: the default of %s %s", s.name, w.problem))
			}
		}
	}
}

// set parses text as a value of the setting and stores it in into.
func (s setting) set(into reflect.Value, text string) (w wrong) {
	switch p := into.Addr().Interface().(type) {
	case *string:
		if w = oneLine(text); w == (wrong{}) && s.enum != nil && !slices.Contains(s.enum, text) {
			w = wrong{"is not known", "use " + oneOf(s.enum)}
		}
		if w == (wrong{}) {
			*p = text
		}
	case *secret.Secret:
		// Key files and shell substitutions bring a line's end along; no secret of ours has one.
		text = strings.TrimSpace(text)
		if w = oneLine(text); w == (wrong{}) {
			*p = secret.Secret(text)
		}
	case *bool:
		w = assign(p, text, parseBool)
	case *int:
		w = assignWithin(p, s, text, parseInt, nil)
	case *Allowance:
		w = assign(p, text, parseAllowance)
	case *Span:
		w = assign(p, text, parseSpan)
	case *Moment:
		w = assign(p, text, parseMoment)
	case *Names: // the list of them is no single value
		*p = Names{Given: text != "", Unlimited: text != ""}
	case *Duration:
		w = assignWithin(p, s, text, parseDuration, durationForm)
	case *Size:
		w = assignWithin(p, s, text, parseSize, sizeForm)
	default:
		panic("BUG: a setting has a type that nobody parses: " + into.Type().String())
	}
	return w
}

// assign stores what parse made of text, unless it is wrong.
func assign[T any](into *T, text string, parse func(string) (T, wrong)) wrong {
	value, w := parse(text)
	if w == (wrong{}) {
		*into = value
	}
	return w
}

// assignWithin is assign for a value that must lie between s.min and s.max. A setting
// that may be nothing, or empty, says so in form.
func assignWithin[T cmp.Ordered](into *T, s setting, text string, parse func(string) (T, wrong), form *regexp.Regexp) wrong {
	return assign(into, text, func(string) (T, wrong) {
		var nothing T
		if text == "" && s.optional() || s.zero && form.MatchString(text) && !strings.ContainsAny(text, "123456789") {
			return nothing, wrong{}
		}
		value, w := parse(text)
		switch {
		case s.zero && w.problem == notAboveZero && strings.HasPrefix(text, "-"):
			w.problem = "is below 0"
		case s.zero && w.problem == notAboveZero:
			w.problem = "has no unit"
		}
		if w != (wrong{}) {
			return value, w
		}
		if least, none := parse(s.min); none == (wrong{}) && value < least {
			return value, wrong{"is below " + s.min, "use at least " + s.min}
		}
		if most, none := parse(s.max); none == (wrong{}) && value > most {
			return value, wrong{"is above " + s.max, "use at most " + s.max}
		}
		return value, wrong{}
	})
}

// oneLine refuses text that no setting may hold.
func oneLine(text string) wrong {
	switch {
	case !utf8.ValidString(text):
		return wrong{"is not UTF-8", "write it in UTF-8"}
	case strings.ContainsFunc(text, unicode.IsControl):
		return wrong{"has a line break or another control character", "write it on one line"}
	}
	return wrong{}
}

// oneOf writes a choice: "a, b or c".
func oneOf(names []string) string {
	last := len(names) - 1
	if last <= 0 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

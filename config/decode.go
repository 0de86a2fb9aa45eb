package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"gopkg.in/yaml.v3"
)

const (
	maxDepth = 20
	// maxMarks bounds how many values a file can hold before it is parsed: yaml.v3 takes
	// up to 600 bytes for a value of two, so 1 MiB of "a,a,a,…" would take 300 MB. A file
	// of 1 MiB that describes routes has 60,000.
	maxMarks = 3 << 15
)

// decode fills l.into from the YAML in data. It reports false when data is
// no YAML that we read, so that nothing can be said about its settings.
func (l *loader) decode(data []byte) (whole bool) {
	if line, problem, fix := l.textual(data); problem != "" {
		l.faultAt(l.here(line), "", problem, fix)
		return false
	}
	root, err := parse(data)
	if err != nil {
		line, problem, fix := syntax(err, data)
		l.faultAt(l.here(line), "", problem, fix)
		return false
	}
	if root == nil {
		return true // an empty file
	}
	l.structure(root)
	if root.Kind != yaml.MappingNode && root.Tag != "!!null" {
		l.faultAt(l.here(root.Line), "", "is "+kind(root)+", not a mapping", "write each setting as key: value, as in example.yaml")
		return false
	}
	l.mapping(root, l.into, "")
	return true
}

// textual finds what makes data no text that YAML allows, and the line of it.
func (l *loader) textual(data []byte) (line int, problem, fix string) {
	line = 1
	for rest := data; len(rest) > 0; {
		r, n := utf8.DecodeRune(rest)
		switch {
		case r == utf8.RuneError && n == 1:
			return line, "is not UTF-8", "save the file in UTF-8"
		case r == '\n':
			line++
		case r < ' ' && r != '\t' && r != '\r', r >= 0x7f && r < 0xa0 && r != 0x85:
			return line, "has a control character", `remove it, or write it as "\xNN" in double quotes`
		}
		rest = rest[n:]
	}
	marks := 0
	for i, c := range data {
		switch c {
		case '\n', ',', '[', '{':
			marks++
		case ':', '-', '?':
			if i+1 == len(data) || data[i+1] <= ' ' {
				marks++
			}
		}
	}
	if marks > l.marks {
		return 0, "holds too many values", l.split
	}
	return 0, "", ""
}

// parse returns the one document in data, nil when there is none.
func parse(data []byte) (root *yaml.Node, err error) {
	// yaml.v3 is no longer maintained, and its parser panics where it contradicts itself.
	defer func() {
		if recover() != nil {
			root, err = nil, errors.New("yaml: cannot be parsed")
		}
	}()
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	switch err := decoder.Decode(&second); {
	case err == nil:
		return nil, &secondDocument{second.Line}
	case !errors.Is(err, io.EOF):
		return nil, err
	}
	return document.Content[0], nil
}

// secondDocument is the error of a file with more than one document.
type secondDocument struct{ line int }

func (*secondDocument) Error() string { return "yaml: second document" }

var (
	yamlError = regexp.MustCompile(`^yaml: (?:line ([0-9]+): )?(.*)$`)
	// parserError is what the parser says; all else is of the scanner or the reader.
	parserError = regexp.MustCompile(`^did not find expected (<document start>|node content|key|'-' indicator|',' or '[\]}]')$`)
	tabIndent   = regexp.MustCompile(`(?m)^ *\t`)
)

// syntax says where and what is wrong with YAML that cannot be parsed. yaml.v3 quotes
// the file in one message only, that of an alias, which can be a password begun with *.
func syntax(err error, data []byte) (line int, problem, fix string) {
	if second, ok := errors.AsType[*secondDocument](err); ok {
		return second.line, "is a second document", "keep one document in the file, with no --- in between"
	}
	match := yamlError.FindStringSubmatch(err.Error())
	if match == nil {
		return 0, "is not YAML", ""
	}
	line, _ = strconv.Atoi(match[1])
	problem = match[2]
	if name, ok := strings.CutPrefix(problem, "unknown anchor '"); ok {
		name, _, _ = strings.Cut(name, "'")
		before, _, _ := bytes.Cut(data, []byte("*"+name))
		return 1 + bytes.Count(before, []byte("\n")), anchorProblem, anchorFix
	}
	fix = "look for wrong indentation, quotes or brackets from this line on"
	if parserError.MatchString(problem) {
		line++ // yaml.v3 counts lines from 0 when the parser complains, from 1 when the scanner does
	}
	switch {
	case strings.Contains(problem, "<document start>"):
		return line, "has text after its end", "keep one document in the file, with no ... or --- in between"
	case strings.Contains(problem, "expected ':'"):
		fix = "write key: value, with a space after the colon"
	case strings.Contains(problem, "alphabetic or numeric"):
		fix = "put a value that begins with * or & in quotes"
	case strings.Contains(problem, "cannot start any token"), strings.Contains(problem, "tab"):
		fix = "put the value in quotes"
		if at := tabIndent.FindIndex(data); at != nil {
			line, fix = 1+bytes.Count(data[:at[0]], []byte("\n")), "indent with spaces, not with tabs"
		}
	}
	return max(line, 1), "is not YAML: " + problem, fix
}

const (
	anchorProblem = "has an anchor or an alias (& or *)"
	anchorFix     = "write the value out, or put it in quotes"
)

// structure refuses what YAML allows and a configuration needs not: each kind once.
func (l *loader) structure(root *yaml.Node) {
	said := map[string]bool{}
	say := func(n *yaml.Node, problem, fix string) {
		if !said[problem] {
			said[problem] = true
			l.faultAt(l.here(n.Line), "", problem, fix)
		}
	}
	var visit func(n *yaml.Node, depth int)
	visit = func(n *yaml.Node, depth int) {
		switch {
		case depth > maxDepth:
			say(n, fmt.Sprintf("is nested deeper than %d levels", maxDepth), "no setting lies that deep")
			return
		case n.Kind == yaml.AliasNode || n.Anchor != "":
			say(n, anchorProblem, anchorFix)
		case n.Style&yaml.TaggedStyle != 0:
			say(n, "has a tag (!)", "remove it, or put the value in quotes")
		}
		for i, child := range n.Content {
			if n.Kind == yaml.MappingNode && i%2 == 0 && child.Tag == "!!merge" {
				say(child, "has a merge key (<<)", "write the settings out")
			}
			visit(child, depth+1)
		}
	}
	visit(root, 1)
}

// opaque reports whether structure has refused n already.
func opaque(n *yaml.Node) bool { return n.Kind == yaml.AliasNode || n.Style&yaml.TaggedStyle != 0 }

// kind says what n is, for people.
func kind(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "a mapping"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.Tag == "!!null":
		return "nothing"
	case n.Tag == "!!bool":
		return "true or false"
	case n.Tag == "!!int" || n.Tag == "!!float":
		return "a number"
	}
	return "text"
}

package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// fences returns what is in the fenced blocks of a language.
func fences(text, language string) (blocks []string) {
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(text, -1) {
		blocks = append(blocks, m[1])
	}
	return blocks
}

// TestRunbook: each alert has its section, which looks at what the alert looks at, and
// each section its alert.
func TestRunbook(t *testing.T) {
	runbook := readFile(t, runbookFile)
	sections := map[string]string{}
	for _, part := range strings.Split(runbook, "\n## Postern")[1:] {
		name, text, _ := strings.Cut(part, "\n")
		sections["Postern"+name] = text
	}
	recorded := map[string]string{}
	names := regexp.MustCompile(`\b(?:postern|process)_\w+`)
	for _, r := range readRules(t) {
		if r.Record != "" {
			recorded[r.Record] = r.Expr
			continue
		}
		section, ok := sections[r.Alert]
		if !ok {
			t.Errorf("%s has no section %q", runbookFile, "## "+r.Alert)
			continue
		}
		delete(sections, r.Alert)
		if r.Annotations["runbook_url"] != runbookFile+"#"+strings.ToLower(r.Alert) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" ||
			r.Labels["severity"] != "warning" && r.Labels["severity"] != "critical" {
			t.Errorf("%s: a severity, a summary, a description and its place in the runbook: %v %v", r.Alert, r.Labels, r.Annotations)
		}
		expr := r.Expr
		for name, of := range recorded {
			expr = strings.ReplaceAll(expr, name, of)
		}
		seen := false
		for _, name := range names.FindAllString(expr, -1) {
			base := strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_count")
			seen = seen || strings.Contains(section, base)
		}
		if !seen && !strings.Contains(expr, `up{`) {
			t.Errorf("the section of %s looks at nothing that the alert looks at", r.Alert)
		}
		for _, part := range []string{"**Customers**", "**Look**", "**Do**", "**Ignore**"} {
			if !strings.Contains(section, part) {
				t.Errorf("the section of %s has no %s", r.Alert, part)
			}
		}
	}
	for name := range sections {
		t.Errorf("%s has a section %q, and there is no such alert", runbookFile, name)
	}
}

// TestRunbookCommands: postern understands every command line of the runbook.
func TestRunbookCommands(t *testing.T) {
	parser, err := newParser(newEnvironment(nil, io.Discard, io.Discard), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, block := range fences(readFile(t, runbookFile), "sh") {
		for line := range strings.Lines(block) {
			command, ok := posternCommand(line)
			if !ok {
				continue
			}
			count++
			if err := understood(parser, command); err != nil {
				t.Errorf("%s: %v", strings.TrimSpace(line), err)
			}
		}
	}
	if count < 15 {
		t.Errorf("%d commands", count)
	}
	for _, line := range []string{"postern healthchek", "kubectl exec deploy/postern -- /postern check --confg x"} {
		if command, ok := posternCommand(line); !ok || understood(parser, command) == nil {
			t.Errorf("%s is understood", line)
		}
	}
}

// posternCommand returns the command line of postern that line has, by itself, behind
// kubectl exec or behind a pipe, without its comment and what takes its output.
func posternCommand(line string) (string, bool) {
	line, _, _ = strings.Cut(line, "  #")
	m := regexp.MustCompile(`(?:^|-- /|\| )(postern .*)$`).FindStringSubmatch(strings.TrimSpace(line))
	if m == nil {
		return "", false
	}
	command, _, _ := strings.Cut(m[1], " | ")
	return command, true
}

func understood(parser *kong.Kong, command string) error {
	_, err := parser.Parse(words(command)[1:])
	return err
}

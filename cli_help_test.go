package main

import (
	"bytes"
	"io"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestEveryCommandHelps holds what --help promises: every command says what it is for
// and gives an example, and the examples are command lines that postern understands.
func TestEveryCommandHelps(t *testing.T) {
	parser, err := newParser(newEnvironment(nil, io.Discard, io.Discard), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	leaves := parser.Model.Leaves(true)
	if len(leaves) < 20 {
		t.Fatalf("found %d commands", len(leaves))
	}
	aliases := regexp.MustCompile(` \([a-z]+\)`) // "key remove (revoke)"
	for _, leaf := range leaves {
		path := aliases.ReplaceAllString(leaf.FullPath(), "")
		t.Run(strings.TrimPrefix(path, "postern "), func(t *testing.T) {
			if leaf.Help == "" || !strings.HasSuffix(leaf.Help, ".") {
				t.Errorf("what it is for: %q", leaf.Help)
			}
			for _, flag := range leaf.Flags {
				if flag.Help == "" {
					t.Errorf("--%s has no help", flag.Name)
				}
			}
			var stdout, stderr bytes.Buffer
			args := append(strings.Fields(path)[1:], "--help")
			if code := run(t.Context(), args, nil, &stdout, &stderr); code != exitDone || stderr.Len() > 0 {
				t.Errorf("%q: exit code %d, stderr %q", args, code, &stderr)
			}
			if !strings.HasPrefix(stdout.String(), "Usage: "+path) {
				t.Errorf("%q printed:\n%s", args, &stdout)
			}
			examples := examplesIn(leaf)
			if len(examples) == 0 {
				t.Error("it gives no example")
			}
			for _, line := range examples {
				if !strings.HasPrefix(line, path) {
					t.Errorf("the example is about another command: %s", line)
				}
				if _, err := parser.Parse(words(line)[1:]); err != nil {
					t.Errorf("the example is not understood: %s: %v", line, err)
				}
			}
		})
	}
}

// examplesIn returns the command lines in the node's help.
func examplesIn(node *kong.Node) []string {
	_, after, _ := strings.Cut(node.Detail, "Example:")
	lines := strings.Split(after, "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return slices.DeleteFunc(lines, func(l string) bool { return l == "" })
}

// words splits a command line as a shell would, as far as examples need: double quotes
// keep spaces.
func words(line string) (all []string) {
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			all = append(all, part)
			continue
		}
		all = append(all, strings.Fields(part)...)
	}
	return all
}

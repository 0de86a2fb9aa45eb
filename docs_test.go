package main

import (
	"bytes"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// docsFiles are the documents beside the README.
func docsFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("docs/*.md")
	if err != nil || len(files) < 2 {
		t.Fatalf("%v %v", files, err)
	}
	return files
}

// TestDocsCommands: every postern command line in the documents and the units is one that
// postern understands.
func TestDocsCommands(t *testing.T) {
	texts := map[string]string{}
	for _, file := range docsFiles(t) {
		texts[file] = strings.Join(fences(readFile(t, file), "sh"), "\n") + "\n"
		for _, m := range regexp.MustCompile("`([^`\n]*postern [^`\n]*)`").FindAllStringSubmatch(readFile(t, file), -1) {
			texts[file] += m[1] + "\n"
		}
	}
	units, err := filepath.Glob("docs/systemd/*.service")
	if err != nil || len(units) != 2 {
		t.Fatalf("%v %v", units, err)
	}
	for _, file := range units {
		for _, m := range regexp.MustCompile(`(?m)^Exec\w+=-?(.*)$`).FindAllStringSubmatch(readFile(t, file), -1) {
			texts[file] += m[1] + "\n"
		}
	}
	for _, file := range slices.Sorted(maps.Keys(texts)) {
		found := 0
		for _, args := range posternCommands(t, texts[file]) {
			found++
			parser, err := newParser(newEnvironment(nil, io.Discard, io.Discard), func(int) {})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse(args); err != nil {
				t.Errorf("%s: postern %s: %v", file, strings.Join(args, " "), err)
			}
		}
		if found == 0 && file != "docs/runbook.md" {
			t.Errorf("%s: no command was found", file)
		}
	}
}

// posternCommands returns the arguments of each postern command in shell's text: behind
// sudo, behind kubectl exec, and inside quotes too.
func posternCommands(t *testing.T, text string) (commands [][]string) {
	t.Helper()
	parser, err := newParser(newEnvironment(nil, io.Discard, io.Discard), func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{}
	for _, command := range parser.Model.Children {
		known[command.Name] = true
	}
	for _, words := range shellCommands(text) {
		for i, word := range words {
			if strings.Contains(word, "postern ") {
				commands = append(commands, posternCommands(t, word)...)
			}
			name := filepath.Base(word)
			if (name == "postern" || name == "postern.new" || name == "deploy/postern") && i+1 < len(words) && known[words[i+1]] {
				commands = append(commands, words[i+1:])
				break
			}
		}
	}
	return commands
}

// shellCommands splits a shell's text into commands and these into words. It knows quotes,
// comments, continued lines and what separates commands, which is all that documents use.
func shellCommands(text string) (commands [][]string) {
	var words []string
	var word strings.Builder
	in, quote := false, rune(0)
	endWord := func() {
		if in {
			words = append(words, word.String())
		}
		word.Reset()
		in = false
	}
	endCommand := func() {
		endWord()
		if len(words) > 0 {
			commands = append(commands, words)
		}
		words = nil
	}
	comment := false
	for _, c := range strings.ReplaceAll(text, "\\\n", " ") {
		switch {
		case comment:
			comment = c != '\n'
			if !comment {
				endCommand()
			}
		case quote != 0:
			if c == quote {
				quote = 0
			} else {
				word.WriteRune(c)
			}
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == '#' && !in:
			comment = true
		case strings.ContainsRune("\n;|&()<>", c):
			endCommand()
		case c == ' ' || c == '\t':
			endWord()
		default:
			in = true
			word.WriteRune(c)
		}
	}
	endCommand()
	return commands
}

// TestDocsConfigurations: every configuration that a document shows can be used, as a file
// of its own or as the part config of a chart's values.
func TestDocsConfigurations(t *testing.T) {
	key := filepath.Join(t.TempDir(), "master-key")
	writeFile(t, key, "q8VZl4m3mJ0oYkq1w7bXn0Zr5cT2eFhGi9LpSdKuAvE=\n")
	dir, pair := t.TempDir(), newCertificate(t, 1)
	writeFile(t, dir+"/chain.pem", string(pair.chain))
	writeFile(t, dir+"/key.pem", string(pair.key))
	found := map[string]int{}
	for _, file := range docsFiles(t) {
		for _, block := range fences(readFile(t, file), "yaml") {
			text, ours := configurationIn(block)
			if !ours {
				continue
			}
			found[file]++
			path := filepath.Join(t.TempDir(), "postern.yaml")
			writeFile(t, path, strings.ReplaceAll(text, "/etc/postern/tls", dir))
			var out, errs bytes.Buffer
			environ := []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + key}
			if code := run(t.Context(), []string{"check", "--config", path}, environ, &out, &errs); code != 0 || strings.Contains(out.String(), "warning") {
				t.Errorf("%s: exit code %d: %s%s\n%s", file, code, &out, &errs, text)
			}
		}
	}
	for _, file := range []string{"docs/linux.md", "docs/kubernetes.md"} {
		if found[file] < 3 {
			t.Errorf("%s: %d configurations", file, found[file])
		}
	}
}

// configurationIn returns the configuration that a block of YAML is, or has as the part
// config of a chart's values (postern.config where postern is a dependency).
func configurationIn(block string) (text string, ok bool) {
	if regexp.MustCompile(`(?m)^(front|routes):`).MatchString(block) {
		return block, true
	}
	indent := ""
	for line := range strings.Lines(block) {
		rest := strings.TrimLeft(line, " ")
		switch {
		case !ok && rest == "config:\n":
			ok, indent = true, line[:len(line)-len(rest)]+"  "
		case ok && strings.HasPrefix(line, indent):
			text += line[len(indent):]
		case ok && rest != "\n":
			return text, true
		}
	}
	return text, ok
}

// TestDocsLinks: what the documents link to is there, and so is its heading.
func TestDocsLinks(t *testing.T) {
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	anchors := func(path string) (all []string) {
		for _, m := range heading.FindAllStringSubmatch(readFile(t, path), -1) {
			anchor := regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(m[1]), "")
			all = append(all, strings.ReplaceAll(anchor, " ", "-"))
		}
		return all
	}
	for _, file := range docsFiles(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`).FindAllStringSubmatch(readFile(t, file), -1) {
			if strings.HasPrefix(m[1], "https://") {
				continue
			}
			path := file
			if m[1] != "" {
				path = filepath.Join("docs", m[1])
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", file, err)
			} else if m[2] != "" && !slices.Contains(anchors(path), m[2][1:]) {
				t.Errorf("%s: %s has no heading %s", file, path, m[2])
			}
		}
	}
}

// TestDocsNginx puts the nginx of docs/linux.md before a postern with the configuration
// that stands beside it: content, tokens, the client's address and the scheme come through.
func TestDocsNginx(t *testing.T) {
	needs(t, "nginx")
	text := readFile(t, "docs/linux.md")
	blocks := fences(text, "nginx")
	_, configuration, _ := strings.Cut(text, "front: {listen: \"127.0.0.1:8080\", ")
	configuration, _, _ = strings.Cut(configuration, "```")
	up := startUpstream(t)
	s := serve(t, up, strings.NewReplacer("store: sqlite:/var/lib/postern/postern.db\n", "", "http://127.0.0.1:3000", "{upstream}").Replace("front: {"+configuration))
	// As it stands there, but for TLS, which nginx ends before anything of postern's.
	server := strings.NewReplacer("listen 443 ssl;", "listen 127.0.0.1:8081;", "127.0.0.1:8080", strings.TrimPrefix(s.front, "http://")).Replace(blocks[0])
	server = regexp.MustCompile(`(?m)^ *ssl_.*\n`).ReplaceAllString(server, "")
	nginx := &served{t: t, front: "http://" + startNginx(t, server)}
	c := s.client("")
	token := nginx.goodToken(c)
	r := nginx.do("POST", "/tracks?q=%2f", "content", "Authorization", "Bearer "+token, "X-Forwarded-For", "192.0.2.1", "Forwarded", "for=192.0.2.2", "X-Client-Id", "forged")
	if r.status != 200 || !strings.HasPrefix(r.body, "POST /tracks?q=%2f HTTP/1.1\r\n") || !strings.HasSuffix(r.body, "content") {
		t.Fatalf("%d %s", r.status, r.body)
	}
	for _, want := range []string{"X-Client-Id: " + c.id, "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: " + strings.TrimPrefix(nginx.front, "http://")[:9]} {
		if !strings.Contains(r.body, "\r\n"+want) {
			t.Errorf("no %s in %s", want, r.body)
		}
	}
	for _, never := range []string{"192.0.2.", "forged", "Authorization"} {
		if strings.Contains(r.body, never) {
			t.Errorf("%s came through: %s", never, r.body)
		}
	}
	if r := nginx.do("GET", "/tracks", ""); r.status != 401 {
		t.Errorf("without a token: %d", r.status)
	}
}

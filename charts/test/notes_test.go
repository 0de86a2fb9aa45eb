package charts

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testNotes holds what helm install says at its end. Helm 4 alone is asked, for which cluster there is: 3 takes a version
// of its own that it knows only as it is released.
func testNotes(t *testing.T, h helm, postern string, e example) {
	args := append([]string{"install", release, e.chart, "--namespace", "demo", "--dry-run=client"}, e.args...)
	out, failure, ok := h.run(t, args...)
	if !ok {
		t.Fatalf("helm %s install: %s", h.name, failure)
	}
	_, notes, found := strings.Cut(out, "\nNOTES:\n")
	if !found {
		t.Fatal("no notes")
	}
	golden(t, e.name+".txt", notes)
	runCommands(t, postern, notes)
}

// runCommands runs the commands of postern that the notes tell users to type, one after the other, on a store of their own.
func runCommands(t *testing.T, postern, notes string) {
	store := "POSTERN_STORE=sqlite:" + filepath.Join(t.TempDir(), "postern.db")
	id := ""
	commands := append([][]string{{"", "store migrate"}}, // as the chart does it
		regexp.MustCompile(`(?m) -- /postern (.*)$`).FindAllStringSubmatch(notes, -1)...)
	for _, m := range commands {
		cmd := exec.CommandContext(t.Context(), postern, strings.Fields(strings.ReplaceAll(m[1], " ID ", " "+id+" "))...)
		cmd.Env = []string{store}
		var out, failure bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &failure
		if err := cmd.Run(); err != nil {
			t.Errorf("postern %s: %v\n%s", m[1], err, &failure)
		}
		var made struct {
			ID string `json:"id"`
		}
		if json.Unmarshal(out.Bytes(), &made) == nil && made.ID != "" {
			id = made.ID
		}
	}
}

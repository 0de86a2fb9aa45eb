package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"strings"
)

// VersionCommand prints what this program is.
type VersionCommand struct {
	JSON bool `name:"json" help:"Answer with JSON, for machines."`
}

// Help gives an example.
func (VersionCommand) Help() string { return example("postern version --json") }

// Run answers with one line, or an object.
func (c *VersionCommand) Run(_ context.Context, e *environment) error {
	b := builtFrom(debug.ReadBuildInfo())
	if c.JSON {
		return e.json(b)
	}
	line := row{"postern " + b.Version}
	if b.Revision != "" {
		line[0] += " (" + strings.TrimSpace(b.Revision+" "+b.Time) + ")"
	}
	line[0] += " " + b.Go + " " + b.Platform
	return e.table(nil, []row{line})
}

// build is what the Go toolchain recorded of this program.
type build struct {
	Version  string `json:"version"`  // of the module; "(devel)" outside a release
	Revision string `json:"revision"` // of the source, "-dirty" when it was changed; "" when unknown
	Time     string `json:"time"`     // of the revision, RFC 3339
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func builtFrom(info *debug.BuildInfo, ok bool) build {
	b := build{Version: "(unknown)", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if !ok {
		return b
	}
	if info.Main.Version != "" {
		b.Version = info.Main.Version
	}
	dirty := false
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			b.Revision = s.Value[:min(len(s.Value), 12)]
		case "vcs.time":
			b.Time = s.Value
		case "vcs.modified":
			dirty = s.Value == "true"
		}
	}
	if dirty && b.Revision != "" {
		b.Revision += "-dirty"
	}
	return b
}

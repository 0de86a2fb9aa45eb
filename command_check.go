package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"postern/config"
)

// CheckCommand validates a configuration.
type CheckCommand struct {
	Config    string `placeholder:"FILE" help:"The configuration; by default $$POSTERN_CONFIG, else what the environment says alone."`
	Reference bool   `help:"Print the table of all settings instead."`
	JSON      bool   `name:"json" help:"Answer with JSON, for machines."`
}

// Help gives an example.
func (CheckCommand) Help() string { return example("postern check --config postern.yaml") }

// checked is the answer for machines.
type checked struct {
	File     string         `json:"file"`
	OK       bool           `json:"ok"`
	Faults   []checkedFault `json:"faults"`
	Warnings []string       `json:"warnings"`
}

type checkedFault struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // 0: not on one line
	Key     string `json:"key"`
	Problem string `json:"problem"`
	Fix     string `json:"fix"`
}

// Run answers with every fault and every warning; it fails when there is a fault.
func (c *CheckCommand) Run(_ context.Context, e *environment) error {
	if c.Reference {
		_, err := fmt.Fprint(e.Stdout, config.Reference())
		return err
	}
	file := configFile(e, c.Config)
	settings, err := loadConfig(e, config.Source{File: file, Environ: e.Environ})
	found, warnings := faults(err), settings.Warnings()
	if err := c.answer(e, file, found, warnings); err != nil {
		return err
	}
	if len(found) > 0 {
		return refuse("postern check --reference lists all settings", "%s cannot be used: it has %s",
			cmp.Or(file, "the environment"), counted(len(found), "fault"))
	}
	return nil
}

func (c *CheckCommand) answer(e *environment, file string, found []error, warnings []string) error {
	if c.JSON {
		all := checked{File: file, OK: len(found) == 0, Faults: []checkedFault{}, Warnings: append([]string{}, warnings...)}
		for _, err := range found {
			f, ok := errors.AsType[config.Fault](err)
			if !ok {
				f = config.Fault{File: file, Problem: err.Error()}
			}
			all.Faults = append(all.Faults, checkedFault(f))
		}
		return e.json(all)
	}
	var rows []row
	for _, err := range found {
		rows = append(rows, row{err.Error()})
	}
	for _, warning := range warnings {
		rows = append(rows, row{"warning: " + warning})
	}
	if len(found) == 0 {
		rows = append(rows, row{cmp.Or(file, "the environment") + " can be used"})
	}
	return e.table(nil, rows)
}

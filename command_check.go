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
	Diff      string `placeholder:"WHAT" help:"Also say what changes from WHAT, an older configuration or the admin door of a postern on this machine, and whether that needs a restart."`
	Reference bool   `help:"Print the table of all settings instead."`
	JSON      bool   `name:"json" help:"Answer with JSON, for machines."`
}

// Help gives examples.
func (CheckCommand) Help() string {
	return example("postern check --config postern.yaml", "postern check --config new.yaml --diff postern.yaml",
		"postern check --config new.yaml --diff http://127.0.0.1:9090")
}

// checked is the answer for machines.
type checked struct {
	File     string          `json:"file"`
	OK       bool            `json:"ok"`
	Faults   []checkedFault  `json:"faults"`
	Warnings []string        `json:"warnings"`
	Changes  []checkedChange `json:"changes,omitzero"` // with --diff alone
}

type checkedFault struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // 0: not on one line
	Key     string `json:"key"`
	Problem string `json:"problem"`
	Fix     string `json:"fix"`
}

// checkedFaults takes found apart; file is where those are that do not say it.
func checkedFaults(file string, found []error) []checkedFault {
	all := []checkedFault{}
	for _, err := range found {
		f, ok := errors.AsType[config.Fault](err)
		if !ok {
			f = config.Fault{File: file, Problem: err.Error()}
		}
		all = append(all, checkedFault(f))
	}
	return all
}

// Run answers with every fault and every warning; it fails when there is a fault.
func (c *CheckCommand) Run(ctx context.Context, e *environment) error {
	if c.Reference {
		_, err := fmt.Fprint(e.Stdout, config.Reference())
		return err
	}
	file := configFile(e, c.Config)
	settings, err := loadConfig(e, config.Source{File: file, Environ: e.Environ})
	if err == nil {
		_, _, err = frontSettings(settings) // what is in the files of certificates
	}
	all := checked{File: file, OK: err == nil, Faults: checkedFaults(file, faults(err)), Warnings: append([]string{}, settings.Warnings()...)}
	if c.Diff != "" && all.OK {
		if all.Changes, err = changesFrom(ctx, e, c.Diff, settings); err != nil {
			return cannot("compare with "+c.Diff, err, next{})
		}
	}
	if err := c.answer(e, all, faults(err)); err != nil {
		return err
	}
	if !all.OK {
		return refuse("postern check --reference lists all settings", "%s cannot be used: it has %s",
			cmp.Or(file, "the environment"), counted(len(all.Faults), "fault"))
	}
	return nil
}

func (c *CheckCommand) answer(e *environment, all checked, found []error) error {
	if c.JSON {
		return e.json(all)
	}
	var rows []row
	for _, err := range found {
		rows = append(rows, row{err.Error()})
	}
	for _, warning := range all.Warnings {
		rows = append(rows, row{"warning: " + warning})
	}
	if all.OK {
		rows = append(rows, row{cmp.Or(all.File, "the environment") + " can be used"})
	}
	if err := e.table(nil, rows); err != nil {
		return err
	}
	if all.Changes == nil {
		return nil
	}
	return printChanges(e, all.Changes)
}

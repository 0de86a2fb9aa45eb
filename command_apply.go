package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"postern/config"
	"postern/registry"
)

// ApplyCommand brings the store to what files declare.
type ApplyCommand struct {
	where
	Files   []string      `name:"file" short:"f" required:"" sep:"none" placeholder:"FILE" help:"What is declared, in YAML; - is standard input. Several are applied as one."`
	DryRun  bool          `help:"Say what would change, and write nothing."`
	Prune   bool          `help:"Remove what the organizations in the files own and the files do not declare."`
	Overlap time.Duration `default:"24h" placeholder:"DURATION" help:"How long a client secret is still good that another one replaces; 0 kills it at once."`
}

// Help says what a file holds and gives examples.
func (ApplyCommand) Help() string {
	return "A file declares organizations with their terms, agreements, catalogs and clients. What is not there is made, what differs is changed, in one " +
		"transaction or not at all; applied again it changes nothing. A field that is left out has its default. Organizations that no file names are never touched; " +
		"removed: true removes one thing, --prune all that its organization owns and no file declares.\n\n" +
		"A client's secret is in secret_file (a path relative to the file) or secret_sha256 (the digest of one that nobody can guess); a list of two is for rotating. " +
		"While 10,000 clients are written, some seconds, no token is issued.\n\n" +
		example("postern apply -f domain.yaml --dry-run", "postern apply -f domain.yaml --prune")
}

// Validate refuses an overlap that ends before it begins.
func (c *ApplyCommand) Validate() error { return (&ClientRotateCommand{Overlap: c.Overlap}).Validate() }

// Run applies the files and answers with what changed.
func (c *ApplyCommand) Run(ctx context.Context, e *environment) error {
	if err := c.run(ctx, e); err != nil {
		return cannot("apply "+strings.Join(c.Files, " and "), err, next{})
	}
	return nil
}

func (c *ApplyCommand) run(ctx context.Context, e *environment) error {
	declared, err := c.read(e)
	if err != nil {
		return err
	}
	open := c.openOrCreate
	if c.DryRun {
		open = func(ctx context.Context, e *environment) (*registry.Registry, error) {
			r, _, err := c.open(ctx, e)
			return r, err
		}
	}
	r, err := open(ctx, e)
	if err != nil {
		return err
	}
	plan, err := c.apply(ctx, e, r, declared)
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	return c.answer(e, plan)
}

// apply plans first, so that slow hashes are known when the store is locked.
func (c *ApplyCommand) apply(ctx context.Context, e *environment, r *registry.Registry, declared registry.Declaration) (registry.Plan, error) {
	options := registry.ApplyOptions{Prune: c.Prune, Overlap: c.Overlap, Weak: newWeakSecrets(e)}
	plan, err := r.Plan(ctx, declared, options)
	if err == nil && !c.DryRun {
		options.Progress = e.progress("wrote", len(plan.Steps))
		plan, err = r.Apply(ctx, e.actor(), declared, options)
	}
	all := faults(err)
	for _, one := range all {
		if _, ok := errors.AsType[*registry.DeclarationFault](one); !ok {
			return plan, err
		}
	}
	return plan, declarationFaults(all)
}

// declarationFaults makes one error of what is wrong with the files.
func declarationFaults(all []error) error {
	if len(all) == 0 {
		return nil
	}
	lines := make([]string, 0, len(all))
	for _, fault := range all[:min(len(all), maxApplyFaults)] {
		lines = append(lines, fault.Error())
	}
	if more := len(all) - len(lines); more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more faults", more))
	}
	return refuse("nothing was changed; mend it and apply it again", "%s:\n%s", counted(len(all), "fault"), strings.Join(lines, "\n"))
}

const maxApplyFaults = 100 // are shown: more than anyone reads at once

// read reads all files: one declaration, or one error about all that is wrong with them.
func (c *ApplyCommand) read(e *environment) (all registry.Declaration, err error) {
	var bad []error
	for i, file := range c.Files {
		if slices.Contains(c.Files[:i], file) {
			bad = append(bad, config.Fault{File: file, Problem: "is given twice", Fix: "name each file once"})
			continue
		}
		d, err := config.LoadDomain(file, e.Stdin, e.Environ)
		if err != nil {
			bad = append(bad, faults(err)...)
			continue
		}
		for _, warning := range d.Warnings {
			e.note("%s", warning)
		}
		one, wrong := declarationOf(&d)
		bad = append(bad, wrong...)
		all.Organizations = append(all.Organizations, one.Organizations...)
		all.Catalogs = append(all.Catalogs, one.Catalogs...)
	}
	return all, declarationFaults(bad)
}

// answer tells what was changed, or would be: removals first.
func (c *ApplyCommand) answer(e *environment, plan registry.Plan) error {
	counts := map[string]int{}
	for _, s := range plan.Steps {
		counts[s.Action]++
	}
	if c.JSON {
		return e.json(struct {
			DryRun     bool          `json:"dry_run"`
			Changes    []appliedStep `json:"changes"`
			Created    int           `json:"created"`
			Changed    int           `json:"changed"`
			Removed    int           `json:"removed"`
			Unchanged  int           `json:"unchanged"`
			Undeclared int           `json:"undeclared"`
		}{c.DryRun, appliedSteps(plan.Steps), counts["create"], counts["change"], counts["remove"], plan.Unchanged, plan.Undeclared})
	}
	verb := map[string]string{"create": "created", "change": "changed", "remove": "removed"}
	summary := "%d created, %d changed, %d removed; %d unchanged\n"
	if c.DryRun {
		verb = map[string]string{"create": "would create", "change": "would change", "remove": "would remove"}
		summary = "would create %d, change %d, remove %d; %d unchanged\n"
	}
	for _, s := range plan.Steps {
		line := verb[s.Action] + " " + string(s.Kind) + " " + s.Name
		if s.ID != "" {
			line += " (" + s.ID + ")"
		}
		fmt.Fprintln(e.Stdout, printable(line))
		for _, f := range s.Fields {
			fmt.Fprintln(e.Stdout, printable("    "+f.Field+": "+cmp.Or(f.Old, "unset")+" → "+cmp.Or(f.New, "unset")))
		}
	}
	_, err := fmt.Fprintf(e.Stdout, summary, counts["create"], counts["change"], counts["remove"], plan.Unchanged)
	if err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	if plan.Undeclared > 0 {
		verb := "are not declared, and were left alone: --prune removes them"
		if plan.Undeclared == 1 {
			verb = "is not declared, and was left alone: --prune removes it"
		}
		e.note("%s of these organizations %s", counted(plan.Undeclared, "thing"), verb)
	}
	return nil
}

// appliedStep is a step for machines.
type appliedStep struct {
	Action string         `json:"action"` // create, change or remove
	Kind   registry.Kind  `json:"kind"`
	ID     string         `json:"id,omitempty"` // none before it is created, if it is not declared
	Name   string         `json:"name"`
	Fields []appliedField `json:"fields"`
}

// appliedField is a field's value before and after; null is unset.
type appliedField struct {
	Field string  `json:"field"`
	Old   *string `json:"old"`
	New   *string `json:"new"`
}

func appliedSteps(steps []registry.Step) []appliedStep {
	all := make([]appliedStep, 0, len(steps))
	text := func(value string) *string {
		if value == "" {
			return nil
		}
		return &value
	}
	for _, s := range steps {
		one := appliedStep{s.Action, s.Kind, s.ID, s.Name, []appliedField{}}
		for _, f := range s.Fields {
			one.Fields = append(one.Fields, appliedField{f.Field, text(f.Old), text(f.New)})
		}
		all = append(all, one)
	}
	return all
}

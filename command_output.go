package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"postern/registry"
)

// row is one line of a table, or a name and its value.
type row []string

// table prints rows for people, under a header unless that is nil. Cells may hold
// anything: what a terminal would act on is escaped.
func (e *environment) table(header row, rows []row) error {
	w := tabwriter.NewWriter(e.Stdout, 0, 8, 2, ' ', 0)
	if header != nil {
		rows = append([]row{header}, rows...)
	}
	for _, r := range rows {
		cells := make([]string, len(r))
		for i, c := range r {
			cells[i] = printable(c)
			if c == "" {
				cells[i] = "-"
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	return nil
}

// json prints v for machines. Times are Unix milliseconds, or null for never.
func (e *environment) json(v any) error {
	encoder := json.NewEncoder(e.Stdout)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(v); err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	return nil
}

// list prints all: an array for machines, never null, or a table with one row for each.
func list[T any](e *environment, asJSON bool, all []T, header row, line func(T) row) error {
	if asJSON {
		return e.json(append([]T{}, all...))
	}
	rows := make([]row, 0, len(all))
	for _, one := range all {
		rows = append(rows, line(one))
	}
	return e.table(header, rows)
}

// moment shows t as RFC 3339 in UTC; never is "".
func moment(t registry.Time) string {
	if t == 0 {
		return ""
	}
	return t.Time().Format(time.RFC3339)
}

// state says in one word whether a thing is in use.
func state(disabled, removed registry.Time) string {
	switch {
	case removed != 0:
		return "removed"
	case disabled != 0:
		return "disabled"
	}
	return "active"
}

// counted is "1 fault" or "2 faults".
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// example is the end of a command's help.
func example(lines ...string) string {
	return "Example:\n\n    " + strings.Join(lines, "\n    ")
}

// exampleID stands for an id in examples.
const exampleID = "019a2c5e-7d31-7c40-9b1e-4f6d8a2b3c05"

// exampleKey stands for a key's id in examples.
const exampleKey = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"

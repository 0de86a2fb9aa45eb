package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Fault is one thing that is wrong with a configuration. Its text never shows a
// secret, nor what a ${NAME} stood for.
type Fault struct {
	File    string // the file as it was named; or the variable, or "flag": where the value came from; "" when from nowhere
	Line    int    // in File, from 1; 0: not on one line, or File is no file
	Key     string // dotted, with the place in a list from 0: routes[2].path; "" when it is about no setting
	Problem string // what is wrong
	Fix     string // what to do
}

// Error is the fault on one line, as an operator sees it:
//
//	postern.yaml:12: issuer.lifetime: "-1s" is not above 0: use a duration such as 2h
func (f Fault) Error() string {
	var parts []string
	switch {
	case f.File != "" && f.Line > 0:
		parts = append(parts, f.File+":"+strconv.Itoa(f.Line))
	case f.File != "":
		parts = append(parts, f.File)
	}
	for _, part := range []string{f.Key, f.Problem, f.Fix} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ": ")
}

const (
	maxFaults = 100           // are reported: more than anyone reads at once
	maxNoted  = 5 * maxFaults // are put in order before; the rest is counted
)

// A layer is where a value came from; a higher one beats a lower one.
type layer int

const (
	fromNowhere layer = iota
	fromFile
	fromEnvironment
	fromFlag
)

// An origin is where a setting got its value.
type origin struct {
	layer   layer
	where   string // Fault.File
	line    int
	shown   string // the value as it was written, quoted, or "the value"
	literal bool   // written there itself, not brought in by ${NAME}
}

// placed is a fault and the layer that it is sorted by.
type placed struct {
	Fault
	layer layer
}

// join makes one error of faults, nil when there are none: the file's in order of
// line (those of no line after them), then the environment's, then the flags'. more
// were not noted.
func join(faults []placed, more int) error {
	slices.SortStableFunc(faults, func(a, b placed) int {
		order := cmp.Or(cmp.Compare(max(a.layer, fromFile), max(b.layer, fromFile)),
			cmp.Compare(uint(a.Line-1), uint(b.Line-1))) // 0 wraps round to the largest
		if order == 0 && a.layer > fromFile {
			order = cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Key, b.Key))
		}
		return order
	})
	var errs []error
	for _, f := range faults[:min(len(faults), maxFaults)] {
		errs = append(errs, f.Fault)
	}
	if more += len(faults) - len(errs); more > 0 {
		errs = append(errs, Fault{Problem: fmt.Sprintf("and %d more faults", more)})
	}
	return errors.Join(errs...)
}

const unshown = "the value"

// quoted is a value as messages show it: short, with control characters escaped, and
// not at all when it can hold a password, as URLs with @ or ? do.
func quoted(text string) string {
	const most = 64
	if strings.ContainsAny(text, "@?") {
		return unshown
	}
	if len(text) > most {
		cut := most
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return strconv.Quote(text)
}

// named is a key or a variable's name that we do not know, as messages show it: not
// at all when it does not look like one, because then it may be a secret in a wrong
// place, such as {master_key:0123…} with no space after the colon.
func named(name string) string {
	const most = 40
	for _, c := range []byte(name) {
		if !isAlphanumeric(c) && c != '_' && c != '-' && c != '.' {
			return ""
		}
	}
	if len(name) > most {
		return ""
	}
	return name
}

// nearest is the one of names that takes the fewest edits to make of name, and
// whether those are so few that it may have been meant.
func nearest(name string, names []string) (best string, near bool) {
	least := -1
	for _, candidate := range names {
		if n := distance(strings.ToLower(name), strings.ToLower(candidate)); least < 0 || n < least {
			best, least = candidate, n
		}
	}
	return best, least <= max(1, len(name)/3)
}

// suggest names the nearest of names as a fix. All of them begin with prefix, which
// does not count.
func suggest(name string, names []string, prefix string) string {
	var ends []string
	for _, n := range names {
		ends = append(ends, strings.TrimPrefix(n, prefix))
	}
	best, near := nearest(strings.TrimPrefix(name, prefix), ends)
	if near {
		return "did you mean " + prefix + best + "?"
	}
	return "the nearest known one is " + prefix + best
}

// distance counts the edits of single bytes (Levenshtein) between a and b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

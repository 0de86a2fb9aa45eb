package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// acceptanceRows are the rows of bad input and faults that must have a test by now; the
// whole list has 176.
const acceptanceRows = "1-18 20-38 40 42-46 50-127 130-143 164-165 167 171-176"

// acceptanceExceptions are rows of acceptanceRows that have no test, each with its reason.
func acceptanceExceptions() map[int]string {
	return map[int]string{}
}

// acceptanceDifferences are rows whose test holds something other than what the list says,
// each with its reason.
func acceptanceDifferences() map[int]string {
	return map[int]string{
		58: "a million members do not fit into 64 KiB: 413 (row 54) before any is read; what fits gets 400",
		70: "a secret of 1 MB does not fit into 64 KiB: 413 (row 54), before any look-up as well; what fits gets 401",
		76: "imported secrets; there is no portal yet whose sign-ins could be tested",
	}
}

// TestAcceptanceRows finds the tests of each row by their names, TestRow012…; -v prints
// the table of rows and tests.
func TestAcceptanceRows(t *testing.T) {
	covered := map[int][]string{}
	name := regexp.MustCompile(`^TestRow(\d+)`)
	for _, p := range goList(t, "./...") {
		for _, file := range append(p.TestGoFiles, p.XTestGoFiles...) {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			for _, d := range parsed.Decls {
				f, ok := d.(*ast.FuncDecl)
				if !ok || f.Recv != nil || !name.MatchString(f.Name.Name) {
					continue
				}
				digits := name.FindStringSubmatch(f.Name.Name)[1]
				row, err := strconv.Atoi(digits)
				if err != nil || len(digits) != 3 || row < 1 || row > 176 {
					t.Errorf("%s/%s: %s names no row: use three digits, 001 to 176", p.room(), file, f.Name.Name)
					continue
				}
				covered[row] = append(covered[row], p.room()+"."+f.Name.Name)
			}
		}
	}
	faults := rowFaults(rows(t, acceptanceRows), covered, acceptanceExceptions())
	for _, row := range slices.Sorted(maps.Keys(faults)) {
		t.Errorf("row %d: %s", row, faults[row])
	}
	for row, reason := range acceptanceDifferences() {
		if len(covered[row]) == 0 || reason == "" {
			t.Errorf("row %d: a difference without a test or a reason", row)
		}
	}
	for row := range 177 {
		if len(covered[row]) > 0 {
			slices.Sort(covered[row])
			t.Logf("row %3d  %s  %s", row, strings.Join(covered[row], "  "), acceptanceDifferences()[row])
		}
	}
}

// rowFaults says what is wrong with which row.
func rowFaults(wanted []int, covered map[int][]string, exceptions map[int]string) map[int]string {
	faults := map[int]string{}
	for _, row := range wanted {
		if len(covered[row]) == 0 && exceptions[row] == "" {
			faults[row] = fmt.Sprintf("no test is named TestRow%03d…", row)
		}
	}
	for row, reason := range exceptions {
		switch {
		case strings.TrimSpace(reason) == "":
			faults[row] = "an exception without a reason"
		case len(covered[row]) > 0:
			faults[row] = "an exception, and yet it has a test: take the exception out"
		case !slices.Contains(wanted, row):
			faults[row] = "an exception for a row that is not wanted"
		}
	}
	return faults
}

// rows reads "1-3 5" as 1, 2, 3, 5.
func rows(t *testing.T, text string) (all []int) {
	t.Helper()
	for _, part := range strings.Fields(text) {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err := strconv.Atoi(from)
		last, err2 := strconv.Atoi(to)
		if err != nil || err2 != nil || first > last {
			t.Fatalf("rows: %q", part)
		}
		for row := first; row <= last; row++ {
			all = append(all, row)
		}
	}
	return all
}

func TestAcceptanceRowsSees(t *testing.T) {
	if got := rows(t, "1-3 5"); !slices.Equal(got, []int{1, 2, 3, 5}) {
		t.Errorf("rows: %v", got)
	}
	if n := len(rows(t, acceptanceRows)); n != 144 {
		t.Errorf("%d rows are wanted", n)
	}
	got := rowFaults([]int{1, 2, 3, 4}, map[int][]string{1: {"a"}, 3: {"b"}}, map[int]string{3: "x", 4: "later", 9: "x"})
	if len(got) != 3 || !strings.Contains(got[2], "TestRow002") || !strings.Contains(got[3], "has a test") || !strings.Contains(got[9], "not wanted") {
		t.Errorf("faults: %v", got)
	}
	if got := rowFaults([]int{1}, nil, map[int]string{1: " "}); !strings.Contains(got[1], "without a reason") {
		t.Errorf("faults: %v", got)
	}
}

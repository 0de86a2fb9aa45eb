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

// acceptanceRows is how many rows of bad input and faults there are. Each has a test, or
// is an exception.
const acceptanceRows = 176

// acceptanceExceptions are rows that have no test yet, each with its reason. A row that
// gets a test is taken out: TestAcceptanceRows fails until it is.
func acceptanceExceptions() map[int]string {
	all := map[int]string{}
	for row := 144; row <= 156; row++ {
		all[row] = "there is no portal yet"
	}
	return all
}

// acceptanceDifferences are rows whose test holds something other than what the row says,
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
				if err != nil || len(digits) != 3 || row < 1 || row > acceptanceRows {
					t.Errorf("%s/%s: %s names no row: use three digits, 001 to %d", p.room(), file, f.Name.Name, acceptanceRows)
					continue
				}
				covered[row] = append(covered[row], p.room()+"."+f.Name.Name)
			}
		}
	}
	faults := rowFaults(acceptanceRows, covered, acceptanceExceptions())
	for _, row := range slices.Sorted(maps.Keys(faults)) {
		t.Errorf("row %d: %s", row, faults[row])
	}
	for row, reason := range acceptanceDifferences() {
		if len(covered[row]) == 0 || reason == "" {
			t.Errorf("row %d: a difference without a test or a reason", row)
		}
	}
	for row := range acceptanceRows + 1 {
		if len(covered[row]) > 0 {
			slices.Sort(covered[row])
			t.Logf("row %3d  %s  %s", row, strings.Join(covered[row], "  "), acceptanceDifferences()[row])
		}
	}
}

// rowFaults says what is wrong with which of the rows 1 to last.
func rowFaults(last int, covered map[int][]string, exceptions map[int]string) map[int]string {
	faults := map[int]string{}
	for row := 1; row <= last; row++ {
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
		case row < 1 || row > last:
			faults[row] = "an exception for a row that there is not"
		}
	}
	return faults
}

func TestAcceptanceRowsSees(t *testing.T) {
	got := rowFaults(4, map[int][]string{1: {"a"}, 3: {"b"}}, map[int]string{3: "x", 4: "later", 9: "x"})
	if len(got) != 3 || !strings.Contains(got[2], "TestRow002") || !strings.Contains(got[3], "has a test") || !strings.Contains(got[9], "there is not") {
		t.Errorf("faults: %v", got)
	}
	if got := rowFaults(1, nil, map[int]string{1: " "}); !strings.Contains(got[1], "without a reason") {
		t.Errorf("faults: %v", got)
	}
}

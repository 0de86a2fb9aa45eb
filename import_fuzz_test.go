package main

import (
	"bytes"
	"encoding/csv"
	"strings"
	"testing"
)

// FuzzImport: whatever is in a file, each row has its place and all its fields, no fault
// quotes the file, and what is read without a fault reads the same when it is written anew.
func FuzzImport(f *testing.F) {
	for _, seed := range []string{
		"external_id,name,public\na,A,true\nb,\"B \"\"b\"\"\",\n", "external_id\n", "a,b\n", "external_id,name\na\n\"", "\ufeffexternal_id\nx", "",
		`[{"external_id":"a","public":true},{"external_id":"b","name":null}]`, `[{}] []`, `[`, `[{"external_id":"a","external_id":"b"}]`, `{"external_id":"a"}`,
	} {
		f.Add([]byte(seed))
	}
	shape := catalogShape()
	check := func(t *testing.T, rows []importRow, faults []importFault) {
		last := -1
		for _, row := range rows {
			if len(row.fields) != len(shape.names) || row.place.n <= last {
				t.Errorf("%s after %d has %d fields", row.place, last, len(row.fields))
			}
			last = row.place.n
		}
		for _, fault := range faults {
			if fault.problem == "" || strings.ContainsAny(fault.problem, "\r\n") {
				t.Errorf("fault %q", fault.problem)
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		rows, faults := shape.readJSON(text)
		check(t, rows, faults)
		rows, faults = shape.readCSV(text)
		check(t, rows, faults)
		if len(faults) > 0 {
			return
		}
		var again bytes.Buffer
		w := csv.NewWriter(&again)
		_ = w.Write(shape.names)
		for _, row := range rows {
			line := make([]string, len(row.fields))
			for i, v := range row.fields {
				line[i] = v.Reveal()
			}
			_ = w.Write(line)
		}
		w.Flush()
		got, faults := shape.readCSV(again.Bytes())
		if len(got) != len(rows) || len(faults) > 0 {
			t.Fatalf("%d rows, want %d; faults %v", len(got), len(rows), faults)
		}
		for i := range got {
			for j, want := range rows[i].fields {
				if got[i].fields[j] != want {
					t.Errorf("field %d of row %d is %q, want %q", j, i, got[i].fields[j].Reveal(), want.Reveal())
				}
			}
		}
	})
}

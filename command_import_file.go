package main

import (
	"bytes"
	"cmp"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"postern/secret"
	"postern/token"
)

// importShape is what the rows of a file can have.
type importShape struct {
	what   string // what a row is one of
	names  []string
	needed []string // those that a header must have
	truths []string // those that JSON may have as true and false
}

// importRow is one row as it was read, in the order of its shape's names; absent is "". All
// are held as secrets: who knows what stands in which column.
type importRow struct {
	place  importPlace
	fields []secret.Secret
}

// maxImport bounds the file in bytes.
const maxImport = 64 << 20

// readImport reads a file: its rows, and what is wrong with those that are none. format is
// csv or json, or as the name ends when it is empty.
func readImport(file, format string, shape importShape) ([]importRow, []importFault, error) {
	format = cmp.Or(format, strings.TrimPrefix(strings.ToLower(filepath.Ext(file)), "."))
	if format != "csv" && format != "json" {
		return nil, nil, refuse("say which with --format csv or --format json", "the file's name ends neither in .csv nor in .json")
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, errors.Unwrap(err) // the task names the file already
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxImport+1))
	if err != nil {
		return nil, nil, errors.Unwrap(err)
	}
	if len(text) > maxImport {
		return nil, nil, refuse("split it: each part is imported as a whole", "the file is larger than 64 MiB")
	}
	read := shape.readCSV
	if format == "json" {
		read = shape.readJSON
	}
	rows, faults := read(text)
	if len(rows)+len(faults) == 0 {
		return nil, nil, errors.New("the file has no " + shape.what)
	}
	return rows, faults, nil
}

// readCSV reads RFC 4180 with a header line. After a fault of the quotes nothing
// behind it can be told apart, so it is the last one.
func (s importShape) readCSV(text []byte) (rows []importRow, bad []importFault) {
	reader := csv.NewReader(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	reader.ReuseRecord = true
	header, err := reader.Read()
	if err == io.EOF {
		return nil, nil
	}
	place := func() importPlace {
		line, _ := reader.FieldPos(0)
		return importPlace{"line", line}
	}
	if err != nil {
		return nil, []importFault{csvFault(err, importPlace{"line", 1})}
	}
	columns, bad := s.columns(header, place())
	if bad != nil {
		return nil, bad
	}
	for {
		record, err := reader.Read()
		switch {
		case err == io.EOF:
			return rows, bad
		case errors.Is(err, csv.ErrFieldCount):
			bad = append(bad, importFault{place(), fmt.Sprintf("it has %s, the header has %d", counted(len(record), "field"), len(columns))})
			continue
		case err != nil:
			return rows, append(bad, csvFault(err, importPlace{"line", 0}))
		}
		row := importRow{place(), make([]secret.Secret, len(s.names))}
		for i, value := range record {
			row.fields[columns[i]] = secret.Secret(value)
		}
		rows = append(rows, row)
	}
}

// csvFault says what is wrong with the quotes. The package's texts quote nothing.
func csvFault(err error, place importPlace) importFault {
	if broken, ok := errors.AsType[*csv.ParseError](err); ok {
		return importFault{importPlace{"line", broken.StartLine}, broken.Err.Error() + "; what follows was not read"}
	}
	return importFault{place, err.Error()}
}

// columns finds the field of each column. Names that are unknown are not quoted: a
// file without a header has a client's first secret there.
func (s importShape) columns(header []string, place importPlace) (columns []int, bad []importFault) {
	for i, name := range header {
		field := slices.Index(s.names, strings.TrimSpace(name))
		switch {
		case field < 0:
			bad = append(bad, importFault{place, fmt.Sprintf("column %d of the header is unknown; use %s", i+1, strings.Join(s.names, ", "))})
		case slices.Contains(columns, field):
			bad = append(bad, importFault{place, "the header has " + s.names[field] + " twice"})
		}
		columns = append(columns, field)
	}
	for _, name := range s.needed {
		if bad == nil && !slices.Contains(columns, slices.Index(s.names, name)) {
			bad = append(bad, importFault{place, "the header has no " + name})
		}
	}
	return columns, bad
}

// readJSON reads an array of objects whose members are strings.
func (s importShape) readJSON(text []byte) (rows []importRow, bad []importFault) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	index := 0
	at := func(problem string) importFault { return importFault{importPlace{"index", index}, problem} }
	if t, err := decoder.Token(); err != nil || t != json.Delim('[') {
		return nil, []importFault{at("the file is no JSON array")}
	}
	for ; decoder.More(); index++ {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return rows, append(bad, at("it is not valid JSON; what follows was not read"))
		}
		members, err := token.Object(raw)
		if err != nil {
			bad = append(bad, at("it is no JSON object without repeated members"))
			continue
		}
		row := importRow{importPlace{"index", index}, make([]secret.Secret, len(s.names))}
		if problem := s.set(row, members); problem != "" {
			bad = append(bad, at(problem))
			continue
		}
		rows = append(rows, row)
	}
	if _, err := decoder.Token(); err != nil {
		return rows, append(bad, at("the array has no end"))
	}
	if _, err := decoder.Token(); err != io.EOF {
		return rows, append(bad, at("something follows the array"))
	}
	return rows, bad
}

// set gives a row the members of an object, or says what is wrong with them.
func (s importShape) set(r importRow, members map[string]json.RawMessage) (problem string) {
	known := 0
	for i, name := range s.names {
		raw, ok := members[name]
		if !ok {
			continue
		}
		known++
		if text := string(raw); slices.Contains(s.truths, name) && (text == "true" || text == "false") {
			r.fields[i] = secret.Secret(text)
			continue
		}
		var value *string
		if json.Unmarshal(raw, &value) != nil || value == nil {
			return name + " is no string"
		}
		r.fields[i] = secret.Secret(*value)
	}
	if known < len(members) {
		return "it has an unknown member; use " + strings.Join(s.names, ", ")
	}
	return ""
}

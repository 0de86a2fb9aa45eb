package main

import (
	"bytes"
	"encoding/base64"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"postern/registry"
	"postern/secret"
	"postern/token"
)

// importFields are what a row can have. The first four are the secret, one of them.
var importFields = [...]string{"client_secret", "client_secret_sha256", "client_secret_bcrypt", "client_secret_argon2id",
	"organization_id", "client_id", "application", "environment"}

const (
	secretFields      = 4
	fieldOrganization = 4
	maxImportedSecret = 1024 // bytes
)

// importRow is one row as it was read, in the order of importFields; absent is "". All are
// held as secrets: who knows what stands in which column.
type importRow struct {
	place  importPlace
	fields [len(importFields)]secret.Secret
}

// clear reports whether the row's secret is in clear, where hash says what client_secret holds.
func (r importRow) clear(hash string) bool { return hash == "plain" && r.fields[0] != "" }

// client is what the row says, or its problem. A secret in clear that has not our form is
// left to be hashed.
func (r importRow) client(hash string) (c registry.ImportedClient, problem string) {
	c = registry.ImportedClient{
		OrganizationID: r.fields[4].Reveal(), ID: r.fields[5].Reveal(), Application: r.fields[6].Reveal(), Environment: r.fields[7].Reveal(),
	}
	given := -1
	for i, value := range r.fields[:secretFields] {
		if value != "" && given >= 0 {
			return c, "it has several of client_secret, client_secret_sha256, client_secret_bcrypt and client_secret_argon2id"
		}
		if value != "" {
			given = i
		}
	}
	if given < 0 {
		return c, "it has none of client_secret, client_secret_sha256, client_secret_bcrypt and client_secret_argon2id"
	}
	name, text := importFields[given], r.fields[given].Reveal()
	kind := hash
	if given > 0 {
		kind = strings.TrimPrefix(name, "client_secret_")
	}
	switch kind {
	case "plain":
		c.WellFormed, problem = judgeSecret(text)
		switch {
		case problem != "":
			return c, name + ": it " + problem
		case c.WellFormed:
			c.Kind, c.Digest = registry.SHA256, secret.DigestOf([]byte(text))
		default:
			c.Kind = registry.Argon2id
		}
	case "sha256":
		c.Kind = registry.SHA256
		digest, ok := digestFrom(text)
		if !ok {
			return c, name + ": it is no SHA-256 digest in hex or base64"
		}
		if ofNothing(digest) {
			return c, name + ": it is the digest of nothing, or of a line end"
		}
		c.Digest = digest
	case "bcrypt":
		c.Kind, c.Hash = registry.Bcrypt, r.fields[given]
	case "argon2id":
		c.Kind, c.Hash = registry.Argon2id, r.fields[given]
	}
	return c, ""
}

// judgeSecret reports whether a secret in clear has our form, or why it cannot be anybody's.
func judgeSecret(text string) (wellFormed bool, problem string) {
	switch {
	case secret.WellFormed([]byte(text)):
		return true, ""
	case strings.HasPrefix(text, secret.Prefix):
		return false, "begins as a secret of postern does, and is none: it is incomplete or mistyped"
	case len(text) > maxImportedSecret:
		return false, fmt.Sprintf("is longer than %d bytes", maxImportedSecret)
	}
	return false, ""
}

// digestFrom reads a SHA-256 digest in hex, or in base64 of either alphabet, padded or not.
func digestFrom(text string) (d secret.Digest, ok bool) {
	decode := hex.DecodeString
	if len(text) != hex.EncodedLen(len(d)) {
		decode = base64.RawStdEncoding.Strict().DecodeString
		if strings.ContainsAny(text, "-_") {
			decode = base64.RawURLEncoding.Strict().DecodeString
		}
		text = strings.TrimSuffix(text, "=")
	}
	raw, err := decode(text)
	if err != nil || len(raw) != len(d) {
		return d, false
	}
	return secret.Digest(raw), true
}

// ofNothing reports whether d is what sha256sum says of an empty input or of a line end alone:
// of a file that was not written, or a variable that was not set.
func ofNothing(d secret.Digest) bool {
	return slices.ContainsFunc([]string{"", "\n", "\r\n"}, func(text string) bool { return d == secret.DigestOf([]byte(text)) })
}

// readImportCSV reads RFC 4180 with a header line. After a fault of the quotes nothing
// behind it can be told apart, so it is the last one.
func readImportCSV(text []byte, organization bool) (rows []importRow, bad []importFault) {
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
	columns, bad := importColumns(header, place(), organization)
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
		row := importRow{place: place()}
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

// importColumns finds the field of each column. Names that are unknown are not quoted: a
// file without a header has a client's first secret there.
func importColumns(header []string, place importPlace, organization bool) (columns []int, bad []importFault) {
	for i, name := range header {
		field := slices.Index(importFields[:], strings.TrimSpace(name))
		switch {
		case field < 0:
			bad = append(bad, importFault{place, fmt.Sprintf("column %d of the header is unknown; use %s", i+1, strings.Join(importFields[:], ", "))})
		case slices.Contains(columns, field):
			bad = append(bad, importFault{place, "the header has " + importFields[field] + " twice"})
		}
		columns = append(columns, field)
	}
	for field, name := range importFields {
		needed := field > fieldOrganization || field == fieldOrganization && !organization
		if needed && bad == nil && !slices.Contains(columns, field) {
			bad = append(bad, importFault{place, "the header has no " + name})
		}
	}
	return columns, bad
}

// readImportJSON reads an array of objects whose members are strings.
func readImportJSON(text []byte, _ bool) (rows []importRow, bad []importFault) {
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
		row := importRow{place: importPlace{"index", index}}
		if problem := row.set(members); problem != "" {
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

// set takes over the members of an object, or says what is wrong with them.
func (r *importRow) set(members map[string]json.RawMessage) (problem string) {
	known := 0
	for i, name := range importFields {
		raw, ok := members[name]
		if !ok {
			continue
		}
		known++
		var value *string
		if json.Unmarshal(raw, &value) != nil || value == nil {
			return name + " is no string"
		}
		r.fields[i] = secret.Secret(*value)
	}
	if known < len(members) {
		return "it has an unknown member; use " + strings.Join(importFields[:], ", ")
	}
	return ""
}

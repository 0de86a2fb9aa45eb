package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// Terms grant catalogs by their external ids. So that a grant is of one catalog, and never
// of another that has its external id later, only what is there can be granted, and what is
// removed is granted no longer.

// checkGrants accepts what after grants beyond before: catalogs that are there.
func checkGrants(ctx context.Context, q querier, before, after Terms) error {
	if after.Catalogs.State != Value {
		return nil
	}
	had := make(map[string]bool, len(before.Catalogs.Values))
	for _, name := range before.Catalogs.Values {
		had[name] = true
	}
	asked := slices.DeleteFunc(slices.Clone(after.Catalogs.Values), func(name string) bool { return had[name] || !storable(name) })
	there, err := catalogsByExternalID(ctx, q, asked)
	if err != nil {
		return err
	}
	var faults []error
	for _, name := range asked {
		if _, ok := there[name]; !ok {
			faults = append(faults, invalid("catalogs: there is no catalog %s: make it first", name))
		}
		if len(faults) == maxGrantFaults {
			break
		}
	}
	return errors.Join(faults...)
}

// maxGrantFaults is how many of many the error names.
const maxGrantFaults = 10

// catalogsByExternalID finds those of names that live catalogs have.
func catalogsByExternalID(ctx context.Context, q querier, names []string) (map[string]Catalog, error) {
	there := make(map[string]Catalog, len(names))
	for some := range slices.Chunk(names, importIDs) {
		args := make([]any, len(some))
		for i, name := range some {
			args[i] = name
		}
		found, err := findCatalogs(ctx, q, `removed_at IS NULL AND external_id IN `+places(1, len(args)), args...)
		if err != nil {
			return nil, err
		}
		for _, c := range found {
			there[c.ExternalID] = c
		}
	}
	return there, nil
}

// regrant puts the external id to where terms grant the one that is from, or nothing when to
// is empty. Each owner of such terms has an event and a change of its own.
func regrant(ctx context.Context, tx *tx, a Actor, from, to string) error {
	type grantor struct {
		id       string
		kind     Kind
		catalogs []string
	}
	quoted, err := json.Marshal(from)
	if err != nil {
		return err
	}
	var found []grantor
	err = each(ctx, tx, func(rows *sql.Rows) error {
		var text string
		var organization bool
		g := grantor{kind: KindAgreement}
		if err := rows.Scan(&g.id, &text, &organization); err != nil {
			return err
		}
		if organization {
			g.kind = KindOrganization
		}
		if err := json.Unmarshal([]byte(text), &g.catalogs); err != nil {
			return err
		}
		if slices.Contains(g.catalogs, from) { // LIKE does not tell a from A everywhere
			found = append(found, g)
		}
		return nil
	}, `SELECT t.owner_id, t.catalogs, o.id IS NOT NULL FROM terms t LEFT JOIN organization o ON o.id = t.owner_id
		WHERE t.catalogs LIKE $1 ESCAPE '!'`, "%"+strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(string(quoted))+"%")
	if err != nil {
		return err
	}
	for _, g := range found {
		detail := "catalogs: " + from + " was removed"
		g.catalogs = slices.DeleteFunc(g.catalogs, func(name string) bool { return name == from || name == to })
		if to != "" {
			detail = "catalogs: " + from + " is " + to + " now"
			g.catalogs = append(g.catalogs, to)
		}
		text, err := json.Marshal(g.catalogs)
		if err != nil {
			return err
		}
		if err := tx.set(ctx, `UPDATE terms SET catalogs = $1 WHERE owner_id = $2`, string(text), g.id); err != nil {
			return err
		}
		if err := record(ctx, tx, a, deed{"change", g.kind, g.id, detail}); err != nil {
			return err
		}
	}
	return nil
}

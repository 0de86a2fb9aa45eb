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
	found, err := findGrantors(ctx, tx, map[string]string{from: to})
	if err != nil {
		return err
	}
	detail := "catalogs: " + from + " was removed"
	if to != "" {
		detail = "catalogs: " + from + " is " + to + " now"
	}
	for _, g := range found {
		if err := g.save(ctx, tx); err != nil {
			return err
		}
		if err := record(ctx, tx, a, deed{"change", g.kind, g.id, detail}); err != nil {
			return err
		}
	}
	return nil
}

// grantor is an organization or an agreement whose terms grant a catalog that has another
// external id now, or is removed.
type grantor struct {
	kind          Kind
	id, name      string
	before, after Set
}

// findGrantors finds those that grant what is a key of renamed. Its value is the external id
// that takes the place of it; "": none.
func findGrantors(ctx context.Context, q querier, renamed map[string]string) (found []grantor, err error) {
	like := "[%" // not unlimited
	if len(renamed) == 1 {
		for from := range renamed {
			quoted, err := json.Marshal(from)
			if err != nil {
				return nil, err
			}
			like = "%" + strings.NewReplacer("!", "!!", "%", "!%", "_", "!_").Replace(string(quoted)) + "%"
		}
	}
	return found, each(ctx, q, func(rows *sql.Rows) error {
		var organization bool
		var text string
		g := grantor{kind: KindAgreement, before: Set{State: Value}, after: Set{State: Value}}
		if err := rows.Scan(&g.id, &text, &organization, &g.name); err != nil {
			return err
		}
		if organization {
			g.kind = KindOrganization
		}
		if err := json.Unmarshal([]byte(text), &g.before.Values); err != nil {
			return err
		}
		changed := false
		for _, name := range g.before.Values {
			to, ok := renamed[name]
			if changed = changed || ok; !ok {
				to = name
			}
			if to != "" {
				g.after.Values = append(g.after.Values, to)
			}
		}
		if changed { // LIKE does not tell a from A everywhere
			found = append(found, g)
		}
		return nil
	}, `SELECT t.owner_id, t.catalogs, o.id IS NOT NULL, COALESCE(o.name, ao.name || ' / ' || a.name) FROM terms t
		LEFT JOIN organization o ON o.id = t.owner_id
		LEFT JOIN agreement a ON a.id = t.owner_id LEFT JOIN organization ao ON ao.id = a.organization_id
		WHERE t.catalogs LIKE $1 ESCAPE '!' AND COALESCE(o.removed_at, a.removed_at) IS NULL ORDER BY t.owner_id`, like)
}

// save writes what is granted then.
func (g grantor) save(ctx context.Context, x execer) error {
	text, err := json.Marshal(append([]string{}, g.after.Values...))
	if err != nil {
		return err
	}
	return set(ctx, x, `UPDATE terms SET catalogs = $1 WHERE owner_id = $2`, string(text), g.id)
}

package registry

import (
	"context"
	"errors"
	"slices"
)

// ImportedCatalog is a catalog as the upstream's own list has it.
type ImportedCatalog struct {
	ExternalID     string // what it is found by
	OrganizationID string // the owner; a public catalog may have none
	Public         bool
	Name           string
}

// CatalogImport is what an import does, or would do.
type CatalogImport struct {
	Created   int `json:"created"`
	Changed   int `json:"changed"`
	Unchanged int `json:"unchanged"`
}

// ImportCatalogs makes all of catalogs, in one transaction, or none; one whose external id is
// there gets the row's name and visibility. An owner is never changed. When some cannot be
// made, the error joins one *ImportFault for each that is wrong. progress, if not nil, is
// called now and then with how many are written, from this goroutine. While it writes (some
// seconds for 100,000 catalogs) nobody else can: issuing waits, and fails after a few seconds.
//
// Each catalog that is made or changed has an event of its own; the feed has one change for
// all, whose id is empty.
func (r *Registry) ImportCatalogs(ctx context.Context, a Actor, catalogs []ImportedCatalog, progress func(done int)) (done CatalogImport, err error) {
	defer r.observe(opMutate, r.options.Now(), &err)
	if progress == nil {
		progress = func(int) {}
	}
	inner, err := r.engine.beginChange(ctx)
	if err != nil {
		return done, r.fault("import catalogs", err)
	}
	defer inner.Rollback() // after a commit there is nothing to roll back
	tx := &tx{inner, r.now()}
	rows, done, err := r.checkCatalogs(ctx, tx, catalogs)
	if err != nil || done.Created+done.Changed == 0 {
		return done, r.fault("import catalogs", err)
	}
	if err := r.writeCatalogs(ctx, tx, a, rows, progress); err != nil {
		return done, r.fault("import catalogs", err)
	}
	return done, r.fault("import catalogs", tx.Commit())
}

// CheckCatalogs returns what ImportCatalogs would do, or its error, and writes nothing.
func (r *Registry) CheckCatalogs(ctx context.Context, catalogs []ImportedCatalog) (done CatalogImport, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	inner, err := r.engine.read.BeginTx(ctx, nil)
	if err != nil {
		return done, r.fault("check import", err)
	}
	defer inner.Rollback()
	_, done, err = r.checkCatalogs(ctx, &tx{inner, r.now()}, catalogs)
	return done, r.fault("check import", err)
}

// catalogRow is a catalog that is written: made where it has no id yet.
type catalogRow struct {
	Catalog
	made bool
}

// checkCatalogs returns the catalogs that are written, as they will be. Each is told its first fault.
func (r *Registry) checkCatalogs(ctx context.Context, tx *tx, catalogs []ImportedCatalog) (rows []catalogRow, done CatalogImport, err error) {
	names := make([]string, 0, len(catalogs))
	for _, c := range catalogs {
		if storable(c.ExternalID) {
			names = append(names, c.ExternalID)
		}
	}
	there, err := catalogsByExternalID(ctx, tx, names)
	if err != nil {
		return nil, done, err
	}
	owners, seen := map[string]error{"": nil}, make(map[string]bool, len(catalogs))
	var faults []error
	for i, c := range catalogs {
		row, err := r.checkCatalog(ctx, tx, c, there, owners, seen)
		refused, wrong := errors.AsType[*refusal](err)
		switch {
		case wrong:
			faults = append(faults, &ImportFault{Row: i, Problem: refused.text, kind: refused.kind})
		case err != nil:
			return nil, done, err
		case row.made:
			done.Created++
			rows = append(rows, row)
		case row.Catalog != there[c.ExternalID]:
			done.Changed++
			rows = append(rows, row)
		default:
			done.Unchanged++
		}
	}
	return rows, done, errors.Join(faults...)
}

// checkCatalog says what is wrong with one, a *refusal, or what it will be. owners and seen
// are what the rows before have shown.
func (r *Registry) checkCatalog(ctx context.Context, tx *tx, c ImportedCatalog, there map[string]Catalog, owners map[string]error, seen map[string]bool) (row catalogRow, err error) {
	old, found := there[c.ExternalID]
	row = catalogRow{Catalog{ExternalID: c.ExternalID, OrganizationID: c.OrganizationID, Public: c.Public, Name: c.Name, CreatedAt: tx.now}, !found}
	if err := row.check(); err != nil {
		return row, err
	}
	if seen[c.ExternalID] {
		return row, conflict("an earlier one has the same external_id")
	}
	seen[c.ExternalID] = true
	if found {
		if old.OrganizationID != c.OrganizationID {
			return row, conflict("catalog %s has this external_id, and another owner: move it, or leave it out", old.ID)
		}
		row.ID, row.CreatedAt = old.ID, old.CreatedAt
		return row, nil
	}
	fault, known := owners[c.OrganizationID]
	if !known {
		_, fault = liveOrganization(ctx, tx, c.OrganizationID)
		if _, ok := errors.AsType[*refusal](fault); fault != nil && !ok {
			return row, fault
		}
		owners[c.OrganizationID] = fault
	}
	if fault == nil {
		row.ID, fault = r.newID()
	}
	return row, fault
}

// writeCatalogs writes rows, their events and the one change.
func (r *Registry) writeCatalogs(ctx context.Context, tx *tx, a Actor, rows []catalogRow, progress func(int)) error {
	w := newKeeper(tx)
	defer w.close()
	var events [][]any
	done := 0
	for some := range slices.Chunk(rows, importStep) {
		var made [][]any
		for _, c := range some {
			action := "change"
			if c.made {
				action = "import"
				made = append(made, []any{c.ID, c.ExternalID, nullable(c.OrganizationID), c.visibility(), c.Name, c.CreatedAt})
			} else if err := updateCatalog(ctx, w, c.Catalog); err != nil {
				return err
			}
			events = append(events, []any{nil, int64(tx.now), a.Kind, a.ID, a.Address, action, string(KindCatalog), c.ID, c.ExternalID})
		}
		if err := insertRows(ctx, w, `INSERT INTO catalog (id, external_id, organization_id, visibility, name, created_at) VALUES `, made); err != nil {
			return err
		}
		done += len(some)
		progress(done)
	}
	if err := recordRows(ctx, w, [][]any{{nil, string(KindCatalog), "", int64(tx.now)}}, events); err != nil {
		return err
	}
	return r.engine.announce(ctx, tx.Tx)
}

package registry

import (
	"context"
	"database/sql"
	"strings"
)

// NewCatalog is what CreateCatalog needs.
type NewCatalog struct {
	ExternalID     string // the upstream's own name for it; no other live catalog has it
	OrganizationID string // the owner; a public catalog may have none
	Public         bool
	Name           string
}

// CatalogChange says what to change; nil leaves a field as it is.
type CatalogChange struct {
	ExternalID     *string
	OrganizationID *string // empty: nobody's
	Public         *bool
	Name           *string
}

func (c Catalog) check() error {
	if err := checkExternalID("external_id", c.ExternalID); err != nil {
		return err
	}
	if err := checkName("name", c.Name); err != nil {
		return err
	}
	if !c.Public && c.OrganizationID == "" {
		return invalid("organization_id: a private catalog has an owner")
	}
	return nil
}

// CreateCatalog makes a catalog. ErrConflict when another one has its external id.
func (r *Registry) CreateCatalog(ctx context.Context, a Actor, n NewCatalog) (c Catalog, err error) {
	c = Catalog{ExternalID: n.ExternalID, OrganizationID: n.OrganizationID, Public: n.Public, Name: n.Name}
	if err := c.check(); err != nil {
		return c, err
	}
	if c.ID, err = r.newID(); err != nil {
		return c, err
	}
	err = r.mutate(ctx, "create catalog", a, func(tx *tx) (*deed, error) {
		if n.OrganizationID != "" {
			if _, err := liveOrganization(ctx, tx, n.OrganizationID); err != nil {
				return nil, err
			}
		}
		c.CreatedAt = tx.now
		err := insertCatalog(ctx, tx, c)
		if r.engine.duplicate(err) {
			return nil, conflict("another catalog has this external id")
		}
		return &deed{"create", KindCatalog, c.ID, c.ExternalID}, err
	})
	return c, err
}

func insertCatalog(ctx context.Context, x execer, c Catalog) error {
	return set(ctx, x, `INSERT INTO catalog (id, external_id, organization_id, visibility, name, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		c.ID, c.ExternalID, nullable(c.OrganizationID), c.visibility(), c.Name, c.CreatedAt)
}

func updateCatalog(ctx context.Context, x execer, c Catalog) error {
	return set(ctx, x, `UPDATE catalog SET external_id = $1, organization_id = $2, visibility = $3, name = $4 WHERE id = $5`,
		c.ExternalID, nullable(c.OrganizationID), c.visibility(), c.Name, c.ID)
}

// visibility is Public as the store has it.
func (c Catalog) visibility() string {
	if c.Public {
		return "public"
	}
	return "private"
}

func findCatalogs(ctx context.Context, q querier, where string, args ...any) (found []Catalog, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var c Catalog
		err := rows.Scan(&c.ID, &c.ExternalID, &c.OrganizationID, &c.Public, &c.Name, &c.CreatedAt, &c.RemovedAt)
		found = append(found, c)
		return err
	}, `SELECT id, external_id, COALESCE(organization_id, ''), visibility = 'public', name, created_at, removed_at
		FROM catalog WHERE `+where+` ORDER BY created_at, id`, args...)
	return found, err
}

func findCatalog(ctx context.Context, q querier, id string) (Catalog, error) {
	if !storable(id) {
		return Catalog{}, notFound(KindCatalog)
	}
	found, err := findCatalogs(ctx, q, `id = $1`, id)
	return one(found, KindCatalog, err)
}

// Catalog returns one, a removed one too, or ErrNotFound.
func (r *Registry) Catalog(ctx context.Context, id string) (c Catalog, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	c, err = findCatalog(ctx, r.engine.read, id)
	return c, r.fault("read catalog", err)
}

// Catalogs returns those that an organization owns, or all when organizationID is empty,
// that are not removed, oldest first.
func (r *Registry) Catalogs(ctx context.Context, organizationID string) (found []Catalog, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	switch {
	case organizationID == "":
		found, err = findCatalogs(ctx, r.engine.read, `removed_at IS NULL`)
	case storable(organizationID):
		found, err = findCatalogs(ctx, r.engine.read, `removed_at IS NULL AND organization_id = $1`, organizationID)
	}
	return found, r.fault("read catalogs", err)
}

// FindCatalog returns the one that has an external id and is not removed, or ErrNotFound.
func (r *Registry) FindCatalog(ctx context.Context, externalID string) (c Catalog, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	if !storable(externalID) {
		return c, notFound(KindCatalog)
	}
	found, err := findCatalogs(ctx, r.engine.read, `external_id = $1 AND removed_at IS NULL`, externalID)
	if err == nil {
		c, err = one(found, KindCatalog, nil)
	}
	return c, r.fault("read catalog", err)
}

// EachCatalog calls use with all that are not removed, one at a time, without their names
// and times: as many as there may be, they are never all in memory.
func (r *Registry) EachCatalog(ctx context.Context, use func(Catalog)) (err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	err = each(ctx, r.engine.read, func(rows *sql.Rows) error {
		var c Catalog
		err := rows.Scan(&c.ID, &c.ExternalID, &c.OrganizationID, &c.Public)
		use(c)
		return err
	}, `SELECT id, external_id, COALESCE(organization_id, ''), visibility = 'public' FROM catalog WHERE removed_at IS NULL`)
	return r.fault("read catalogs", err)
}

// ChangeCatalog changes what c sets and returns the result. What is granted to others stays
// granted: to the same catalog, whatever its external id and its owner are then.
func (r *Registry) ChangeCatalog(ctx context.Context, a Actor, id string, c CatalogChange) (catalog Catalog, err error) {
	err = r.mutate(ctx, "change catalog", a, func(tx *tx) (*deed, error) {
		if catalog, err = findCatalog(ctx, tx, id); err != nil {
			return nil, err
		}
		if catalog.RemovedAt != 0 {
			return nil, conflict("the catalog was removed")
		}
		before := catalog
		var changed []string
		for _, field := range []struct {
			name      string
			value, to *string
		}{{"external_id", &catalog.ExternalID, c.ExternalID}, {"organization", &catalog.OrganizationID, c.OrganizationID}, {"name", &catalog.Name, c.Name}} {
			if field.to != nil {
				*field.value = *field.to
				changed = append(changed, field.name)
			}
		}
		if c.Public != nil {
			catalog.Public = *c.Public
			changed = append(changed, catalog.visibility())
		}
		if catalog == before {
			return nil, nil
		}
		if err := catalog.check(); err != nil {
			return nil, err
		}
		if catalog.OrganizationID != before.OrganizationID && catalog.OrganizationID != "" {
			if _, err := liveOrganization(ctx, tx, catalog.OrganizationID); err != nil {
				return nil, err
			}
		}
		err := updateCatalog(ctx, tx, catalog)
		if r.engine.duplicate(err) {
			return nil, conflict("another catalog has this external id")
		}
		if err == nil && catalog.ExternalID != before.ExternalID {
			err = regrant(ctx, tx, a, before.ExternalID, catalog.ExternalID)
		}
		return &deed{"change", KindCatalog, id, strings.Join(changed, " ")}, err
	})
	return catalog, err
}

// RemoveCatalog removes a catalog, and takes it out of all terms that grant it. Its external
// id is free again: who makes a catalog of that name later shares it with nobody.
func (r *Registry) RemoveCatalog(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "remove catalog", a, func(tx *tx) (*deed, error) {
		c, err := findCatalog(ctx, tx, id)
		if err != nil || c.RemovedAt != 0 {
			return nil, err
		}
		if err := regrant(ctx, tx, a, c.ExternalID, ""); err != nil {
			return nil, err
		}
		return &deed{"remove", KindCatalog, id, ""}, tx.set(ctx, `UPDATE catalog SET removed_at = $1 WHERE id = $2`, tx.now, id)
	})
}

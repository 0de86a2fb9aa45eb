package directory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"postern/registry"
)

// Catalog is what decides about requests for a catalog.
type Catalog struct {
	ID             string
	ExternalID     string
	OrganizationID string // the owner; "": nobody
	Public         bool
}

// catalogMap is one immutable state of all catalogs, by their external ids.
type catalogMap map[string]Catalog

// Catalog finds a catalog by its external id. It takes no lock, does not allocate, and does
// not keep external.
func (d *Directory) Catalog(external []byte) (Catalog, bool) {
	c, ok := (*d.catalogs.Load())[string(external)]
	return c, ok
}

// HeldCatalogs is the number of catalogs in memory, which are all there are.
func (d *Directory) HeldCatalogs() int { return len(*d.catalogs.Load()) }

// maxRereads is how many changed catalogs are read one by one; more are read all at once.
const maxRereads = 500

// reloadCatalogs is the id in a change that is about many catalogs.
const reloadCatalogs = ""

// applyCatalogs brings what changed. Whoever reads meanwhile has the state of before or of
// after, whole.
func (d *Directory) applyCatalogs(ctx context.Context, changed map[string]bool) error {
	if len(changed) == 0 {
		return nil
	}
	if changed[reloadCatalogs] || len(changed) > maxRereads {
		return d.loadCatalogs(ctx)
	}
	var now []registry.Catalog
	for id := range changed {
		c, err := d.store.Catalog(ctx, id)
		if errors.Is(err, registry.ErrNotFound) {
			continue // what is not there is taken out below
		}
		if err != nil {
			return fmt.Errorf("read catalog: %w", err)
		}
		if c.RemovedAt == 0 {
			now = append(now, c)
		}
	}
	next := maps.Clone(*d.catalogs.Load())
	// All out before any comes in: an external id may be another catalog's now.
	maps.DeleteFunc(next, func(_ string, c Catalog) bool { return changed[c.ID] })
	organizations := interned{}
	for _, c := range now {
		next[c.ExternalID] = organizations.catalog(c)
	}
	d.catalogs.Store(&next)
	return nil
}

// loadCatalogs reads them all.
func (d *Directory) loadCatalogs(ctx context.Context) error {
	next, organizations := make(catalogMap, d.HeldCatalogs()), interned{}
	err := d.store.EachCatalog(ctx, func(c registry.Catalog) { next[c.ExternalID] = organizations.catalog(c) })
	if err != nil {
		return fmt.Errorf("read catalogs: %w", err)
	}
	d.catalogs.Store(&next)
	return nil
}

// interned keeps one string for each organization, however many catalogs it owns.
type interned map[string]string

func (i interned) catalog(c registry.Catalog) Catalog {
	owner, ok := i[c.OrganizationID]
	if !ok {
		owner = c.OrganizationID
		i[owner] = owner
	}
	return Catalog{ID: c.ID, ExternalID: c.ExternalID, OrganizationID: owner, Public: c.Public}
}

// MayUse reports whether the client's requests may name catalog: one that is public, its
// organization's own, or granted by its effective terms. It does not allocate.
func (c *Client) MayUse(catalog Catalog) bool {
	if catalog.Public || catalog.OrganizationID != "" && catalog.OrganizationID == c.OrganizationID {
		return true
	}
	switch granted := c.Terms.Catalogs; granted.State {
	case registry.Unlimited:
		return true
	case registry.Value:
		_, ok := slices.BinarySearch(granted.Values, catalog.ExternalID)
		return ok
	}
	return false
}

// sorted is s with its names in order, for BinarySearch. It leaves s as it is.
func sorted(s registry.Set) registry.Set {
	if !slices.IsSorted(s.Values) {
		s.Values = slices.Sorted(slices.Values(s.Values))
	}
	return s
}

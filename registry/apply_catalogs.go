package registry

import (
	"context"
	"strconv"
)

// planCatalogs finds and compares all catalogs of the declaration.
func (p *planner) planCatalogs(ctx context.Context, d Declaration) error {
	live, err := findCatalogs(ctx, p.q, `removed_at IS NULL`)
	if err != nil {
		return err
	}
	c := &catalogPlan{planner: p, external: map[string]string{}, live: map[string]Catalog{}, places: map[string]string{}}
	for _, one := range live {
		c.external[one.ExternalID] = one.ID
		c.live[one.ID] = one
	}
	for _, o := range p.owners {
		for _, one := range o.declared.Catalogs {
			if err := p.fault(one.Place, c.plan(ctx, o.id, one)); err != nil {
				return err
			}
		}
	}
	for _, one := range d.Catalogs {
		if err := p.fault(one.Place, c.plan(ctx, "", one)); err != nil {
			return err
		}
	}
	owned := map[string]bool{}
	for _, o := range p.owners {
		owned[o.id] = true
	}
	for _, one := range live {
		if owned[one.OrganizationID] && c.places[one.ID] == "" {
			p.undeclare(KindCatalog, one.ID, one.ExternalID)
			if p.o.Prune {
				p.renamed[one.ExternalID] = ""
			}
		}
	}
	return p.planGrants(ctx, c.external)
}

// catalogPlan is what planCatalogs knows: external ids are unique over all organizations.
type catalogPlan struct {
	*planner
	external map[string]string // id by external id
	live     map[string]Catalog
	places   map[string]string // by id, and by external id those that are made
}

// plan finds and compares one catalog.
func (c *catalogPlan) plan(ctx context.Context, owner string, d DeclaredCatalog) error {
	if err := checkExternalID("external_id", d.ExternalID); err != nil {
		return err
	}
	if err := checkName("name", d.Name); err != nil {
		return err
	}
	want := Catalog{ID: d.ID, ExternalID: d.ExternalID, OrganizationID: owner, Public: d.Public, Name: d.Name, CreatedAt: c.now}
	if want.ID == "" {
		want.ID = c.external[d.ExternalID]
	}
	now, found := c.live[want.ID]
	if !found && want.ID != "" {
		if _, err := findCatalog(ctx, c.q, want.ID); err != nil {
			return err
		}
		if !d.Removed {
			return conflict("the catalog was removed: leave out its id to make another one")
		}
	}
	key := want.ID
	if key == "" {
		key = "\x00" + d.ExternalID
	}
	if first := c.places[key]; first != "" {
		return conflict("it is declared twice, first at %s", first)
	}
	c.places[key] = d.Place
	if holder := now.OrganizationID; found && holder != owner && holder != "" && c.organizations[holder] == "" {
		return conflict("the catalog is that of organization %s, which the file does not name", holder)
	}
	switch {
	case d.Removed && found:
		c.remove(KindCatalog, want.ID, now.ExternalID)
		c.renamed[now.ExternalID] = ""
		return nil
	case d.Removed:
		c.unchanged++
		return nil
	case !want.Public && owner == "":
		return invalid("public: a private catalog has an owner")
	}
	if other := c.external[d.ExternalID]; other != "" && other != want.ID {
		return conflict("catalog %s has this external id", other)
	}
	s := &Step{Action: "change", Kind: KindCatalog, ID: want.ID, Name: d.ExternalID}
	if !found {
		var err error
		if want.ID, err = c.r.newID(); err != nil {
			return err
		}
		s.Action, s.ID, s.made = "create", want.ID, true
	}
	c.external[want.ExternalID] = want.ID
	s.field("name", now.Name, want.Name)
	if found {
		s.field("external_id", now.ExternalID, want.ExternalID)
		if now.ExternalID != want.ExternalID {
			c.renamed[now.ExternalID] = want.ExternalID
		}
		s.field("organization", now.OrganizationID, want.OrganizationID)
		s.field("public", strconv.FormatBool(now.Public), strconv.FormatBool(want.Public))
		if s.Fields != nil {
			s.do("change", s.fields(), func(ctx context.Context, x execer) error { return updateCatalog(ctx, x, want) })
		}
	} else {
		s.field("public", "", strconv.FormatBool(want.Public))
		s.do("create", want.ExternalID, func(ctx context.Context, x execer) error { return insertCatalog(ctx, x, want) })
	}
	c.add(s)
	return nil
}

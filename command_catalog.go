package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"postern/registry"
)

// CatalogCommand groups what can be done with catalogs.
type CatalogCommand struct {
	Create CatalogCreateCommand `cmd:"" help:"Create a catalog."`
	List   CatalogListCommand   `cmd:"" help:"List the catalogs that are not removed."`
	Show   CatalogShowCommand   `cmd:"" help:"Show one catalog."`
	Change CatalogChangeCommand `cmd:"" help:"Change a catalog's name, external id, owner or visibility."`
	Remove CatalogRemoveCommand `cmd:"" help:"Remove a catalog for good, and from all terms that grant it."`
	Import CatalogImportCommand `cmd:"" help:"Import catalogs by their external ids; again it changes nothing."`
}

const catalogsHint = "postern catalog list shows the catalogs there are"

// onCatalog is what the commands on one catalog share.
type onCatalog struct {
	where
	ID string `arg:"" help:"The catalog's external id, or its id."`
}

// do opens the store, does the task with the catalog's id, and answers with the catalog as it is then.
func (o onCatalog) do(ctx context.Context, e *environment, verb string, task func(*registry.Registry, string) error) error {
	err := o.use(ctx, e, func(r *registry.Registry) error {
		// One that has the external id is meant before one that has it for its id.
		catalog, err := r.FindCatalog(ctx, o.ID)
		if errors.Is(err, registry.ErrNotFound) {
			catalog, err = r.Catalog(ctx, o.ID)
		}
		if err == nil {
			err = task(r, catalog.ID)
		}
		if err == nil {
			catalog, err = r.Catalog(ctx, catalog.ID)
		}
		if err != nil {
			return err
		}
		return e.catalog(o.JSON, catalog)
	})
	if err != nil {
		return cannot(fmt.Sprintf("%s catalog %s", verb, o.ID), err, next{notFound: catalogsHint})
	}
	return nil
}

// CatalogCreateCommand creates a catalog.
type CatalogCreateCommand struct {
	where
	ExternalID   string `arg:"" placeholder:"EXTERNAL-ID" help:"The upstream's own name for it: what requests say, and X-Catalog-Id carries."`
	Name         string `help:"The catalog's name, for people; by default the external id."`
	Organization string `placeholder:"ID" help:"The organization that owns it; a public catalog may have none."`
	Public       bool   `help:"Every client may target it."`
}

// Help gives an example.
func (CatalogCreateCommand) Help() string {
	return example("postern catalog create jazz-2027 --organization "+exampleID, "postern catalog create charts --public")
}

// Run creates the catalog and answers with it.
func (c *CatalogCreateCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		catalog, err := r.CreateCatalog(ctx, e.actor(), registry.NewCatalog{
			ExternalID: c.ExternalID, OrganizationID: c.Organization, Public: c.Public, Name: cmp.Or(c.Name, c.ExternalID),
		})
		if err != nil {
			return err
		}
		return e.catalog(c.JSON, catalog)
	})
	if err != nil {
		return cannot("create catalog", err, next{notFound: organizationsHint})
	}
	return nil
}

// CatalogListCommand lists catalogs.
type CatalogListCommand struct {
	where
	Organization string `placeholder:"ID" help:"Only those that this organization owns."`
}

// Help gives an example.
func (CatalogListCommand) Help() string {
	return example("postern catalog list --organization " + exampleID)
}

// Run answers with a table, or an array.
func (c *CatalogListCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		if c.Organization != "" {
			if _, err := r.Organization(ctx, c.Organization); err != nil {
				return err
			}
		}
		all, err := r.Catalogs(ctx, c.Organization)
		if err != nil {
			return err
		}
		return list(e, c.JSON, all, row{"EXTERNAL ID", "NAME", "VISIBILITY", "ORGANIZATION", "CREATED"}, func(c registry.Catalog) row {
			return row{c.ExternalID, c.Name, visibility(c), c.OrganizationID, moment(c.CreatedAt)}
		})
	})
	if err != nil {
		return cannot("list catalogs", err, next{notFound: organizationsHint})
	}
	return nil
}

// CatalogShowCommand shows one catalog.
type CatalogShowCommand struct{ onCatalog }

// Help gives an example.
func (CatalogShowCommand) Help() string { return example("postern catalog show jazz-2027") }

// Run answers with the catalog.
func (c *CatalogShowCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "show", func(*registry.Registry, string) error { return nil })
}

// CatalogChangeCommand changes a catalog.
type CatalogChangeCommand struct {
	onCatalog
	ExternalID     *string `placeholder:"EXTERNAL-ID" help:"The new external id; terms that grant the catalog grant it under that one."`
	Name           *string `help:"The new name."`
	Organization   *string `placeholder:"ID" xor:"organization" help:"The organization that owns it from then on; what is granted to others stays granted."`
	NoOrganization bool    `xor:"organization" help:"Nobody owns it; it must be public."`
	Public         bool    `xor:"public" help:"Every client may target it."`
	Private        bool    `xor:"public" help:"Only its owner's clients, and those that it is granted to."`
}

// Help gives an example.
func (CatalogChangeCommand) Help() string {
	return example("postern catalog change jazz-2027 --public")
}

// Validate refuses a change of nothing.
func (c *CatalogChangeCommand) Validate() error {
	if c.change() == (registry.CatalogChange{}) {
		return errors.New("nothing to change: say what, for example --name")
	}
	return nil
}

func (c *CatalogChangeCommand) change() registry.CatalogChange {
	change := registry.CatalogChange{ExternalID: c.ExternalID, Name: c.Name, OrganizationID: c.Organization}
	if c.NoOrganization {
		change.OrganizationID = new("")
	}
	if c.Public || c.Private {
		change.Public = new(c.Public)
	}
	return change
}

// Run changes what was given, leaves the rest, and answers with the catalog.
func (c *CatalogChangeCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "change", func(r *registry.Registry, id string) error {
		_, err := r.ChangeCatalog(ctx, e.actor(), id, c.change())
		return err
	})
}

// CatalogRemoveCommand removes a catalog.
type CatalogRemoveCommand struct{ onCatalog }

// Help gives an example.
func (CatalogRemoveCommand) Help() string {
	return "Its external id is free again, and a catalog that gets it later is granted to nobody.\n\n" + example("postern catalog remove jazz-2027")
}

// Run removes the catalog and answers with it.
func (c *CatalogRemoveCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "remove", func(r *registry.Registry, id string) error {
		return r.RemoveCatalog(ctx, e.actor(), id)
	})
}

// catalog answers with c.
func (e *environment) catalog(asJSON bool, c registry.Catalog) error {
	if asJSON {
		return e.json(c)
	}
	return e.table(nil, []row{
		{"external id", c.ExternalID},
		{"id", c.ID},
		{"name", c.Name},
		{"visibility", visibility(c)},
		{"organization", c.OrganizationID},
		{"state", state(0, c.RemovedAt)},
		{"created", moment(c.CreatedAt)},
	})
}

func visibility(c registry.Catalog) string {
	if c.Public {
		return "public"
	}
	return "private"
}

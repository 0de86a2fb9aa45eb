package main

import (
	"cmp"
	"context"
	"fmt"
	"strconv"

	"postern/registry"
)

// CatalogImportCommand imports catalogs by their external ids.
type CatalogImportCommand struct {
	where
	File         string `arg:"" placeholder:"FILE" help:"The catalogs: CSV with a header line, or a JSON array of objects."`
	Format       string `enum:",csv,json" default:"" placeholder:"NAME" help:"csv or json; by default as FILE ends."`
	Organization string `placeholder:"ID" help:"The owner of the rows without an organization_id."`
	Public       bool   `help:"The rows that do not say whether they are public are."`
	DryRun       bool   `help:"Check everything, write nothing, and say what would happen."`
}

// Help says what a row has and gives examples.
func (CatalogImportCommand) Help() string {
	return "A row has external_id, and if wanted name (by default the external_id), organization_id (the owner; a public catalog may have none) and public " +
		"(true or false). A catalog whose external_id is there gets the row's name and visibility, so that the file can be imported again; its owner is never " +
		"changed, and none is removed. All rows are imported, or none; while they are written, seconds for 100,000, no token is issued.\n\n" +
		example("postern catalog import catalogs.csv --organization "+exampleID+" --dry-run", "postern catalog import public.json --public")
}

// catalogShape is that of catalogs.
func catalogShape() importShape {
	return importShape{what: "catalogs", names: []string{"external_id", "name", "organization_id", "public"},
		needed: []string{"external_id"}, truths: []string{"public"}}
}

// Run imports the file and answers with what came of it.
func (c *CatalogImportCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		rows, faults, err := readImport(c.File, c.Format, catalogShape())
		if err != nil {
			return err
		}
		good := make([]importRow, 0, len(rows))
		catalogs := make([]registry.ImportedCatalog, 0, len(rows))
		for _, row := range rows {
			catalog, problem := importedCatalog(row, c.Organization, c.Public)
			if problem != "" {
				faults = append(faults, importFault{row.place, problem})
				continue
			}
			good, catalogs = append(good, row), append(catalogs, catalog)
		}
		done, err := r.CheckCatalogs(ctx, catalogs)
		if err == nil && len(faults) == 0 && !c.DryRun {
			done, err = r.ImportCatalogs(ctx, e.actor(), catalogs, e.progress("wrote", done.Created+done.Changed))
		}
		if err != nil || len(faults) > 0 {
			return faultsOf(good, faults, err)
		}
		return c.answer(e, done)
	})
	if err != nil {
		return cannot("import "+c.File, err, next{notFound: organizationsHint})
	}
	return nil
}

// importedCatalog is what a row says, or its problem; organization and public are of rows
// that do not say.
func importedCatalog(row importRow, organization string, public bool) (catalog registry.ImportedCatalog, problem string) {
	catalog = registry.ImportedCatalog{
		ExternalID: row.fields[0].Reveal(), Name: row.fields[1].Reveal(), OrganizationID: cmp.Or(row.fields[2].Reveal(), organization), Public: public,
	}
	catalog.Name = cmp.Or(catalog.Name, catalog.ExternalID)
	switch row.fields[3] {
	case "":
	case "true", "false":
		catalog.Public = row.fields[3] == "true"
	default:
		return catalog, "public: use true or false"
	}
	if !catalog.Public && catalog.OrganizationID == "" {
		return catalog, "it has no organization_id, and there is no --organization: a private catalog has an owner"
	}
	return catalog, ""
}

// answer tells what was imported, or would be.
func (c *CatalogImportCommand) answer(e *environment, done registry.CatalogImport) error {
	if c.JSON {
		return e.json(struct {
			DryRun bool `json:"dry_run"`
			registry.CatalogImport
		}{c.DryRun, done})
	}
	would := ""
	if c.DryRun {
		would = "would be "
	}
	return e.table(nil, []row{
		{would + "created", strconv.Itoa(done.Created)},
		{would + "changed", strconv.Itoa(done.Changed)},
		{"unchanged", fmt.Sprint(done.Unchanged)},
	})
}

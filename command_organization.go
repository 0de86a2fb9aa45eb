package main

import (
	"context"
	"errors"
	"fmt"

	"postern/registry"
)

// OrganizationCommand groups what can be done with organizations.
type OrganizationCommand struct {
	Create  OrganizationCreateCommand  `cmd:"" help:"Create an organization, and the store when there is none."`
	List    OrganizationListCommand    `cmd:"" help:"List the organizations that are not removed."`
	Show    OrganizationShowCommand    `cmd:"" help:"Show one organization with its terms."`
	Change  OrganizationChangeCommand  `cmd:"" help:"Change an organization's name or terms."`
	Usage   OrganizationUsageCommand   `cmd:"" help:"Show what an organization's clients used, by hour, day or month."`
	Disable OrganizationDisableCommand `cmd:"" help:"Stop all clients of an organization until it is enabled again."`
	Enable  OrganizationEnableCommand  `cmd:"" help:"Let a disabled organization's clients call again."`
	Remove  OrganizationRemoveCommand  `cmd:"" help:"Remove an organization for good, and with it its clients' access."`
}

// onOrganization is what the commands on one organization share.
type onOrganization struct {
	where
	ID string `arg:"" help:"The organization's id."`
}

// do opens the store, does the task, and answers with the organization as it is then.
func (o onOrganization) do(ctx context.Context, e *environment, verb string, task func(*registry.Registry) error) error {
	err := o.use(ctx, e, func(r *registry.Registry) error {
		if err := task(r); err != nil {
			return err
		}
		organization, err := r.Organization(ctx, o.ID)
		if err != nil {
			return err
		}
		return e.organization(o.JSON, organization)
	})
	if err != nil {
		return cannot(fmt.Sprintf("%s organization %s", verb, o.ID), err, next{notFound: organizationsHint})
	}
	return nil
}

const organizationsHint = "postern organization list shows the organizations there are"

// OrganizationCreateCommand creates an organization.
type OrganizationCreateCommand struct {
	where
	Name string `required:"" help:"The organization's name, for people."`
	termsFlags
}

// Help gives an example.
func (OrganizationCreateCommand) Help() string {
	return example(`postern organization create --name Acme --products "tracks playlists" --token-lifetime 1h`)
}

// Run creates the organization and answers with it.
func (c *OrganizationCreateCommand) Run(ctx context.Context, e *environment) error {
	err := func() error {
		r, err := c.openOrCreate(ctx, e)
		if err != nil {
			return err
		}
		organization, err := r.CreateOrganization(ctx, e.actor(), c.Name, c.terms())
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		return e.organization(c.JSON, organization)
	}()
	if err != nil {
		return cannot("create organization", err, next{})
	}
	return nil
}

// OrganizationListCommand lists organizations.
type OrganizationListCommand struct{ where }

// Help gives an example.
func (OrganizationListCommand) Help() string { return example("postern organization list") }

// Run answers with a table, or an array.
func (c *OrganizationListCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		all, err := r.Organizations(ctx)
		if err != nil {
			return err
		}
		return list(e, c.JSON, all, row{"ID", "NAME", "STATE", "PRODUCTS", "TOKEN LIFETIME", "CREATED"},
			func(o registry.Organization) row {
				return row{o.ID, o.Name, state(o.DisabledAt, o.RemovedAt),
					setText(o.Terms.Products, "default"), limitText(o.Terms.TokenLifetime, "default", true), moment(o.CreatedAt)}
			})
	})
	if err != nil {
		return cannot("list organizations", err, next{})
	}
	return nil
}

// OrganizationShowCommand shows one organization.
type OrganizationShowCommand struct{ onOrganization }

// Help gives an example.
func (OrganizationShowCommand) Help() string {
	return example("postern organization show " + exampleID)
}

// Run answers with the organization.
func (c *OrganizationShowCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "show", func(*registry.Registry) error { return nil })
}

// OrganizationChangeCommand changes an organization's name or terms.
type OrganizationChangeCommand struct {
	onOrganization
	Name *string `help:"The new name."`
	termsFlags
}

// Help gives an example.
func (OrganizationChangeCommand) Help() string {
	return example("postern organization change " + exampleID + " --name Acme --products inherit --quota-day 100000")
}

// Validate refuses a change of nothing.
func (c *OrganizationChangeCommand) Validate() error {
	if c.Name == nil && !c.given() {
		return errors.New("nothing to change: say what, for example --name")
	}
	return nil
}

// Run changes what was given, leaves the rest, and answers with the organization.
func (c *OrganizationChangeCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "change", func(r *registry.Registry) error {
		change := registry.OrganizationChange{Name: c.Name}
		if c.given() {
			change.Terms = c.change
		}
		_, err := r.ChangeOrganization(ctx, e.actor(), c.ID, change)
		return err
	})
}

// OrganizationDisableCommand disables an organization.
type OrganizationDisableCommand struct{ onOrganization }

// Help gives an example.
func (OrganizationDisableCommand) Help() string {
	return example("postern organization disable " + exampleID)
}

// Run disables the organization and answers with it.
func (c *OrganizationDisableCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "disable", func(r *registry.Registry) error {
		return r.DisableOrganization(ctx, e.actor(), c.ID)
	})
}

// OrganizationEnableCommand enables an organization.
type OrganizationEnableCommand struct{ onOrganization }

// Help gives an example.
func (OrganizationEnableCommand) Help() string {
	return example("postern organization enable " + exampleID)
}

// Run enables the organization and answers with it.
func (c *OrganizationEnableCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "enable", func(r *registry.Registry) error {
		return r.EnableOrganization(ctx, e.actor(), c.ID)
	})
}

// OrganizationRemoveCommand removes an organization.
type OrganizationRemoveCommand struct {
	onOrganization
	Yes bool `help:"Remove it although it has clients in use."`
}

// Help gives an example.
func (OrganizationRemoveCommand) Help() string {
	return example("postern organization remove " + exampleID + " --yes")
}

// Run removes the organization and answers with it; with clients in use only after --yes.
func (c *OrganizationRemoveCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "remove", func(r *registry.Registry) error {
		clients, err := r.Clients(ctx, c.ID)
		if err != nil {
			return err
		}
		live := 0
		for _, client := range clients {
			if client.DisabledAt == 0 && client.RemovedAt == 0 {
				live++
			}
		}
		if live > 0 && !c.Yes {
			return refuse("postern client list --organization "+c.ID+" shows them; to stop them all for good, add --yes",
				"it has %s in use", counted(live, "client"))
		}
		return r.RemoveOrganization(ctx, e.actor(), c.ID)
	})
}

// organization answers with o.
func (e *environment) organization(asJSON bool, o registry.Organization) error {
	if asJSON {
		return e.json(o)
	}
	rows := []row{
		{"id", o.ID},
		{"name", o.Name},
		{"state", state(o.DisabledAt, o.RemovedAt)},
		{"created", moment(o.CreatedAt)},
	}
	if o.TokensValidFrom != 0 {
		rows = append(rows, row{"tokens revoked up to", moment(o.TokensValidFrom)})
	}
	return e.table(nil, append(rows, termsRows(o.Terms, "default")...))
}

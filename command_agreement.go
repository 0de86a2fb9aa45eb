package main

import (
	"context"
	"errors"
	"fmt"

	"postern/registry"
)

// AgreementCommand groups what can be done with agreements.
type AgreementCommand struct {
	Create AgreementCreateCommand `cmd:"" help:"Create an agreement; it says nothing until clients are linked to it."`
	List   AgreementListCommand   `cmd:"" help:"List the agreements that are not removed."`
	Show   AgreementShowCommand   `cmd:"" help:"Show one agreement with its terms."`
	Change AgreementChangeCommand `cmd:"" help:"Change an agreement's name, dates, mode or terms."`
	Remove AgreementRemoveCommand `cmd:"" help:"Remove an agreement for good; the clients linked to it are refused."`
}

const agreementsHint = "postern agreement list shows the agreements there are"

// onAgreement is what the commands on one agreement share.
type onAgreement struct {
	where
	ID string `arg:"" help:"The agreement's id."`
}

// do opens the store, does the task, and answers with the agreement as it is then.
func (o onAgreement) do(ctx context.Context, e *environment, verb string, task func(*registry.Registry) error) error {
	err := o.use(ctx, e, func(r *registry.Registry) error {
		if err := task(r); err != nil {
			return err
		}
		agreement, err := r.Agreement(ctx, o.ID)
		if err != nil {
			return err
		}
		return e.agreement(o.JSON, agreement)
	})
	if err != nil {
		return cannot(fmt.Sprintf("%s agreement %s", verb, o.ID), err, next{notFound: agreementsHint})
	}
	return nil
}

// AgreementCreateCommand creates an agreement.
type AgreementCreateCommand struct {
	where
	Organization string     `required:"" placeholder:"ID" help:"The organization whose licence contract it is."`
	Name         string     `required:"" help:"The agreement's name, for people."`
	Starts       momentFlag `placeholder:"TIME" help:"When it comes into force: a day (its first moment in UTC), or a time as in RFC 3339; by default it is."`
	Ends         momentFlag `placeholder:"TIME" help:"When it ends, likewise; by default never. From then on its clients are refused, whatever their tokens say."`
	Enforce      string     `enum:"enforce,shadow" default:"enforce" placeholder:"MODE" help:"enforce; or shadow: what it does not allow is let through, and counted."`
	termsFlags
}

// Help gives an example.
func (AgreementCreateCommand) Help() string {
	return "What its terms do not set, or set to inherit, is as its organization's terms say.\n\n" +
		example("postern agreement create --organization "+exampleID+" --name 2027 --starts 2027-01-01 --ends 2028-01-01 --request-rate 50 --quota-month 1000000")
}

// Run creates the agreement and answers with it.
func (c *AgreementCreateCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		agreement, err := r.CreateAgreement(ctx, e.actor(), registry.NewAgreement{
			OrganizationID: c.Organization, Name: c.Name, StartsAt: c.Starts.at, EndsAt: c.Ends.at, Terms: c.terms(), Enforce: registry.Mode(c.Enforce),
		})
		if err != nil {
			return err
		}
		return e.agreement(c.JSON, agreement)
	})
	if err != nil {
		return cannot("create agreement", err, next{notFound: organizationsHint})
	}
	return nil
}

// AgreementListCommand lists agreements.
type AgreementListCommand struct {
	where
	Organization string `placeholder:"ID" help:"Only those of this organization."`
}

// Help gives an example.
func (AgreementListCommand) Help() string {
	return example("postern agreement list --organization " + exampleID)
}

// Run answers with a table, or an array.
func (c *AgreementListCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		if c.Organization != "" {
			if _, err := r.Organization(ctx, c.Organization); err != nil {
				return err
			}
		}
		all, err := r.Agreements(ctx, c.Organization)
		if err != nil {
			return err
		}
		now := registry.At(e.Now())
		return list(e, c.JSON, all, row{"ID", "NAME", "STATE", "STARTS", "ENDS", "MODE", "ORGANIZATION"}, func(g registry.Agreement) row {
			return row{g.ID, g.Name, agreementState(g, now), moment(g.StartsAt), moment(g.EndsAt), string(g.Enforce), g.OrganizationID}
		})
	})
	if err != nil {
		return cannot("list agreements", err, next{notFound: organizationsHint})
	}
	return nil
}

// AgreementShowCommand shows one agreement.
type AgreementShowCommand struct{ onAgreement }

// Help gives an example.
func (AgreementShowCommand) Help() string { return example("postern agreement show " + exampleID) }

// Run answers with the agreement.
func (c *AgreementShowCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "show", func(*registry.Registry) error { return nil })
}

// AgreementChangeCommand changes an agreement.
type AgreementChangeCommand struct {
	onAgreement
	Name    *string     `help:"The new name."`
	Starts  *momentFlag `placeholder:"TIME" help:"When it comes into force: a day, a time as in RFC 3339, or always."`
	Ends    *momentFlag `placeholder:"TIME" help:"When it ends, or never. Tokens that would live longer are refused then all the same."`
	Enforce *string     `enum:"enforce,shadow" placeholder:"MODE" help:"enforce; or shadow: what it does not allow is let through, and counted."`
	termsFlags
}

// Help gives an example.
func (AgreementChangeCommand) Help() string {
	return "Running posterns act on it within a second. A field of the terms that is set to inherit is as the organization's terms say.\n\n" +
		example("postern agreement change "+exampleID+" --ends 2028-01-01 --request-rate 100 --catalogs inherit")
}

// Validate refuses a change of nothing.
func (c *AgreementChangeCommand) Validate() error {
	if c.Name == nil && c.Starts == nil && c.Ends == nil && c.Enforce == nil && !c.given() {
		return errors.New("nothing to change: say what, for example --ends")
	}
	return nil
}

// Run changes what was given, leaves the rest, and answers with the agreement.
func (c *AgreementChangeCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "change", func(r *registry.Registry) error {
		change := registry.AgreementChange{Name: c.Name, StartsAt: c.Starts.time(), EndsAt: c.Ends.time()}
		if c.Enforce != nil {
			change.Enforce = new(registry.Mode(*c.Enforce))
		}
		if c.given() {
			change.Terms = c.change
		}
		_, err := r.ChangeAgreement(ctx, e.actor(), c.ID, change)
		return err
	})
}

// AgreementRemoveCommand removes an agreement.
type AgreementRemoveCommand struct {
	onAgreement
	Yes bool `help:"Remove it although clients in use are linked to it."`
}

// Help gives an example.
func (AgreementRemoveCommand) Help() string {
	return example("postern agreement remove " + exampleID + " --yes")
}

// Run removes the agreement and answers with it; with clients in use only after --yes.
func (c *AgreementRemoveCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "remove", func(r *registry.Registry) error {
		agreement, err := r.Agreement(ctx, c.ID)
		if err != nil {
			return err
		}
		clients, err := r.Clients(ctx, agreement.OrganizationID)
		if err != nil {
			return err
		}
		live := 0
		for _, client := range clients {
			if client.AgreementID == c.ID && client.DisabledAt == 0 {
				live++
			}
		}
		if live > 0 && !c.Yes {
			return refuse("link them to another one with postern client change ID --agreement ID; to have them refused, add --yes",
				"it has %s in use", counted(live, "client"))
		}
		return r.RemoveAgreement(ctx, e.actor(), c.ID)
	})
}

// agreement answers with g.
func (e *environment) agreement(asJSON bool, g registry.Agreement) error {
	if asJSON {
		return e.json(g)
	}
	rows := []row{
		{"id", g.ID},
		{"organization", g.OrganizationID},
		{"name", g.Name},
		{"state", agreementState(g, registry.At(e.Now()))},
		{"starts", moment(g.StartsAt)},
		{"ends", moment(g.EndsAt)},
		{"mode", string(g.Enforce)},
		{"created", moment(g.CreatedAt)},
	}
	return e.table(nil, append(rows, termsRows(g.Terms, "inherit")...))
}

// agreementState says in a few words whether g is in force.
func agreementState(g registry.Agreement, now registry.Time) string {
	switch {
	case g.RemovedAt != 0:
		return "removed"
	case g.InForce(now):
		return "in force"
	case now < g.StartsAt:
		return "not yet"
	}
	return "ended"
}

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"postern/registry"
	"postern/secret"
)

// ClientCommand groups what can be done with clients.
type ClientCommand struct {
	Create  ClientCreateCommand  `cmd:"" help:"Create a client; its secret is shown this once."`
	List    ClientListCommand    `cmd:"" help:"List the clients that are not removed."`
	Show    ClientShowCommand    `cmd:"" help:"Show one client."`
	Change  ClientChangeCommand  `cmd:"" help:"Change a client's application, environment or agreement."`
	Disable ClientDisableCommand `cmd:"" help:"Refuse a client until it is enabled again."`
	Enable  ClientEnableCommand  `cmd:"" help:"Let a disabled client call again."`
	Remove  ClientRemoveCommand  `cmd:"" help:"Remove a client for good."`
	Rotate  ClientRotateCommand  `cmd:"" help:"Give a client a new secret, shown this once; the old one lives on for the overlap."`
	Usage   ClientUsageCommand   `cmd:"" help:"Show what a client used, by hour, day or month."`
	Import  ClientImportCommand  `cmd:"" help:"Import the clients of another program, with the secrets that they have."`
}

const (
	clientsHint    = "postern client list shows the clients there are"
	secretLostHint = "nobody has seen the secret, and it is not kept: make a new one with postern client rotate "
)

// onClient is what the commands on one client share.
type onClient struct {
	where
	ID string `arg:"" help:"The client's id (client_id)."`
}

// do opens the store, does the task, and answers with the client as it is then.
func (o onClient) do(ctx context.Context, e *environment, verb string, task func(*registry.Registry) error) error {
	err := o.use(ctx, e, func(r *registry.Registry) error {
		if err := task(r); err != nil {
			return err
		}
		grant, err := r.Grant(ctx, o.ID)
		if err != nil {
			return err
		}
		return e.client(o.JSON, grant)
	})
	if err != nil {
		return cannot(fmt.Sprintf("%s client %s", verb, o.ID), err, next{notFound: clientsHint})
	}
	return nil
}

// ClientCreateCommand creates a client.
type ClientCreateCommand struct {
	where
	Organization   string `required:"" placeholder:"ID" help:"The organization that it belongs to."`
	Application    string `required:"" placeholder:"NAME" help:"The application, for people."`
	Environment    string `required:"" placeholder:"LABEL" help:"The application's stage, for example production, staging or development."`
	Agreement      string `placeholder:"ID" help:"The agreement that it is linked to."`
	AllowDuplicate bool   `help:"Create it although the application has a client in this environment."`
}

// Help gives an example.
func (ClientCreateCommand) Help() string {
	return example("postern client create --organization " + exampleID + " --application catalogue --environment production")
}

// Run creates the client and answers with it and its secret.
func (c *ClientCreateCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		client, value, err := r.CreateClient(ctx, e.actor(), registry.NewClient{
			OrganizationID: c.Organization, AgreementID: c.Agreement,
			Application: c.Application, Environment: c.Environment, AllowDuplicate: c.AllowDuplicate,
		})
		if errors.Is(err, registry.ErrConflict) && c.duplicates(ctx, r) {
			return &failure{err, "postern client rotate gives that client another secret; --allow-duplicate makes a second client all the same"}
		}
		err = unlinked(ctx, r, c.Agreement, err)
		if err != nil {
			return err
		}
		return e.clientWithSecret(c.JSON, client, value)
	})
	if err != nil {
		return cannot("create client", err, next{notFound: organizationsHint})
	}
	return nil
}

// unlinked is err, with where to look when it is the agreement that is not there.
func unlinked(ctx context.Context, r *registry.Registry, agreement string, err error) error {
	if agreement != "" && errors.Is(err, registry.ErrNotFound) {
		if _, missing := r.Agreement(ctx, agreement); errors.Is(missing, registry.ErrNotFound) {
			return &failure{err, agreementsHint}
		}
	}
	return err
}

// duplicates reports whether the application has a client in this environment already.
func (c *ClientCreateCommand) duplicates(ctx context.Context, r *registry.Registry) bool {
	label, err := registry.Environment(c.Environment)
	if err != nil {
		return false
	}
	clients, err := r.Clients(ctx, c.Organization)
	return err == nil && slices.ContainsFunc(clients, func(other registry.Client) bool {
		return other.Application == c.Application && other.Environment == label
	})
}

// ClientListCommand lists clients.
type ClientListCommand struct {
	where
	Organization string `placeholder:"ID" help:"Only those of this organization."`
}

// Help gives an example.
func (ClientListCommand) Help() string {
	return example("postern client list --organization " + exampleID)
}

// Run answers with a table, or an array.
func (c *ClientListCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		if c.Organization != "" {
			if _, err := r.Organization(ctx, c.Organization); err != nil {
				return err
			}
		}
		all, err := r.Clients(ctx, c.Organization)
		if err != nil {
			return err
		}
		return list(e, c.JSON, all, row{"CLIENT ID", "APPLICATION", "ENVIRONMENT", "STATE", "ORGANIZATION", "CREATED"},
			func(one registry.Client) row {
				return row{one.ID, one.Application, one.Environment, state(one.DisabledAt, one.RemovedAt),
					one.OrganizationID, moment(one.CreatedAt)}
			})
	})
	if err != nil {
		return cannot("list clients", err, next{notFound: organizationsHint})
	}
	return nil
}

// ClientShowCommand shows one client.
type ClientShowCommand struct{ onClient }

// Help gives an example.
func (ClientShowCommand) Help() string { return example("postern client show " + exampleID) }

// Run answers with the client.
func (c *ClientShowCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "show", func(*registry.Registry) error { return nil })
}

// ClientChangeCommand changes a client.
type ClientChangeCommand struct {
	onClient
	Application *string `placeholder:"NAME" help:"The application, for people."`
	Environment *string `placeholder:"LABEL" help:"The application's stage."`
	Agreement   *string `placeholder:"ID" xor:"agreement" help:"The agreement that it is linked to."`
	NoAgreement bool    `xor:"agreement" help:"Link it to no agreement: its organization's terms alone hold."`
}

// Help gives an example.
func (ClientChangeCommand) Help() string {
	return example("postern client change " + exampleID + " --environment staging")
}

// Validate refuses a change of nothing.
func (c *ClientChangeCommand) Validate() error {
	if c.Application == nil && c.Environment == nil && c.Agreement == nil && !c.NoAgreement {
		return errors.New("nothing to change: say what, for example --application")
	}
	return nil
}

// Run changes what was given, leaves the rest, and answers with the client.
func (c *ClientChangeCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "change", func(r *registry.Registry) error {
		change := registry.ClientChange{Application: c.Application, Environment: c.Environment, AgreementID: c.Agreement}
		if c.NoAgreement {
			change.AgreementID = new("")
		}
		_, err := r.ChangeClient(ctx, e.actor(), c.ID, change)
		if c.Agreement != nil {
			err = unlinked(ctx, r, *c.Agreement, err)
		}
		return err
	})
}

// ClientDisableCommand disables a client.
type ClientDisableCommand struct{ onClient }

// Help gives an example.
func (ClientDisableCommand) Help() string { return example("postern client disable " + exampleID) }

// Run disables the client and answers with it.
func (c *ClientDisableCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "disable", func(r *registry.Registry) error {
		return r.DisableClient(ctx, e.actor(), c.ID)
	})
}

// ClientEnableCommand enables a client.
type ClientEnableCommand struct{ onClient }

// Help gives an example.
func (ClientEnableCommand) Help() string { return example("postern client enable " + exampleID) }

// Run enables the client and answers with it.
func (c *ClientEnableCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "enable", func(r *registry.Registry) error {
		return r.EnableClient(ctx, e.actor(), c.ID)
	})
}

// ClientRemoveCommand removes a client.
type ClientRemoveCommand struct{ onClient }

// Help gives an example.
func (ClientRemoveCommand) Help() string { return example("postern client remove " + exampleID) }

// Run removes the client and answers with it.
func (c *ClientRemoveCommand) Run(ctx context.Context, e *environment) error {
	return c.do(ctx, e, "remove", func(r *registry.Registry) error {
		return r.RemoveClient(ctx, e.actor(), c.ID)
	})
}

// ClientRotateCommand gives a client a new secret.
type ClientRotateCommand struct {
	onClient
	Overlap time.Duration `default:"24h" placeholder:"DURATION" help:"How long the old secret is still good; 0 kills it at once."`
}

// Help gives an example.
func (ClientRotateCommand) Help() string {
	return example("postern client rotate " + exampleID + " --overlap 24h")
}

// Validate refuses an overlap that ends before it begins.
func (c *ClientRotateCommand) Validate() error {
	if c.Overlap < 0 {
		return errors.New("--overlap: use a duration that is not negative, for example 24h")
	}
	return nil
}

// Run makes the secret and answers with the client and the secret.
func (c *ClientRotateCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		value, err := r.RotateClientSecret(ctx, e.actor(), c.ID, c.Overlap)
		if errors.Is(err, registry.ErrConflict) {
			if now, lost := r.Client(ctx, c.ID); lost == nil && now.RemovedAt == 0 {
				return &failure{err, "postern client show " + c.ID + " shows both secrets and their last use"}
			}
		}
		if err != nil {
			return err
		}
		client, err := r.Client(ctx, c.ID)
		if err != nil {
			// The old secret may be dead already: the new one must come out whatever else fails.
			e.note("cannot read the client back: %v", err)
			client = registry.Client{ID: c.ID}
		}
		return e.clientWithSecret(c.JSON, client, value)
	})
	if err != nil {
		return cannot("rotate the secret of client "+c.ID, err, next{notFound: clientsHint})
	}
	return nil
}

// client answers with the client of g and the terms that hold for it.
func (e *environment) client(asJSON bool, g registry.Grant) error {
	terms, from := g.Effective()
	fields := registry.Fields(terms, from)
	now := registry.At(e.Now())
	refused := g.Refused(now)
	if !asJSON {
		rows := clientRows(g.Client)
		if refused != "" {
			rows = append(rows, row{"refused", refused})
		}
		if g.Covered(now) {
			for _, f := range fields {
				rows = append(rows, row{termName(f), termText(f, "default"), "(" + f.Source.From + ")"})
			}
		}
		return e.table(nil, rows)
	}
	answer := shownClient{Client: clientJSON(g.Client)}
	if refused != "" {
		answer.Refused = &refused
	}
	if g.Covered(now) {
		answer.Terms = map[string]shownTerm{}
		for _, f := range fields {
			answer.Terms[f.Name] = shownTerm{f.Value, f.Source}
		}
	}
	return e.json(answer)
}

// shownClient is a client in JSON with what holds for it.
type shownClient struct {
	registry.Client
	Refused *string              `json:"refused"`         // why all its requests are; null: they are not
	Terms   map[string]shownTerm `json:"effective_terms"` // null: its agreement is not in force, and none hold
}

type shownTerm struct {
	Value any `json:"value"`
	registry.Source
}

// clientWithSecret answers with c and the secret that nobody can read again.
func (e *environment) clientWithSecret(asJSON bool, c registry.Client, value secret.Secret) error {
	text := value.Reveal() // here and nowhere else: the operator hands it to the client
	var err error
	if asJSON {
		err = e.json(struct {
			registry.Client
			Secret string `json:"client_secret"`
		}{clientJSON(c), text})
	} else {
		rows := clientRows(c)
		err = e.table(nil, append([]row{rows[0], {"client_secret", text}}, rows[1:]...))
	}
	if err != nil {
		return refuse(secretLostHint+c.ID+" --overlap 0", "%w", err)
	}
	if !asJSON {
		e.note("keep the secret now: it is not shown again")
	}
	return nil
}

// clientJSON is c with a list of secrets even when there are none.
func clientJSON(c registry.Client) registry.Client {
	c.Secrets = append([]registry.ClientSecret{}, c.Secrets...)
	return c
}

func clientRows(c registry.Client) []row {
	rows := []row{
		{"client_id", c.ID},
		{"organization", c.OrganizationID},
		{"agreement", c.AgreementID},
		{"application", c.Application},
		{"environment", c.Environment},
		{"state", state(c.DisabledAt, c.RemovedAt)},
		{"created", moment(c.CreatedAt)},
	}
	if c.TokensValidFrom != 0 {
		rows = append(rows, row{"tokens revoked up to", moment(c.TokensValidFrom)})
	}
	for _, s := range c.Secrets {
		text := "made " + moment(s.CreatedAt)
		if s.Imported {
			text = "imported (" + string(s.Kind) + ") " + moment(s.CreatedAt)
		}
		if s.LastUsedAt != 0 {
			text += ", last used " + moment(s.LastUsedAt)
		} else {
			text += ", never used"
		}
		if s.ExpiresAt != 0 {
			text += ", expires " + moment(s.ExpiresAt)
		} else if s.Imported {
			text += ": rotate it"
		}
		rows = append(rows, row{"secret", text})
	}
	return rows
}

package main

import (
	"context"
	"errors"

	"postern/registry"
)

// TokenCommand groups what can be done with access tokens.
type TokenCommand struct {
	List    TokenListCommand    `cmd:"" help:"List access tokens, the newest first."`
	Show    TokenShowCommand    `cmd:"" help:"Show the record of one access token; the token itself is not kept."`
	Issue   TokenIssueCommand   `cmd:"" help:"Issue an access token for a client; it is shown this once."`
	Inspect TokenInspectCommand `cmd:"" help:"Say what an access token says, and whether it verifies."`
	Revoke  TokenRevokeCommand  `cmd:"" help:"Revoke one access token, or all of a client or an organization."`
}

const tokensHint = "postern token list --all shows the access tokens there are; the id is the claim jti"

// TokenListCommand lists tokens.
type TokenListCommand struct {
	where
	Client       string `placeholder:"ID" help:"Only those of this client."`
	Organization string `placeholder:"ID" help:"Only those of this organization."`
	All          bool   `help:"Expired and revoked ones too."`
	Limit        int    `default:"50" placeholder:"N" help:"At most so many."`
}

// Help gives an example.
func (TokenListCommand) Help() string {
	return example("postern token list --client " + exampleID + " --limit 10")
}

// Validate refuses a limit that shows nothing.
func (c *TokenListCommand) Validate() error {
	if c.Limit < 1 {
		return errors.New("--limit: use at least 1")
	}
	return nil
}

// Run answers with a table, or an array, and says so when there are more.
func (c *TokenListCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		if err := c.known(ctx, r); err != nil {
			return err
		}
		all, err := r.Tokens(ctx, registry.TokenFilter{
			ClientID: c.Client, OrganizationID: c.Organization, All: c.All, Limit: c.Limit + 1,
		})
		if err != nil {
			return err
		}
		if len(all) > c.Limit {
			all = all[:c.Limit]
			e.note("there are more; --limit shows them")
		}
		now := registry.At(e.Now())
		return list(e, c.JSON, all, row{"ID", "STATE", "CLIENT", "ISSUED", "EXPIRES", "SCOPE"},
			func(t registry.Token) row {
				return row{t.ID, tokenState(t, now), t.SubjectID, moment(t.IssuedAt), moment(t.ExpiresAt), t.Scope}
			})
	})
	if err != nil {
		return cannot("list tokens", err, next{})
	}
	return nil
}

// known refuses a client or an organization that there is not: an empty list would look
// as if it had no tokens.
func (c *TokenListCommand) known(ctx context.Context, r *registry.Registry) error {
	if c.Client != "" {
		if _, err := r.Client(ctx, c.Client); err != nil {
			return &failure{err, clientsHint}
		}
	}
	if c.Organization != "" {
		if _, err := r.Organization(ctx, c.Organization); err != nil {
			return &failure{err, organizationsHint}
		}
	}
	return nil
}

// TokenShowCommand shows the record of one token.
type TokenShowCommand struct {
	where
	ID string `arg:"" help:"The token's id (the claim jti)."`
}

// Help gives an example.
func (TokenShowCommand) Help() string { return example("postern token show " + exampleID) }

// Run answers with the record.
func (c *TokenShowCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		t, err := r.Token(ctx, c.ID)
		if err != nil {
			return err
		}
		return e.token(c.JSON, t)
	})
	if err != nil {
		return cannot("show token "+c.ID, err, next{notFound: tokensHint})
	}
	return nil
}

// TokenRevokeCommand revokes tokens.
type TokenRevokeCommand struct {
	where
	ID           string `arg:"" optional:"" help:"The token's id (the claim jti)."`
	Client       string `placeholder:"ID" help:"Instead of an id: all that this client has now."`
	Organization string `placeholder:"ID" help:"Instead of an id: all that this organization's clients have now."`
}

// Help gives examples.
func (TokenRevokeCommand) Help() string {
	return example("postern token revoke "+exampleID, "postern token revoke --client "+exampleID)
}

// Validate wants exactly one of the three.
func (c *TokenRevokeCommand) Validate() error {
	given := 0
	for _, id := range []string{c.ID, c.Client, c.Organization} {
		if id != "" {
			given++
		}
	}
	if given != 1 {
		return errors.New("say which: one token's id, or --client, or --organization")
	}
	return nil
}

// Run revokes, and answers with what was revoked: the token, the client or the organization.
func (c *TokenRevokeCommand) Run(ctx context.Context, e *environment) error {
	switch {
	case c.Client != "":
		return onClient{c.where, c.Client}.do(ctx, e, "revoke the tokens of", func(r *registry.Registry) error {
			return r.RevokeClientTokens(ctx, e.actor(), c.Client)
		})
	case c.Organization != "":
		return onOrganization{c.where, c.Organization}.do(ctx, e, "revoke the tokens of", func(r *registry.Registry) error {
			return r.RevokeOrganizationTokens(ctx, e.actor(), c.Organization)
		})
	}
	err := c.use(ctx, e, func(r *registry.Registry) error {
		t, err := r.RevokeToken(ctx, e.actor(), c.ID)
		if err != nil {
			return err
		}
		return e.token(c.JSON, t)
	})
	if err != nil {
		return cannot("revoke token "+c.ID, err, next{notFound: tokensHint})
	}
	return nil
}

// token answers with t.
func (e *environment) token(asJSON bool, t registry.Token) error {
	if asJSON {
		return e.json(t)
	}
	return e.table(nil, []row{
		{"id", t.ID},
		{"state", tokenState(t, registry.At(e.Now()))},
		{"client", t.SubjectID},
		{"organization", t.OrganizationID},
		{"scope", t.Scope},
		{"issued", moment(t.IssuedAt)},
		{"refreshed", moment(t.RefreshedAt)},
		{"expires", moment(t.ExpiresAt)},
		{"revoked", moment(t.RevokedAt)},
		{"signed with", t.KeyID},
	})
}

// tokenState is about the token's own record: that its client or organization is
// refused, or had all its tokens revoked, is told by those.
func tokenState(t registry.Token, now registry.Time) string {
	switch {
	case t.RevokedAt != 0:
		return "revoked"
	case t.ExpiresAt <= now:
		return "expired"
	}
	return "live"
}

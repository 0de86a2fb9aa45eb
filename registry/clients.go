package registry

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"strings"

	"postern/secret"
)

// NewClient is what CreateClient needs.
type NewClient struct {
	OrganizationID string
	AgreementID    string // "": none
	Application    string
	Environment    string // as Environment takes it
	AllowDuplicate bool   // several clients for one application and environment
}

// ClientChange says what to change; nil leaves a field as it is, an empty AgreementID unlinks.
type ClientChange struct {
	Application *string
	Environment *string
	AgreementID *string
}

// CreateClient makes a client and its first secret, which is shown this once and kept
// nowhere. A second client of the same organization, application and environment is
// refused with ErrConflict unless n allows it.
func (r *Registry) CreateClient(ctx context.Context, a Actor, n NewClient) (c Client, s secret.Secret, err error) {
	c = Client{OrganizationID: n.OrganizationID, AgreementID: n.AgreementID, Application: n.Application}
	if err := checkName("application", n.Application); err != nil {
		return c, "", err
	}
	if c.Environment, err = checkEnvironment(n.Environment); err != nil {
		return c, "", err
	}
	if c.ID, err = r.newID(); err != nil {
		return c, "", err
	}
	err = r.mutate(ctx, "create client", a, func(tx *tx) (*deed, error) {
		if _, err := liveOrganization(ctx, tx, n.OrganizationID); err != nil {
			return nil, err
		}
		if err := checkLink(ctx, tx, c); err != nil {
			return nil, err
		}
		if !n.AllowDuplicate {
			if err := checkDuplicate(ctx, tx, c); err != nil {
				return nil, err
			}
		}
		c.CreatedAt = tx.now
		if err := insertClient(ctx, tx, c); err != nil {
			return nil, err
		}
		text, added, err := r.addSecret(ctx, tx, c.ID, tx.now)
		s, c.Secrets = text, []ClientSecret{added}
		return &deed{"create", KindClient, c.ID, c.Application + " " + c.Environment}, err
	})
	if err != nil {
		return Client{}, "", err
	}
	return c, s, nil
}

func insertClient(ctx context.Context, x execer, c Client) error {
	return set(ctx, x, `INSERT INTO client (id, organization_id, agreement_id, application, environment, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		c.ID, c.OrganizationID, nullable(c.AgreementID), c.Application, c.Environment, c.CreatedAt)
}

func updateClient(ctx context.Context, x execer, c Client) error {
	return set(ctx, x, `UPDATE client SET application = $1, environment = $2, agreement_id = $3 WHERE id = $4`,
		c.Application, c.Environment, nullable(c.AgreementID), c.ID)
}

// checkLink accepts a live agreement of the client's own organization, or none.
func checkLink(ctx context.Context, q querier, c Client) error {
	if c.AgreementID == "" {
		return nil
	}
	g, err := findAgreement(ctx, q, c.AgreementID)
	switch {
	case err != nil:
		return err
	case g.RemovedAt != 0:
		return conflict("the agreement was removed")
	case g.OrganizationID != c.OrganizationID:
		return invalid("agreement_id: the agreement is another organization's")
	}
	return nil
}

// checkDuplicate refuses a second live client for one application and environment.
func checkDuplicate(ctx context.Context, tx *tx, c Client) error {
	found, err := findClients(ctx, tx, tx.now, `c.organization_id = $2 AND c.application = $3 AND c.environment = $4 AND c.removed_at IS NULL AND c.id <> $5`,
		c.OrganizationID, c.Application, c.Environment, c.ID)
	if err != nil || len(found) == 0 {
		return err
	}
	return conflict("client %s is this application's in %s already: use it, remove it, or allow a duplicate", found[0].ID, c.Environment)
}

const (
	clientColumns = `c.id, c.organization_id, COALESCE(c.agreement_id, ''), c.application, c.environment,
		c.tokens_valid_from, c.created_at, c.disabled_at, c.removed_at`
	secretColumns = `COALESCE(s.id, ''), COALESCE(s.kind, ''), COALESCE(s.digest, ''), COALESCE(s.hash, ''), COALESCE(s.imported, 0),
		s.created_at, s.expires_at, s.last_used_at`
	// joinSecrets adds the secrets that are live at $1.
	joinSecrets = `LEFT JOIN client_secret s ON s.client_id = c.id AND (s.expires_at IS NULL OR s.expires_at > $1)`
)

func (c *Client) fields() []any {
	return []any{&c.ID, &c.OrganizationID, &c.AgreementID, &c.Application, &c.Environment,
		&c.TokensValidFrom, &c.CreatedAt, &c.DisabledAt, &c.RemovedAt}
}

// secretRow scans secretColumns, which are empty for a client without a live secret.
type secretRow struct {
	ClientSecret
	digest string
}

func (s *secretRow) fields() []any {
	return []any{&s.ID, &s.Kind, &s.digest, &s.Hash, &s.Imported, &s.CreatedAt, &s.ExpiresAt, &s.LastUsedAt}
}

func (s *secretRow) appendTo(c *Client) error {
	if s.ID == "" {
		return nil
	}
	if s.Kind == SHA256 {
		raw, err := hex.DecodeString(s.digest)
		if err != nil || len(raw) != len(s.Digest) {
			return fmt.Errorf("the digest of client secret %s is damaged", s.ID)
		}
		copy(s.Digest[:], raw)
	}
	c.Secrets = append(c.Secrets, s.ClientSecret)
	return nil
}

// findClients reads clients with the secrets that are live at now. In the condition where, the
// arguments begin at $2.
func findClients(ctx context.Context, q querier, now Time, where string, args ...any) (found []Client, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var c Client
		var s secretRow
		if err := rows.Scan(append(c.fields(), s.fields()...)...); err != nil {
			return err
		}
		if n := len(found); n == 0 || found[n-1].ID != c.ID {
			found = append(found, c)
		}
		return s.appendTo(&found[len(found)-1])
	}, `SELECT `+clientColumns+`, `+secretColumns+` FROM client c `+joinSecrets+`
		WHERE `+where+` ORDER BY c.created_at, c.id, s.created_at, s.id`, append([]any{int64(now)}, args...)...)
	return found, err
}

func findClient(ctx context.Context, q querier, now Time, id string) (Client, error) {
	if !storable(id) {
		return Client{}, notFound(KindClient)
	}
	found, err := findClients(ctx, q, now, `c.id = $2`, id)
	return one(found, KindClient, err)
}

func liveClient(ctx context.Context, tx *tx, id string) (Client, error) {
	c, err := findClient(ctx, tx, tx.now, id)
	if err == nil && c.RemovedAt != 0 {
		err = conflict("the client was removed")
	}
	return c, err
}

// Client returns one with its live secrets, a removed one too, or ErrNotFound.
func (r *Registry) Client(ctx context.Context, id string) (c Client, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	c, err = findClient(ctx, r.engine.read, r.now(), id)
	return c, r.fault("read client", err)
}

// Clients returns those of an organization, or of all when organizationID is empty, that are
// not removed, oldest first.
func (r *Registry) Clients(ctx context.Context, organizationID string) (found []Client, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	switch {
	case organizationID == "":
		found, err = findClients(ctx, r.engine.read, r.now(), `c.removed_at IS NULL`)
	case storable(organizationID):
		found, err = findClients(ctx, r.engine.read, r.now(), `c.removed_at IS NULL AND c.organization_id = $2`, organizationID)
	}
	return found, r.fault("read clients", err)
}

// ChangeClient changes what c sets and returns the result. A change of application or
// environment that makes a duplicate is refused with ErrConflict.
func (r *Registry) ChangeClient(ctx context.Context, a Actor, id string, c ClientChange) (client Client, err error) {
	err = r.mutate(ctx, "change client", a, func(tx *tx) (*deed, error) {
		if client, err = liveClient(ctx, tx, id); err != nil {
			return nil, err
		}
		before := client
		var changed []string
		if c.Application != nil {
			if err := checkName("application", *c.Application); err != nil {
				return nil, err
			}
			client.Application = *c.Application
			changed = append(changed, "application")
		}
		if c.Environment != nil {
			if client.Environment, err = checkEnvironment(*c.Environment); err != nil {
				return nil, err
			}
			changed = append(changed, "environment")
		}
		if c.AgreementID != nil {
			client.AgreementID = *c.AgreementID
			changed = append(changed, "agreement")
			if err := checkLink(ctx, tx, client); err != nil {
				return nil, err
			}
		}
		if changed == nil {
			return nil, nil
		}
		if client.Application != before.Application || client.Environment != before.Environment {
			if err := checkDuplicate(ctx, tx, client); err != nil {
				return nil, err
			}
		}
		return &deed{"change", KindClient, id, strings.Join(changed, " ")},
			updateClient(ctx, tx, client)
	})
	return client, err
}

// DisableClient stops the client until it is enabled.
func (r *Registry) DisableClient(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "disable client", a, func(tx *tx) (*deed, error) {
		c, err := liveClient(ctx, tx, id)
		if err != nil || c.DisabledAt != 0 {
			return nil, err
		}
		return &deed{"disable", KindClient, id, ""}, tx.set(ctx, `UPDATE client SET disabled_at = $1 WHERE id = $2`, tx.now, id)
	})
}

// EnableClient undoes DisableClient.
func (r *Registry) EnableClient(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "enable client", a, func(tx *tx) (*deed, error) {
		c, err := liveClient(ctx, tx, id)
		if err != nil || c.DisabledAt == 0 {
			return nil, err
		}
		return &deed{"enable", KindClient, id, ""}, tx.set(ctx, `UPDATE client SET disabled_at = NULL WHERE id = $1`, id)
	})
}

// RemoveClient stops the client for good. Its row stays.
func (r *Registry) RemoveClient(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "remove client", a, func(tx *tx) (*deed, error) {
		c, err := findClient(ctx, tx, tx.now, id)
		if err != nil || c.RemovedAt != 0 {
			return nil, err
		}
		return &deed{"remove", KindClient, id, ""}, tx.set(ctx, `UPDATE client SET removed_at = $1 WHERE id = $2`, tx.now, id)
	})
}

// RevokeClientTokens revokes every token of the client that was issued up to now.
func (r *Registry) RevokeClientTokens(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "revoke tokens", a, func(tx *tx) (*deed, error) {
		c, err := findClient(ctx, tx, tx.now, id)
		if err != nil {
			return nil, err
		}
		from := max(tx.now, c.TokensValidFrom)
		return &deed{"revoke", KindClient, id, "all tokens"}, tx.set(ctx, `UPDATE client SET tokens_valid_from = $1 WHERE id = $2`, from, id)
	})
}

package registry

import (
	"cmp"
	"context"
	"database/sql"
	"strings"
)

// NewAgreement is what CreateAgreement needs.
type NewAgreement struct {
	OrganizationID string
	Name           string
	StartsAt       Time
	EndsAt         Time // zero: open
	Terms          Terms
	Enforce        Mode // "": Enforce
}

// AgreementChange says what to change; nil leaves a field as it is.
type AgreementChange struct {
	Name     *string
	StartsAt *Time
	EndsAt   *Time
	Terms    func(*Terms) // changes them as they are then
	Enforce  *Mode
}

func (a Agreement) check() error {
	if err := checkName("name", a.Name); err != nil {
		return err
	}
	if a.StartsAt < 0 || a.EndsAt < 0 || a.EndsAt != 0 && a.EndsAt <= a.StartsAt {
		return invalid("ends_at: an agreement ends after it starts")
	}
	if a.Enforce != Enforce && a.Enforce != Shadow {
		return invalid("enforce: use enforce or shadow")
	}
	return checkTerms(a.Terms)
}

// CreateAgreement makes an agreement of an organization. It says nothing yet until clients
// are linked to it.
func (r *Registry) CreateAgreement(ctx context.Context, a Actor, n NewAgreement) (g Agreement, err error) {
	g = Agreement{OrganizationID: n.OrganizationID, Name: n.Name, StartsAt: n.StartsAt, EndsAt: n.EndsAt, Terms: n.Terms, Enforce: cmp.Or(n.Enforce, Enforce)}
	if err := g.check(); err != nil {
		return g, err
	}
	if g.ID, err = r.newID(); err != nil {
		return g, err
	}
	err = r.mutate(ctx, "create agreement", a, func(tx *tx) (*deed, error) {
		if _, err := liveOrganization(ctx, tx, n.OrganizationID); err != nil {
			return nil, err
		}
		if err := checkGrants(ctx, tx, Terms{}, g.Terms); err != nil {
			return nil, err
		}
		g.CreatedAt = tx.now
		return &deed{"create", KindAgreement, g.ID, g.Name}, insertAgreement(ctx, tx, g)
	})
	return g, err
}

func insertAgreement(ctx context.Context, x execer, g Agreement) error {
	err := set(ctx, x, `INSERT INTO agreement (id, organization_id, name, starts_at, ends_at, enforce, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		g.ID, g.OrganizationID, g.Name, g.StartsAt, g.EndsAt, string(g.Enforce), g.CreatedAt)
	if err != nil {
		return err
	}
	return saveTerms(ctx, x, g.ID, g.Terms)
}

func updateAgreement(ctx context.Context, x execer, g Agreement) error {
	err := set(ctx, x, `UPDATE agreement SET name = $1, starts_at = $2, ends_at = $3, enforce = $4 WHERE id = $5`,
		g.Name, g.StartsAt, g.EndsAt, string(g.Enforce), g.ID)
	if err != nil {
		return err
	}
	return saveTerms(ctx, x, g.ID, g.Terms)
}

const agreementColumns = `COALESCE(a.id, ''), COALESCE(a.organization_id, ''), COALESCE(a.name, ''), a.starts_at, a.ends_at, COALESCE(a.enforce, ''), a.created_at, a.removed_at`

func (a *Agreement) fields() []any {
	return []any{&a.ID, &a.OrganizationID, &a.Name, &a.StartsAt, &a.EndsAt, &a.Enforce, &a.CreatedAt, &a.RemovedAt}
}

func findAgreements(ctx context.Context, q querier, where string, args ...any) (found []Agreement, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var g Agreement
		var terms termsRow
		if err := rows.Scan(append(g.fields(), terms.fields()...)...); err != nil {
			return err
		}
		g.Terms, err = terms.terms()
		found = append(found, g)
		return err
	}, `SELECT `+agreementColumns+`, `+termsColumns("t")+`
		FROM agreement a LEFT JOIN terms t ON t.owner_id = a.id WHERE `+where+` ORDER BY a.created_at, a.id`, args...)
	return found, err
}

func findAgreement(ctx context.Context, q querier, id string) (Agreement, error) {
	if !storable(id) {
		return Agreement{}, notFound(KindAgreement)
	}
	found, err := findAgreements(ctx, q, `a.id = $1`, id)
	return one(found, KindAgreement, err)
}

// Agreement returns one, a removed one too, or ErrNotFound.
func (r *Registry) Agreement(ctx context.Context, id string) (g Agreement, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	g, err = findAgreement(ctx, r.engine.read, id)
	return g, r.fault("read agreement", err)
}

// Agreements returns those of an organization, or of all when organizationID is empty, that
// are not removed, oldest first.
func (r *Registry) Agreements(ctx context.Context, organizationID string) (found []Agreement, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	switch {
	case organizationID == "":
		found, err = findAgreements(ctx, r.engine.read, `a.removed_at IS NULL`)
	case storable(organizationID):
		found, err = findAgreements(ctx, r.engine.read, `a.removed_at IS NULL AND a.organization_id = $1`, organizationID)
	}
	return found, r.fault("read agreements", err)
}

// ChangeAgreement changes what c sets and returns the result.
func (r *Registry) ChangeAgreement(ctx context.Context, a Actor, id string, c AgreementChange) (g Agreement, err error) {
	err = r.mutate(ctx, "change agreement", a, func(tx *tx) (*deed, error) {
		if g, err = findAgreement(ctx, tx, id); err != nil {
			return nil, err
		}
		if g.RemovedAt != 0 {
			return nil, conflict("the agreement was removed")
		}
		var changed []string
		if c.Name != nil {
			g.Name = *c.Name
			changed = append(changed, "name")
		}
		if c.StartsAt != nil {
			g.StartsAt = *c.StartsAt
			changed = append(changed, "starts_at")
		}
		if c.EndsAt != nil {
			g.EndsAt = *c.EndsAt
			changed = append(changed, "ends_at")
		}
		before := g.Terms
		if c.Terms != nil {
			c.Terms(&g.Terms)
			changed = append(changed, "terms")
		}
		if c.Enforce != nil {
			g.Enforce = *c.Enforce
			changed = append(changed, "enforce")
		}
		if changed == nil {
			return nil, nil
		}
		if err := g.check(); err != nil {
			return nil, err
		}
		if err := checkGrants(ctx, tx, before, g.Terms); err != nil {
			return nil, err
		}
		return &deed{"change", KindAgreement, id, strings.Join(changed, " ")}, updateAgreement(ctx, tx, g)
	})
	return g, err
}

// RemoveAgreement removes an agreement. The clients linked to it are refused from then on,
// until they are linked to another one or to none.
func (r *Registry) RemoveAgreement(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "remove agreement", a, func(tx *tx) (*deed, error) {
		g, err := findAgreement(ctx, tx, id)
		if err != nil || g.RemovedAt != 0 {
			return nil, err
		}
		return &deed{"remove", KindAgreement, id, ""}, tx.set(ctx, `UPDATE agreement SET removed_at = $1 WHERE id = $2`, tx.now, id)
	})
}

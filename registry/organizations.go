package registry

import (
	"context"
	"database/sql"
	"errors"
	"strings"
)

// OrganizationChange says what to change; nil leaves a field as it is.
type OrganizationChange struct {
	Name  *string
	Terms func(*Terms) // changes them as they are then
}

// CreateOrganization makes an organization. t are the terms of everything that it licenses.
func (r *Registry) CreateOrganization(ctx context.Context, a Actor, name string, t Terms) (Organization, error) {
	var o Organization
	if err := checkName("name", name); err != nil {
		return o, err
	}
	if err := checkTerms(t); err != nil {
		return o, err
	}
	id, err := r.newID()
	if err != nil {
		return o, err
	}
	err = r.mutate(ctx, "create organization", a, func(tx *tx) (*deed, error) {
		if err := checkGrants(ctx, tx, Terms{}, t); err != nil {
			return nil, err
		}
		o = Organization{ID: id, Name: name, Terms: t, CreatedAt: tx.now}
		return &deed{"create", KindOrganization, id, name}, insertOrganization(ctx, tx, o)
	})
	return o, err
}

func insertOrganization(ctx context.Context, x execer, o Organization) error {
	if err := set(ctx, x, `INSERT INTO organization (id, name, created_at) VALUES ($1, $2, $3)`, o.ID, o.Name, o.CreatedAt); err != nil {
		return err
	}
	return saveTerms(ctx, x, o.ID, o.Terms)
}

const organizationColumns = `o.id, o.name, o.tokens_valid_from, o.created_at, o.disabled_at, o.removed_at`

func (o *Organization) fields() []any {
	return []any{&o.ID, &o.Name, &o.TokensValidFrom, &o.CreatedAt, &o.DisabledAt, &o.RemovedAt}
}

// findOrganizations reads those that the condition where is true of.
func findOrganizations(ctx context.Context, q querier, where string, args ...any) (found []Organization, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var o Organization
		var terms termsRow
		if err := rows.Scan(append(o.fields(), terms.fields()...)...); err != nil {
			return err
		}
		o.Terms, err = terms.terms()
		found = append(found, o)
		return err
	}, `SELECT `+organizationColumns+`, `+termsColumns("t")+`
		FROM organization o LEFT JOIN terms t ON t.owner_id = o.id WHERE `+where+` ORDER BY o.created_at, o.id`, args...)
	return found, err
}

func findOrganization(ctx context.Context, q querier, id string) (Organization, error) {
	if !storable(id) {
		return Organization{}, notFound(KindOrganization)
	}
	found, err := findOrganizations(ctx, q, `o.id = $1`, id)
	return one(found, KindOrganization, err)
}

// liveOrganization is for what must not happen to a removed one.
func liveOrganization(ctx context.Context, q querier, id string) (Organization, error) {
	o, err := findOrganization(ctx, q, id)
	if err == nil && o.RemovedAt != 0 {
		err = conflict("the organization was removed")
	}
	return o, err
}

// Organization returns one, a removed one too, or ErrNotFound.
func (r *Registry) Organization(ctx context.Context, id string) (o Organization, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	o, err = findOrganization(ctx, r.engine.read, id)
	return o, r.fault("read organization", err)
}

// Organizations returns all that are not removed, oldest first.
func (r *Registry) Organizations(ctx context.Context) (found []Organization, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	found, err = findOrganizations(ctx, r.engine.read, `o.removed_at IS NULL`)
	return found, r.fault("read organizations", err)
}

// ChangeOrganization changes what c sets and returns the result.
func (r *Registry) ChangeOrganization(ctx context.Context, a Actor, id string, c OrganizationChange) (o Organization, err error) {
	err = r.mutate(ctx, "change organization", a, func(tx *tx) (*deed, error) {
		if o, err = liveOrganization(ctx, tx, id); err != nil {
			return nil, err
		}
		var changed []string
		if c.Name != nil {
			if err := checkName("name", *c.Name); err != nil {
				return nil, err
			}
			o.Name = *c.Name
			changed = append(changed, "name")
			if err := tx.set(ctx, `UPDATE organization SET name = $1 WHERE id = $2`, o.Name, id); err != nil {
				return nil, err
			}
		}
		if c.Terms != nil {
			before := o.Terms
			c.Terms(&o.Terms)
			if err := errors.Join(checkTerms(o.Terms), checkGrants(ctx, tx, before, o.Terms)); err != nil {
				return nil, err
			}
			changed = append(changed, "terms")
			if err := saveTerms(ctx, tx, id, o.Terms); err != nil {
				return nil, err
			}
		}
		if changed == nil {
			return nil, nil
		}
		return &deed{"change", KindOrganization, id, strings.Join(changed, " ")}, nil
	})
	return o, err
}

// DisableOrganization stops all clients of the organization until it is enabled.
func (r *Registry) DisableOrganization(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "disable organization", a, func(tx *tx) (*deed, error) {
		o, err := liveOrganization(ctx, tx, id)
		if err != nil || o.DisabledAt != 0 {
			return nil, err
		}
		return &deed{"disable", KindOrganization, id, ""}, tx.set(ctx, `UPDATE organization SET disabled_at = $1 WHERE id = $2`, tx.now, id)
	})
}

// EnableOrganization undoes DisableOrganization.
func (r *Registry) EnableOrganization(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "enable organization", a, func(tx *tx) (*deed, error) {
		o, err := liveOrganization(ctx, tx, id)
		if err != nil || o.DisabledAt == 0 {
			return nil, err
		}
		return &deed{"enable", KindOrganization, id, ""}, tx.set(ctx, `UPDATE organization SET disabled_at = NULL WHERE id = $1`, id)
	})
}

// RemoveOrganization stops all clients of the organization for good. Its row stays.
func (r *Registry) RemoveOrganization(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "remove organization", a, func(tx *tx) (*deed, error) {
		o, err := findOrganization(ctx, tx, id)
		if err != nil || o.RemovedAt != 0 {
			return nil, err
		}
		return &deed{"remove", KindOrganization, id, ""}, tx.set(ctx, `UPDATE organization SET removed_at = $1 WHERE id = $2`, tx.now, id)
	})
}

// RevokeOrganizationTokens revokes every token of the organization's clients that was
// issued up to now.
func (r *Registry) RevokeOrganizationTokens(ctx context.Context, a Actor, id string) error {
	return r.mutate(ctx, "revoke tokens", a, func(tx *tx) (*deed, error) {
		o, err := findOrganization(ctx, tx, id)
		if err != nil {
			return nil, err
		}
		// Never back, should the clock have been set back.
		from := max(tx.now, o.TokensValidFrom)
		return &deed{"revoke", KindOrganization, id, "all tokens"}, tx.set(ctx, `UPDATE organization SET tokens_valid_from = $1 WHERE id = $2`, from, id)
	})
}

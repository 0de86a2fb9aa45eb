package registry

import (
	"context"
	"database/sql"
)

// grantQuery is one statement, so that what it reads is of one moment on every engine.
func grantQuery() string {
	return `SELECT ` + clientColumns + `, ` + organizationColumns + `, ` + termsColumns("ot") + `,
	` + agreementColumns + `, ` + termsColumns("ta") + `, ` + secretColumns + `
	FROM client c
	JOIN organization o ON o.id = c.organization_id
	LEFT JOIN terms ot ON ot.owner_id = o.id
	LEFT JOIN agreement a ON a.id = c.agreement_id
	LEFT JOIN terms ta ON ta.owner_id = a.id
	` + joinSecrets + `
	WHERE c.id = $2 ORDER BY s.created_at, s.id`
}

// Grant returns a client, whatever its state, with what decides about it, or ErrNotFound.
func (r *Registry) Grant(ctx context.Context, clientID string) (g Grant, err error) {
	defer r.observe(opGrant, r.options.Now(), &err)
	g, err = r.findGrant(ctx, clientID)
	return g, r.fault("read client", err)
}

func (r *Registry) findGrant(ctx context.Context, clientID string) (g Grant, err error) {
	if !storable(clientID) {
		return g, notFound(KindClient)
	}
	ctx, cancel := r.engine.read.bound(ctx)
	defer cancel()
	rows, err := r.grant.query(ctx, r.engine.read, int64(r.now()), clientID)
	if err != nil {
		return g, err
	}
	found := false
	err = scanAll(rows, func(rows *sql.Rows) error { // one row for each live secret
		var row Grant
		var a Agreement
		var ofOrganization, ofAgreement termsRow
		var s secretRow
		fields := append(row.Client.fields(), row.Organization.fields()...)
		fields = append(fields, ofOrganization.fields()...)
		fields = append(fields, a.fields()...)
		fields = append(fields, ofAgreement.fields()...)
		fields = append(fields, s.fields()...)
		if err := rows.Scan(fields...); err != nil {
			return err
		}
		if found {
			return s.appendTo(&g.Client)
		}
		found, g = true, row
		if g.Organization.Terms, err = ofOrganization.terms(); err != nil {
			return err
		}
		if a.ID != "" {
			if a.Terms, err = ofAgreement.terms(); err != nil {
				return err
			}
			g.Agreement = &a
		}
		return s.appendTo(&g.Client)
	})
	if err == nil && !found {
		err = notFound(KindClient)
	}
	return g, err
}

package registry

import (
	"context"
	"database/sql"
)

// AnyLimit reports whether there are terms that limit requests or access tokens, of
// anybody who is not removed or of somebody who was.
func (r *Registry) AnyLimit(ctx context.Context) (any bool, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	err = each(ctx, r.engine.read, func(rows *sql.Rows) error { return rows.Scan(&any) }, `SELECT EXISTS (SELECT 1 FROM terms
		WHERE request_rate >= 0 OR concurrent >= 0 OR quota_day >= 0 OR quota_month >= 0 OR issue_rate >= 0)`)
	return any, r.fault("read whether there are limits", err)
}

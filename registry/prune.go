package registry

import (
	"context"
	"database/sql"
	"time"
)

const (
	// keepChanges is how long a change stays in the feed: a follower that was away for less
	// need not reload.
	keepChanges = time.Hour
	// pruneBatch is how many tokens, or hours of usage, one transaction deletes, so that issuing
	// need not wait for long.
	pruneBatch = 1000
)

// Prune deletes what nothing can need any more at now: tokens a minute after their last expiry,
// changes after an hour, secrets that have ended, and the private parts of keys a minute after
// they stopped verifying. It returns how many rows that were. It writes neither a change nor
// an event.
func (r *Registry) Prune(ctx context.Context, now Time) (rows int, err error) {
	defer r.observe(opPrune, r.options.Now(), &err)
	// One that a client holds a revocation of stays as long as the revocation: equally long.
	n, err := r.sweepAll(ctx, `DELETE FROM token WHERE id IN (SELECT id FROM token WHERE expires_at <= $1 LIMIT $2)`, int64(now.later(-grace)), pruneBatch)
	rows += n
	if err != nil {
		return rows, r.fault("prune tokens", err)
	}
	// From the front only, whatever the clock did: a gap would make every follower reload. And
	// never the last one, by which a follower knows that it follows the same history.
	n, err = r.sweep(ctx, `DELETE FROM change WHERE seq < COALESCE((SELECT min(seq) FROM change WHERE at > $1), (SELECT seq FROM counter WHERE id = 1))`,
		int64(now.later(-keepChanges)))
	rows += n
	if err != nil {
		return rows, r.fault("prune changes", err)
	}
	n, err = r.sweep(ctx, `DELETE FROM client_secret WHERE expires_at <= $1`, int64(now))
	rows += n
	if err != nil {
		return rows, r.fault("prune secrets", err)
	}
	n, err = r.sweep(ctx, `UPDATE signing_key SET private = '' WHERE private <> '' AND verifies_until <= $1`, int64(now.later(-grace)))
	rows += n
	return rows, r.fault("prune keys", err)
}

// sweepAll runs query, which takes no more than pruneBatch rows, until it finds less.
func (r *Registry) sweepAll(ctx context.Context, query string, args ...any) (rows int, err error) {
	for {
		n, err := r.sweep(ctx, query, args...)
		rows += n
		if err != nil || n < pruneBatch {
			return rows, err
		}
	}
}

// sweep is one statement in a transaction of its own. Another process that prunes now does
// the work of this one.
func (r *Registry) sweep(ctx context.Context, query string, args ...any) (int, error) {
	ctx, cancel := r.engine.write.bound(ctx)
	defer cancel()
	var result sql.Result
	tx, err := r.engine.begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback() // after a commit there is nothing to roll back
	if alone, err := r.engine.alone(ctx, tx); err != nil || !alone {
		return 0, err
	}
	if result, err = tx.ExecContext(ctx, query, args...); err != nil {
		return 0, err
	}
	if err := tx.Commit(); err != nil {
		return 0, err
	}
	n, err := result.RowsAffected()
	return int(n), err
}

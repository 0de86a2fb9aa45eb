package registry

import (
	"context"
	"database/sql"
)

// tx is one transaction and the moment that it stands for, taken once it holds the write
// lock: times in the store are in the order of commits as far as the clock is.
type tx struct {
	*sql.Tx
	now Time
}

// deed is what a mutation did: its event, and its line in the feed.
type deed struct {
	action string
	kind   Kind
	id     string
	detail string // for people; never a secret
}

// mutate runs f in one transaction and commits it with one event and one change. A nil
// deed means that nothing had to change: nothing is written. doing is for the error.
func (r *Registry) mutate(ctx context.Context, doing string, a Actor, f func(tx *tx) (*deed, error)) (err error) {
	defer r.observe(opMutate, r.options.Now(), &err)
	ctx, cancel := r.engine.write.bound(ctx)
	defer cancel()
	inner, err := r.engine.beginChange(ctx)
	if err != nil {
		return r.fault(doing, err)
	}
	defer inner.Rollback() // after a commit there is nothing to roll back
	tx := &tx{inner, r.now()}
	d, err := f(tx)
	if err == nil && d != nil {
		err = record(ctx, tx, a, *d)
	}
	if err == nil && d != nil {
		err = r.engine.announce(ctx, tx.Tx)
	}
	if err != nil {
		return r.fault(doing, err)
	}
	if d == nil {
		return nil
	}
	return r.fault(doing, tx.Commit())
}

const insertEventQuery = `INSERT INTO event (seq, at, actor_kind, actor_id, actor_address, action, kind, id, detail)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`

// record takes the next numbers as the last step: from then on until the commit nobody else
// can take one, so the order of numbers is the order of commits.
func record(ctx context.Context, tx *tx, a Actor, d deed) error {
	var change, event int64
	err := tx.QueryRowContext(ctx, `UPDATE counter SET seq = seq + 1, events = events + 1 WHERE id = 1 RETURNING seq, events`).Scan(&change, &event)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO change (seq, kind, id, at) VALUES ($1, $2, $3, $4)`, change, string(d.kind), d.id, int64(tx.now)); err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, insertEventQuery, event, int64(tx.now), a.Kind, a.ID, a.Address, d.action, string(d.kind), d.id, d.detail)
	return err
}

// set runs one UPDATE inside a mutation.
func (t *tx) set(ctx context.Context, query string, args ...any) error {
	return set(ctx, t, query, args...)
}

// Events returns the last lines of the audit trail, newest first; limit 0 means 100.
func (r *Registry) Events(ctx context.Context, limit int) (events []Event, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	if limit <= 0 {
		limit = defaultLimit
	}
	err = each(ctx, r.engine.read, func(rows *sql.Rows) error {
		var e Event
		err := rows.Scan(&e.At, &e.Actor.Kind, &e.Actor.ID, &e.Actor.Address, &e.Action, &e.Kind, &e.ID, &e.Detail)
		events = append(events, e)
		return err
	}, `SELECT at, actor_kind, actor_id, actor_address, action, kind, id, detail FROM event ORDER BY seq DESC LIMIT $1`, limit)
	return events, r.fault("read events", err)
}

// defaultLimit is how many lines a list has when its caller does not say.
const defaultLimit = 100

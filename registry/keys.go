package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

const keyColumns = `id, algorithm, created_at, signs_from, verifies_until, removed_at`

func (k *Key) fields() []any {
	return []any{&k.ID, &k.Algorithm, &k.CreatedAt, &k.SignsFrom, &k.VerifiesUntil, &k.RemovedAt}
}

// findKeys reads keys without their private part.
func findKeys(ctx context.Context, q querier, where string, args ...any) (found []Key, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var k Key
		err := rows.Scan(k.fields()...)
		found = append(found, k)
		return err
	}, `SELECT `+keyColumns+` FROM signing_key WHERE `+where+` ORDER BY signs_from DESC, id`, args...)
	return found, err
}

// Keys returns all keys that are not removed and still verify, with their private part. A
// key that cannot be unwrapped is logged and left out, so that it takes no other one away.
func (r *Registry) Keys(ctx context.Context) (keys []Key, err error) {
	defer r.observe(opKeys, r.options.Now(), &err)
	if r.sealer.err != nil {
		return nil, fmt.Errorf("read keys: %w", r.sealer.err)
	}
	err = each(ctx, r.engine.read, func(rows *sql.Rows) error {
		var k Key
		var wrapped string
		if err := rows.Scan(append(k.fields(), &wrapped)...); err != nil {
			return err
		}
		private, err := r.sealer.unseal(wrapped, k.ID)
		if err != nil {
			r.options.Log.Error("dropped a signing key that cannot be unwrapped", "kid", k.ID, "error", err)
			return nil
		}
		k.Private = private
		keys = append(keys, k)
		return nil
	}, `SELECT `+keyColumns+`, private FROM signing_key
		WHERE removed_at IS NULL AND (verifies_until IS NULL OR verifies_until > $1) ORDER BY signs_from DESC, id`, int64(r.now()))
	return keys, r.fault("read keys", err)
}

// Key returns one without its private part, a removed one too, or ErrNotFound.
func (r *Registry) Key(ctx context.Context, id string) (k Key, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	k, err = findKey(ctx, r.engine.read, id)
	return k, r.fault("read key", err)
}

func findKey(ctx context.Context, q querier, id string) (Key, error) {
	if !storable(id) {
		return Key{}, notFound(KindKey)
	}
	found, err := findKeys(ctx, q, `id = $1`, id)
	return one(found, KindKey, err)
}

// KeyHistory returns all keys there ever were, without their private parts, the last one to
// sign first.
func (r *Registry) KeyHistory(ctx context.Context) (keys []Key, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	keys, err = findKeys(ctx, r.engine.read, `1 = 1`)
	return keys, r.fault("read keys", err)
}

// EnsureKey makes a key of an algorithm when none signs or is about to. Of many callers, in
// many processes, one wins. The first key of all signs at once; one of another algorithm
// after publish, and the keys before it verify for keep after that. generate is called
// outside of any transaction, and its key may be thrown away.
func (r *Registry) EnsureKey(ctx context.Context, a Actor, algorithm string, publish, keep time.Duration, generate func() (Key, error)) (created bool, err error) {
	if r.sealer.err != nil {
		return false, fmt.Errorf("ensure key: %w", r.sealer.err)
	}
	found, err := findKeys(ctx, r.engine.read, unfollowed+` AND algorithm = $1`, algorithm)
	if err != nil || len(found) > 0 {
		return false, r.fault("ensure key", err)
	}
	k, err := generate()
	if err != nil {
		return false, fmt.Errorf("ensure key: %w", err)
	}
	if k.Algorithm != algorithm {
		return false, invalid("algorithm: the key is for another one")
	}
	err = r.mutate(ctx, "ensure key", a, func(tx *tx) (*deed, error) {
		all, err := findKeys(ctx, tx, unfollowed)
		if err != nil {
			return nil, err
		}
		if len(all) == 0 {
			publish = 0
		}
		for _, other := range all {
			if other.Algorithm == algorithm {
				return nil, nil
			}
		}
		created = true
		_, err = r.addKey(ctx, tx, k, publish, keep)
		return &deed{"create", KindKey, k.ID, algorithm}, err
	})
	return created && err == nil, err
}

// RotateKey adds a key that signs after publish, and lets the keys before it verify for keep
// after that, or until the last token there is has expired, if that is later. It returns k as it was stored, without its private part. ErrConflict when a
// key has this id.
func (r *Registry) RotateKey(ctx context.Context, a Actor, k Key, publish, keep time.Duration) (stored Key, err error) {
	err = r.mutate(ctx, "rotate key", a, func(tx *tx) (*deed, error) {
		stored, err = r.addKey(ctx, tx, k, publish, keep)
		return &deed{"rotate", KindKey, k.ID, k.Algorithm}, err
	})
	return stored, err
}

// addKey stores k as the next one to sign.
func (r *Registry) addKey(ctx context.Context, tx *tx, k Key, publish, keep time.Duration) (Key, error) {
	if publish < 0 || keep < 0 {
		return Key{}, invalid("key: it is published for 0 or more, and kept for 0 or more")
	}
	k.SignsFrom = tx.now.later(publish)
	// Tokens may live longer than keep says: it may follow from a setting that was lowered.
	last, err := lastExpiry(ctx, tx)
	if err != nil {
		return Key{}, err
	}
	until := max(k.SignsFrom.later(keep), last.later(grace))
	// A key that was to sign as late or later is overtaken. It goes on verifying: by another
	// clock it may have signed already.
	err = tx.set(ctx, `UPDATE signing_key SET signs_from = $1 WHERE removed_at IS NULL AND signs_from > $1`, int64(k.SignsFrom-1))
	if err != nil {
		return Key{}, err
	}
	err = tx.set(ctx, `UPDATE signing_key SET verifies_until = $1 WHERE `+unfollowed, int64(until))
	if err != nil {
		return Key{}, err
	}
	return r.insertKey(ctx, tx, k)
}

func (r *Registry) insertKey(ctx context.Context, tx *tx, k Key) (Key, error) {
	if k.ID == "" || k.Algorithm == "" || k.Private == "" {
		return Key{}, invalid("key: id, algorithm and private part are required")
	}
	wrapped, err := r.sealer.seal(r.options.Random, k)
	if err != nil {
		return Key{}, err
	}
	k.CreatedAt, k.Private, k.VerifiesUntil, k.RemovedAt = tx.now, "", 0, 0
	err = tx.set(ctx, `INSERT INTO signing_key (id, algorithm, data_key_id, private, created_at, signs_from) VALUES ($1, $2, $3, $4, $5, $6)`,
		k.ID, k.Algorithm, r.sealer.id, wrapped, int64(k.CreatedAt), int64(k.SignsFrom))
	if r.engine.duplicate(err) {
		return Key{}, conflict("a key with this id is there already")
	}
	return k, err
}

// RemoveKey removes a key: every token that it signed is refused from then on. When no key is
// left that signs now and goes on signing, replacement is stored in the same step and signs at
// once; without one, that is ErrConflict. Otherwise replacement is not used.
func (r *Registry) RemoveKey(ctx context.Context, a Actor, id string, replacement *Key) error {
	return r.mutate(ctx, "remove key", a, func(tx *tx) (*deed, error) {
		k, err := findKey(ctx, tx, id)
		if err != nil || k.RemovedAt != 0 {
			return nil, err
		}
		if err := tx.set(ctx, `UPDATE signing_key SET removed_at = $1, private = '' WHERE id = $2`, int64(tx.now), id); err != nil {
			return nil, err
		}
		left, err := findKeys(ctx, tx, `removed_at IS NULL AND verifies_until IS NULL AND signs_from <= $1`, int64(tx.now))
		if err != nil {
			return nil, err
		}
		if len(left) > 0 {
			return &deed{"remove", KindKey, id, ""}, nil
		}
		if replacement == nil {
			return nil, conflict("no other key signs now: remove it together with a replacement")
		}
		next := *replacement
		next.SignsFrom = tx.now
		if next, err = r.insertKey(ctx, tx, next); err != nil {
			return nil, err
		}
		return &deed{"remove", KindKey, id, "replaced by " + next.ID}, nil
	})
}

package registry

import (
	"bytes"
	"context"
	"crypto/cipher"
	"database/sql"
	"errors"
	"fmt"

	"postern/secret"
)

// Rewrap wraps the data key with next, 32 raw bytes, instead of the master key that the
// registry was opened with, or of none. It commits only after it has opened again what it is
// about to store. keys is how many private keys the data key opens, and damaged how many it
// does not, which no master key brings back.
//
// Whoever has the store open goes on: the data key stays the same. Whoever opens it from
// then on needs next. An old copy of the store still opens with the old master key.
func (r *Registry) Rewrap(ctx context.Context, a Actor, next secret.Secret) (keys, damaged int, err error) {
	if n := len(next.Reveal()); n != dataKeySize {
		return 0, 0, invalid("the new master key must be %d bytes, not %d", dataKeySize, n)
	}
	if r.sealer.err != nil {
		return 0, 0, fmt.Errorf("rewrap the data key: %w", r.sealer.err)
	}
	if next == r.options.MasterKey {
		return 0, 0, invalid("the new master key is the old one")
	}
	err = r.mutate(ctx, "rewrap the data key", a, func(tx *tx) (*deed, error) {
		keys, damaged, err = r.rewrap(ctx, tx, next)
		return &deed{"rewrap", KindKey, r.sealer.id, ""}, err
	})
	if err != nil {
		return 0, 0, err
	}
	if err := r.engine.scrub(ctx); err != nil {
		r.options.Log.Warn("the old text of the data key may still be in the store's journal", "error", err)
	}
	return keys, damaged, nil
}

func (r *Registry) rewrap(ctx context.Context, tx *tx, next secret.Secret) (keys, damaged int, err error) {
	id := r.sealer.id
	var wrapping, old string
	if err := tx.QueryRowContext(ctx, `SELECT wrapping, material FROM data_key WHERE id = $1`, id).Scan(&wrapping, &old); err != nil {
		return 0, 0, err
	}
	plain, err := openDataKey(id, wrapping, old, r.options.MasterKey)
	if err != nil {
		return 0, 0, err
	}
	text, err := wrapDataKey(id, plain, next, r.options.Random)
	if err != nil {
		return 0, 0, err
	}
	if err := tx.set(ctx, `UPDATE data_key SET wrapping = $1, material = $2 WHERE id = $3`, wrappedByMaster, text, id); err != nil {
		return 0, 0, err
	}
	// What is stored now, opened as the next start will open it.
	if err := tx.QueryRowContext(ctx, `SELECT wrapping, material FROM data_key WHERE id = $1`, id).Scan(&wrapping, &text); err != nil {
		return 0, 0, err
	}
	again, err := openDataKey(id, wrapping, text, next)
	if err != nil || !bytes.Equal(plain, again) {
		return 0, 0, errors.Join(errors.New("what was wrapped does not open again; nothing has changed"), err)
	}
	aead, err := newAEAD(again)
	if err != nil {
		return 0, 0, err
	}
	return countOpened(ctx, tx, id, aead)
}

// countOpened tries each private key that the data key id wraps.
func countOpened(ctx context.Context, q querier, id string, aead cipher.AEAD) (opened, damaged int, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var key, wrapped string
		if err := rows.Scan(&key, &wrapped); err != nil {
			return err
		}
		if _, err := unseal(aead, wrapped, key); err != nil {
			damaged++
		} else {
			opened++
		}
		return nil
	}, `SELECT id, private FROM signing_key WHERE data_key_id = $1 AND private <> ''`, id)
	return opened, damaged, err
}

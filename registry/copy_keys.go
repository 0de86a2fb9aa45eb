package registry

import (
	"context"
	"database/sql"
	"fmt"

	"postern/secret"
)

// storedKey is a data key as it is stored.
type storedKey struct{ id, wrapping, material string }

func storedKeys(ctx context.Context, q querier) (found []storedKey, err error) {
	err = each(ctx, q, func(rows *sql.Rows) error {
		var k storedKey
		err := rows.Scan(&k.id, &k.wrapping, &k.material)
		found = append(found, k)
		return err
	}, `SELECT id, wrapping, material FROM data_key ORDER BY id`)
	return found, err
}

// open returns the sealer of a stored data key.
func (k storedKey) open(master secret.Secret) (s sealer, err error) {
	plain, err := openDataKey(k.id, k.wrapping, k.material, master)
	if err != nil {
		return s, err
	}
	aead, err := newAEAD(plain)
	return sealer{id: k.id, aead: aead}, err
}

// openKeys opens every private key of a store with the master key, and returns how many there are.
func openKeys(ctx context.Context, q querier, master secret.Secret) (opened int, err error) {
	stored, err := storedKeys(ctx, q)
	if err != nil {
		return 0, err
	}
	sealers := make(map[string]sealer)
	for _, k := range stored {
		if sealers[k.id], err = k.open(master); err != nil {
			return 0, err
		}
	}
	err = each(ctx, q, func(rows *sql.Rows) error {
		var id, dataKey, private string
		if err := rows.Scan(&id, &dataKey, &private); err != nil {
			return err
		}
		opened++
		if _, err := sealers[dataKey].unseal(private, id); err != nil {
			return fmt.Errorf("the signing key %s does not open: it is damaged", id)
		}
		return nil
	}, `SELECT id, data_key_id, private FROM signing_key WHERE private <> ''`)
	return opened, err
}

// wrapOpenKeys wraps the data keys that lie open, by the master key of r.
func wrapOpenKeys(ctx context.Context, tx *sql.Tx, r *Registry) (wrapped bool, err error) {
	stored, err := storedKeys(ctx, tx)
	if err != nil {
		return false, err
	}
	for _, k := range stored {
		if k.wrapping != wrappedByNone {
			continue
		}
		plain, err := openDataKey(k.id, k.wrapping, k.material, "")
		if err != nil {
			return false, err
		}
		text, err := wrapDataKey(k.id, plain, r.options.MasterKey, r.options.Random)
		if err != nil {
			return false, err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE data_key SET wrapping = $1, material = $2 WHERE id = $3`, wrappedByMaster, text, k.id); err != nil {
			return false, err
		}
		wrapped = true
	}
	return wrapped, nil
}

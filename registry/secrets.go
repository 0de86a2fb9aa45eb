package registry

import (
	"context"
	"encoding/hex"
	"time"

	"postern/secret"
)

// maxSecrets is how many secrets of one client may be live at once.
const maxSecrets = 2

// RotateClientSecret makes another secret for a client and returns it, this once. The old one
// goes on for overlap, 0 kills it at once. While two are live and overlap is not 0, a third
// is refused with ErrConflict.
func (r *Registry) RotateClientSecret(ctx context.Context, a Actor, id string, overlap time.Duration) (s secret.Secret, err error) {
	if overlap < 0 {
		return "", invalid("overlap: use 0 or more")
	}
	err = r.mutate(ctx, "rotate client secret", a, func(tx *tx) (*deed, error) {
		c, err := liveClient(ctx, tx, id)
		if err != nil {
			return nil, err
		}
		if len(c.Secrets) >= maxSecrets && overlap > 0 {
			return nil, conflict("two secrets of this client are live, the older one until %s: wait until then, or rotate with an overlap of 0, which ends both at once",
				soonest(c.Secrets).Time().Format(time.RFC3339))
		}
		created, ends := tx.now, tx.now.later(overlap)
		for _, old := range c.Secrets {
			created = max(created, old.CreatedAt+1) // so that the newest is the newest within a millisecond too
			if old.ExpiresAt != 0 && old.ExpiresAt <= ends {
				continue
			}
			if err := endSecret(ctx, tx, old.ID, ends); err != nil {
				return nil, err
			}
		}
		s, _, err = r.addSecret(ctx, tx, id, created)
		return &deed{"rotate", KindClient, id, "overlap " + overlap.String()}, err
	})
	if err != nil {
		return "", err
	}
	return s, nil
}

// soonest is the first moment at which one of the secrets ends.
func soonest(secrets []ClientSecret) (at Time) {
	for _, s := range secrets {
		if s.ExpiresAt != 0 && (at == 0 || s.ExpiresAt < at) {
			at = s.ExpiresAt
		}
	}
	return at
}

// addSecret makes a secret and stores its digest.
func (r *Registry) addSecret(ctx context.Context, tx *tx, clientID string, created Time) (secret.Secret, ClientSecret, error) {
	s, err := secret.New(r.options.Random)
	if err != nil {
		return "", ClientSecret{}, err
	}
	id, err := r.newID()
	if err != nil {
		return "", ClientSecret{}, err
	}
	kept := ClientSecret{ID: id, Kind: SHA256, Digest: secret.DigestOf([]byte(s.Reveal())), CreatedAt: created}
	return s, kept, insertSecret(ctx, tx, clientID, kept)
}

func insertSecret(ctx context.Context, x execer, clientID string, s ClientSecret) error {
	digest, imported := "", 0
	if s.Kind == SHA256 {
		digest = hex.EncodeToString(s.Digest[:])
	}
	if s.Imported {
		imported = 1
	}
	return set(ctx, x, `INSERT INTO client_secret (id, client_id, kind, digest, hash, imported, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		s.ID, clientID, string(s.Kind), digest, s.Hash.Reveal(), imported, s.CreatedAt)
}

func endSecret(ctx context.Context, x execer, id string, at Time) error {
	return set(ctx, x, `UPDATE client_secret SET expires_at = $1 WHERE id = $2`, at, id)
}

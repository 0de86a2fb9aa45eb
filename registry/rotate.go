package registry

import (
	"context"
	"fmt"
	"time"
)

// Rotation is how one signing key follows another.
type Rotation struct {
	Every   time.Duration // how long a key signs until the next one does; longer than Publish
	Publish time.Duration // how long the next one is published before it signs: at least as long as verifiers may cache
	Keep    time.Duration // how long a key verifies after it signed last: as long as a token can live, and what clocks differ
}

// due reports whether the successor of the newest of found, the keys that have none, is to
// be made at now.
func (o Rotation) due(found []Key, now Time) bool {
	return len(found) > 0 && found[0].SignsFrom <= now.later(o.Publish-o.Every)
}

// unfollowed are keys that no other one follows: one, or none when there is no key at all.
const unfollowed = `removed_at IS NULL AND verifies_until IS NULL`

// RotateDueKey makes the next signing key when it is due: so that it is published for
// o.Publish, and signs when the newest one has signed for o.Every. Of many callers, in many
// processes, one makes it; the others, and those that call too early, get rotated false. It
// makes no first key: EnsureKey does. generate is called outside of any transaction, and its
// key may be thrown away.
func (r *Registry) RotateDueKey(ctx context.Context, a Actor, o Rotation, generate func() (Key, error)) (stored Key, rotated bool, err error) {
	const doing = "rotate key by schedule"
	if o.Every <= o.Publish {
		return Key{}, false, invalid("key: it is published for less time than it signs")
	}
	if r.sealer.err != nil {
		return Key{}, false, fmt.Errorf("%s: %w", doing, r.sealer.err)
	}
	found, err := findKeys(ctx, r.engine.read, unfollowed)
	if err != nil || !o.due(found, r.now()) {
		return Key{}, false, r.fault(doing, err)
	}
	k, err := generate()
	if err != nil {
		return Key{}, false, fmt.Errorf("%s: %w", doing, err)
	}
	err = r.mutate(ctx, doing, a, func(tx *tx) (*deed, error) {
		// Once more: mutations take turns, so nobody else can make one now.
		found, err := findKeys(ctx, tx, unfollowed)
		if err != nil || !o.due(found, tx.now) {
			return nil, err
		}
		rotated = true
		stored, err = r.addKey(ctx, tx, k, o.Publish, o.Keep)
		return &deed{"rotate", KindKey, k.ID, k.Algorithm}, err
	})
	if err != nil || !rotated {
		return Key{}, false, err
	}
	return stored, true, nil
}

// lastExpiry is when the last of all tokens there are expires; 0 when there are none.
func lastExpiry(ctx context.Context, tx *tx) (last Time, err error) {
	err = tx.QueryRowContext(ctx, `SELECT COALESCE(max(expires_at), 0) FROM token`).Scan(&last)
	return last, err
}

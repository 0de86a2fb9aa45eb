package directory

import (
	"context"
	"fmt"
	"time"

	"postern/registry"
	"postern/token"
)

// keyring is one immutable state of the keys.
type keyring struct {
	set  *token.KeySet
	keys []registry.Key
	sign map[string]*token.SigningKey
}

func (d *Directory) loadKeys(ctx context.Context) error {
	keys, err := d.store.Keys(ctx)
	if err != nil {
		return err
	}
	ring := &keyring{keys: keys, sign: make(map[string]*token.SigningKey, len(keys))}
	public := make([]token.PublicKey, 0, len(keys))
	for _, k := range keys {
		signing, err := token.ParseSigningKey(token.Algorithm(k.Algorithm), []byte(k.Private.Reveal()))
		if err != nil {
			// One bad key must not take the good ones away; its tokens are refused.
			d.options.Log.Error("dropped a signing key that cannot be used", "kid", k.ID, "error", err)
			continue
		}
		ring.sign[k.ID] = signing
		verifying := signing.Public()
		verifying.NotAfter = int64(k.VerifiesUntil) / 1000
		public = append(public, verifying)
	}
	ring.set = token.NewKeySet(public...)
	// First the keys, then the generation: whoever reads the new generation sees the new keys.
	d.keys.Store(ring)
	d.generation.Add(1)
	return nil
}

// Keys returns the keys that verify, and their generation as it was before they were
// read. What was verified with them is good while Generation stays the same.
func (d *Directory) Keys() (*token.KeySet, uint64) {
	generation := d.generation.Load()
	return d.keys.Load().set, generation
}

// Generation counts changes of keys.
func (d *Directory) Generation() uint64 { return d.generation.Load() }

// SigningKey returns the key that signs at now: the newest whose time has come.
// registry.ErrUnavailable when there is none.
func (d *Directory) SigningKey(now time.Time) (*token.SigningKey, error) {
	ring, at := d.keys.Load(), registry.At(now)
	var best *registry.Key
	for i := range ring.keys {
		k := &ring.keys[i]
		if k.SignsFrom > at || ring.sign[k.ID] == nil {
			continue
		}
		if best == nil || k.SignsFrom > best.SignsFrom {
			best = k
		}
	}
	if best == nil {
		return nil, fmt.Errorf("no signing key: %w", registry.ErrUnavailable)
	}
	return ring.sign[best.ID], nil
}

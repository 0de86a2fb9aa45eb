package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"postern/registry"
	"postern/token"
)

// KeyCommand groups what can be done with signing keys.
type KeyCommand struct {
	List   KeyListCommand   `cmd:"" help:"List the signing keys, with what each does now."`
	Show   KeyShowCommand   `cmd:"" help:"Show one signing key with its public JWK."`
	Rotate KeyRotateCommand `cmd:"" help:"Make a new signing key; the old ones verify until what they signed has expired."`
	Remove KeyRemoveCommand `cmd:"" aliases:"revoke" help:"Remove a key at once, as after a compromise: all that it signed is refused."`
	Rewrap KeyRewrapCommand `cmd:"" help:"Change the master key that the signing keys are encrypted with; no signing key changes."`
}

const (
	keysHint   = "postern key list shows the signing keys there are"
	masterHint = "the master key comes from keys.master_key_file of the configuration (--config FILE), or from $POSTERN_KEYS_MASTER_KEY_FILE"
)

// KeyListCommand lists keys.
type KeyListCommand struct{ where }

// Help gives an example.
func (KeyListCommand) Help() string { return example("postern key list") }

// Run answers with a table, or an array.
func (c *KeyListCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		all, err := r.KeyHistory(ctx)
		if err != nil {
			return err
		}
		now := registry.At(e.Now())
		return list(e, c.JSON, all, row{"KID", "ALGORITHM", "STATE", "SIGNS FROM", "VERIFIES UNTIL", "CREATED"},
			func(k registry.Key) row {
				return row{k.ID, k.Algorithm, keyState(k, all, now), moment(k.SignsFrom), moment(k.VerifiesUntil), moment(k.CreatedAt)}
			})
	})
	if err != nil {
		return cannot("list keys", err, next{})
	}
	return nil
}

// KeyShowCommand shows one key.
type KeyShowCommand struct {
	where
	ID string `arg:"" help:"The key's id (kid)."`
}

// Help gives an example.
func (KeyShowCommand) Help() string { return example("postern key show " + exampleKey) }

// Run answers with the key.
func (c *KeyShowCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		k, err := r.Key(ctx, c.ID)
		if err != nil {
			return err
		}
		return e.key(ctx, c.JSON, r, k)
	})
	if err != nil {
		return cannot("show key "+c.ID, err, next{notFound: keysHint, other: masterHint})
	}
	return nil
}

// KeyRotateCommand makes a new signing key.
type KeyRotateCommand struct {
	where
	Algorithm string         `enum:",ES256,RS256,EdDSA" default:"" placeholder:"NAME" help:"ES256, RS256 or EdDSA; by default issuer.algorithm of the configuration."`
	Publish   *time.Duration `placeholder:"DURATION" help:"How long the new key is published before it signs, so that everyone who verifies knows it by then; by default keys.publish of the configuration."`
	Keep      *time.Duration `placeholder:"DURATION" help:"How long the old keys verify after that; by default, and at least, as long as a token can live (issuer.max_lifetime)."`
}

// Help gives an example.
func (KeyRotateCommand) Help() string {
	return example("postern key rotate", "postern key rotate --algorithm ES256 --publish 10m")
}

// Validate refuses a past.
func (c *KeyRotateCommand) Validate() error {
	if c.Publish != nil && *c.Publish < 0 {
		return errors.New("--publish: use a duration that is not negative, for example 10m")
	}
	return nil
}

// Run makes the key and answers with it.
func (c *KeyRotateCommand) Run(ctx context.Context, e *environment) error {
	err := func() (err error) {
		r, settings, err := c.open(ctx, e)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, r.Close()) }()
		longest, rotation := time.Duration(settings.Issuer.MaxLifetime), rotationOf(settings)
		keep, publish := rotation.Keep, rotation.Publish
		if c.Publish != nil {
			publish = *c.Publish
		}
		if c.Keep != nil {
			keep = *c.Keep
		}
		if keep < longest {
			return refuse("leave --keep out; to refuse what a key signed at once, see: postern key remove --help",
				"--keep %s is shorter than a token can live (issuer.max_lifetime, %s)", keep, longest)
		}
		if c.Algorithm == "" {
			c.Algorithm = settings.Issuer.Algorithm
		}
		made, err := newKey(token.Algorithm(c.Algorithm), e.Random)
		if err != nil {
			return err
		}
		k, err := r.RotateKey(ctx, e.actor(), made, publish, keep)
		if err != nil {
			return err
		}
		return e.key(ctx, c.JSON, r, k)
	}()
	if err != nil {
		return cannot("rotate keys", err, next{other: masterHint})
	}
	return nil
}

// KeyRemoveCommand removes a key.
type KeyRemoveCommand struct {
	where
	ID  string `arg:"" help:"The key's id (kid)."`
	Yes bool   `help:"Remove it although tokens that it signed are in use."`
}

// Help gives an example.
func (KeyRemoveCommand) Help() string { return example("postern key remove " + exampleKey + " --yes") }

// Run removes the key and answers with it. When nothing would sign any more it makes a
// replacement, which signs at once.
func (c *KeyRemoveCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		k, err := r.Key(ctx, c.ID)
		if err != nil {
			return err
		}
		if !c.Yes && k.RemovedAt == 0 && (k.VerifiesUntil == 0 || k.VerifiesUntil > registry.At(e.Now())) {
			return refuse("add --yes to do it now; postern key rotate retires keys without refusing anybody",
				"every access token that it signed would be refused at once")
		}
		err = r.RemoveKey(ctx, e.actor(), c.ID, nil)
		if errors.Is(err, registry.ErrConflict) {
			err = c.replace(ctx, e, r, k)
		}
		if err != nil {
			return err
		}
		if k, err = r.Key(ctx, c.ID); err != nil {
			return err
		}
		return e.key(ctx, c.JSON, r, k)
	})
	if err != nil {
		return cannot("remove key "+c.ID, err, next{notFound: keysHint, other: masterHint})
	}
	return nil
}

// replace removes k, the last key that signs, together with making another.
func (c *KeyRemoveCommand) replace(ctx context.Context, e *environment, r *registry.Registry, k registry.Key) error {
	made, err := newKey(token.Algorithm(k.Algorithm), e.Random)
	if err != nil {
		return err
	}
	if err := r.RemoveKey(ctx, e.actor(), c.ID, &made); err != nil {
		return err
	}
	e.note("made key %s in its place; it signs from now on", made.ID)
	return nil
}

// newKey makes a signing key as the registry takes it. Its id never begins with a hyphen,
// which one thumbprint in 64 does: it would read as a flag on every command line.
func newKey(a token.Algorithm, random io.Reader) (registry.Key, error) {
	for {
		signing, err := token.GenerateSigningKey(a, random)
		if err != nil {
			return registry.Key{}, err
		}
		if strings.HasPrefix(signing.ID(), "-") {
			continue
		}
		private, err := signing.MarshalPKCS8()
		if err != nil {
			return registry.Key{}, err
		}
		return registry.Key{ID: signing.ID(), Algorithm: string(a), Private: private}, nil
	}
}

// key answers with k, and with its public JWK while it still verifies.
func (e *environment) key(ctx context.Context, asJSON bool, r *registry.Registry, k registry.Key) error {
	now := registry.At(e.Now())
	var public json.RawMessage
	if k.RemovedAt == 0 && (k.VerifiesUntil == 0 || now < k.VerifiesUntil) {
		var err error
		if public, err = publicJWK(ctx, r, k.ID); err != nil {
			return err
		}
	}
	if asJSON {
		return e.json(struct {
			registry.Key
			JWK json.RawMessage `json:"jwk"`
		}{k, public})
	}
	all, err := r.KeyHistory(ctx)
	if err != nil {
		return err
	}
	return e.table(nil, []row{
		{"kid", k.ID},
		{"algorithm", k.Algorithm},
		{"state", keyState(k, all, now)},
		{"created", moment(k.CreatedAt)},
		{"signs from", moment(k.SignsFrom)},
		{"verifies until", moment(k.VerifiesUntil)},
		{"removed", moment(k.RemovedAt)},
		{"public jwk", string(public)},
	})
}

// publicJWK is the public half of a key that still verifies, as the issuer publishes it
// (RFC 7517). It is made of the private part, which is gone after that.
func publicJWK(ctx context.Context, r *registry.Registry, id string) (json.RawMessage, error) {
	keys, err := r.Keys(ctx)
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if k.ID != id {
			continue
		}
		signing, err := token.ParseSigningKey(token.Algorithm(k.Algorithm), []byte(k.Private.Reveal()))
		if err != nil {
			return nil, fmt.Errorf("use key %s: %w", id, err)
		}
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		if err := json.Unmarshal(token.NewKeySet(signing.Public()).Document(), &set); err != nil || len(set.Keys) != 1 {
			return nil, fmt.Errorf("write the JWK of key %s: %w", id, errors.Join(err, errors.New("not one key")))
		}
		return set.Keys[0], nil
	}
	return nil, errors.New("its private part cannot be unwrapped")
}

// keyState says what k does at now, among all keys: the one that signs is the newest
// whose time has come.
func keyState(k registry.Key, all []registry.Key, now registry.Time) string {
	switch {
	case k.RemovedAt != 0:
		return "removed"
	case k.VerifiesUntil != 0 && k.VerifiesUntil <= now:
		return "expired"
	case k.SignsFrom > now:
		return "published"
	}
	for _, other := range all {
		if other.RemovedAt == 0 && other.SignsFrom <= now && other.SignsFrom > k.SignsFrom {
			return "verifies"
		}
	}
	return "signs"
}

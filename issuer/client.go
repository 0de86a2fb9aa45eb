package issuer

import (
	"context"
	"errors"
	"fmt"

	"postern/directory"
	"postern/registry"
	"postern/secret"
)

// errInvalidClient says that the credentials are nobody's. What exactly is wrong with
// them is not told to anyone.
var errInvalidClient = errors.New("client authentication failed")

// secretSlots is how many live secrets a client can have: so many digests are compared
// at every look, whether they are there or not.
const secretSlots = 2

// authenticate finds the client that c speaks for, and the id of the secret that proves
// it. It fails with errInvalidClient, or with the store's error when that could not be
// asked. An unknown identifier costs what a wrong secret costs: one read of the store and
// the same comparisons.
func (i *Issuer) authenticate(ctx context.Context, c credentials, now registry.Time) (*directory.Client, string, error) {
	text := []byte(c.clientSecret.Reveal())
	if !secret.WellFormed(text) || !canonicalUUID(c.clientID) {
		return nil, "", errInvalidClient // nobody has these: no need to look
	}
	digest := secret.DigestOf(text)
	client, err := i.directory.Client(ctx, c.clientID)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return nil, "", fmt.Errorf("read client: %w", err)
	}
	secretID, ok := i.match(client, digest, now)
	if !ok && client != nil {
		// What is held may be older than the secret: one that was made a moment ago, on
		// another replica, is good at once. An unknown client needs no second look: it is
		// never held, so the store has just been asked.
		client, err = i.directory.Reread(ctx, c.clientID)
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return nil, "", fmt.Errorf("read client again: %w", err)
		}
	}
	if !ok {
		secretID, ok = i.match(client, digest, now)
	}
	if !ok || client.Refused() {
		return nil, "", errInvalidClient
	}
	return client, secretID, nil
}

// match finds the live secret of client that has digest. It takes no shortcut: a nil
// client is compared as often as one with all its secrets, and a hit as often as a miss.
func (i *Issuer) match(client *directory.Client, digest secret.Digest, now registry.Time) (secretID string, ok bool) {
	var secrets []registry.ClientSecret
	if client != nil {
		secrets = client.Secrets
	}
	n := max(secretSlots, len(secrets))
	for slot := range n {
		candidate := registry.ClientSecret{ExpiresAt: -1} // matches nothing: it expired before all time
		if slot < len(secrets) {
			candidate = secrets[slot]
		}
		if equal := candidate.Digest.Equal(digest); equal && candidate.Live(now) {
			secretID, ok = candidate.ID, true
		}
	}
	i.compared.Add(int64(n))
	return secretID, ok
}

// canonicalUUID reports whether id is written as every client identifier is: a UUID in
// lower case. Exact bytes only: no other spelling is the same client.
func canonicalUUID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for n, c := range []byte(id) {
		if n == 8 || n == 13 || n == 18 || n == 23 {
			if c != '-' {
				return false
			}
		} else if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}

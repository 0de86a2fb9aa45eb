package issuer

import (
	"fmt"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/registry"
)

// Scope is the scope of a token that client asks for with these scopes, "" for all that are
// licensed by name. !ok: malformed or refused.
func Scope(client *directory.Client, asked string) (scope string, ok bool) {
	return new(grant).scopeFor(client, asked)
}

// Prepare decides about an access token for client at now as the token route does, and
// signs it, for an operator who issues one by hand. longest bounds its lifetime further;
// 0 does not. It stores nothing: the token must not be handed out before the record is
// durable. With another reason than answer.OK the client would be refused; err is about
// the signing key or the randomness.
func (i *Issuer) Prepare(client *directory.Client, scope string, longest time.Duration, now time.Time) (registry.Token, string, answer.Reason, error) {
	if client.Refused() {
		return registry.Token{}, "", answer.InvalidClient, nil
	}
	granted, reason := i.decide(client, scope, registry.At(now))
	if reason != answer.OK {
		return registry.Token{}, "", reason, nil
	}
	if longest > 0 {
		granted.expires = min(granted.expires, granted.issued+registry.Time(longest.Milliseconds()))
	}
	key, err := i.directory.SigningKey(now)
	if err != nil {
		return registry.Token{}, "", answer.Unavailable, err
	}
	id, err := registry.NewID(granted.issued.Time(), i.options.Random) // its time is issued_at
	if err != nil {
		return registry.Token{}, "", answer.Unavailable, err
	}
	record := newRecord(id, client, granted, key.ID())
	jws, err := key.Sign(i.claims(id, record))
	if err != nil {
		return registry.Token{}, "", answer.Internal, fmt.Errorf("sign an access token: %w", err)
	}
	return record, jws, answer.OK, nil
}

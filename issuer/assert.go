package issuer

import (
	"fmt"
	"io"
	"time"

	"postern/directory"
	"postern/registry"
	"postern/token"
)

// Keyring has the keys that sign. *directory.Directory is one.
type Keyring interface {
	// SigningKey returns the key that signs at now, or registry.ErrUnavailable.
	SigningKey(now time.Time) (*token.SigningKey, error)
	// Keys returns the keys that verify, and their generation as it was before they were read.
	Keys() (*token.KeySet, uint64)
}

// Asserter signs what postern knows about the client of a request, for an upstream that
// must not rest on who could reach it. What it makes is no access token: typ tells.
type Asserter struct {
	keys     Keyring
	issuer   string
	lifetime time.Duration
	random   io.Reader
}

// NewAsserter makes an asserter. Its assertions have issuer as their iss and live for
// lifetime, a minute at least, or as long as the access token where that is shorter.
// random is for their ids; concurrent use of it must be safe.
func NewAsserter(keys Keyring, issuer string, lifetime time.Duration, random io.Reader) *Asserter {
	return &Asserter{keys: keys, issuer: issuer, lifetime: lifetime, random: random}
}

// Assert returns an assertion about who for audience: one that was made for the same
// token before, until half of its life is over or the keys change. That allocates nothing
// and takes no lock. Many requests have one assertion, and so one jti. Its error is our
// own fault, never the client's: registry.ErrUnavailable where no key signs. Safe for
// concurrent use.
func (a *Asserter) Assert(who directory.Principal, audience string, now time.Time) (string, error) {
	// Before the key that signs: an assertion by a key that went meanwhile is not found again.
	verifying, generation := a.keys.Keys()
	if who.Memo != nil {
		if jws, ok := who.Memo.Find(audience, generation, now.Unix()); ok {
			return jws, nil
		}
		return a.renew(who, audience, verifying, generation, now)
	}
	made, err := a.sign(who, audience, verifying, now)
	return made.JWS, err
}

// renew is Assert where something must be signed; apart, so that a hit allocates nothing.
func (a *Asserter) renew(who directory.Principal, audience string, verifying *token.KeySet, generation uint64, now time.Time) (string, error) {
	return who.Memo.Renew(audience, generation, now.Unix(), func() (directory.Assertion, error) {
		made, err := a.sign(who, audience, verifying, now)
		made.Generation = generation
		return made, err
	})
}

func (a *Asserter) sign(who directory.Principal, audience string, verifying *token.KeySet, now time.Time) (directory.Assertion, error) {
	key, err := a.keys.SigningKey(now)
	if err != nil {
		return directory.Assertion{}, fmt.Errorf("sign an assertion: %w", err)
	}
	id, err := registry.NewID(now, a.random)
	if err != nil {
		return directory.Assertion{}, fmt.Errorf("sign an assertion: %w", err)
	}
	issued := now.Unix()
	until := min(issued+int64(a.lifetime/time.Second), who.Expires)
	if public, ok := verifying.Lookup(key.ID()); ok && public.NotAfter != 0 {
		until = min(until, public.NotAfter) // its successor is published already
	}
	renew := issued + (until-issued)/2
	if until == who.Expires {
		renew = until // another one could not live longer
	}
	jws, err := key.Assert(token.Assertion{
		ID: id, Token: who.Token, Organization: who.Client.OrganizationID, Client: who.Client.ID,
		Environment: who.Client.Environment, Agreement: who.Client.AgreementID,
		Issuer: a.issuer, Audience: audience, Scope: who.Scope, IssuedAt: issued, Expires: until,
	})
	if err != nil {
		return directory.Assertion{}, fmt.Errorf("sign an assertion: %w", err)
	}
	return directory.Assertion{Audience: audience, JWS: jws, From: issued, Renew: renew, Until: until}, nil
}

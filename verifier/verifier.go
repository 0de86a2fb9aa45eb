// Package verifier says whom a raw Bearer token speaks for.
//
// A token that was verified lately is answered from a cache, and a hit is proved each
// time: the whole digest is equal, the keys are the same, it has not expired, it is not
// revoked and the client's live state still accepts it. What this package must never do:
// rest a refusal on a dropped cache entry, keep a token, cache anything bad, or take our
// own fault for the caller's. Start reading at Verify.
package verifier

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/singleflight"

	"postern/directory"
	"postern/registry"
	"postern/token"
)

const (
	// lookupPatience bounds the read of a client that is not in memory.
	lookupPatience = 2 * time.Second

	// maxKeysAge is how old the known keys may be for a key that is not among them to be
	// the caller's fault. The feed is read ten times a second.
	maxKeysAge = 5 * time.Second

	// maxAttempts bounds how often one call starts over because the keys changed under it.
	maxAttempts = 3
)

var (
	errStale = fmt.Errorf("the change feed was not read for too long: %w", registry.ErrUnavailable)
	errKeys  = fmt.Errorf("the keys known here may be out of date: %w", registry.ErrUnavailable)
)

// Directory is the live read side of the registry. All but Client answer from memory,
// without a lock that a writer could hold.
type Directory interface {
	// Keys returns the keys that verify, and their generation as it was before they were read.
	Keys() (*token.KeySet, uint64)
	// Generation changes whenever the keys do.
	Generation() uint64
	// Client returns a client's live state: registry.ErrNotFound when there is none,
	// registry.ErrUnavailable when the store had to be asked and did not answer.
	Client(ctx context.Context, id string) (*directory.Client, error)
	// Revoked reports whether the token's record is revoked.
	Revoked(id uuid.UUID) bool
	// Fresh reports whether what is known may still be trusted at now.
	Fresh(now time.Time) bool
	// Age is the time from the last look at the change feed to now.
	Age(now time.Time) time.Duration
}

// Options of a Verifier.
type Options struct {
	Issuer     string           // iss of our tokens, exactly
	Audience   string           // aud that our tokens must list
	Leeway     time.Duration    // for iat and nbf; never for exp
	CacheBytes int64            // memory for cached verifications, at least MinCacheBytes; 0: 32 MiB
	Now        func() time.Time // read again after waiting for the store; nil: the time given to Verify stands
}

// Verifier is safe for concurrent use. Close it after the last Verify has returned.
type Verifier struct {
	directory Directory
	expect    token.Expect
	now       func() time.Time
	hash      func(sum [sha256.Size]byte) uint64 // a test makes all tokens collide
	cache     *ristretto.Cache[uint64, *entry]
	scopes    scopes
	flights   singleflight.Group
	metrics   *metrics

	assertions atomic.Int64 // that are expected about each token
}

// New makes a Verifier with an empty cache.
func New(d Directory, o Options) (*Verifier, error) {
	if o.Issuer == "" || o.Audience == "" {
		return nil, errors.New("make verifier: issuer and audience are required")
	}
	cache, err := newCache(o.CacheBytes)
	if err != nil {
		return nil, fmt.Errorf("make verifier: %w", err)
	}
	return &Verifier{
		directory: d,
		expect:    token.Expect{Issuer: o.Issuer, Audience: o.Audience, Leeway: o.Leeway},
		now:       o.Now,
		hash:      func(sum [sha256.Size]byte) uint64 { return binary.LittleEndian.Uint64(sum[:8]) },
		cache:     cache,
		metrics:   newMetrics(func() float64 { return float64(cache.MaxCost() - cache.RemainingCost()) }),
	}, nil
}

// Close frees the cache and waits for its goroutines.
func (v *Verifier) Close() { v.cache.Close() }

// Collectors are the metrics of v, for main to register.
func (v *Verifier) Collectors() []prometheus.Collector { return v.metrics.collectors() }

// ExpectAssertions says how many assertions, each for another audience, are made about a
// token that is in use. From now on each entry of the cache is counted with as many. Safe
// to call at any time.
func (v *Verifier) ExpectAssertions(n int) { v.assertions.Store(int64(n)) }

// Verify reports whom raw speaks for at now. Its error is a token.Invalid, which is the
// caller's fault, or wraps registry.ErrUnavailable, which is ours. It does not keep raw.
// A hit takes no lock that a writer of the registry can hold, and allocates nothing.
func (v *Verifier) Verify(raw []byte, now time.Time) (directory.Principal, error) {
	p, err := v.verify(raw, now)
	v.metrics.count(err)
	return p, err
}

// Whose returns the client that a token of ours was issued to, whether or not it is still
// good; "" of any other. It checks a signature each time.
func (v *Verifier) Whose(raw []byte) string {
	keys, _ := v.directory.Keys()
	c, ok := token.Signed(raw, keys)
	if !ok || c.Issuer != v.expect.Issuer {
		return ""
	}
	return c.Client
}

// Presume reports what Verify would of a token of client that is good but for what is
// known about the client: for who explains without a token.
func (v *Verifier) Presume(client *directory.Client, record uuid.UUID, scope string, now time.Time) (directory.Principal, error) {
	if !v.directory.Fresh(now) {
		return directory.Principal{}, errStale
	}
	return v.judge(&entry{token: record, expires: now.Unix() + 1, scope: &scope, client: client})
}

func (v *Verifier) verify(raw []byte, now time.Time) (directory.Principal, error) {
	if !v.directory.Fresh(now) {
		return directory.Principal{}, errStale
	}
	if len(raw) > token.MaxSize {
		return directory.Principal{}, token.Malformed
	}
	sum := sha256.Sum256(raw)
	e, ok := v.cache.Get(v.hash(sum))
	if ok && e.sum == sum && v.proved(e, now) {
		v.metrics.hits.Inc()
	} else {
		v.metrics.misses.Inc()
		e = nil
	}
	// The last thing that happens is always to judge by what is true now: nothing that
	// changes while this call waits for something else is missed.
	reread := false
	for range maxAttempts {
		var err error
		switch {
		case e == nil || !v.proved(e, now):
			e, err = v.authenticate(raw, sum, now)
		case e.client.Dead() && !reread:
			reread = true
			e, err = v.renew(e, now)
		default:
			return v.judge(e)
		}
		if err != nil {
			return directory.Principal{}, err
		}
		now = v.later(now)
	}
	return directory.Principal{}, errKeys
}

// proved reports whether the verification behind e, for the same token, still holds.
func (v *Verifier) proved(e *entry, now time.Time) bool {
	return e.generation == v.directory.Generation() && now.Unix() < e.expires
}

// judge decides by the live state whether a token that is proved may be used.
func (v *Verifier) judge(e *entry) (directory.Principal, error) {
	if v.directory.Revoked(e.token) {
		return directory.Principal{}, token.Revoked
	}
	if e.client.Refused() {
		return directory.Principal{}, token.ClientRefused
	}
	if !e.client.Accepts(issuedAt(e.token)) {
		return directory.Principal{}, token.Revoked
	}
	return directory.Principal{Client: e.client, Token: e.token, Scope: *e.scope, Expires: e.expires, Memo: &e.memo}, nil
}

// authenticate verifies raw in full, once for all who bring the same token now.
func (v *Verifier) authenticate(raw []byte, sum [sha256.Size]byte, now time.Time) (*entry, error) {
	made, err, shared := v.flights.Do(string(sum[:]), func() (any, error) {
		return v.check(raw, sum, now)
	})
	if shared && err == error(token.UnknownKey) {
		// The one who looked may have looked before the key was known here. To look again costs no signature.
		return v.check(raw, sum, now)
	}
	if err != nil {
		return nil, err
	}
	return made.(*entry), nil
}

// check is what authenticate does once.
func (v *Verifier) check(raw []byte, sum [sha256.Size]byte, now time.Time) (*entry, error) {
	keys, generation := v.directory.Keys()
	c, key, err := token.VerifyKey(raw, keys, v.expect, now)
	if err == error(token.UnknownKey) && (keys.Len() == 0 || v.directory.Age(now) > maxKeysAge) {
		return nil, errKeys
	}
	if err != nil {
		return nil, err
	}
	// The record's issued_at, to the millisecond, is in the id alone: iat is coarser, and a
	// refreshed token's is later. Our issuer makes no other version.
	if c.ID.Version() != 7 {
		return nil, token.Malformed
	}
	client, err := v.client(c.Client, c.Organization)
	if err != nil {
		return nil, err
	}
	e := &entry{
		sum:        sum,
		token:      c.ID,
		expires:    c.Expires,
		generation: generation,
		scope:      v.scopes.share(c.Scope),
		client:     client,
	}
	if key.NotAfter != 0 {
		e.expires = min(e.expires, key.NotAfter+1)
	}
	v.keep(e, now)
	return e, nil
}

// renew replaces an entry whose client's state was replaced. The signature was checked;
// only the client must be read.
func (v *Verifier) renew(e *entry, now time.Time) (*entry, error) {
	client, err := v.client(e.client.ID, e.client.OrganizationID)
	if err != nil {
		return nil, err
	}
	// With a memo of its own: what was asserted was about the state before.
	renewed := &entry{sum: e.sum, token: e.token, expires: e.expires, generation: e.generation, scope: e.scope, client: client}
	v.keep(renewed, now)
	return renewed, nil
}

// client reads the live state of the client that a token names.
func (v *Verifier) client(id, organization string) (*directory.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupPatience)
	defer cancel()
	c, err := v.directory.Client(ctx, id)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return nil, token.ClientRefused
	case errors.Is(err, registry.ErrUnavailable):
		return nil, fmt.Errorf("look up the client of a token: %w", err)
	case err != nil:
		return nil, fmt.Errorf("look up the client of a token: %w: %w", registry.ErrUnavailable, err)
	case c.OrganizationID != organization:
		return nil, token.ClientRefused
	}
	return c, nil
}

// later is the time after a wait. It never goes back.
func (v *Verifier) later(now time.Time) time.Time {
	if v.now == nil {
		return now
	}
	if t := v.now(); t.After(now) {
		return t
	}
	return now
}

// issuedAt is the time in a UUIDv7 (RFC 9562 §5.7).
func issuedAt(id uuid.UUID) registry.Time {
	return registry.Time(binary.BigEndian.Uint64(id[:8]) >> 16)
}

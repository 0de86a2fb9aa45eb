package verifier

import (
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/dgraph-io/ristretto/v2"
	"github.com/google/uuid"

	"postern/directory"
)

const (
	defaultCacheBytes = 32 << 20

	// MinCacheBytes is the least that Options.CacheBytes can be. Below it ristretto's fixed
	// parts, a third of a megabyte, are most of the memory.
	MinCacheBytes = 64 << 10

	// entryCost is what one entry takes beside its scope, in bytes: 96 for itself and the
	// rest for ristretto's three maps (value, cost, expiry). TestEntryCost measures it. The
	// scope is counted too, though tokens with equal scopes share it: it can be 12 KiB long.
	entryCost = 231

	// assertionCost is what one assertion takes beside its scope, in bytes, with identifiers
	// of the usual length: TestAssertionCost measures it.
	assertionCost = 960

	// maxTTL, in seconds, only keeps sums small: after it a token is verified again.
	maxTTL = 24 * 60 * 60

	// counterCost is what one of ristretto's frequency counters takes: half a byte in each
	// of four rows, and two bytes of Bloom filter.
	counterCost = 4
)

// entry is the proof that a token was verified. It is never changed, but for what the memo
// remembers. The token is not kept.
type entry struct {
	sum        [sha256.Size]byte // of the whole token; the cache's own key is 64 bits of it
	token      uuid.UUID
	expires    int64             // seconds: the token's exp, or the end of its key when that is sooner
	generation uint64            // of the keys, read before the signature was checked
	scope      *string           // shared by tokens that have the same
	client     *directory.Client // live state, and the one to whose organization the token was issued
	memo       directory.Memo    // of what was signed about it while this entry was good
}

// newCache makes a cache that takes size bytes when it is full.
func newCache(size int64) (*ristretto.Cache[uint64, *entry], error) {
	if size == 0 {
		size = defaultCacheBytes
	}
	if size < MinCacheBytes {
		return nil, fmt.Errorf("the cache has %d bytes, less than %d", size, MinCacheBytes)
	}
	// Ristretto rounds the counters up to a power of two; 2 to 4 of them per entry are
	// enough to tell tokens in use from tokens seen once.
	counters := int64(1)
	for counters*2 <= 4*size/entryCost {
		counters *= 2
	}
	return ristretto.NewCache(&ristretto.Config[uint64, *entry]{
		NumCounters:        counters,
		MaxCost:            size - counters*counterCost,
		BufferItems:        64,
		IgnoreInternalCost: true, // entryCost has it
	})
}

// keep puts e into the cache, if the token may be used now: nothing bad is cached. The
// cache may drop it.
func (v *Verifier) keep(e *entry, now time.Time) {
	if _, err := v.judge(e); err != nil || !v.proved(e, now) {
		return
	}
	// Being proved it has not expired, so the ttl is not 0, which would mean for ever.
	ttl := time.Duration(min(e.expires-now.Unix(), maxTTL)) * time.Second
	v.cache.SetWithTTL(v.hash(e.sum), e, v.cost(e), ttl)
}

// cost is what e takes, with the assertions that will be made about it.
func (v *Verifier) cost(e *entry) int64 {
	scope := int64(len(*e.scope))
	return entryCost + scope + v.assertions.Load()*(assertionCost+scope*4/3)
}

// scopes shares the text of scopes between entries: there are many tokens and few
// different scopes. Safe for concurrent use.
type scopes struct {
	mu    sync.Mutex
	known map[string]*string
}

const (
	maxScopes      = 1024
	maxSharedScope = 256 // bytes; longer ones are not shared
)

func (s *scopes) share(scope string) *string {
	if len(scope) > maxSharedScope {
		return &scope
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared, ok := s.known[scope]; ok {
		return shared
	}
	if s.known == nil || len(s.known) >= maxScopes {
		s.known = make(map[string]*string) // what entries share goes on being shared by them
	}
	s.known[scope] = &scope
	return &scope
}

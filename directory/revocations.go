package directory

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"postern/registry"
)

// revocations is a set that readers search without a lock: each shard is an immutable
// map that a writer replaces. A writer copies 1/256 of the set.
type revocations struct {
	shards [256]atomic.Pointer[map[uuid.UUID]registry.Time]

	mu     sync.Mutex // writers
	pruned registry.Time
	count  atomic.Int64
}

// shardOf uses the last byte: in a UUIDv7 the first ones are time.
func shardOf(id uuid.UUID) int { return int(id[15]) }

func (r *revocations) has(id uuid.UUID) bool {
	shard := r.shards[shardOf(id)].Load()
	if shard == nil {
		return false
	}
	_, ok := (*shard)[id]
	return ok
}

func (r *revocations) add(rev registry.Revocation) error {
	id, err := uuid.Parse(rev.TokenID)
	if err != nil {
		return fmt.Errorf("revocation of token %q: %w", rev.TokenID, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	slot := &r.shards[shardOf(id)]
	next := make(map[uuid.UUID]registry.Time, 1)
	if old := slot.Load(); old != nil {
		if until, ok := (*old)[id]; ok && until >= rev.Until {
			return nil
		}
		next = maps.Clone(*old)
	}
	if _, ok := next[id]; !ok {
		r.count.Add(1)
	}
	next[id] = rev.Until
	slot.Store(&next)
	return nil
}

// prune forgets what no token can need any more. It looks once a minute.
func (r *revocations) prune(now registry.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now-r.pruned < 60_000 {
		return
	}
	r.pruned = now
	for i := range r.shards {
		old := r.shards[i].Load()
		if old == nil {
			continue
		}
		next := maps.Clone(*old)
		maps.DeleteFunc(next, func(_ uuid.UUID, until registry.Time) bool { return until < now })
		if len(next) != len(*old) {
			r.count.Add(int64(len(next) - len(*old)))
			r.shards[i].Store(&next)
		}
	}
}

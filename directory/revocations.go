package directory

import (
	"errors"
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

// add takes all in at once, so that each shard is copied once. What names no token is
// left out and told of in the error: no token could have that id.
func (r *revocations) add(all ...registry.Revocation) error {
	if len(all) == 0 {
		return nil
	}
	var bad error
	ids := make([]uuid.UUID, len(all))
	var byShard [256][]int
	for i, rev := range all {
		id, err := uuid.Parse(rev.TokenID)
		if err != nil {
			bad = errors.Join(bad, fmt.Errorf("revocation of token %q: %w", rev.TokenID, err))
			continue
		}
		ids[i] = id
		byShard[shardOf(id)] = append(byShard[shardOf(id)], i)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for shard, members := range byShard {
		if len(members) == 0 {
			continue
		}
		old := r.shards[shard].Load()
		next := make(map[uuid.UUID]registry.Time, len(members))
		if old != nil {
			next = maps.Clone(*old)
		}
		before := len(next)
		for _, i := range members {
			next[ids[i]] = max(next[ids[i]], all[i].Until)
		}
		r.count.Add(int64(len(next) - before))
		r.shards[shard].Store(&next)
	}
	return bad
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

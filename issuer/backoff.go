package issuer

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	backoffEntries  = 65_536
	backoffFailures = 10          // that are answered at once, within …
	backoffWindow   = time.Minute // … this long; also how long a pair must be quiet to be forgotten
	backoffFirst    = time.Second // the first delay; each further one is twice as long
	backoffLongest  = time.Minute
)

// backoff counts failed client authentications for each pair of client identifier and
// source address. It never decides about a correct secret: the secret is always
// checked first, and what stands here only changes how a wrong one is answered.
//
// It is bounded, in memory and one replica's own: 256 random bits cannot be guessed, so
// this protects the others' share of the machine and not the secret.
type backoff struct {
	key     [sha256.Size]byte // pairs are kept as digests under a random key: long identifiers cost nothing, chosen ones cannot collide
	started time.Time         // all times here are counted from it, on the monotonic clock where Now gives one

	mu    sync.Mutex // guards pairs, for map work only
	pairs *simplelru.LRU[pair, failures]
	held  atomic.Int64 // number of pairs, readable without mu
}

// pair is the digest of one client identifier at one source address.
type pair [16]byte

// failures is what is known of one pair.
type failures struct {
	count int           // in the window
	since time.Duration // when the window began
	delay time.Duration // 0: not in back-off yet
	until time.Duration // wrong secrets are answered with 429 until then
}

func newBackoff(random io.Reader, now time.Time) *backoff {
	b := &backoff{started: now}
	if _, err := io.ReadFull(random, b.key[:]); err != nil {
		panic(fmt.Sprintf("BUG: issuer: read randomness: %v", err))
	}
	pairs, err := simplelru.NewLRU[pair, failures](backoffEntries, nil)
	if err != nil {
		panic(fmt.Sprintf("BUG: issuer: size the back-off: %v", err))
	}
	b.pairs = pairs
	return b
}

func (b *backoff) pairOf(clientID string, source net.IP) pair {
	h := sha256.New()
	h.Write(b.key[:])
	h.Write(source.To16()) // of fixed length, so that the two parts cannot run into each other
	io.WriteString(h, clientID)
	var sum [sha256.Size]byte
	return pair(h.Sum(sum[:0]))
}

// failed counts one failure. It returns 0, or how long the pair has to wait when it
// failed too often.
func (b *backoff) failed(clientID string, source net.IP, now time.Time) time.Duration {
	key, at := b.pairOf(clientID, source), now.Sub(b.started)
	b.mu.Lock()
	defer b.mu.Unlock()
	f, ok := b.pairs.Get(key)
	if ok && f.delay > 0 && f.until-f.delay <= at && at < f.until {
		return f.until - at
	}
	quietSince := f.since
	if f.delay > 0 {
		quietSince = f.until
	}
	// A new pair, one that was quiet for a whole window, or a clock that went back: start over.
	if !ok || at < f.since || at-quietSince > backoffWindow {
		f = failures{since: at}
	}
	f.count++
	if f.count >= backoffFailures {
		f.delay = min(max(backoffFirst, 2*f.delay), backoffLongest)
		f.until = at + f.delay
	}
	b.pairs.Add(key, f)
	b.held.Store(int64(b.pairs.Len()))
	return 0
}

// passed forgets the pair's failures. It costs nothing while nobody fails.
func (b *backoff) passed(clientID string, source net.IP) {
	if b.held.Load() == 0 {
		return
	}
	key := b.pairOf(clientID, source)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pairs.Remove(key) {
		b.held.Store(int64(b.pairs.Len()))
	}
}

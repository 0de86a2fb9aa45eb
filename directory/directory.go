// Package directory is the live read side of the registry: a bounded cache of
// clients, all catalogs, the revocations, the keys, and the change feed that keeps them true.
//
// What it must never do: make a warm request wait for the store. Readers on the hot
// path touch atomics only (Keys, Revoked, Catalog, Fresh, and the Client that they hold); the
// mutex here guards look-ups of clients that are not held yet. Start reading at Open,
// then follow.
package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/golang-lru/v2/simplelru"

	"postern/registry"
	"postern/token"
)

// Store is what the directory reads. Each method may block until ctx ends and fails
// with registry.ErrUnavailable when the store cannot answer.
type Store interface {
	// Grant returns the client whatever its state, or registry.ErrNotFound.
	Grant(ctx context.Context, clientID string) (registry.Grant, error)
	// Keys returns all keys that are not removed and still verify at now.
	Keys(ctx context.Context) ([]registry.Key, error)
	// Revocations returns the revocations that still matter.
	Revocations(ctx context.Context) ([]registry.Revocation, error)
	// Revocation returns that of one token, or registry.ErrNotFound when it is not revoked.
	Revocation(ctx context.Context, tokenID string) (registry.Revocation, error)
	// EachCatalog calls use with each catalog that is not removed.
	EachCatalog(ctx context.Context, use func(registry.Catalog)) error
	// Catalog returns the catalog, a removed one too, or registry.ErrNotFound.
	Catalog(ctx context.Context, id string) (registry.Catalog, error)
}

// Feed hands out changes in the order of their commits. One goroutine uses it.
type Feed interface {
	// Poll returns what changed since the last call. reset means that the answer is
	// not complete (first call, other epoch, pruned gap): reload everything.
	Poll(ctx context.Context) (changes []registry.Change, reset bool, err error)
	// News returns a channel that gets a value when the next Poll may find something, nil
	// where the store does not tell, and how long to wait before polling all the same. Both
	// may be others at the next call.
	News() (<-chan struct{}, time.Duration)
}

// Options of a directory. Zero values get the defaults named here.
type Options struct {
	Clients      int           // clients held at once; 100,000
	MaxStaleness time.Duration // Fresh is false when the feed was not read for so long; 5 m
	ServeStale   bool          // Fresh is always true once loaded (on_stale: serve)
	Poll         time.Duration // between looks at the feed without news; what the feed says
	Late         bool          // Open succeeds though the store cannot be read yet; see Loaded
	Now          func() time.Time
	Log          *slog.Logger
}

// Directory is safe for concurrent use. Close it to stop its goroutine.
type Directory struct {
	store   Store
	feed    Feed
	options Options

	keys        atomic.Pointer[keyring]
	metrics     *metrics
	generation  atomic.Uint64 // of keys; a cached verification is good for one generation
	revocations revocations
	catalogs    atomic.Pointer[catalogMap]
	readAt      atomic.Pointer[time.Time] // of the last complete look at the feed; nil: never

	polling sync.Mutex // held while the feed is read and applied; never by readers
	reload  bool       // under polling: what was read last is not in effect

	mu      sync.Mutex // held for map work only, never across I/O
	clients *simplelru.LRU[string, *Client]
	applied uint64 // counts resets and changes that can alter a client, so that a load can see that one overtook it

	stop context.CancelFunc
	done chan struct{}
}

// lookPatience bounds one look at the feed: longer than the store's own patience with a
// lock, so that its error is the one that is told.
const lookPatience = 10 * time.Second

// Open loads keys, revocations and catalogs and follows the feed until Close. It fails when the
// store cannot be read; with o.Late only when the reason is another one than
// registry.ErrUnavailable.
func Open(ctx context.Context, store Store, feed Feed, o Options) (*Directory, error) {
	if o.Clients == 0 {
		o.Clients = 100_000
	}
	if o.MaxStaleness == 0 {
		o.MaxStaleness = 5 * time.Minute
	}
	d := &Directory{store: store, feed: feed, options: o, metrics: newMetrics(), done: make(chan struct{})}
	d.keys.Store(&keyring{set: token.NewKeySet()})
	d.catalogs.Store(&catalogMap{})
	clients, err := simplelru.NewLRU(o.Clients, func(_ string, c *Client) { c.dead.Store(true) })
	if err != nil {
		return nil, fmt.Errorf("size the client cache: %w", err)
	}
	d.clients = clients
	look, cancel := context.WithTimeout(ctx, lookPatience)
	defer cancel()
	if err := d.CatchUp(look); err != nil && !(o.Late && errors.Is(err, registry.ErrUnavailable)) {
		return nil, fmt.Errorf("load the directory: %w", err)
	}
	following, stop := context.WithCancel(context.Background())
	d.stop = stop
	go d.follow(following)
	return d, nil
}

// Close stops following and waits until that is so.
func (d *Directory) Close() {
	d.stop()
	<-d.done
}

// Loaded reports whether keys, revocations, catalogs and a position in the feed were read once.
// Until then nothing is fresh, there is no key, and no client is taken from memory.
func (d *Directory) Loaded() bool { return d.readAt.Load() != nil }

// follow reads the feed until ctx ends. It owns no state: CatchUp does the work.
func (d *Directory) follow(ctx context.Context) {
	defer close(d.done)
	failing := !d.Loaded() // whoever opened it Late knows
	for {
		news, wait := d.feed.News()
		if d.options.Poll != 0 {
			wait = d.options.Poll
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		case <-news:
		}
		look, cancel := context.WithTimeout(ctx, lookPatience)
		loaded := d.Loaded()
		err := d.CatchUp(look)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			d.options.Log.Error("cannot read the change feed; going on with what is known", "error", err)
		case err == nil && !loaded:
			d.options.Log.Info("loaded keys, revocations, catalogs and the position of the change feed")
		case err == nil && failing:
			d.options.Log.Info("reading the change feed again")
		}
		failing = err != nil
	}
}

// CatchUp reads and applies what the feed holds now. When it returns nil, every change
// committed before the call is in effect here: call it after a write to see it on the
// next request. Concurrent calls take turns.
func (d *Directory) CatchUp(ctx context.Context) error {
	d.polling.Lock()
	defer d.polling.Unlock()
	started := d.options.Now()
	changes, reset, err := d.feed.Poll(ctx)
	if err != nil {
		return err
	}
	// The feed's position is past these changes now: should applying them fail, the
	// next look starts over from the store.
	reload := reset || d.reload
	d.reload = true
	if reload {
		err = d.load(ctx)
	} else {
		err = d.apply(ctx, changes)
	}
	if err != nil {
		return err
	}
	if !reload {
		d.metrics.applied(changes, d.options.Now())
	}
	d.reload = false
	d.revocations.prune(registry.At(started))
	d.readAt.Store(&started)
	return nil
}

func (d *Directory) load(ctx context.Context) error {
	all, err := d.store.Revocations(ctx)
	if err != nil {
		return err
	}
	// The revocations first: nothing is verified or signed before there is a key.
	d.revoke(all)
	if err := d.loadCatalogs(ctx); err != nil {
		return err
	}
	if err := d.loadKeys(ctx); err != nil {
		return err
	}
	d.mu.Lock()
	d.applied++
	d.clients.Purge() // marks each dead
	d.mu.Unlock()
	return nil
}

func (d *Directory) apply(ctx context.Context, changes []registry.Change) error {
	reloadKeys, catalogs := false, map[string]bool{}
	var revoked []registry.Revocation
	for _, c := range changes {
		switch c.Kind {
		case registry.KindToken:
			r, err := d.store.Revocation(ctx, c.ID)
			if errors.Is(err, registry.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			revoked = append(revoked, r)
		case registry.KindKey:
			reloadKeys = true
		case registry.KindClient, registry.KindOrganization, registry.KindAgreement:
			d.drop(c)
		case registry.KindCatalog:
			catalogs[c.ID] = true
		}
	}
	d.revoke(revoked)
	if err := d.applyCatalogs(ctx, catalogs); err != nil {
		return err
	}
	if reloadKeys {
		return d.loadKeys(ctx)
	}
	return nil
}

// revoke takes revocations in. One that cannot be read must not keep the good ones out,
// nor stop the feed: no token can have such an id.
func (d *Directory) revoke(all []registry.Revocation) {
	if err := d.revocations.add(all...); err != nil {
		d.options.Log.Error("dropped revocations that name no token", "error", err)
	}
}

// drop marks dead every held client that c is about.
func (d *Directory) drop(c registry.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.applied++
	if c.Kind == registry.KindClient {
		d.clients.Remove(c.ID)
		return
	}
	for _, held := range d.clients.Values() {
		if c.Kind == registry.KindOrganization && held.OrganizationID == c.ID ||
			c.Kind == registry.KindAgreement && held.AgreementID == c.ID {
			d.clients.Remove(held.ID)
		}
	}
}

// Revoked reports whether the token's record is revoked. It takes no lock.
func (d *Directory) Revoked(id uuid.UUID) bool { return d.revocations.has(id) }

// Fresh reports whether the feed was read lately enough to trust what is known.
func (d *Directory) Fresh(now time.Time) bool {
	if d.readAt.Load() == nil {
		return false
	}
	return d.options.ServeStale || d.Age(now) <= d.options.MaxStaleness
}

// Age is the time since the feed was last read completely. Where the wall clock and the
// monotonic one disagree it is the longer: a clock that was set back must not make what
// is old look new, nor a machine that slept.
func (d *Directory) Age(now time.Time) time.Duration {
	read := d.readAt.Load()
	if read == nil {
		return math.MaxInt64
	}
	return max(0, now.Sub(*read), now.Round(0).Sub(read.Round(0)))
}

// Client returns the live state of a client: from memory, else from the store.
// registry.ErrNotFound when there is no such client, registry.ErrUnavailable when the
// store had to be asked and did not answer.
func (d *Directory) Client(ctx context.Context, id string) (*Client, error) {
	d.mu.Lock()
	c, ok := d.clients.Get(id)
	d.mu.Unlock()
	if ok {
		return c, nil
	}
	return d.Reread(ctx, id)
}

// Reread is Client straight from the store, for a decision that what is held in memory
// may be too old for.
func (d *Directory) Reread(ctx context.Context, id string) (*Client, error) {
	for {
		d.mu.Lock()
		before := d.applied
		d.mu.Unlock()
		g, err := d.store.Grant(ctx, id)
		if err != nil {
			return nil, err
		}
		c := newClient(g)
		d.mu.Lock()
		if d.applied == before {
			if old, ok := d.clients.Get(id); ok {
				if reflect.DeepEqual(old.facts, c.facts) { // whoever holds it need not ask again
					d.mu.Unlock()
					return old, nil
				}
				old.dead.Store(true)
			}
			d.clients.Add(id, c)
			d.mu.Unlock()
			return c, nil
		}
		d.mu.Unlock()
		// A change overtook the read: what was read may be from before it. Read again.
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read client: %w", registry.ErrUnavailable)
		}
	}
}

// Held is the number of clients in memory.
func (d *Directory) Held() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.clients.Len()
}

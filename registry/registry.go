package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"postern/secret"
)

// Options of a registry. DSN is required; the rest has defaults.
type Options struct {
	// DSN names the store: "sqlite:PATH", whose file is created and whose directory is not, or
	// "postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full", a database of postern's own.
	DSN secret.Secret
	// MasterKey is 32 raw bytes that wrap the data key that wraps the signing keys; "": the
	// data key is kept unwrapped, with a warning. PostgreSQL requires one.
	MasterKey secret.Secret
	// Connections is the most that are open to PostgreSQL, besides one for each feed; 0 means
	// 8, and less than 2 means 2. StatementTimeout is how long its answer is waited for, and
	// then each next row; 0 means 2 s. SQLite has no use for either.
	Connections      int
	StatementTimeout time.Duration
	Now              func() time.Time // time.Now
	Random           io.Reader        // crypto/rand.Reader; must be safe for concurrent use
	Log              *slog.Logger     // discarded when nil
	Metrics          *Metrics         // of its own when nil
}

// whole is o with the defaults of what it leaves out.
func (o Options) whole() Options {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics()
	}
	return o
}

// Registry is one open store. It is safe for concurrent use, and several processes may
// have the same store open. Close it to stop its goroutine.
type Registry struct {
	options Options
	engine  *engine
	sealer  sealer
	metrics *Metrics

	grant       statement // on engine.read
	insertToken statement // on engine.write, used by the writer alone
	markUsed    statement // likewise

	queue   chan *issue
	closing chan struct{} // closed by Close
	stopped chan struct{} // closed by the writer when it has returned
	closed  atomic.Bool
	close   func() error
}

// Open opens the store and brings its tables up to this version; when several processes
// do that at once, they take turns. It fails with ErrUnavailable when the store is locked
// or cannot be written to.
//
// A master key that is missing or wrong does not fail Open, but whatever needs the signing
// keys: Keys, EnsureKey, RotateKey and RemoveKey with a replacement. The rest needs none.
func Open(ctx context.Context, o Options) (*Registry, error) {
	o = o.whole()
	if n := len(o.MasterKey.Reveal()); n != 0 && n != dataKeySize {
		return nil, fmt.Errorf("open store: keys.master_key_file: the master key must be %d bytes, not %d", dataKeySize, n)
	}
	if o.MasterKey == "" && isPostgres(o.DSN) {
		return nil, errors.New("open store: PostgreSQL holds signing keys only if they are encrypted: set keys.master_key_file to a file with 32 random bytes (openssl rand -base64 32)")
	}
	e, err := openEngine(ctx, o)
	if err != nil {
		return nil, err
	}
	r := &Registry{
		options: o, engine: e, metrics: o.Metrics,
		queue:   make(chan *issue, maxQueue),
		closing: make(chan struct{}),
		stopped: make(chan struct{}),
	}
	r.close = sync.OnceValue(r.shut)
	if err := r.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", e.explain(err)), e.close())
	}
	go r.commitTokens()
	return r, nil
}

// prepare makes tables, epoch and data key where they are missing, under the write lock,
// then the statements.
func (r *Registry) prepare(ctx context.Context) error {
	wrapped := false
	err := r.locked(ctx, func(conn *sql.Conn) (err error) {
		if _, err = r.makeTables(ctx, conn); err == nil {
			wrapped, err = r.loadDataKey(ctx, conn)
		}
		return err
	})
	if err != nil {
		return err
	}
	if wrapped {
		r.options.Log.Info("the data key of the signing keys was stored unwrapped; the master key wraps it now")
		if err := r.engine.scrub(ctx); err != nil {
			return err
		}
	}
	if r.grant, err = r.engine.prepare(ctx, r.engine.read, grantQuery()); err != nil {
		return err
	}
	if r.insertToken, err = r.engine.prepare(ctx, r.engine.write, insertTokenQuery); err != nil {
		return err
	}
	r.markUsed, err = r.engine.prepare(ctx, r.engine.write, markUsedQuery)
	return err
}

// locked calls do on a connection that holds the lock of all that start, and keeps what it
// did unless it fails.
func (r *Registry) locked(ctx context.Context, do func(*sql.Conn) error) error {
	conn, err := r.engine.write.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := r.engine.lock(ctx, conn); err != nil {
		return err
	}
	err = do(conn)
	// The lock must not stay when ctx has ended.
	if end := r.engine.unlock(context.WithoutCancel(ctx), conn, err == nil); err == nil {
		err = end
	}
	if err != nil {
		return err
	}
	return conn.Close()
}

// Close waits until the tokens that were asked for are stored, then closes the store.
// What is called afterwards fails with ErrUnavailable. Close the feeds yourself.
func (r *Registry) Close() error { return r.close() }

func (r *Registry) shut() error {
	close(r.closing)
	<-r.stopped
	r.closed.Store(true)
	if err := r.engine.close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// NewID makes a UUIDv7 (RFC 9562 §5.7) of now's millisecond and 74 bits of random.
func NewID(now time.Time, random io.Reader) (uuid.UUID, error) {
	var id uuid.UUID
	if _, err := io.ReadFull(random, id[6:]); err != nil {
		return uuid.Nil, fmt.Errorf("read randomness: %w", err)
	}
	ms := now.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	id[6] = id[6]&0x0f | 0x70 // version 7
	id[8] = id[8]&0x3f | 0x80 // variant of RFC 9562
	return id, nil
}

func (r *Registry) newID() (string, error) {
	id, err := NewID(r.options.Now(), r.options.Random)
	return id.String(), err
}

func (r *Registry) now() Time { return At(r.options.Now()) }

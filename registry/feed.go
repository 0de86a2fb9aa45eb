package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxBehind is how many changes a follower reads one by one; one that is further behind
// reloads everything.
const maxBehind = 10_000

// Feed follows the changes of a store on a connection of its own, and hears of them on
// another one where the store announces them. One goroutine uses it.
type Feed struct {
	r        *Registry
	db       *pool
	listener *listener // nil: nothing is announced
	conn     *sql.Conn // nil: connect at the next look

	started  bool
	epoch    string
	position int64  // the last change that was handed out
	last     Change // the one at position; zero: unknown
	version  int64  // of the store when it was last read, on conn; 0: unknown
}

// Feed connects a follower. Close it before the registry.
func (r *Registry) Feed(ctx context.Context) (*Feed, error) {
	if r.closed.Load() {
		return nil, fmt.Errorf("open feed: the store is closed: %w", ErrUnavailable)
	}
	db, err := r.engine.feed()
	if err != nil {
		return nil, r.fault("open feed", err)
	}
	f := &Feed{r: r, db: db}
	bounded, cancel := db.bound(ctx)
	defer cancel()
	if err := f.connect(bounded); err != nil {
		return nil, errors.Join(r.fault("open feed", err), db.Close())
	}
	f.listener = r.engine.listen(r.options.Log)
	return f, nil
}

// News returns a channel that gets a value when the next Poll may find something, nil where
// the store announces nothing, and how long to wait for one before polling all the same.
// While a change may be announced it is enough to poll that often: what is not announced,
// because a connection broke or a pooler stands in between, is found then.
func (f *Feed) News() (<-chan struct{}, time.Duration) {
	if f.listener == nil {
		return nil, f.r.engine.interval()
	}
	return f.listener.news, f.r.engine.interval()
}

// Close ends following.
func (f *Feed) Close() error {
	if f.listener != nil {
		f.listener.close()
	}
	f.drop()
	return f.db.Close()
}

func (f *Feed) connect(ctx context.Context) (err error) {
	f.conn, err = f.db.Conn(ctx)
	return err
}

// drop gives a connection back. The version that it saw says nothing on another one.
func (f *Feed) drop() {
	f.version = 0
	if f.conn != nil {
		_ = f.conn.Close()
		f.conn = nil
	}
}

// Poll returns what changed since the last call, in the order of the commits. While nobody
// has written anything it costs one look at the store's version. reset means that the
// answer is not complete, and everything must be loaded again: at the first call, when the
// store is another one or was put back to an older state, and when changes in between are
// gone. After an error the next call goes on where the last good one was.
func (f *Feed) Poll(ctx context.Context) (changes []Change, reset bool, err error) {
	defer f.r.observe(opPoll, f.r.options.Now(), &err)
	changes, reset, err = f.poll(ctx)
	if err != nil {
		f.drop()
		return nil, false, f.r.fault("read the change feed", err)
	}
	return changes, reset, nil
}

func (f *Feed) poll(ctx context.Context) (changes []Change, reset bool, err error) {
	if f.r.closed.Load() {
		return nil, false, fmt.Errorf("the store is closed: %w", ErrUnavailable)
	}
	if err := f.r.engine.present(); err != nil {
		return nil, false, err
	}
	ctx, cancel := f.db.bound(ctx)
	defer cancel()
	if f.conn == nil {
		if err := f.connect(ctx); err != nil {
			return nil, false, err
		}
	}
	// The version first: what is committed after this look is seen at the next one.
	version, err := f.r.engine.version(ctx, f.conn)
	if err != nil {
		return nil, false, err
	}
	if version != 0 && version == f.version {
		return nil, false, nil
	}
	var epoch string
	var last int64
	// One statement, so that counter and changes are of one moment on every engine.
	err = each(ctx, f.conn, func(rows *sql.Rows) error {
		var seq sql.NullInt64
		var c Change
		if err := rows.Scan(&epoch, &last, &seq, &c.Kind, &c.ID, &c.At); err != nil {
			return err
		}
		if c.Seq = seq.Int64; seq.Valid {
			changes = append(changes, c)
		}
		return nil
	}, `SELECT n.epoch, n.seq, c.seq, COALESCE(c.kind, ''), COALESCE(c.id, ''), c.at
		FROM counter n LEFT JOIN change c ON c.seq >= $1 WHERE n.id = 1 ORDER BY c.seq LIMIT $2`, f.position, maxBehind+1)
	if err != nil {
		return nil, false, err
	}
	if epoch == "" {
		return nil, false, errors.New("the store has no counter")
	}
	var here Change // what is at position now
	if len(changes) > 0 && changes[0].Seq == f.position {
		here, changes = changes[0], changes[1:]
	}
	reset = !f.started || epoch != f.epoch || f.last != (Change{}) && here != f.last || !complete(changes, f.position, last)
	if reset {
		newest, err := f.at(ctx, last)
		if err != nil {
			return nil, false, err
		}
		changes, f.last = nil, newest
	} else if len(changes) > 0 {
		f.last = changes[len(changes)-1]
	}
	f.started, f.epoch, f.position = true, epoch, last
	f.version = version
	if version == 0 {
		f.drop() // nothing ties the follower to this one, and the pool knows when it is too old
	}
	return changes, reset, nil
}

// at is one change; zero when it is not there. A store that was put back to an older state
// goes on with the same numbers and the same epoch: the change that was read last tells
// whether it is still the same history.
func (f *Feed) at(ctx context.Context, seq int64) (Change, error) {
	c := Change{Seq: seq}
	err := f.conn.QueryRowContext(ctx, `SELECT kind, id, at FROM change WHERE seq = $1`, seq).Scan(&c.Kind, &c.ID, &c.At)
	if errors.Is(err, sql.ErrNoRows) {
		return Change{}, nil
	}
	return c, err
}

// complete reports whether changes are all from position to last. They are not when the log
// was pruned in between, when it is shorter than position, and when they are too many.
func complete(changes []Change, position, last int64) bool {
	if int64(len(changes)) != last-position {
		return false
	}
	return !slices.ContainsFunc(changes, func(c Change) bool {
		position++
		return c.Seq != position
	})
}

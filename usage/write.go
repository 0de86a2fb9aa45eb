package usage

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"postern/answer"
	"postern/registry"
)

// Store keeps what was counted. *registry.Registry is one.
type Store interface {
	// AddUsage adds a batch to what is stored. After an error the same batch may be added
	// again, and counts once. It may block until ctx ends.
	AddUsage(ctx context.Context, b registry.UsageBatch) error
	// PruneUsage deletes the usage of hours that begin before, and says how many rows that were.
	PruneUsage(ctx context.Context, before registry.Time) (rows int, err error)
}

// Options of a meter. Every field is needed.
type Options struct {
	Interval time.Duration // between two writes
	Keep     time.Duration // how long usage stays in the store
	Now      func() time.Time
	Random   io.Reader // for the name of this writer
	Log      *slog.Logger
}

const (
	batchSize  = 500             // client-hours in one transaction: nobody waits for it long
	maxWaiting = 100_000         // client-hours in memory, some 20 MB
	lastWrite  = 3 * time.Second // for all that is left at Close: whoever ends a process does not wait long
	firstPrune = 10 * time.Second
	pruneEvery = time.Hour
	prunePause = 30 * time.Second // that one pruning may take
)

// Meter is safe for concurrent use. Close it to write the rest and to stop its goroutine.
type Meter struct {
	store   Store
	options Options
	metrics *metrics

	listed atomic.Pointer[tally] // those that counted since they were collected

	// What was collected and is not known to be in the store. All of it belongs to the
	// goroutine, and after its end to Close.
	waiting map[key]*registry.Counts
	batch   registry.UsageBatch // is tried until it is there; no Usage: there is none
	coarse  bool                // this round, hours are days
	failing bool
	losing  bool

	stop context.CancelFunc
	done sync.WaitGroup
}

// key is a client and an hour since 1970.
type key struct {
	client string
	hour   int64
}

// Open begins to write to s what is counted.
func Open(s Store, o Options) (*Meter, error) {
	id, err := registry.NewID(o.Now(), o.Random)
	if err != nil {
		return nil, fmt.Errorf("name this writer of usage: %w", err)
	}
	m := &Meter{store: s, options: o, waiting: map[key]*registry.Counts{}, batch: registry.UsageBatch{Writer: id.String()}}
	m.metrics = newMetrics(o.Now)
	running, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.done.Go(func() { m.run(running) })
	return m, nil
}

// Close writes what was counted and waits for that, some seconds at most. Call it when
// nobody counts any more.
func (m *Meter) Close() {
	m.stop()
	m.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), lastWrite)
	defer cancel()
	m.collect()
	if err := m.write(ctx); err != nil {
		m.options.Log.Error("cannot write the last usage; it is lost", "client_hours", m.left(), "error", err)
	}
}

func (m *Meter) run(ctx context.Context) {
	writes, prunes := time.NewTicker(m.options.Interval), time.NewTimer(firstPrune)
	defer writes.Stop()
	defer prunes.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-writes.C:
			m.collect()
			m.tell(ctx, m.write(ctx))
		case <-prunes.C:
			m.prune(ctx)
			prunes.Reset(pruneEvery)
		}
	}
}

// tell logs that writing fails, or works again, once.
func (m *Meter) tell(ctx context.Context, err error) {
	switch {
	case err != nil && ctx.Err() != nil: // Close tries again
	case err != nil && !m.failing:
		m.options.Log.Error("cannot write usage; it is kept in memory until that works", "error", err)
		m.failing = true
	case err == nil && m.failing:
		m.options.Log.Info("writing usage again")
		m.failing, m.losing = false, false
	}
}

// collect takes what was counted since the last call.
func (m *Meter) collect() {
	m.coarse = false
	for t := m.listed.Swap(nil); t != nil; {
		next := t.next
		t.next = nil // or whoever holds t holds all that came before it
		t.listed.Store(false)
		m.take(t)
		t = next
	}
	m.metrics.left(m.left())
}

// take moves the counts of t to those that wait. Each number is exact, whoever counts on
// meanwhile.
func (m *Meter) take(t *tally) {
	c := registry.Counts{Requests: t.requests.Swap(0), Tokens: t.tokens.Swap(0), BytesIn: t.in.Swap(0), BytesOut: t.out.Swap(0)}
	some := c.Requests|c.Tokens|c.BytesIn|c.BytesOut != 0
	if all := t.refused.Load(); all != nil {
		for i, reason := range answer.Reasons() {
			if n := all[i].Swap(0); n != 0 {
				c.Add(registry.Counts{Refused: map[string]int64{string(reason): n}})
				some = true
			}
		}
	}
	if some { // else it was collected right after it was counted
		m.keep(key{t.client, t.hour}, c)
	}
}

// keep adds c to what waits. While the store is away for very long, the hours of a day
// become one, and when that is not enough, counts are lost.
func (m *Meter) keep(k key, c registry.Counts) {
	if m.left() >= maxWaiting && m.waiting[k] == nil && !m.coarse {
		m.coarsen()
	}
	if m.coarse {
		k.hour = dayOf(k.hour)
	}
	if old := m.waiting[k]; old != nil {
		old.Add(c)
		return
	}
	if m.left() >= maxWaiting {
		m.metrics.lost.Add(float64(c.Requests + c.Tokens))
		if !m.losing {
			m.options.Log.Error("usage is lost: the store was away too long for more of it to be kept in memory", "client_hours", m.left())
			m.losing = true
		}
		return
	}
	m.waiting[k] = &c
}

// dayOf is the first hour of the day.
func dayOf(hour int64) int64 { return hour - hour%24 }

// coarsen makes one of the hours of each client's day: what it spent of a day or a month
// stays as it is.
func (m *Meter) coarsen() {
	m.coarse = true
	for k, c := range m.waiting {
		day := key{k.client, dayOf(k.hour)}
		if day == k {
			continue
		}
		delete(m.waiting, k)
		if old := m.waiting[day]; old != nil {
			old.Add(*c)
		} else {
			m.waiting[day] = c
		}
	}
}

// left is how many client-hours are not known to be in the store.
func (m *Meter) left() int { return len(m.waiting) + len(m.batch.Usage) }

// write adds all that waits to the store's, a batch after the other. After an error the same
// batch is tried again at the next call: nobody knows whether its commit was the last that
// was heard.
func (m *Meter) write(ctx context.Context) error {
	defer func() { m.metrics.left(m.left()) }()
	for m.left() > 0 {
		if len(m.batch.Usage) == 0 {
			m.next()
		}
		if err := m.store.AddUsage(ctx, m.batch); err != nil {
			return err
		}
		m.batch.Usage = nil
	}
	return nil
}

// next makes a batch of what waits.
func (m *Meter) next() {
	m.batch.Number++
	for k, c := range m.waiting {
		if len(m.batch.Usage) == batchSize {
			break
		}
		delete(m.waiting, k)
		m.batch.Usage = append(m.batch.Usage, registry.Usage{ClientID: k.client, Hour: registry.Time(k.hour * hour * 1000), Counts: *c})
	}
}

func (m *Meter) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, prunePause)
	defer cancel()
	rows, err := m.store.PruneUsage(ctx, registry.At(m.options.Now().Add(-m.options.Keep)))
	if err != nil {
		m.options.Log.Warn("cannot prune usage; it is tried again in an hour", "error", err)
		return
	}
	m.options.Log.Debug("pruned usage", "rows", rows)
}

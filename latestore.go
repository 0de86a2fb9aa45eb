package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/registry"
)

const (
	// storeWait is how long starting waits for the store before it serves without one.
	storeWait = 2 * time.Second
	// storeAttempt bounds one attempt to open the store: a migration ends in less.
	storeAttempt = time.Minute

	firstRetry = 100 * time.Millisecond // doubled after each attempt that fails
	lastRetry  = 2 * time.Second
)

// connected is a store that is open, and its feed.
type connected struct {
	*registry.Registry
	feed *registry.Feed
}

// lateStore is the registry for the rooms that serve, which start without it where they
// must: until it is open, each call fails with registry.ErrUnavailable at once. Safe for
// concurrent use, but for start and close.
type lateStore struct {
	log     *slog.Logger
	metrics *registry.Metrics
	connect func(context.Context, *registry.Metrics) (*connected, error)

	now  atomic.Pointer[connected] // nil: not open yet
	stop context.CancelFunc        // nil: not started
	done chan struct{}             // closed when nobody tries any more
}

// newLateStore makes one that opens the store by connect, which ends soon when its
// context ends, and whose registry counts in the metrics that it is given.
func newLateStore(log *slog.Logger, connect func(context.Context, *registry.Metrics) (*connected, error)) *lateStore {
	return &lateStore{log: log, metrics: registry.NewMetrics(), connect: connect, done: make(chan struct{})}
}

// start opens the store. When that takes long, or fails with what may end by itself, it
// returns nil, and goes on trying until close. Any other fault is the operator's, and
// returned; when it shows later, a log line says so.
func (s *lateStore) start(ctx context.Context) error {
	trying, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop = stop
	first := make(chan error, 1)
	go func() {
		defer close(s.done)
		err := s.try(trying)
		first <- err
		s.retry(trying, err)
	}()
	wait := time.NewTimer(storeWait)
	defer wait.Stop()
	select {
	case err := <-first:
		if err == nil || mayEnd(err) {
			return nil
		}
		return err
	case <-wait.C:
		s.log.Warn("the store does not answer yet; going on without it, and trying on")
		return nil
	case <-ctx.Done():
		return fmt.Errorf("open store: %w", ctx.Err())
	}
}

func (s *lateStore) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeAttempt)
	defer cancel()
	c, err := s.connect(ctx, s.metrics)
	if err == nil {
		s.now.Store(c)
	}
	return err
}

// retry tries again after err until it is nil or ctx ends.
func (s *lateStore) retry(ctx context.Context, err error) {
	if err == nil {
		return
	}
	var told error
	for delay := firstRetry; err != nil; delay = min(2*delay, lastRetry) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(delay):
		}
		if told == nil || mayEnd(told) != mayEnd(err) {
			s.log.Error("cannot open the store; trying again, and what needs it is answered with 503", "error", err)
			told = err
		}
		err = s.try(ctx)
	}
	s.log.Info("opened the store")
}

// mayEnd reports whether an error of opening the store may end without anybody changing
// the configuration.
func mayEnd(err error) bool {
	return errors.Is(err, registry.ErrUnavailable) && !errors.Is(err, registry.ErrUnwritable)
}

// opened returns the open registry, or registry.ErrUnavailable.
func (s *lateStore) opened() (*connected, error) {
	if c := s.now.Load(); c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("the store is not open yet: %w", registry.ErrUnavailable)
}

// close ends trying, and closes what is open.
func (s *lateStore) close() error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	<-s.done
	c := s.now.Load()
	if c == nil {
		return nil
	}
	return errors.Join(c.feed.Close(), c.Close())
}

// Grant implements directory.Store.
func (s *lateStore) Grant(ctx context.Context, clientID string) (registry.Grant, error) {
	c, err := s.opened()
	if err != nil {
		return registry.Grant{}, err
	}
	return c.Grant(ctx, clientID)
}

// Keys implements directory.Store.
func (s *lateStore) Keys(ctx context.Context) ([]registry.Key, error) {
	c, err := s.opened()
	if err != nil {
		return nil, err
	}
	return c.Keys(ctx)
}

// Revocations implements directory.Store.
func (s *lateStore) Revocations(ctx context.Context) ([]registry.Revocation, error) {
	c, err := s.opened()
	if err != nil {
		return nil, err
	}
	return c.Revocations(ctx)
}

// Revocation implements directory.Store.
func (s *lateStore) Revocation(ctx context.Context, tokenID string) (registry.Revocation, error) {
	c, err := s.opened()
	if err != nil {
		return registry.Revocation{}, err
	}
	return c.Revocation(ctx, tokenID)
}

// EachCatalog implements directory.Store.
func (s *lateStore) EachCatalog(ctx context.Context, use func(registry.Catalog)) error {
	c, err := s.opened()
	if err != nil {
		return err
	}
	return c.EachCatalog(ctx, use)
}

// Catalog implements directory.Store.
func (s *lateStore) Catalog(ctx context.Context, id string) (registry.Catalog, error) {
	c, err := s.opened()
	if err != nil {
		return registry.Catalog{}, err
	}
	return c.Catalog(ctx, id)
}

// Poll implements directory.Feed.
func (s *lateStore) Poll(ctx context.Context) (changes []registry.Change, reset bool, err error) {
	c, err := s.opened()
	if err != nil {
		return nil, false, err
	}
	return c.feed.Poll(ctx)
}

// News implements directory.Feed.
func (s *lateStore) News() (<-chan struct{}, time.Duration) {
	c, err := s.opened()
	if err != nil {
		return nil, firstRetry
	}
	return c.feed.News()
}

// IssueToken implements issuer.Store.
func (s *lateStore) IssueToken(ctx context.Context, t registry.Token, secretID string) error {
	c, err := s.opened()
	if err != nil {
		return err
	}
	return c.IssueToken(ctx, t, secretID)
}

// RefreshToken implements issuer.Store.
func (s *lateStore) RefreshToken(ctx context.Context, id, subjectID string, now, expires registry.Time) (registry.Token, error) {
	c, err := s.opened()
	if err != nil {
		return registry.Token{}, err
	}
	return c.RefreshToken(ctx, id, subjectID, now, expires)
}

// RevokeToken implements issuer.Store.
func (s *lateStore) RevokeToken(ctx context.Context, a registry.Actor, id string) (registry.Token, error) {
	c, err := s.opened()
	if err != nil {
		return registry.Token{}, err
	}
	return c.RevokeToken(ctx, a, id)
}

// Prune implements issuer.Store. Without a store there is nothing to prune.
func (s *lateStore) Prune(ctx context.Context, now registry.Time) (rows int, err error) {
	c, err := s.opened()
	if err != nil {
		return 0, nil
	}
	return c.Prune(ctx, now)
}

// AddUsage implements usage.Store.
func (s *lateStore) AddUsage(ctx context.Context, b registry.UsageBatch) error {
	c, err := s.opened()
	if err != nil {
		return err
	}
	return c.AddUsage(ctx, b)
}

// PruneUsage implements usage.Store. Without a store there is nothing to prune.
func (s *lateStore) PruneUsage(ctx context.Context, before registry.Time) (rows int, err error) {
	c, err := s.opened()
	if err != nil {
		return 0, nil
	}
	return c.PruneUsage(ctx, before)
}

// Spent is what the limiter begins with.
func (s *lateStore) Spent(ctx context.Context, day, month registry.Time, use func(clientID, organizationID string, inDay, inMonth int64)) error {
	c, err := s.opened()
	if err != nil {
		return err
	}
	return c.Spent(ctx, day, month, use)
}

// Collectors are the registry's metrics.
func (s *lateStore) Collectors() []prometheus.Collector { return s.metrics.Collectors() }

package issuer

import (
	"bytes"
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"postern/registry"
)

// pruned is a store that is only pruned.
type pruned struct {
	Store // nil: nothing else is called here
	at    []time.Time
	fail  atomic.Bool
}

func (p *pruned) Prune(_ context.Context, now registry.Time) (int, error) {
	p.at = append(p.at, now.Time())
	if p.fail.Load() {
		return 0, registry.ErrUnavailable
	}
	return 3, nil
}

func TestRunPrunesEachMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		store := new(pruned)
		i := New(nil, store, Options{
			URL: testIssuer, TokenPath: testPath, Now: time.Now, Random: rand.Reader,
			Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		began := time.Now()
		go func() { i.Run(ctx); close(done) }()

		time.Sleep(firstPrune + 2*pruneEvery)
		synctest.Wait()
		store.fail.Store(true)
		time.Sleep(3 * pruneEvery)
		synctest.Wait()
		store.fail.Store(false)
		time.Sleep(pruneEvery)
		synctest.Wait()
		cancel()
		<-done
		if len(store.at) != 7 {
			t.Errorf("pruned %d times, want 7", len(store.at))
		}
		for n, at := range store.at {
			if want := began.Add(firstPrune + time.Duration(n)*pruneEvery); !at.Equal(want) {
				t.Errorf("pruned at %s, want %s", at, want)
			}
		}
		if told, over := strings.Count(log.String(), "level=ERROR"), strings.Count(log.String(), "level=INFO"); told != 1 || over != 1 {
			t.Errorf("one outage was told %d times and its end %d times:\n%s", told, over, log.String())
		}
	})
}

package verifier

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"postern/directory"
	"postern/registry"
	"postern/token"
)

// watched is a real directory that a test can stop at the reading of the keys.
type watched struct {
	Directory
	onKeys func()
}

func (d *watched) Keys() (*token.KeySet, uint64) {
	keys, generation := d.Directory.Keys()
	if d.onKeys != nil {
		d.onKeys()
	}
	return keys, generation
}

func TestOneVerificationForManyCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.claims("client-a", "organization-a")
		raw := w.sign(c)
		var looks atomic.Int64
		w.verifier.directory = &watched{w.directory, func() { looks.Add(1) }}
		release := make(chan struct{})
		w.store.onGrant = func(context.Context) error {
			<-release
			return nil
		}
		var wait sync.WaitGroup
		for range 64 {
			wait.Go(func() {
				p, err := w.verifier.Verify(append([]byte{}, raw...), start)
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				w.mustBe(p, c)
			})
		}
		synctest.Wait() // all of them wait for one
		close(release)
		wait.Wait()
		if looks.Load() != 1 || w.store.reads != 1 {
			t.Errorf("%d verifications, %d reads", looks.Load(), w.store.reads)
		}
	})
}

// Who shares another's look at the keys must not be refused by what that one saw
// before the key was known here.
func TestUnknownKeyIsLookedUpAgainByThoseWhoWaited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.key = w.addKey(token.EdDSA, 0)
		raw := w.sign(w.claims("client-a", "organization-a"))
		release := make(chan struct{})
		var looks atomic.Int64
		w.verifier.directory = &watched{w.directory, func() {
			if looks.Add(1) == 1 {
				<-release
			}
		}}
		var wait sync.WaitGroup
		wait.Go(func() { _, _ = w.verifier.Verify(raw, start) })
		synctest.Wait() // it has the old keys
		w.catchUp()
		wait.Go(func() {
			if _, err := w.verifier.Verify(raw, start); err != nil {
				t.Errorf("refused: %v", err)
			}
		})
		synctest.Wait()
		close(release)
		wait.Wait()
	})
}

// A caller who joins a look-up of the client that began before a change is judged by
// what is true when it asks.
func TestClientChangedWhileOthersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		c := w.claims("client-a", "organization-a")
		raw := w.sign(c)
		release := make(chan struct{})
		var reads atomic.Int64
		w.store.onGrant = func(context.Context) error {
			if reads.Add(1) == 1 {
				<-release
			}
			return nil
		}
		var wait sync.WaitGroup
		wait.Go(func() { _, _ = w.verifier.Verify(raw, start) })
		synctest.Wait()
		w.changeClient("client-a", func(g *registry.Grant) { g.Client.DisabledAt = 1 })
		w.catchUp()
		wait.Go(func() {
			if p, err := w.verifier.Verify(raw, start); err != error(token.ClientRefused) {
				t.Errorf("got %+v, %v", p, err)
			}
		})
		synctest.Wait()
		close(release)
		wait.Wait()
	})
}

// crowded is a real directory in which somebody else's look-up always comes next.
type crowded struct {
	Directory
	other string
}

func (d *crowded) Client(ctx context.Context, id string) (*directory.Client, error) {
	c, err := d.Directory.Client(ctx, id)
	_, _ = d.Directory.Client(ctx, d.other)
	return c, err
}

// A state that was read for this very call is good for it, even when it is pushed out
// of memory before it is looked at.
func TestClientPushedOutAtOnce(t *testing.T) {
	w := newWorld(t, clientsHeld(1))
	w.verifier.directory = &crowded{w.directory, "client-b"}
	c := w.claims("client-a", "organization-a")
	raw := w.sign(c)
	for range 3 {
		p := w.accept(raw, start)
		w.mustBe(p, c)
		if !p.Client.Dead() {
			t.Fatal("nobody pushed it out: the test proves nothing")
		}
	}
}

// With room for one client in memory, two that take turns push each other out. That
// costs reads of the store, never an answer.
func TestClientsPushEachOtherOut(t *testing.T) {
	w := newWorld(t, clientsHeld(1))
	a, b := w.claims("client-a", "organization-a"), w.claims("client-b", "organization-b")
	rawA, rawB := w.sign(a), w.sign(b)
	for range 5 {
		w.mustBe(w.accept(rawA, start), a)
		w.mustBe(w.accept(rawB, start), b)
	}
	if misses := w.counted("postern_cache_misses_total", ""); misses != 2 {
		t.Errorf("%v signatures were checked", misses)
	}
	var wait sync.WaitGroup
	for range 8 {
		for raw, c := range map[*[]byte]token.Claims{&rawA: a, &rawB: b} {
			wait.Go(func() {
				for range 100 {
					p, err := w.verifier.Verify(*raw, start)
					if err != nil {
						t.Errorf("refused: %v", err)
						return
					}
					w.mustBe(p, c)
				}
			})
		}
	}
	wait.Wait()
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/secret"
)

func TestRotateDueKey(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		start := At(clk.now())
		o := Rotation{Every: time.Hour, Publish: 10 * time.Minute, Keep: 2 * time.Hour}
		look := func(id string, want bool, keys string) {
			t.Helper()
			k, rotated, err := r.RotateDueKey(ctx, operator, o, func() (Key, error) { return newKey(t, id, "ES256"), nil })
			if rotated != want || err != nil || rotated != (k.ID == id) || k.Private != "" {
				t.Errorf("RotateDueKey: %+v, %v, %v, want %v", k, rotated, err, want)
			}
			if got := keyTimes(t, r, start); got != keys {
				t.Errorf("keys are %s, want %s", got, keys)
			}
		}
		look("none", false, "") // the first one is another one's to make
		if _, err := r.EnsureKey(ctx, operator, "ES256", o.Publish, o.Keep, func() (Key, error) { return newKey(t, "a", "ES256"), nil }); err != nil {
			t.Fatal(err)
		}
		clk.add(50*time.Minute - time.Millisecond)
		look("early", false, "a 0 -")
		clk.add(time.Millisecond)
		look("b", true, "b 3600000 -, a 0 10800000")
		look("again", false, "b 3600000 -, a 0 10800000")
		clk.add(time.Hour - time.Millisecond)
		look("early", false, "b 3600000 -, a 0 10800000")
		clk.add(2 * time.Minute) // after the time: nobody looked
		look("c", true, "c 7319999 -, b 3600000 14519999, a 0 10800000")
		events := must(r.Events(ctx, 1))(t)
		if len(events) != 1 || events[0].Action != "rotate" || events[0].ID != "c" || events[0].Detail != "ES256" {
			t.Errorf("event %v", events)
		}

		if _, _, err := r.RotateDueKey(ctx, operator, Rotation{Every: time.Hour, Publish: time.Hour}, nil); !errors.Is(err, ErrInvalid) {
			t.Errorf("published as long as it signs: %v", err)
		}
		clk.add(2 * time.Hour)
		broken := errors.New("no entropy")
		if _, rotated, err := r.RotateDueKey(ctx, operator, o, func() (Key, error) { return Key{}, broken }); rotated || !errors.Is(err, broken) {
			t.Errorf("no key: %v, %v", rotated, err)
		}
		if _, rotated, err := r.RotateDueKey(ctx, operator, o, func() (Key, error) { return newKey(t, "c", "ES256"), nil }); rotated || !errors.Is(err, ErrConflict) {
			t.Errorf("the same key again: %v, %v", rotated, err)
		}
	})
}

// Of many who find a key due at once, in many processes, one makes the next.
func TestRotateDueKeyHasOneWinner(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk, path := context.Background(), newClock(), file(t)
		o := Rotation{Every: time.Hour, Publish: time.Minute, Keep: time.Hour}
		var registries []*Registry
		for range 4 {
			registries = append(registries, open(t, path, at(clk)))
		}
		if _, err := registries[0].RotateKey(ctx, operator, newKey(t, "first", "ES256"), 0, 0); err != nil {
			t.Fatal(err)
		}
		for round := range 5 {
			clk.add(time.Hour)
			var made atomic.Int64
			var wait, ready sync.WaitGroup
			ready.Add(20)
			for n := range 20 {
				wait.Go(func() {
					_, rotated, err := registries[n%4].RotateDueKey(ctx, operator, o, func() (Key, error) {
						ready.Done() // all have found it due before one of them begins
						ready.Wait()
						return newKey(t, fmt.Sprintf("%d-%d", round, n), "ES256"), nil
					})
					if err != nil {
						t.Error(err)
					}
					if rotated {
						made.Add(1)
					}
				})
			}
			wait.Wait()
			if n, keys := made.Load(), must(registries[0].KeyHistory(ctx))(t); n != 1 || len(keys) != round+2 {
				t.Fatalf("round %d: %d won, %d keys", round, n, len(keys))
			}
		}
	})
}

// A key is kept until the last token has expired, whatever is said of how long that takes.
func TestKeyIsKeptForItsLastToken(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		start := At(clk.now())
		rotate := func(id string) {
			t.Helper()
			if _, err := r.RotateKey(ctx, operator, newKey(t, id, "ES256"), 0, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		rotate("a")
		c, _ := newClient(t, r)
		issued(t, r, c) // for two hours
		rotate("b")
		if got, want := keyTimes(t, r, start), "b 0 -, a -1 7260000"; got != want {
			t.Errorf("keys are %s, want %s", got, want)
		}
		clk.add(2*time.Hour + time.Minute - time.Millisecond)
		if keys := must(r.Keys(ctx))(t); len(keys) != 2 {
			t.Errorf("before its token's end and what clocks differ: %d keys, want 2", len(keys))
		}
		clk.add(time.Millisecond)
		if keys := must(r.Keys(ctx))(t); len(keys) != 1 {
			t.Errorf("after: %d keys, want 1", len(keys))
		}
		clk.add(time.Minute)
		must(r.Prune(ctx, At(clk.now())))(t)
		var private string
		if err := r.engine.read.QueryRow(`SELECT private FROM signing_key WHERE id = 'a'`).Scan(&private); err != nil || private != "" {
			t.Errorf("the private part is still there (%v)", err)
		}
	})
}

func TestRewrap(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, path := context.Background(), file(t)
		k := newKey(t, "a", "ES256")
		check := func(what string, r *Registry, good bool) {
			t.Helper()
			keys, err := r.Keys(ctx)
			switch {
			case good && (err != nil || len(keys) == 0 || keys[len(keys)-1].Private != k.Private):
				t.Errorf("%s: %v", what, err)
			case !good && (err == nil || !strings.Contains(err.Error(), "wrapped by another master key")):
				t.Errorf("%s: it opens, or: %v", what, err)
			}
		}
		r := open(t, path, master(masterKey))
		if _, err := r.RotateKey(ctx, operator, k, 0, time.Hour); err != nil {
			t.Fatal(err)
		}
		running := open(t, path, master(masterKey))
		old := column(t, r, `SELECT material FROM data_key`)
		private := column(t, r, `SELECT private FROM signing_key`)

		for _, f := range []struct{ name, next, words string }{{"short", "short", "must be 32 bytes, not 5"}, {"the same", masterKey, "is the old one"}} {
			if _, _, err := r.Rewrap(ctx, operator, secret.Secret(f.next)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), f.words) {
				t.Errorf("%s: %v", f.name, err)
			}
		}
		if keys, damaged, err := r.Rewrap(ctx, operator, anotherKey); err != nil || keys != 1 || damaged != 0 {
			t.Fatalf("%d keys, %d damaged, %v", keys, damaged, err)
		}
		if column(t, r, `SELECT material FROM data_key`) == old || column(t, r, `SELECT private FROM signing_key`) != private {
			t.Error("the data key is wrapped as before, or a signing key is wrapped anew")
		}
		if !strings.HasPrefix(path, "postgres://") && holdsPart(image(t, path), old) {
			t.Error("the old text is still in the store's files")
		}
		check("who has it open", r, true)
		check("who has it open too", running, true)
		if _, err := running.RotateKey(ctx, operator, newKey(t, "b", "ES256"), 0, time.Hour); err != nil {
			t.Errorf("who has it open makes a key: %v", err)
		}
		check("opened with the old one", open(t, path, master(masterKey)), false)
		check("opened with the new one", open(t, path, master(anotherKey)), true)
		if _, _, err := running.Rewrap(ctx, operator, secret.Secret(strings.Repeat("third3", 6)[:32])); err == nil || !strings.Contains(err.Error(), "wrapped by another master key") {
			t.Errorf("again, by one that knows the old one: %v", err)
		}
		check("still opened with the new one", open(t, path, master(anotherKey)), true)
		if events := must(r.Events(ctx, 2))(t); events[1].Action != "rewrap" || events[1].Kind != KindKey {
			t.Errorf("events %v", events)
		}
	})
}

// column is the one text that query finds.
func column(t *testing.T, r *Registry, query string) (text string) {
	t.Helper()
	if err := r.engine.read.QueryRow(query).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

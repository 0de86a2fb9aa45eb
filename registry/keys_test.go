package registry

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/secret"
)

const (
	masterKey  = "0123456789abcdef0123456789abcdef"
	anotherKey = "fedcba9876543210fedcba9876543210"
)

// keyTimes are the keys that verify, as "id signs_from verifies_until" relative to start in ms.
func keyTimes(t *testing.T, r *Registry, start Time) string {
	t.Helper()
	var all []string
	for _, k := range must(r.Keys(context.Background()))(t) {
		until := "-"
		if k.VerifiesUntil != 0 {
			until = fmt.Sprint(k.VerifiesUntil - start)
		}
		if len(k.Private.Reveal()) != 138 {
			t.Errorf("key %s has no private part", k.ID)
		}
		all = append(all, fmt.Sprintf("%s %d %s", k.ID, k.SignsFrom-start, until))
	}
	return strings.Join(all, ", ")
}

func TestKeyWindows(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		start := At(clk.now())
		check := func(what, want string) {
			t.Helper()
			if got := keyTimes(t, r, start); got != want {
				t.Errorf("%s: keys are %s, want %s", what, got, want)
			}
		}
		ensure := func(id, algorithm string, want bool) {
			t.Helper()
			created, err := r.EnsureKey(ctx, operator, algorithm, time.Minute, time.Hour, func() (Key, error) { return newKey(t, id, algorithm), nil })
			if created != want || err != nil {
				t.Errorf("EnsureKey: %v, %v, want %v", created, err, want)
			}
		}
		rotate := func(id string, publish time.Duration) {
			t.Helper()
			k, err := r.RotateKey(ctx, operator, newKey(t, id, "ES256"), publish, time.Hour)
			if err != nil || k.Private != "" || k.ID != id {
				t.Errorf("RotateKey: %+v, %v", k, err)
			}
		}
		check("none", "")
		ensure("a", "ES256", true) // the first signs at once
		check("first", "a 0 -")
		ensure("b", "ES256", false)
		check("there already", "a 0 -")
		clk.add(time.Second)
		ensure("c", "EdDSA", true) // another algorithm: published first
		check("another algorithm", "c 61000 -, a 0 3661000")
		ensure("d", "EdDSA", false)

		clk.add(2 * time.Minute) // 121 s
		rotate("e", time.Minute)
		check("rotated", "e 181000 -, c 61000 3781000, a 0 3661000")
		rotate("f", 2*time.Minute) // e signs for a minute
		check("rotated in between", "f 241000 -, e 181000 3841000, c 61000 3781000, a 0 3661000")
		rotate("g", 0) // now: e and f are overtaken and verify
		check("rotated at once", "g 121000 -, e 120999 3841000, f 120999 3721000, c 61000 3781000, a 0 3661000")
		rotate("h", 0) // within the same millisecond
		check("rotated at once again", "h 121000 -, e 120999 3841000, f 120999 3721000, g 120999 3721000, c 61000 3781000, a 0 3661000")

		clk.add(time.Duration(3_661_000-121_000-1) * time.Millisecond)
		check("a millisecond before an end", "h 121000 -, e 120999 3841000, f 120999 3721000, g 120999 3721000, c 61000 3781000, a 0 3661000")
		clk.add(time.Millisecond)
		check("at an end", "h 121000 -, e 120999 3841000, f 120999 3721000, g 120999 3721000, c 61000 3781000")

		if _, err := r.RotateKey(ctx, operator, newKey(t, "h", "ES256"), 0, 0); !errors.Is(err, ErrConflict) {
			t.Errorf("the same key again: %v", err)
		}
		if _, err := r.RotateKey(ctx, operator, Key{ID: "x", Algorithm: "ES256"}, 0, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("no private part: %v", err)
		}
		if _, err := r.RotateKey(ctx, operator, newKey(t, "x", "ES256"), -1, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("negative: %v", err)
		}
		check("after what was refused", "h 121000 -, e 120999 3841000, f 120999 3721000, g 120999 3721000, c 61000 3781000")
		history := must(r.KeyHistory(ctx))(t)
		if len(history) != 6 || history[0].ID != "h" || history[5].ID != "a" || history[0].Private != "" {
			t.Errorf("history is %v", history)
		}
		k, err := r.Key(ctx, "a")
		same(t, "one", k, err, Key{ID: "a", Algorithm: "ES256", CreatedAt: start, SignsFrom: start, VerifiesUntil: start + 3_661_000})
		_, err = r.Key(ctx, "none")
		wants(t, "unknown", err, ErrNotFound, "no such key")
	})
}

// The key that signs by one clock is not taken away because another clock is behind.
func TestClockSetBackKeepsKeys(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		start := At(clk.now())
		for _, id := range []string{"a", "b"} {
			if _, err := r.RotateKey(ctx, operator, newKey(t, id, "ES256"), 0, time.Hour); err != nil {
				t.Fatal(err)
			}
			clk.add(-time.Minute)
		}
		if got, want := keyTimes(t, r, start), "b -60000 -, a -60001 3540000"; got != want {
			t.Errorf("keys are %s, want %s", got, want)
		}
	})
}

func TestEnsureKeyHasOneWinner(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		path := file(t)
		var registries []*Registry
		for range 4 {
			registries = append(registries, open(t, path))
		}
		var created atomic.Int64
		var wait sync.WaitGroup
		for n := range 20 {
			k := newKey(t, fmt.Sprintf("key-%d", n), "ES256")
			wait.Go(func() {
				won, err := registries[n%4].EnsureKey(context.Background(), operator, "ES256", time.Minute, time.Hour, func() (Key, error) { return k, nil })
				if err != nil {
					t.Error(err)
				}
				if won {
					created.Add(1)
				}
			})
		}
		wait.Wait()
		if n, keys := created.Load(), must(registries[0].KeyHistory(context.Background()))(t); n != 1 || len(keys) != 1 {
			t.Errorf("%d won, %d keys, want 1 and 1", n, len(keys))
		}
		events := must(registries[0].Events(context.Background(), 0))(t)
		if len(events) != 1 || events[0].Action != "create" || events[0].Kind != KindKey {
			t.Errorf("events are %v", events)
		}
	})
}

func TestEnsureKeyFails(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		r := open(t, file(t))
		broken := errors.New("no entropy")
		created, err := r.EnsureKey(context.Background(), operator, "ES256", 0, 0, func() (Key, error) { return Key{}, broken })
		if created || !errors.Is(err, broken) {
			t.Errorf("%v, %v", created, err)
		}
		created, err = r.EnsureKey(context.Background(), operator, "ES256", 0, 0, func() (Key, error) { return newKey(t, "a", "RS256"), nil })
		if created || !errors.Is(err, ErrInvalid) {
			t.Errorf("another algorithm: %v, %v", created, err)
		}
	})
}

func TestRemoveKey(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		start := At(clk.now())
		check := func(what, want string) {
			t.Helper()
			if got := keyTimes(t, r, start); got != want {
				t.Errorf("%s: keys are %s, want %s", what, got, want)
			}
		}
		add := func(id string, publish time.Duration) {
			t.Helper()
			if _, err := r.RotateKey(ctx, operator, newKey(t, id, "ES256"), publish, time.Hour); err != nil {
				t.Fatal(err)
			}
			clk.add(time.Second)
		}
		add("a", 0)
		add("b", 0)
		wants(t, "unknown", r.RemoveKey(ctx, operator, "none", nil), ErrNotFound, "no such key")
		wants(t, "the last that signs", r.RemoveKey(ctx, operator, "b", nil), ErrConflict, "together with a replacement")
		check("refused", "b 1000 -, a 0 3601000")
		if err := r.RemoveKey(ctx, operator, "a", nil); err != nil {
			t.Errorf("one that only verifies: %v", err)
		}
		check("removed", "b 1000 -")
		replacement := newKey(t, "c", "ES256")
		if err := r.RemoveKey(ctx, operator, "b", &replacement); err != nil {
			t.Errorf("with a replacement: %v", err)
		}
		check("replaced", "c 2000 -")
		if events := must(r.Events(ctx, 1))(t); events[0].Action != "remove" || events[0].ID != "b" || events[0].Detail != "replaced by c" {
			t.Errorf("event %+v", events[0])
		}
		again := newKey(t, "never", "ES256")
		if err := r.RemoveKey(ctx, operator, "b", &again); err != nil {
			t.Errorf("again: %v", err)
		}
		add("d", time.Minute)
		// c signs until d does, but not beyond: nothing is left that goes on signing.
		wants(t, "the only one that signs now", r.RemoveKey(ctx, operator, "c", nil), ErrConflict, "replacement")
		early := newKey(t, "e", "ES256")
		if err := r.RemoveKey(ctx, operator, "d", &early); err != nil {
			t.Errorf("one that is to sign: %v", err)
		}
		check("replaced before it signed", "e 3000 -, c 2000 3662000")
		unused := newKey(t, "unused", "ES256")
		if err := r.RemoveKey(ctx, operator, "c", &unused); err != nil {
			t.Errorf("with a replacement that is not needed: %v", err)
		}
		check("not needed", "e 3000 -")

		k, err := r.Key(ctx, "b")
		if err != nil || k.RemovedAt == 0 {
			t.Errorf("the removed key is %+v, %v", k, err)
		}
		var private string
		if err := r.engine.read.QueryRow(`SELECT private FROM signing_key WHERE id = 'b'`).Scan(&private); err != nil || private != "" {
			t.Errorf("the removed key's private part is still there (%v)", err)
		}
	})
}

// image is every byte of the store's files, with what has not been moved out of the journal.
func image(t *testing.T, path string) []byte {
	t.Helper()
	var all []byte
	for _, suffix := range []string{"", "-wal"} {
		part, err := os.ReadFile(path + suffix)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		all = append(all, part...)
	}
	return all
}

// spellings are the ways in which raw bytes may lie in a file: as they are, in hexadecimal, and in
// base64 at each alignment.
func spellings(raw []byte) map[string][]byte {
	all := map[string][]byte{
		"raw": raw, "hexadecimal": []byte(hex.EncodeToString(raw)), "HEXADECIMAL": []byte(strings.ToUpper(hex.EncodeToString(raw))),
	}
	for i := range 3 {
		padded := append(make([]byte, i), raw...)
		whole := len(padded) / 3 * 3
		all[fmt.Sprint("base64 at ", i)] = []byte(base64.StdEncoding.EncodeToString(padded[:whole]))[(i*8+5)/6:]
		all[fmt.Sprint("base64url at ", i)] = []byte(base64.URLEncoding.EncodeToString(padded[:whole]))[(i*8+5)/6:]
	}
	return all
}

func TestSecretsAreNotInTheStore(t *testing.T) {
	ctx := context.Background()
	path := file(t)
	r := open(t, path, master(masterKey))
	c, first := newClient(t, r)
	second := must(r.RotateClientSecret(ctx, operator, c.ID, time.Hour))(t)
	k := newKey(t, "a", "ES256")
	if _, err := r.RotateKey(ctx, operator, k, 0, time.Hour); err != nil {
		t.Fatal(err)
	}
	issued(t, r, c)
	absent := func(when string) {
		t.Helper()
		bytesOf := image(t, path)
		if !bytes.Contains(bytesOf, []byte(c.ID)) {
			t.Error("the client is not in the image: the test looks in the wrong place")
		}
		for what, s := range map[string]secret.Secret{"the first secret": first, "the second secret": second, "the private key": k.Private, "the master key": masterKey} {
			for how, text := range spellings([]byte(s.Reveal())) {
				if bytes.Contains(bytesOf, text) {
					t.Errorf("%s: %s is in the store, %s", when, what, how)
				}
			}
		}
		for _, s := range []secret.Secret{first, second} {
			if bytes.Contains(bytesOf, []byte(s.Reveal()[len(secret.Prefix):])) {
				t.Errorf("%s: a secret without its prefix is in the store", when)
			}
		}
	}
	absent("open")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	absent("closed")
	if !bytes.Contains(spellings([]byte("abcdef"))["base64 at 1"], []byte("FiY2Rl")) {
		t.Error("spellings are wrong")
	}
}

// What wraps a removed key is overwritten, so that the data key opens nothing of it later on.
func TestRemovedKeyIsErased(t *testing.T) {
	ctx := context.Background()
	path := file(t)
	r := open(t, path)
	for _, id := range []string{"a", "b"} {
		if _, err := r.RotateKey(ctx, operator, newKey(t, id, "ES256"), 0, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	var wrapped string
	if err := r.engine.read.QueryRow(`SELECT private FROM signing_key WHERE id = 'a'`).Scan(&wrapped); err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(image(t, path), []byte(wrapped)) {
		t.Error("the key is not where the test looks for it")
	}
	if err := r.RemoveKey(ctx, operator, "a", nil); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if holdsPart(image(t, path), wrapped) {
		t.Error("a part of the removed key is still in the file")
	}
}

// holdsPart reports whether 12 bytes of what text spells in base64 are in all.
func holdsPart(all []byte, text string) bool {
	for part := range slices.Chunk([]byte(text), 16) {
		if len(part) == 16 && bytes.Contains(all, part) {
			return true
		}
	}
	return false
}

func TestMasterKey(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		path := file(t)
		r := open(t, path, master(masterKey))
		k := newKey(t, "a", "ES256")
		if _, err := r.RotateKey(ctx, operator, k, 0, time.Hour); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		f := func(name string, option func(*Options), words string) {
			t.Helper()
			t.Run(name, func(t *testing.T) {
				t.Helper()
				var log bytes.Buffer
				r := open(t, path, option, logTo(&log))
				keys, err := r.Keys(ctx)
				if words == "" {
					if err != nil || len(keys) != 1 || keys[0].Private != k.Private {
						t.Errorf("Keys: %v, %v", keys, err)
					}
					if log.Len() != 0 {
						t.Errorf("log is %q", log.String())
					}
					return
				}
				check := func(what string, err error) {
					t.Helper()
					if err == nil || !strings.Contains(err.Error(), words) || errors.Is(err, ErrUnavailable) {
						t.Errorf("%s: error is %v, want %q", what, err, words)
					}
				}
				check("Keys", err)
				_, err = r.EnsureKey(ctx, operator, "RS256", 0, 0, func() (Key, error) { return newKey(t, "b", "RS256"), nil })
				check("EnsureKey", err)
				_, err = r.RotateKey(ctx, operator, newKey(t, "b", "ES256"), 0, 0)
				check("RotateKey", err)
				b := newKey(t, "b", "ES256")
				check("RemoveKey", r.RemoveKey(ctx, operator, "a", &b))
				// Whatever needs no key works.
				newClient(t, r)
				if all := must(r.KeyHistory(ctx))(t); len(all) != 1 {
					t.Errorf("history has %d keys", len(all))
				}
			})
		}
		f("right", master(masterKey), "")
		if !strings.HasPrefix(path, "postgres") { // PostgreSQL opens with one alone
			f("none", master(""), "set keys.master_key_file to the file of their master key")
		}
		f("wrong", master(anotherKey), "wrapped by another master key: set keys.master_key_file to the file of that one")
		f("right again", master(masterKey), "")

		// Moved to another row, a wrapped text does not open: the row's id is bound to it.
		execute(t, path, `INSERT INTO data_key (id, wrapping, material, created_at) SELECT 'x', wrapping, material, created_at FROM data_key`)
		execute(t, path, `UPDATE signing_key SET data_key_id = 'x'`)
		execute(t, path, `DELETE FROM data_key WHERE id <> 'x'`)
		f("moved data key", master(masterKey), "another master key")
	})
}

func TestNoMasterKey(t *testing.T) {
	ctx := context.Background()
	path := file(t)
	k := newKey(t, "a", "ES256")
	var dataKey string
	for n := range 2 {
		var log bytes.Buffer
		r := open(t, path, logTo(&log))
		if n == 0 {
			if _, err := r.RotateKey(ctx, operator, k, 0, time.Hour); err != nil {
				t.Fatal(err)
			}
		}
		if keys := must(r.Keys(ctx))(t); len(keys) != 1 || keys[0].Private != k.Private {
			t.Error("the key is another one")
		}
		if err := r.engine.read.QueryRow(`SELECT material FROM data_key WHERE wrapping = 'none'`).Scan(&dataKey); err != nil {
			t.Fatal(err)
		}
		if got := strings.Count(log.String(), "no master key: whoever reads the store's file can sign tokens; set keys.master_key_file"); got != 1 || !strings.Contains(log.String(), "level=WARN") {
			t.Errorf("warned %d times, want once: %q", got, log.String())
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Contains(image(t, path), []byte(dataKey)) {
		t.Error("the data key is not where the test looks for it")
	}

	// A master key is configured later.
	var log bytes.Buffer
	r := open(t, path, master(masterKey), logTo(&log))
	if keys := must(r.Keys(ctx))(t); len(keys) != 1 || keys[0].Private != k.Private {
		t.Error("the key is another one after wrapping")
	}
	if !strings.Contains(log.String(), "the master key wraps it now") || strings.Contains(log.String(), "level=WARN") {
		t.Errorf("log is %q", log.String())
	}
	if holdsPart(image(t, path), dataKey) {
		t.Error("a part of the unwrapped data key is still in the files")
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, path)
	if _, err := again.Keys(ctx); err == nil {
		t.Error("the keys open without the master key")
	}
}

func TestDamagedKeyTakesNoOtherAway(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		f := func(name, damage string) {
			t.Helper()
			t.Run(name, func(t *testing.T) {
				t.Helper()
				path := file(t)
				r := open(t, path)
				for _, id := range []string{"a", "b"} {
					if _, err := r.RotateKey(ctx, operator, newKey(t, id, "ES256"), 0, time.Hour); err != nil {
						t.Fatal(err)
					}
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				execute(t, path, damage)
				var log bytes.Buffer
				r = open(t, path, logTo(&log))
				keys, err := r.Keys(ctx)
				if err != nil || len(keys) != 1 || keys[0].ID != "b" {
					t.Errorf("keys are %v, %v", keys, err)
				}
				if !strings.Contains(log.String(), `msg="dropped a signing key that cannot be unwrapped" kid=a`) {
					t.Errorf("log is %q", log.String())
				}
			})
		}
		f("another row's", `UPDATE signing_key SET private = (SELECT private FROM signing_key WHERE id = 'b') WHERE id = 'a'`)
		f("cut", `UPDATE signing_key SET private = substr(private, 1, 40) WHERE id = 'a'`)
		f("not base64", `UPDATE signing_key SET private = '-' || private WHERE id = 'a'`)
		f("empty", `UPDATE signing_key SET private = '' WHERE id = 'a'`)
	})
}

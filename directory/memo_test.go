package directory

import (
	"errors"
	"fmt"
	"sync"
	"testing"
)

func made(audience string, generation uint64) func() (Assertion, error) {
	return func() (Assertion, error) {
		return Assertion{Audience: audience, JWS: "for " + audience, Generation: generation, From: 100, Renew: 150, Until: 200}, nil
	}
}

func TestMemo(t *testing.T) {
	m := new(Memo)
	if jws, err := m.Renew("a", 1, 100, made("a", 1)); jws != "for a" || err != nil {
		t.Fatal(jws, err)
	}
	f := func(name, audience string, generation uint64, now int64, want bool) {
		t.Helper()
		if jws, ok := m.Find(audience, generation, now); ok != want || ok && jws != "for "+audience {
			t.Errorf("%s: %q, %t", name, jws, ok)
		}
	}
	f("at once", "a", 1, 100, true)
	f("just before it is renewed", "a", 1, 149, true)
	f("due to be renewed", "a", 1, 150, false)
	f("before it was made", "a", 1, 99, false)
	f("other keys", "a", 2, 100, false)
	f("another audience", "b", 1, 100, false)
	failure := errors.New("no key")
	if jws, err := m.Renew("a", 1, 150, func() (Assertion, error) { return Assertion{}, failure }); jws != "" || err != failure {
		t.Errorf("%q, %v", jws, err)
	}
	f("after a failure", "a", 1, 100, true)
}

// Routes with other audiences do not push each other out; what cannot be used goes.
func TestMemoOfManyAudiences(t *testing.T) {
	m := new(Memo)
	for i := range maxAssertions + 4 {
		audience := fmt.Sprint(i)
		if _, err := m.Renew(audience, 1, 100, made(audience, 1)); err != nil {
			t.Fatal(err)
		}
	}
	held := func(generation uint64) (n int) {
		for i := range maxAssertions + 4 {
			if _, ok := m.Find(fmt.Sprint(i), generation, 100); ok {
				n++
			}
		}
		return n
	}
	if n := held(1); n != maxAssertions {
		t.Errorf("%d held, want %d", n, maxAssertions)
	}
	if _, err := m.Renew("0", 2, 100, made("0", 2)); err != nil {
		t.Fatal(err)
	}
	if held(1) != 0 || held(2) != 1 || m.newest.Load().older != nil {
		t.Errorf("after the keys changed %d old and %d new are held", held(1), held(2))
	}
}

func TestMemoConcurrently(t *testing.T) {
	m := new(Memo)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for now := int64(100); now < 200; now++ {
				audience := fmt.Sprint(i % 4)
				if jws, err := m.Renew(audience, uint64(now/30), now, made(audience, uint64(now/30))); jws != "for "+audience || err != nil {
					t.Errorf("%q, %v", jws, err)
				}
			}
		})
	}
	all.Wait()
}

package verifier

import (
	"testing"

	"postern/registry"
	"postern/token"
)

// What is remembered about a token is about one verification of it: while that holds it is
// found again, and what replaces it begins with nothing.
func TestMemoIsOfOneVerification(t *testing.T) {
	w := newWorld(t)
	claims := w.claims("client-a", "organization-a")
	raw := w.sign(claims)
	f := func(name string, same bool) {
		t.Helper()
		w.accept(raw, start) // what is new is in the cache now
		first := w.accept(raw, start).Memo
		if first == nil || w.accept(raw, start).Memo != first {
			t.Fatalf("%s: the memo of a cached verification is not found again", name)
		}
		if _, found := first.Find("tracks", w.directory.Generation(), start.Unix()); found != same {
			t.Errorf("%s: remembered %t, want %t", name, found, same)
		}
		e, _ := w.verifier.cache.Get(w.verifier.hash(digest(raw)))
		w.assert(e, "tracks")
		if _, found := first.Find("tracks", w.directory.Generation(), start.Unix()); !found {
			t.Fatalf("%s: nothing is remembered", name)
		}
	}
	f("new", false)
	f("cached", true)
	w.changeClient("client-a", func(g *registry.Grant) { g.Client.Environment = "staging" })
	w.catchUp()
	f("after the client changed", false)
	f("cached again", true)
	w.addKey(token.ES256, 0)
	w.catchUp()
	f("after the keys changed", false)

	other := w.accept(w.sign(w.claims("client-a", "organization-a")), start)
	if other.Memo == w.accept(raw, start).Memo {
		t.Error("two tokens share a memo")
	}
}

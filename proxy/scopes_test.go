package proxy

import "testing"

func TestScopes(t *testing.T) {
	f := func(all, any []string, granted string, want bool) {
		t.Helper()
		s, err := newScopes(all, any)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.cover(granted); got != want {
			t.Errorf("all of %q and one of %q by %q: %v", all, any, granted, got)
		}
	}
	list := func(s ...string) []string { return s }
	f(nil, nil, "", true)
	f(nil, nil, "search", true)
	f(list("search"), nil, "search", true)
	f(list("search"), nil, "tag search", true)
	f(list("search"), nil, "tag search stream", true)
	f(list("search"), nil, "", false)
	f(list("search"), nil, "searches research sear ch", false)
	f(list("search"), nil, "SEARCH", false)
	f(list("search", "tag"), nil, "tag search", true)
	f(list("search", "tag"), nil, "search", false)
	f(nil, list("search", "tag"), "tag", true)
	f(nil, list("search", "tag"), "stream", false)
	f(nil, list("search", "tag"), "", false)
	f(list("search"), list("tag", "stream"), "search stream", true)
	f(list("search"), list("tag", "stream"), "search", false)
	f(list("search"), list("tag", "stream"), "tag stream", false)
	for _, bad := range []string{"", "a b", `a"b`, `a\b`, "é", "a\x7f", "a\r\n"} {
		if _, err := newScopes(list(bad), nil); err == nil {
			t.Errorf("%q is taken", bad)
		}
		if _, err := newScopes(nil, list("ok", bad)); err == nil {
			t.Errorf("%q is taken as one of", bad)
		}
	}
	s, err := newScopes(list("a", "b"), list("c"))
	if err != nil || s.challenge != `error="insufficient_scope", scope="a b c"` {
		t.Errorf("%q %v", s.challenge, err)
	}
	if n := testing.AllocsPerRun(100, func() { s.cover("x y b a c") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

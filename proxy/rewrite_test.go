package proxy

import "testing"

func TestRewrite(t *testing.T) {
	f := func(strip, add, target, want string) {
		t.Helper()
		w, err := newRewriting(strip, add)
		if err != nil {
			t.Fatal(err)
		}
		path, _, ok := checkTarget([]byte(target))
		if !ok {
			t.Fatalf("%s is no target", target)
		}
		got, ok := w.rewrite([]byte("before "), path)
		if ok {
			got = append(got, target[len(path):]...)
		}
		if !ok && want != "" || ok && string(got) != "before "+want {
			t.Errorf("strip %q, add %q, %s: %q %v, want %q", strip, add, target, got, ok, want)
		}
		if !ok && string(got) != "before " {
			t.Errorf("%s: left %q", target, got)
		}
	}
	f("/api", "", "/api/a?b=/api", "/a?b=/api")
	f("/api", "", "/api", "/")
	f("/api", "", "/api?x=1", "/?x=1")
	f("/api", "", "/api/", "/")
	f("/api/", "", "/api/a", "/a")
	f("/api/v1", "", "/api/v1/a/", "/a/")
	f("/api", "", "/api/%61%2Fb;c/%E2%82%AC?%00", "/%61%2Fb;c/%E2%82%AC?%00")
	f("", "/v1", "/a", "/v1/a")
	f("", "/v1", "/", "/v1/")
	f("/api", "/v1", "/api", "/v1")
	f("/api", "/v1", "/api/", "/v1/")
	f("/api", "/v1/x", "/api/a?q", "/v1/x/a?q")
	f("", "", "/a?b", "/a?b")
	f("/", "/", "/a?b", "/a?b")

	// By whole segments, and only by the bytes that are there.
	f("/api", "", "/apix", "")
	f("/api", "", "/api;v=1/a", "")
	f("/api", "", "/api%2Fa", "")
	f("/api", "", "/%61pi/a", "")
	f("/api", "", "/ap%69", "")
	f("/api", "", "/API/a", "")
	f("/api", "", "/", "")
	f("/api/v1", "", "/api%2Fv1/a", "")
}

func TestRewritingRefusesPrefixes(t *testing.T) {
	for _, prefix := range []string{"api", "//", "/a//b", "/a/../b", "/a/.", "/a%2fb", "/a;b", "/a?b", "/a#b", "/a b", `/a\b`} {
		if _, err := newRewriting(prefix, ""); err == nil {
			t.Errorf("strip %q is taken", prefix)
		}
		if _, err := newRewriting("", prefix); err == nil {
			t.Errorf("add %q is taken", prefix)
		}
	}
}

// FuzzRewrite: what is forwarded has one reading and is made of what came.
func FuzzRewrite(f *testing.F) {
	for _, target := range []string{"/api/a", "/api", "/api/%2e", "/api/..;/x?y", "/api?", "/apiary"} {
		f.Add(target)
	}
	w, err := newRewriting("/api", "/v1")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		path, query, ok := checkTarget([]byte(target))
		if !ok {
			t.Skip()
		}
		got, ok := w.rewrite(nil, path)
		if !ok {
			t.Skip()
		}
		got = append(got, target[len(path):]...)
		path, query2, ok := checkTarget(got)
		if !ok || string(query2) != string(query) || string(got) != "/v1"+target[len("/api"):] || string(path[:3]) != "/v1" {
			t.Errorf("%q became %q", target, got)
		}
	})
}

func TestRewriteAllocatesNothing(t *testing.T) {
	w, err := newRewriting("/api", "/v1")
	if err != nil {
		t.Fatal(err)
	}
	path, dst := []byte("/api/a/b"), make([]byte, 0, 64)
	if n := testing.AllocsPerRun(100, func() { _, _ = w.rewrite(dst, path) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

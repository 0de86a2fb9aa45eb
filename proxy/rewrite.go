package proxy

import (
	"bytes"
	"fmt"
	"strings"
)

// rewriting is how a route changes a request's path before it is forwarded: the bytes
// of strip are taken off the path, those of add are put before what remains.
type rewriting struct{ strip, add []byte }

// newRewriting checks both prefixes: absolute plain paths, or "" for none.
func newRewriting(strip, add string) (w rewriting, err error) {
	for _, prefix := range []string{strip, add} {
		if prefix != "" && (prefix[0] != '/' || !checkPath([]byte(prefix)) || !plain([]byte(prefix)) || strings.ContainsAny(prefix, "?# ")) {
			return w, fmt.Errorf("prefix %q is not an absolute plain path", prefix)
		}
	}
	return rewriting{[]byte(strings.TrimSuffix(strip, "/")), []byte(strings.TrimSuffix(add, "/"))}, nil
}

func (w *rewriting) none() bool { return len(w.strip) == 0 && len(w.add) == 0 }

// rewrite appends the path to be forwarded to dst. path passed checkTarget; the query is
// no matter of this. ok is false where the bytes of path do
// not begin with the segments to strip: a client encoded some of them, and decoding them
// here would forward something that nobody sent.
func (w *rewriting) rewrite(dst, path []byte) (_ []byte, ok bool) {
	if !bytes.HasPrefix(path, w.strip) {
		return dst, false
	}
	rest := path[len(w.strip):]
	if len(rest) > 0 && rest[0] != '/' {
		return dst, false
	}
	from := len(dst)
	dst = append(dst, w.add...)
	dst = append(dst, rest...)
	if len(dst) == from {
		dst = append(dst, '/')
	}
	// One reading again: both parts had one, and this holds it whatever becomes of them.
	if !checkPath(dst[from:]) {
		return dst[:from], false
	}
	return dst, true
}

package proxy

import (
	"bytes"
	"fmt"
	"strings"
)

// kind is the rule for a field, by its name.
type kind uint8

const (
	forwarded kind = iota
	dropped        // hop-by-hop, ours, or a twin of a protected name
	hostKind
	connectionKind
	lengthKind
	encodingKind
	authorizationKind
	expectKind
	requestIDKind
	upgradeKind
	traceKind // of a trace that the client belongs to
	hopKind   // said by somebody between the client and us; believed from trusted proxies only
)

// classifier knows the fields that are not simply forwarded. Names are compared
// folded: lower case, and every byte that is no letter or digit dropped, since an
// upstream may read X_Organization.Id as ours (CGI does).
type classifier struct {
	kinds map[string]kind // folded name
	exact map[string]string
}

// foldSize bounds a folded name that can be known.
const foldSize = 64

func newClassifier(reserved []string) (*classifier, error) {
	c := &classifier{kinds: map[string]kind{}, exact: map[string]string{}}
	add := func(k kind, names ...string) error {
		for _, name := range names {
			folded := fold(nil, []byte(name))
			if len(folded) == 0 || len(folded) > foldSize {
				return fmt.Errorf("field name %q: fold to 1 to %d letters and digits", name, foldSize)
			}
			if known, ok := c.kinds[string(folded)]; ok && known != dropped {
				return fmt.Errorf("field name %q: belongs to HTTP or to postern", name)
			}
			c.kinds[string(folded)] = k
			c.exact[string(folded)] = strings.ToLower(name)
		}
		return nil
	}
	err := add(hostKind, "Host")
	for _, known := range []struct {
		kind  kind
		names []string
	}{
		{connectionKind, []string{"Connection"}},
		{lengthKind, []string{"Content-Length"}},
		{encodingKind, []string{"Transfer-Encoding"}},
		{authorizationKind, []string{"Authorization"}},
		{expectKind, []string{"Expect"}},
		{requestIDKind, []string{"X-Request-Id"}},
		{upgradeKind, []string{"Upgrade"}},
		{traceKind, []string{"Traceparent", "Tracestate"}},
		{hopKind, []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host",
			"X-Forwarded-Method", "X-Forwarded-Uri", "X-Original-Method", "X-Original-Host", "X-Original-Uri"}},
		// Hop-by-hop (RFC 9110 §7.6.1), and what only means something to a proxy.
		{dropped, []string{"Keep-Alive", "TE", "Trailer", "HTTP2-Settings"}},
		// To some upstreams these are the target, which would be another than was judged.
		{dropped, []string{"X-Original-URL", "X-Rewrite-URL"}},
		{dropped, []string{"X-Real-IP"}},
		{dropped, reserved},
	} {
		if err == nil {
			err = add(known.kind, known.names...)
		}
	}
	return c, err
}

// classify returns the rule for name. A twin, which folds to a known name but is not
// it, is dropped: what it would mean is the upstream's guess.
func (c *classifier) classify(name []byte) kind {
	var buffer [foldSize + 1]byte
	folded := fold(buffer[:0], name)
	k, known := c.kinds[string(folded)]
	if !known {
		// X-Forwarded-For, -Proto, -Host, -Uri, -Prefix, …; Proxy-Connection, Proxy-Authorization, Proxy, …
		if bytes.HasPrefix(folded, []byte("xforwarded")) || bytes.HasPrefix(folded, []byte("proxy")) {
			return dropped
		}
		return forwarded
	}
	if k != dropped && !equalFold(name, c.exact[string(folded)]) {
		return dropped
	}
	return k
}

// fold appends name to dst in lower case and without what is no letter or digit, but
// not more than one byte beyond foldSize: longer names are known to nobody.
func fold(dst, name []byte) []byte {
	for _, c := range name {
		switch {
		case 'A' <= c && c <= 'Z':
			dst = append(dst, c|0x20)
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
			dst = append(dst, c)
		}
		if len(dst) > foldSize {
			break
		}
	}
	return dst
}

// equalFold compares a name with one in lower case.
func equalFold(name []byte, lower string) bool {
	if len(name) != len(lower) {
		return false
	}
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

package proxy

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// route is a Route with what belongs to it at run time.
type route struct {
	Route
	rules
	upstream *pool
	allow    string // for 405
	metrics  *routeMetrics
}

// router finds the route of a request: first the host (exact, then wildcard, then any),
// then the longest path that matches, whole or by whole segments, then the method. It is
// immutable.
type router struct {
	all      []*route
	exact    map[string]paths
	wildcard []wildcard // longest suffix first
	any      paths
}

type wildcard struct {
	suffix []byte // with the leading dot
	paths  paths
}

// paths maps a route's path to the routes that have it, exact ones first; they differ in
// methods.
type paths map[string][]*route

// newRouter builds the table. pool finds the pool of an upstream.
func newRouter(routes []Route, pool func(Upstream) (*pool, error)) (*router, error) {
	r := &router{exact: map[string]paths{}, any: paths{}}
	wild := map[string]paths{}
	for _, given := range routes {
		if given.Path == "" || given.Path[0] != '/' || !checkPath([]byte(given.Path)) || !plain([]byte(given.Path)) {
			return nil, fmt.Errorf("route %q: path %q is not an absolute plain path", given.Name, given.Path)
		}
		upstream, err := pool(given.Upstream)
		if err != nil {
			return nil, fmt.Errorf("route %q: %w", given.Name, err)
		}
		rt := &route{Route: given, upstream: upstream}
		into := r.any
		switch {
		case strings.HasPrefix(given.Host, "*."):
			suffix := given.Host[1:]
			if wild[suffix] == nil {
				wild[suffix] = paths{}
			}
			into = wild[suffix]
		case given.Host != "":
			if r.exact[given.Host] == nil {
				r.exact[given.Host] = paths{}
			}
			into = r.exact[given.Host]
		}
		into[given.Path] = append(into[given.Path], rt)
		r.all = append(r.all, rt)
	}
	for suffix, p := range wild {
		r.wildcard = append(r.wildcard, wildcard{[]byte(suffix), p})
	}
	slices.SortFunc(r.wildcard, func(a, b wildcard) int { return len(b.suffix) - len(a.suffix) })
	r.settle()
	return r, nil
}

// settle sorts the routes of each path, and writes what a 405 on it says.
func (r *router) settle() {
	list := func(methods []string) string {
		slices.Sort(methods)
		return strings.Join(slices.Compact(methods), ", ")
	}
	tables := []paths{r.any}
	for _, p := range r.exact {
		tables = append(tables, p)
	}
	for _, w := range r.wildcard {
		tables = append(tables, w.paths)
	}
	for _, table := range tables {
		for _, same := range table {
			slices.SortStableFunc(same, func(a, b *route) int { return b.rank() - a.rank() })
			var at, below []string // the path itself is both kinds' to answer
			for _, rt := range same {
				at = append(at, rt.Methods...)
				if !rt.Exact {
					below = append(below, rt.Methods...)
				}
			}
			for _, rt := range same {
				if rt.allow = list(below); rt.Exact {
					rt.allow = list(at)
				}
			}
		}
	}
}

// find returns the route for a path that was read already, whatever the method; ok
// is false where no path matches. When the path matches but no method does, rt is one
// of the path's routes and allowed is false.
func (r *router) find(host, path, method []byte) (rt *route, allowed, ok bool) {
	table := r.table(host)
	for n := len(path); n > 0; {
		for _, same := range table[string(path[:n])] {
			switch {
			case same.Exact && n < len(path):
			case len(same.Methods) == 0 || slices.Contains(same.Methods, string(method)):
				return same, true, true
			case rt == nil:
				rt = same
			}
		}
		if rt != nil {
			return rt, false, true
		}
		if n == 1 {
			break
		}
		// "/a/b" then "/a" then "/"; "/a/b/" then "/a/b".
		n = max(1, bytes.LastIndexByte(path[:n], '/'))
	}
	return nil, false, false
}

// rank is higher for routes that are tried first.
func (rt *route) rank() int {
	if rt.Exact {
		return 1
	}
	return 0
}

func (r *router) table(host []byte) paths {
	if len(r.exact) == 0 && len(r.wildcard) == 0 {
		return r.any
	}
	var buffer [256]byte
	name := hostname(buffer[:0], host)
	if p, ok := r.exact[string(name)]; ok {
		return p
	}
	for _, w := range r.wildcard {
		if len(name) > len(w.suffix) && bytes.HasSuffix(name, w.suffix) {
			return w.paths
		}
	}
	return r.any
}

// hostname appends host in lower case without port and trailing dot to dst.
func hostname(dst, host []byte) []byte {
	if i := bytes.LastIndexByte(host, ':'); i >= 0 && bytes.IndexByte(host[i:], ']') < 0 {
		host = host[:i]
	}
	for _, c := range host {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		dst = append(dst, c)
	}
	return bytes.TrimSuffix(dst, []byte{'.'})
}

// validHost reports whether host is a reg-name or IP literal with an optional port
// (RFC 9110 §7.2). User information is refused: fasthttp would turn it into an
// Authorization field.
func validHost(host []byte) bool {
	if len(host) == 0 || len(host) > 255 {
		return false
	}
	if host[0] == '[' {
		end := bytes.IndexByte(host, ']')
		if end < 0 {
			return false
		}
		if ip, err := netip.ParseAddr(string(host[1:end])); err != nil || !ip.Is6() || ip.Zone() != "" {
			return false
		}
		return validPort(host[end+1:])
	}
	name := host
	if i := bytes.IndexByte(host, ':'); i >= 0 {
		name = host[:i]
		if !validPort(host[i:]) {
			return false
		}
	}
	for _, c := range name {
		if !isAlphanumeric(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return len(name) > 0 && name[0] != '.' && !bytes.Contains(name, []byte(".."))
}

// validPort takes what follows the host: nothing, or a colon and a port.
func validPort(rest []byte) bool {
	if len(rest) == 0 {
		return true
	}
	if rest[0] != ':' || len(rest) > 6 {
		return false
	}
	for _, c := range rest[1:] {
		if c < '0' || c > '9' {
			return false
		}
	}
	return true
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'z'
}

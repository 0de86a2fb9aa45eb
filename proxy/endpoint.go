package proxy

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// endpoint is one origin server of a pool: its connections, its load and its health.
type endpoint struct {
	pool    *pool
	network string
	address string // host:port, or a socket's path
	label   string // as it is configured: a metric label
	field   string // Host, where nobody said another
	weight  int64
	tls     *tls.Config // nil: plain

	host      string // a name to resolve; "": the address is literal
	port      uint16
	addresses atomic.Pointer[[]netip.AddrPort] // of host; nil: not resolved yet
	next      atomic.Uint32                    // spreads connections over them

	load        atomic.Int64 // requests on it
	connections atomic.Int64 // open ones, idle or not

	state    atomic.Uint32 // of the bits opened and unwell; 0: it is well
	failures atomic.Int64  // consecutive ones
	until    atomic.Int64  // Unix nanoseconds: while opened it is not tried before
	probing  atomic.Bool   // a request tries it
	told     atomic.Int64  // Unix nanoseconds: when the log was told why it failed

	mu     sync.Mutex      // for slice work only
	idle   []*upstreamConn // the last one was used last
	closed bool
}

func newEndpoint(p *pool, given Endpoint) (*endpoint, error) {
	e := &endpoint{pool: p, network: given.Network, address: given.Address, weight: int64(max(1, given.Weight))}
	name := ""
	switch given.Network {
	case "unix":
		e.label, e.field = "unix:"+given.Address, "localhost"
	case "tcp":
		host, port, err := net.SplitHostPort(given.Address)
		if err != nil {
			return nil, fmt.Errorf("read an endpoint's address: %w", err)
		}
		name, e.label, e.field = host, "http://"+given.Address, given.Address
		if _, err := netip.ParseAddr(host); err != nil {
			e.host = host
			n, err := net.LookupPort("tcp", port) // a number is not looked up
			if err != nil {
				return nil, fmt.Errorf("read an endpoint's port: %w", err)
			}
			e.port = uint16(n)
		}
	default:
		return nil, fmt.Errorf("an endpoint's network is %q, neither tcp nor unix", given.Network)
	}
	if !given.TLS {
		return e, nil
	}
	e.label = strings.Replace(e.label, "http:", "https:", 1)
	e.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if p.upstream.TLS != nil {
		e.tls = p.upstream.TLS.Clone()
	}
	e.tls.NextProtos = []string{"http/1.1"}
	if e.tls.ServerName == "" {
		e.tls.ServerName = name
	}
	if e.tls.ServerName == "" {
		return nil, errors.New("an endpoint with TLS over a unix socket needs a server name")
	}
	if e.tls.ClientSessionCache == nil {
		e.tls.ClientSessionCache = tls.NewLRUClientSessionCache(0)
	}
	return e, nil
}

// pop returns an idle connection that can still be used, or nil.
func (e *endpoint) pop(now time.Time) *upstreamConn {
	for {
		e.mu.Lock()
		n := len(e.idle)
		if n == 0 {
			e.mu.Unlock()
			return nil
		}
		c := e.idle[n-1]
		e.idle[n-1] = nil
		e.idle = e.idle[:n-1]
		e.mu.Unlock()
		if now.Sub(c.used) < upstreamIdle && c.quiet() {
			return c
		}
		e.discard(c)
	}
}

// push keeps c for the next request, or closes it.
func (e *endpoint) push(c *upstreamConn, now time.Time) {
	c.x = nil
	c.used = now
	if !c.drained() {
		e.discard(c)
		return
	}
	e.mu.Lock()
	kept := !e.closed && len(e.idle) < e.pool.upstream.MaxIdle
	if kept {
		e.idle = append(e.idle, c)
	}
	e.mu.Unlock()
	if !kept {
		e.discard(c)
	}
}

// drained reports whether nothing of what the peer sent waits to be read: bytes that
// nobody asked for would be taken for the next answer, which may be another client's.
func (c *upstreamConn) drained() bool {
	if c.reader.Buffered() > 0 {
		return false
	}
	s, ok := c.Conn.(*secureConn)
	return !ok || s.drained()
}

func (e *endpoint) discard(c *upstreamConn) {
	e.connections.Add(-1)
	_ = c.Close()
}

// reap closes what has been idle for too long at now, or leads to an address that is gone.
func (e *endpoint) reap(now time.Time) {
	e.mu.Lock()
	var old []*upstreamConn
	keep := e.idle[:0]
	for _, c := range e.idle {
		if now.Sub(c.used) >= upstreamIdle || e.gone(c) {
			old = append(old, c)
		} else {
			keep = append(keep, c)
		}
	}
	clear(e.idle[len(keep):])
	e.idle = keep
	e.mu.Unlock()
	for _, c := range old {
		e.discard(c)
	}
}

// gone reports whether the name has lost the address that c leads to.
func (e *endpoint) gone(c *upstreamConn) bool {
	addresses := e.addresses.Load()
	if addresses == nil {
		return false
	}
	to, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return false
	}
	at := to.AddrPort()
	return !slices.Contains(*addresses, netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
}

func (e *endpoint) close() {
	e.mu.Lock()
	idle := e.idle
	e.idle, e.closed = nil, true
	e.mu.Unlock()
	for _, c := range idle {
		e.discard(c)
	}
}

package proxy

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	upstreamIdle   = 30 * time.Second // a kept connection is closed after it; most upstreams keep theirs longer
	upstreamKept   = 512              // connections kept idle to one upstream
	connectTimeout = 5 * time.Second
)

// upstream is one origin server and the connections to it that are idle. The lock is
// held for slice work only.
type upstream struct {
	address string // host:port
	host    []byte // the Host field where the client sent none

	mu     sync.Mutex
	idle   []*upstreamConn // the last one was used last
	closed bool
}

func newUpstream(address string) *upstream {
	return &upstream{address: address, host: []byte(address)}
}

// take returns an idle connection, or dials one. reused says which.
func (u *upstream) take(fresh bool, timeout time.Duration) (c *upstreamConn, reused bool, err error) {
	for !fresh {
		if c = u.pop(); c == nil {
			break
		}
		if time.Since(c.used) < upstreamIdle && c.quiet() {
			return c, true, nil
		}
		_ = c.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(timeout, connectTimeout))
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", u.address)
	if err != nil {
		return nil, false, err
	}
	return newUpstreamConn(conn), false, nil
}

func (u *upstream) pop() *upstreamConn {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := len(u.idle)
	if n == 0 {
		return nil
	}
	c := u.idle[n-1]
	u.idle[n-1] = nil
	u.idle = u.idle[:n-1]
	return c
}

// put keeps c for the next request. c must have been read to the end of its answer.
func (u *upstream) put(c *upstreamConn) {
	c.client = nil
	c.used = time.Now()
	if c.reader.Buffered() > 0 { // bytes that nobody asked for
		_ = c.Close()
		return
	}
	u.mu.Lock()
	kept := !u.closed && len(u.idle) < upstreamKept
	if kept {
		u.idle = append(u.idle, c)
	}
	u.mu.Unlock()
	if !kept {
		_ = c.Close()
	}
}

// reap closes what has been idle for too long at now.
func (u *upstream) reap(now time.Time) {
	u.mu.Lock()
	n := 0
	for n < len(u.idle) && now.Sub(u.idle[n].used) >= upstreamIdle {
		n++
	}
	old := append([]*upstreamConn(nil), u.idle[:n]...)
	u.idle = append(u.idle[:0], u.idle[n:]...)
	u.mu.Unlock()
	for _, c := range old {
		_ = c.Close()
	}
}

// close closes the idle connections and keeps none from now on.
func (u *upstream) close() {
	u.mu.Lock()
	idle := u.idle
	u.idle, u.closed = nil, true
	u.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
}

package proxy

import (
	"bufio"
	"context"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	upstreamIdle   = 30 * time.Second // a kept connection is closed after it; most upstreams keep theirs longer
	upstreamKept   = 512              // connections kept idle to one upstream
	connectTimeout = 5 * time.Second
	answerHead     = 32 << 10 // the largest head of an answer, and the read buffer of a connection
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

// upstreamConn is a connection to an upstream. One exchange at a time owns it.
type upstreamConn struct {
	net.Conn
	reader *bufio.Reader
	used   time.Time
	// between bounds each read of the content; 0 while a head is read under one deadline.
	between time.Duration

	raw  syscall.RawConn // nil where there is none: then the connection is never quiet
	look func(fd uintptr)
	seen error // what look saw
}

func newUpstreamConn(conn net.Conn) *upstreamConn {
	c := &upstreamConn{Conn: conn}
	c.reader = bufio.NewReaderSize(c, answerHead)
	if s, ok := conn.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	c.look = func(fd uintptr) {
		var one [1]byte
		_, _, c.seen = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	return c
}

func newUpstream(address string) *upstream {
	return &upstream{address: address, host: []byte(address)}
}

// Read reads from the socket under the deadline that the exchange is in.
func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.between > 0 {
		if err := c.SetReadDeadline(time.Now().Add(c.between)); err != nil {
			return 0, err
		}
	}
	return c.Conn.Read(p)
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
	c.between = 0
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

// quiet reports whether the peer has neither closed the idle connection nor sent
// anything on it: bytes that nobody asked for would be taken for the next answer, which
// may be another client's. It is looked at before each use.
func (c *upstreamConn) quiet() bool {
	// Control, unlike Read, does not mind that the last exchange's deadline has passed.
	return c.raw != nil && c.raw.Control(c.look) == nil && c.seen == syscall.EAGAIN
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

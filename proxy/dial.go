package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
)

// connect opens a connection for requests until ctx ends.
func (e *endpoint) connect(ctx context.Context) (*upstreamConn, error) {
	conn, err := e.open(ctx)
	if err != nil {
		return nil, err
	}
	e.connections.Add(1)
	c := newUpstreamConn(conn)
	c.secured = e.tls != nil
	return c, nil
}

// open opens a connection, TLS included, until ctx ends.
func (e *endpoint) open(ctx context.Context) (net.Conn, error) {
	conn, err := e.dial(ctx)
	if err != nil || e.tls == nil {
		return conn, err
	}
	secure := newSecureConn(conn, e.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("begin TLS: %w", err)
	}
	return secure, nil
}

// dial tries the addresses of the endpoint one after the other, beginning with another
// one each time.
func (e *endpoint) dial(ctx context.Context) (conn net.Conn, err error) {
	var dialer net.Dialer
	if e.host == "" {
		return dialer.DialContext(ctx, e.network, e.address)
	}
	addresses := e.addresses.Load()
	if addresses == nil {
		if addresses, err = e.resolve(ctx); err != nil {
			return nil, err
		}
	}
	n := len(*addresses)
	first := int(e.next.Add(1) % uint32(n))
	for i := range n {
		if conn, err = dialOne(ctx, (*addresses)[(first+i)%n], n-i); err == nil || ctx.Err() != nil {
			return conn, err
		}
	}
	return nil, err
}

// dialOne gives one address its share of the time that is left for those that remain:
// one that does not answer must not use it all up.
func dialOne(ctx context.Context, address netip.AddrPort, remain int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok && remain > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(remain))
		defer cancel()
	}
	return new(net.Dialer).DialContext(ctx, "tcp", address.String())
}

// resolve asks for the addresses of the endpoint's name and keeps them.
func (e *endpoint) resolve(ctx context.Context) (*[]netip.AddrPort, error) {
	found, err := e.pool.options.lookup(ctx, "ip", e.host)
	if err != nil {
		return nil, fmt.Errorf("resolve the upstream's name: %w", err)
	}
	addresses := make([]netip.AddrPort, 0, len(found))
	for _, a := range found {
		addresses = append(addresses, netip.AddrPortFrom(a.Unmap(), e.port))
	}
	slices.SortFunc(addresses, netip.AddrPort.Compare)
	addresses = slices.Compact(addresses)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("resolve the upstream's name: %q has no address", e.host)
	}
	e.addresses.Store(&addresses)
	return &addresses, nil
}

// resolveAgain replaces the addresses that are in use; when it fails they stay.
func (e *endpoint) resolveAgain(ctx context.Context) {
	if e.addresses.Load() == nil {
		return // nobody has connected yet
	}
	ctx, cancel := context.WithTimeout(ctx, e.pool.upstream.ConnectTimeout)
	defer cancel()
	if _, err := e.resolve(ctx); err != nil && ctx.Err() != context.Canceled {
		e.pool.options.log.Warn("cannot resolve an upstream's name; its old addresses stay in use", "upstream", e.label, "error", err)
	}
}

const goodbye = 50 * time.Millisecond

// secureConn is TLS to an upstream that can say whether anything of what came was not
// read: crypto/tls keeps bytes of its own, encrypted and decrypted.
type secureConn struct {
	*tls.Conn
	records *records
	unasked bool // something came that nobody asked for
}

func newSecureConn(conn net.Conn, c *tls.Config) *secureConn {
	r := &records{Conn: conn}
	return &secureConn{Conn: tls.Client(r, c), records: r}
}

// SyscallConn is that of the socket beneath.
func (s *secureConn) SyscallConn() (syscall.RawConn, error) {
	if c, ok := s.records.Conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, syscall.EINVAL
}

// Close says goodbye as TLS wants it, but does not wait for a peer that does not read:
// crypto/tls alone would for 5 s.
func (s *secureConn) Close() error {
	s.records.closing.Store(true)
	return s.Conn.Close()
}

// drained lets crypto/tls read on from what it holds. Session tickets, which come when
// the peer likes, are taken in by that; anything else is not.
func (s *secureConn) drained() bool {
	var one [1]byte
	s.records.dry = true
	n, err := s.Read(one[:])
	s.records.dry = false
	_, held := err.(dryError)
	s.unasked = s.unasked || n > 0 || !held || !s.records.whole()
	return !s.unasked
}

// records is the connection beneath TLS. It follows the records that it hands over
// (RFC 8446 §5.1: five bytes of header, of which the last two are the length). Its reads
// belong to one goroutine.
type records struct {
	net.Conn
	dry     bool // reads fail at once, without harm to TLS
	closing atomic.Bool
	header  [5]byte
	have    int // bytes of header
	left    int // bytes of the record behind it
}

// SetWriteDeadline makes the last one, for the goodbye, a short one.
func (r *records) SetWriteDeadline(t time.Time) error {
	if r.closing.Load() {
		t = time.Now().Add(goodbye)
	}
	return r.Conn.SetWriteDeadline(t)
}

func (r *records) Read(p []byte) (int, error) {
	if r.dry {
		return 0, dryError{}
	}
	n, err := r.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if r.left > 0 {
			skip := min(r.left, len(b))
			r.left -= skip
			b = b[skip:]
			continue
		}
		m := copy(r.header[r.have:], b)
		r.have += m
		b = b[m:]
		if r.have == len(r.header) {
			r.have, r.left = 0, int(r.header[3])<<8|int(r.header[4])
		}
	}
	return n, err
}

// whole reports whether what was handed over ends with a record.
func (r *records) whole() bool { return r.have == 0 && r.left == 0 }

// dryError is a net.Error that crypto/tls takes for one that may pass: the connection
// can be read on.
type dryError struct{}

func (dryError) Error() string   { return "nothing is to be read" }
func (dryError) Timeout() bool   { return true }
func (dryError) Temporary() bool { return true }

package proxy

import (
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// transport is a client's connection: the socket, or TLS above it. Whoever reads first does
// the TLS handshake: clientConn.greet, in its own goroutine and time.
type transport struct {
	net.Conn                 // what is read and written: socket, or tls
	socket   net.Conn        // below TLS
	raw      syscall.RawConn // of the socket; nil where it has none
	tls      *tls.Conn       // nil without TLS
	remote   net.Addr        // the client's end
	// peer is whose connection it is: the socket's peer, or whom a trusted PROXY protocol
	// header names. It is not valid where that header says that it does not know.
	peer netip.Addr

	door   *door
	at     netip.Addr
	seated bool // it counts to at
	gone   atomic.Bool
	abrupt atomic.Bool // TLS does not say that it ends
}

// transport makes one of c, which has entered.
func (d *door) transport(c net.Conn, l doorLimits, remote net.Addr) *transport {
	t := &transport{Conn: c, socket: c, remote: remote, peer: peerOf(remote), door: d}
	if sc, ok := c.(syscall.Conn); ok {
		t.raw, _ = sc.SyscallConn()
	}
	if l.tls != nil {
		t.tls = tls.Server(c, l.tls)
		t.Conn = t.tls
	}
	return t
}

// RemoteAddr is the client's end of the connection, by PROXY protocol where it is on.
func (t *transport) RemoteAddr() net.Addr { return t.remote }

// Close closes the connection. Under TLS it says so first (RFC 8446 §6.1), which may
// take until the write deadline, or 5 s.
func (t *transport) Close() error {
	if t.abrupt.Load() {
		return t.cut()
	}
	err := t.Conn.Close()
	if !t.gone.Swap(true) {
		t.door.leave(t.at, t.seated)
	}
	return err
}

// CloseWrite ends our side of the connection.
func (t *transport) CloseWrite() error {
	if t.tls != nil {
		if err := t.tls.CloseWrite(); err != nil {
			return err
		}
	}
	if half, ok := t.socket.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger is that of the socket. With 0 Close sends a reset, and under TLS does not
// say before that this is the end.
func (t *transport) SetLinger(seconds int) error {
	tcp, ok := t.socket.(*net.TCPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	if seconds == 0 {
		t.abrupt.Store(true)
	}
	return tcp.SetLinger(seconds)
}

// cut closes the socket, whatever is going on above it. It never waits.
func (t *transport) cut() error {
	err := t.socket.Close()
	if !t.gone.Swap(true) {
		t.door.leave(t.at, t.seated)
	}
	return err
}

package proxy

import (
	"crypto/tls"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// transport is a client's connection: the socket, or TLS above it. The TLS handshake is
// done by the first Read or Write, under the deadlines that hold then.
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
	err := t.Conn.Close()
	if !t.gone.Swap(true) {
		t.door.leave(t.at, t.seated)
	}
	return err
}

// abort closes the connection with a reset: what was sent must not look whole. It never
// waits.
func (t *transport) abort() error {
	if tcp, ok := t.socket.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	err := t.socket.Close()
	if !t.gone.Swap(true) {
		t.door.leave(t.at, t.seated)
	}
	return err
}

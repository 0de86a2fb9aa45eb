package proxy

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What fasthttp reads in place of each head. It never parses what a client sent, and
// sees no content: both are read here, strictly, by one reading.
const (
	standIn   = "GET / HTTP/1.1\r\nHost: postern\r\n\r\n"
	standIn10 = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
)

const (
	contentRoom = 4 << 10   // behind a head in its buffer: the longest line of a chunked content
	writeRoom   = 256 << 10 // is written under one deadline
	lingering   = time.Second
	// lookEvery is how often somebody who waits looks at the other side: a client that has
	// gone, an upstream that has answered already.
	lookEvery = 500 * time.Millisecond
)

// clientConn is a client's connection as fasthttp's server sees it: it reads one
// stand-in for each request, whose head and content are taken from the socket here.
// The goroutine that serves the connection owns it; waiting is shared.
type clientConn struct {
	net.Conn // the transport
	front    *Front
	raw      syscall.RawConn // of the socket, to look at it; nil where there is none
	direct   bool            // raw may be read from, too
	peer     netip.Addr      // of the transport
	secure   bool            // there is TLS

	waiting atomic.Bool // for a request of which not a byte came: it may be closed
	closing atomic.Bool

	buffer     *headBuffer // nil while it waits
	headEnd    int         // the head is buffer.b[:headEnd]
	start, end int         // what was read behind it and not used yet
	fault      headFault   // why there is no head
	lost       error       // a write failed: nothing more is written
	content    content
	greeted    bool // it had its time to begin
	shaken     bool // the TLS handshake is done

	readTimeout, writeTimeout time.Duration // of the current settings
	readBy, writeBy           time.Time     // the deadlines that are set

	read func(fd uintptr) bool // fills the buffer
	n    int                   // what it read
	err  error
	one  [1]byte
}

// headFault is why a head could not be read.
type headFault uint8

const (
	noFault headFault = iota
	lateHead
	longTarget
	largeHead
	bareLineFeed
)

// headBuffer holds a head and some content. It is pooled, and nobody's while its
// connection waits for a request: idle connections are cheap.
type headBuffer struct{ b []byte }

type headBuffers struct{ pool sync.Pool }

func (p *headBuffers) take(size int) *headBuffer {
	if b, ok := p.pool.Get().(*headBuffer); ok && len(b.b) >= size {
		return b
	}
	return &headBuffer{make([]byte, size)}
}

func newClientConn(f *Front, conn net.Conn) *clientConn {
	c := &clientConn{Conn: conn, front: f}
	c.content.ended = true
	if t, ok := conn.(*transport); ok {
		c.raw, c.peer, c.secure = t.raw, t.peer, t.tls != nil
		c.direct = c.raw != nil && !c.secure
	}
	if c.raw != nil {
		boundUnsent(c.raw)
	}
	c.read = func(fd uintptr) bool {
		if c.buffer == nil {
			c.takeBuffer()
		}
		for {
			if c.n, c.err = syscall.Read(int(fd), c.buffer.b[c.end:]); c.err != syscall.EINTR {
				break
			}
		}
		if c.err != syscall.EAGAIN {
			return true
		}
		if c.waiting.Load() {
			c.giveBuffer()
		}
		return false
	}
	return c
}

func (c *clientConn) takeBuffer() {
	s := c.front.state.Load()
	c.buffer = c.front.buffers.take(s.MaxHeader + contentRoom)
}

func (c *clientConn) giveBuffer() {
	if c.buffer != nil {
		c.front.buffers.pool.Put(c.buffer)
		c.buffer = nil
	}
}

// Read gives fasthttp a stand-in for the next request, once its head is here.
func (c *clientConn) Read(p []byte) (int, error) {
	if !c.nextHead() {
		return 0, io.EOF
	}
	if line, _, _ := bytes.Cut(c.head(), []byte("\r\n")); bytes.HasSuffix(line, []byte("HTTP/1.0")) {
		return copy(p, standIn10), nil
	}
	return copy(p, standIn), nil
}

// head is the current head, with the empty line behind it. It is good until the next Read.
func (c *clientConn) head() []byte { return c.buffer.b[:c.headEnd] }

// nextHead reads up to the end of the next head, or to where it is clear that there is
// none (fault). It is false when no request will come.
func (c *clientConn) nextHead() bool {
	s := c.front.state.Load()
	c.readTimeout, c.writeTimeout = s.ReadTimeout, s.WriteTimeout
	if !c.dropContent() || !c.greet() {
		return false
	}
	if c.buffer != nil {
		c.end = copy(c.buffer.b, c.buffer.b[c.start:c.end])
		if c.end == 0 && len(c.buffer.b) < s.MaxHeader+contentRoom { // of older settings
			c.giveBuffer()
		}
	}
	c.headEnd, c.start, c.fault, c.content = 0, 0, noFault, content{ended: true, trailer: c.content.trailer[:0]}
	first, scanned := time.Time{}, 0
	for {
		if c.end > 0 {
			// A buffer that was taken under other settings may be too small for what these allow.
			most := min(s.MaxHeader, len(c.buffer.b)-contentRoom)
			if c.headEnd = endOfHead(c.buffer.b[:c.end], scanned); c.headEnd > 0 && c.headEnd <= most {
				c.start = c.headEnd
				return true
			}
			if c.fault = faultOf(c.buffer.b[:c.end], most, s.MaxTarget); c.fault != noFault {
				c.headEnd = 0
				return true
			}
			scanned = max(0, c.end-3)
		}
		idle := c.end == 0
		if !c.await(s, &first) {
			return c.fault != noFault
		}
		if idle { // it may have waited through a reload
			s = c.front.state.Load()
			c.readTimeout, c.writeTimeout = s.ReadTimeout, s.WriteTimeout
		}
	}
}

// await reads more of a head. It is false at the end of the connection, or when the head is late.
func (c *clientConn) await(s *state, first *time.Time) bool {
	idle := c.end == 0
	switch {
	case idle && !c.greeted: // a new connection that says nothing
		c.armRead(s.ReadTimeout)
		c.greeted = true
	case idle:
		c.armRead(s.IdleTimeout)
	case first.IsZero():
		*first = time.Now()
		c.armRead(s.ReadTimeout)
	}
	if idle {
		c.waiting.Store(true)
		if c.front.draining.Load() {
			return false
		}
	}
	_, err := c.fill()
	if idle && !c.waiting.CompareAndSwap(true, false) {
		return false // closed, and whatever came with it is not answered
	}
	if err != nil && !idle && isTimeout(err) {
		c.fault = lateHead
	}
	return err == nil
}

// endOfHead returns where the head in b ends, behind its empty line; 0 where it does not.
func endOfHead(b []byte, from int) int {
	if i := bytes.Index(b[from:], []byte("\r\n\r\n")); i >= 0 {
		return from + i + 4
	}
	return 0
}

// faultOf says why b, which is no whole head of at most so many bytes, will never be one.
func faultOf(b []byte, most, maxTarget int) headFault {
	line := bytes.IndexByte(b, '\n')
	switch {
	case len(b) > most && (line < 0 || line > maxTarget+maxMethod):
		return longTarget
	case len(b) > most:
		return largeHead
	case bareLF(b): // to some it is the end of a line: what would follow is not clear
		return bareLineFeed
	}
	return noFault
}

// maxMethod is more than a method and a version take in a request line.
const maxMethod = 64

// fill reads what has come into the buffer, and waits for it until the deadline that is set.
func (c *clientConn) fill() (n int, err error) {
	switch {
	case c.direct:
		if err = c.raw.Read(c.read); err != nil {
			return 0, err
		}
		n, err = c.n, c.err
	case c.buffer == nil:
		if n, err = c.Conn.Read(c.one[:]); n > 0 {
			c.takeBuffer()
			c.buffer.b[c.end] = c.one[0]
		}
	default:
		n, err = c.Conn.Read(c.buffer.b[c.end:])
	}
	if n <= 0 {
		if err == nil {
			err = io.EOF
		}
		return 0, err
	}
	c.end += n
	return n, nil
}

// greet does the TLS handshake, where there is one, once.
func (c *clientConn) greet() bool {
	if !c.secure || c.shaken {
		return true
	}
	c.shaken = true
	now := time.Now()
	if c.Conn.SetDeadline(now.Add(c.readTimeout)) != nil {
		return false
	}
	c.waiting.Store(true) // for as much as a request: a shutdown need not wait with it
	if c.front.draining.Load() || c.Conn.(*transport).tls.Handshake() != nil || !c.waiting.CompareAndSwap(true, false) {
		return false
	}
	c.readBy, c.writeBy = now.Add(c.readTimeout), now.Add(c.readTimeout)
	return true
}

// armRead lets reads wait for d, or up to a second less: a deadline that fits is kept,
// since to set one costs more than to look at it.
func (c *clientConn) armRead(d time.Duration) {
	now := time.Now()
	if left := c.readBy.Sub(now); left > d || left < d-min(d/4, time.Second) {
		c.readBy = now.Add(d)
		_ = c.Conn.SetReadDeadline(c.readBy) // what is wrong with the connection the read will say
	}
}

// Write writes all of p; a client that does not take the next bytes in time is given up:
// what was to follow the bytes that are lost now must not be sent in their place.
func (c *clientConn) Write(p []byte) (n int, err error) {
	if c.lost != nil {
		return 0, c.lost
	}
	defer func() { c.lost = err }()
	for {
		now := time.Now()
		if left := c.writeBy.Sub(now); left > c.writeTimeout || left < c.writeTimeout-c.writeTimeout/4 {
			c.writeBy = now.Add(c.writeTimeout)
			if err = c.Conn.SetWriteDeadline(c.writeBy); err != nil {
				return n, err
			}
		}
		piece := p[n:min(len(p), n+writeRoom)]
		m, err := c.Conn.Write(piece)
		if n += m; err != nil || n == len(p) {
			return n, err
		}
	}
}

// detach hands over what was read of the connection and is not used yet: whoever gets it
// reads and writes the transport from now on.
func (c *clientConn) detach() []byte {
	var rest []byte
	if c.buffer != nil {
		rest = bytes.Clone(c.buffer.b[c.start:c.end])
	}
	c.start, c.end, c.headEnd = 0, 0, 0
	c.giveBuffer()
	return rest
}

// SetDeadline does nothing: the deadlines are kept here, not by fasthttp.
func (c *clientConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing, as SetDeadline.
func (c *clientConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, as SetDeadline.
func (c *clientConn) SetWriteDeadline(time.Time) error { return nil }

// Close closes the connection. Where something that the client sent was not read, it
// waits a moment: a reset would take the answer away from the client (RFC 9112 §9.6).
// Only the connection's own goroutine may call it.
func (c *clientConn) Close() error {
	if c.closing.Swap(true) {
		return nil
	}
	if c.buffer != nil && (c.fault != noFault || !c.content.ended || c.start < c.end) {
		c.linger()
	}
	err := c.Conn.Close()
	c.giveBuffer()
	c.front.connections.remove(c) // last: until then a shutdown waits for it, and may cut it
	return err
}

func (c *clientConn) linger() {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.Conn.SetReadDeadline(time.Now().Add(lingering)) != nil {
		return
	}
	for {
		if _, err := c.Conn.Read(c.buffer.b); err != nil {
			return
		}
	}
}

// gone reports whether the client has closed its end, or its connection broke. A client
// that only closes its sending half is taken for gone, as nginx does.
func (c *clientConn) gone() bool { return c.raw != nil && hungUp(c.raw) }

// cut closes the connection at once, from any goroutine.
func (c *clientConn) cut() error {
	if t, ok := c.Conn.(*transport); ok {
		return t.cut()
	}
	return c.Conn.Close()
}

// reset makes Close send a reset, which nobody takes for a proper end.
func (c *clientConn) reset() {
	if tcp, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		_ = tcp.SetLinger(0)
	}
}

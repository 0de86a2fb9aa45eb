package proxy

import (
	"bufio"
	"errors"
	"net"
	"syscall"
	"time"
)

// answerHead is the largest head of an answer, and the read buffer of a connection.
const answerHead = 32 << 10

var (
	// errGone ends an exchange whose client has gone: nobody waits for the answer.
	errGone = errors.New("the client has gone")
	// errAnswered ends the sending of content: the upstream has answered before it.
	errAnswered = errors.New("the upstream has answered already")
)

// upstreamConn is a connection to an upstream. One exchange at a time owns it.
type upstreamConn struct {
	net.Conn
	reader *bufio.Reader
	used   time.Time

	x        *exchange     // for which it works; nil: for none
	interims int           // 1xx answers that came to it
	until    time.Time     // when what is read now is late
	stall    time.Duration // each read of content may take so long; 0: until counts alone

	readBy, writeBy time.Time // the deadlines that are set

	raw     syscall.RawConn // of the socket; nil where there is none: then it is never quiet
	secured bool            // TLS: a write that timed out cannot be continued
	peeking bool            // a read is not to wait
	look    func(fd uintptr)
	seen    error // what look saw
}

func newUpstreamConn(conn net.Conn) *upstreamConn {
	c := &upstreamConn{Conn: conn}
	c.reader = bufio.NewReaderSize(c, answerHead)
	if s, ok := conn.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn()
	}
	if c.raw != nil {
		boundUnsent(c.raw)
	}
	c.look = func(fd uintptr) {
		var one [1]byte
		_, _, c.seen = syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	}
	return c
}

// begin makes c work for x.
func (c *upstreamConn) begin(x *exchange, timeout time.Duration) {
	c.x, c.interims = x, 0
	c.allow(timeout)
}

// allow makes what is read from now on late after timeout.
func (c *upstreamConn) allow(timeout time.Duration) {
	c.stall = 0
	c.until = time.Now().Add(timeout)
}

// unwanted reports whether the client has gone for which c works.
func (c *upstreamConn) unwanted() bool { return c.x != nil && c.x.client.gone() }

// Read reads from the socket until it is late, and looks now and then whether anybody
// still waits for it.
func (c *upstreamConn) Read(p []byte) (int, error) {
	if c.peeking {
		return c.Conn.Read(p)
	}
	now := time.Now()
	if c.stall > 0 {
		c.until = now.Add(c.stall)
	}
	for {
		// A deadline that is about to pass anyway is good enough, and saves setting one.
		if left := c.readBy.Sub(now); left <= 0 || left > lookEvery {
			c.readBy = now.Add(lookEvery)
			if err := c.SetReadDeadline(c.readBy); err != nil {
				return 0, err
			}
		}
		n, err := c.Conn.Read(p)
		if n > 0 || !isTimeout(err) {
			return n, err
		}
		if c.unwanted() {
			return 0, errGone
		}
		if now = time.Now(); !now.Before(c.until) {
			return 0, err
		}
	}
}

// send writes all of p. While the upstream does not take it, it looks whether it has
// answered already, and whether the client is there.
func (c *upstreamConn) send(p []byte, timeout time.Duration) error {
	now := time.Now()
	c.until = now.Add(timeout)
	for {
		period := min(lookEvery, timeout)
		if c.secured {
			period = timeout
		}
		if left := c.writeBy.Sub(now); left <= period/2 || left > period {
			c.writeBy = now.Add(period)
			if err := c.SetWriteDeadline(c.writeBy); err != nil {
				return err
			}
		}
		n, err := c.Conn.Write(p)
		if p = p[n:]; err == nil || !isTimeout(err) || c.secured {
			return err
		}
		if err := c.interrupted(); err != nil {
			return err
		}
		if now = time.Now(); n > 0 {
			c.until = now.Add(timeout)
		} else if !now.Before(c.until) {
			return err
		}
	}
}

// interrupted says why no more content should be sent: errAnswered, errGone, or nil.
// Interim answers are no reason (RFC 9110 §15.2): those that are here are passed on.
func (c *upstreamConn) interrupted() error {
	by := time.Now().Add(lookEvery / 10) // a head that drips holds nothing up
	for c.reader.Buffered() > 0 || c.raw != nil && !c.quiet() && c.speaks() {
		raw, _ := c.reader.Peek(c.reader.Buffered())
		end := endOfHead(raw, 0)
		switch {
		case end > 0:
			if err := c.passInterim(raw[:end]); err != nil {
				return err
			}
			continue
		case !beginsInterim(raw):
			return errAnswered
		}
		if !c.speaks() || time.Now().After(by) { // the rest is on its way
			break
		}
		if c.reader.Buffered() == len(raw) { // and never will be here
			return errAnswered
		}
	}
	if c.unwanted() {
		return errGone
	}
	return nil
}

// speaks reports whether more came of an answer, or the end. It takes in
// what is neither: session tickets of TLS come when the peer likes (RFC 8446 §4.6.1).
func (c *upstreamConn) speaks() bool {
	c.readBy = time.Now().Add(time.Millisecond) // it is here already
	if err := c.SetReadDeadline(c.readBy); err != nil {
		return true
	}
	c.peeking = true
	_, err := c.reader.Peek(c.reader.Buffered() + 1)
	c.peeking = false
	return err == nil || !isTimeout(err)
}

// quiet reports whether the peer has neither closed the idle connection nor sent
// anything on it: bytes that nobody asked for would be taken for the next answer, which
// may be another client's. It is looked at before each use.
func (c *upstreamConn) quiet() bool {
	// Control, unlike Read, does not mind that the last exchange's deadline has passed.
	return c.raw != nil && c.raw.Control(c.look) == nil && c.seen == syscall.EAGAIN
}

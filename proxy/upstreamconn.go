package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
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

	client *clientConn   // for whom it works; nil: for nobody who could go
	until  time.Time     // when what is read now is late
	stall  time.Duration // each read of content may take so long; 0: until counts alone

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

// begin makes c work for a client. What it reads is late after timeout.
func (c *upstreamConn) begin(client *clientConn, timeout time.Duration) {
	c.client, c.stall = client, 0
	c.until = time.Now().Add(timeout)
}

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
		if c.client != nil && c.client.gone() {
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
// Interim answers are no reason (RFC 9110 §15.2); they are not passed on.
func (c *upstreamConn) interrupted() error {
	for range maxInterim {
		switch {
		case c.reader.Buffered() > 0 || c.raw != nil && !c.quiet() && c.speaks():
			if !c.skipInterim() {
				return errAnswered
			}
		case c.client != nil && c.client.gone():
			return errGone
		default:
			return nil
		}
	}
	return errAnswered
}

// skipInterim drops the interim answer that came, if that is what came, and whole.
func (c *upstreamConn) skipInterim() bool {
	raw, _ := c.reader.Peek(c.reader.Buffered())
	end := bytes.Index(raw, []byte("\r\n\r\n"))
	if end < 0 {
		return false
	}
	n, _, err := parseAnswerHead(raw[:end+4], nil)
	if err != nil || n.status >= 200 || n.status == fasthttp.StatusSwitchingProtocols {
		return false
	}
	_, err = c.reader.Discard(n.size)
	return err == nil
}

// speaks reports whether what came is the beginning of an answer, or the end. It takes in
// what is neither: session tickets of TLS come when the peer likes (RFC 8446 §4.6.1).
func (c *upstreamConn) speaks() bool {
	c.readBy = time.Now().Add(time.Millisecond) // it is here already
	if err := c.SetReadDeadline(c.readBy); err != nil {
		return true
	}
	c.peeking = true
	_, err := c.reader.Peek(1)
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

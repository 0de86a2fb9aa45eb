package proxy

import (
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"postern/answer"
)

const (
	// maxLeaving is how many of those who were turned away may be waited for at once.
	maxLeaving = 32
	// farewell is how long each of them is waited for.
	farewell = 500 * time.Millisecond
	// saying is how long the answer may take; into a new connection's empty buffer it takes none.
	saying = 100 * time.Millisecond
)

// turnAway closes c, which is not counted in, with 503 where it can be said. It never
// waits: to close a connection with unread bytes in it is a reset, which may take the
// answer away from the client, so some goroutines read what comes for a moment.
func (d *door) turnAway(c net.Conn, l doorLimits, reason refusedReason) {
	d.metrics.refused.WithLabelValues(string(reason)).Inc()
	if l.tls != nil || !d.hold(c, true) {
		if l.tls == nil {
			d.sayBusy(c)
		}
		_ = c.Close()
		return
	}
	go func() { // Close waits for it: see hold
		defer d.letGo(c, true)
		defer c.Close()
		d.sayBusy(c)
		seeOff(c, farewell)
	}()
}

// sacrifice gives the reserve up to accept one connection, tells it that there are no
// descriptors, and takes the reserve back. It waits for at most two pauses, and reports
// whether there was a connection.
func (d *door) sacrifice(pause time.Duration) bool {
	d.mu.Lock()
	if d.reserve != nil {
		_ = d.reserve.Close()
	}
	d.mu.Unlock()
	timed, ok := d.Listener.(interface{ SetDeadline(time.Time) error })
	if ok {
		_ = timed.SetDeadline(time.Now().Add(pause))
	}
	c, err := d.Listener.Accept()
	if ok {
		_ = timed.SetDeadline(time.Time{})
	}
	if err == nil {
		d.metrics.refused.WithLabelValues(string(outOfDescriptors)).Inc()
		if d.o.limits().tls == nil {
			d.sayBusy(c)
			seeOff(c, pause)
		}
		_ = c.Close()
	}
	reserve, _ := os.Open(os.DevNull) // nil where somebody was faster: then we are poorer until the next time
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut && reserve != nil {
		_ = reserve.Close()
		reserve = nil
	}
	d.reserve = reserve
	return err == nil
}

// sayBusy writes the whole answer to a request that was not read.
func (d *door) sayBusy(c net.Conn) {
	var id [64]byte
	requestID := d.o.requestID(id[:0])
	body := answer.Envelope(nil, answer.Unavailable.Status(), answer.Unavailable,
		"there are too many connections; try again later", string(requestID), d.o.now())
	text := append([]byte(nil), "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"+
		"Retry-After: 1\r\nConnection: close\r\nX-Request-Id: "...)
	text = append(text, requestID...)
	text = append(text, "\r\nContent-Length: "...)
	text = strconv.AppendInt(text, int64(len(body)), 10)
	text = append(text, "\r\n\r\n"...)
	_ = c.SetWriteDeadline(time.Now().Add(saying))
	_, _ = c.Write(append(text, body...))
}

// seeOff ends our side of c and drops what comes until the client ends its side, time is
// up, or it is much.
func seeOff(c net.Conn, patience time.Duration) {
	if half, ok := c.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = c.SetReadDeadline(time.Now().Add(patience))
	_, _ = io.Copy(io.Discard, io.LimitReader(c, 64<<10))
}

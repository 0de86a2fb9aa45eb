package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	tunnelPiece   = 16 << 10    // of what is on its way, from the pool; held while more keeps coming
	tunnelWaiting = 2 << 10     // what a quiet direction waits with
	closeWithin   = time.Second // to the end of a frame, and to the peer's Close; then the connections are closed anyway
)

// ending is why a tunnel ended: a closed set, the label of a metric.
type ending string

const (
	endClient   ending = "client"   // it said Close, or went away
	endUpstream ending = "upstream" // the same
	endInvalid  ending = "invalid_token"
	endCatalog  ending = "forbidden_catalog"
	endIdle     ending = "idle"
	endLifetime ending = "lifetime"
	endDrain    ending = "drain"
	endFailed   ending = "failed" // a peer that takes nothing, or a fault of ours
)

// end is what a tunnel is ended with: why, and what the Close frames say. Without a code nothing
// is said: the peers have said it all.
type end struct {
	why    ending
	code   uint16
	reason string
	until  time.Time // when the connections are closed anyway
}

// tunnelPeer is one side of a tunnel. first is what was read of it before, and is read first.
type tunnelPeer struct {
	net.Conn
	first []byte
}

// Read reads what came before the tunnel, and then from the connection.
func (p *tunnelPeer) Read(b []byte) (int, error) {
	if len(p.first) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.first)
	p.first = p.first[n:]
	return n, nil
}

type tunnelOptions struct {
	idle     time.Duration           // without a byte either way; then 1001
	lifetime time.Duration           // then 1001; 0: any
	write    time.Duration           // for a peer to take what is sent to it
	every    time.Duration           // between two looks whether it is still allowed
	allowed  func() (ending, string) // the look: why not, which ends it with 1008 and the text; "": it is; nil: nothing to look at
	random   io.Reader               // for the mask of our Close frame
	buffers  *sync.Pool              // of *[tunnelPiece]byte
	meter    func(in, out int64)     // counts the bytes that come from the client, and from the upstream; nil: nobody does
}

// tunnel carries a WebSocket's bytes both ways, unchanged, in constant memory, and ends
// it with a Close frame of ours where we have to. run is its owner; stop may be called
// from any goroutine.
type tunnel struct {
	o      tunnelOptions
	up     flow // client to upstream
	down   flow // upstream to client
	active atomic.Int64
	first  atomic.Pointer[flow] // the one that carried a Close frame first
	closes atomic.Int32         // flows that carried one
	gone   atomic.Bool          // while it ends: a peer has closed

	wanted  chan end  // by stop
	carried chan bool // both have said Close
	ended   chan lost // a flow is over
	ending  chan struct{}
	end     end // set before ending is closed
}

// lost is a flow that can read or write no more.
type lost struct {
	flow    *flow
	writing bool
	err     error
}

func newTunnel(client, upstream *tunnelPeer, o tunnelOptions) *tunnel {
	t := &tunnel{
		o: o, wanted: make(chan end, 1), carried: make(chan bool, 1), ended: make(chan lost, 2), ending: make(chan struct{}),
	}
	t.up = flow{t: t, from: client, to: upstream, masked: true, why: endClient, across: endUpstream}
	t.down = flow{t: t, from: upstream, to: client, why: endUpstream, across: endClient}
	return t
}

// stop ends the tunnel with a Close frame to both sides, unless it is ending already. It does not wait.
func (t *tunnel) stop(why ending, code uint16, reason string) {
	select {
	case t.wanted <- end{why: why, code: code, reason: reason}:
	default:
	}
}

// run carries until the tunnel is over, closes both connections, and says why it ended.
func (t *tunnel) run() ending {
	begun := time.Now()
	t.active.Store(begun.UnixNano())
	// Deadlines of the handshake must not end what comes after it.
	_, _ = t.up.from.SetDeadline(time.Time{}), t.down.from.SetDeadline(time.Time{})
	var flows sync.WaitGroup
	flows.Go(t.up.run)
	flows.Go(t.down.run)
	t.end = t.wait(begun)
	t.end.until = time.Now().Add(closeWithin)
	close(t.ending)
	// A flow that waits for bytes looks up, and sees that it is over.
	for _, f := range []*flow{&t.up, &t.down} {
		_ = f.from.SetReadDeadline(time.Unix(1, 0))
	}
	over := time.AfterFunc(time.Until(t.end.until), func() { // whoever hangs in a write
		cut(t.up.from.Conn)
		cut(t.down.from.Conn)
	})
	flows.Wait()
	if !over.Stop() {
		return t.end.why
	}
	t.close()
	return t.end.why
}

// cut closes c without a word: under TLS Close would wait for a peer that takes nothing.
func cut(c net.Conn) {
	switch c := c.(type) {
	case interface{ cut() error }:
		_ = c.cut()
	case interface{ NetConn() net.Conn }:
		_ = c.NetConn().Close()
	default:
		_ = c.Close()
	}
}

// close closes both connections.
func (t *tunnel) close() { _, _ = t.up.from.Close(), t.down.from.Close() }

// wait returns when the tunnel has to end.
func (t *tunnel) wait(begun time.Time) end {
	look := begun.Add(t.o.every)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case e := <-t.wanted:
			return e
		case <-t.carried: // the server closes first (RFC 6455 §7.1.1): it gets the time for it
			return t.saidAll()
		case l := <-t.ended:
			return t.afterLoss(l)
		case <-timer.C:
		}
		now := time.Now()
		quiet := time.Unix(0, t.active.Load()).Add(t.o.idle)
		switch {
		case t.o.lifetime > 0 && !now.Before(begun.Add(t.o.lifetime)):
			return end{why: endLifetime, code: closeGoingAway, reason: "the connection's time is over"}
		case !now.Before(quiet):
			return end{why: endIdle, code: closeGoingAway, reason: "nothing came for too long"}
		case t.o.allowed != nil && !now.Before(look):
			if why, text := t.o.allowed(); why != "" {
				return end{why: why, code: closePolicy, reason: text}
			}
			look = now.Add(t.o.every)
		}
		next := quiet
		if t.o.allowed != nil && look.Before(next) {
			next = look
		}
		if e := begun.Add(t.o.lifetime); t.o.lifetime > 0 && e.Before(next) {
			next = e
		}
		timer.Reset(time.Until(next))
	}
}

func (t *tunnel) saidAll() end { return end{why: t.first.Load().why} }

// afterLoss says how to end when a peer is gone. After one that said Close before, there is
// only the other's answer to wait for.
func (t *tunnel) afterLoss(l lost) end {
	if errors.Is(l.err, os.ErrDeadlineExceeded) || errors.Is(l.err, errPanicked) {
		return end{why: endFailed, code: closeGoingAway, reason: "the other side takes nothing"}
	}
	e := end{why: l.flow.why, code: closeGoingAway, reason: "the other side is gone"}
	if l.writing {
		e.why = l.flow.across
	}
	if first := t.first.Load(); first != nil {
		if first.why == e.why {
			return t.saidAll()
		}
		e.why = first.why
	}
	return e
}

var errPanicked = errors.New("it panicked")

// flow is one direction of a tunnel. It alone reads from and writes to.
type flow struct {
	t           *tunnel
	from, to    *tunnelPeer
	masked      bool // what goes this way is a client's
	why, across ending
	frames      frames // of what was read
	said        bool   // our Close went out: nothing may follow it
	mute        bool   // to takes nothing more
	waiting     [tunnelWaiting]byte
	big         *[tunnelPiece]byte // nil while the direction is quiet
	more        bool               // the last read filled its room
	renewed     time.Time          // when the write deadline was
}

// run carries until the flow cannot go on or the tunnel ends, and then ends the direction.
func (f *flow) run() {
	defer func() {
		if recover() != nil { // nobody can follow the frames any more
			f.t.close()
			f.t.lost(lost{flow: f, err: errPanicked})
		}
		f.quiet()
	}()
	for {
		p, err := f.read()
		select {
		case <-f.t.ending:
			f.finish(p, err)
			return
		default:
		}
		if len(p) > 0 {
			f.t.active.Store(time.Now().UnixNano())
			f.carry(p) // first: the answer to a Close that went out may be carried before this one goes on
			if failure := f.write(p); failure != nil {
				f.mute = true
				f.t.lost(lost{flow: f, writing: true, err: failure})
				<-f.t.ending
				f.finish(nil, err)
				return
			}
		}
		if err != nil {
			f.t.lost(lost{flow: f, err: err})
			<-f.t.ending
			f.finish(nil, err)
			return
		}
	}
}

// carry follows what goes through.
func (f *flow) carry(p []byte) {
	before := f.frames.closed
	f.frames.follow(p)
	if before || !f.frames.closed {
		return
	}
	f.t.first.CompareAndSwap(nil, f)
	if f.t.closes.Add(1) == 2 {
		f.t.carried <- true
	}
}

// read returns the next bytes. A quiet direction costs no buffer of the pool: one is taken
// while bytes keep coming.
func (f *flow) read() ([]byte, error) {
	room := f.waiting[:]
	switch {
	case !f.more:
		f.quiet()
	case f.big == nil:
		f.big = f.t.o.buffers.Get().(*[tunnelPiece]byte)
	}
	if f.big != nil {
		room = f.big[:]
	}
	n, err := f.from.Read(room)
	if meter := f.t.o.meter; meter != nil && n > 0 {
		if f.masked {
			meter(int64(n), 0)
		} else {
			meter(0, int64(n))
		}
	}
	f.more = n == len(room)
	return room[:n], err
}

func (f *flow) quiet() {
	if f.big != nil {
		f.t.o.buffers.Put(f.big)
		f.big = nil
	}
}

func (f *flow) write(p []byte) error {
	if now := time.Now(); now.Sub(f.renewed) > min(time.Second, f.t.o.write/4) {
		f.renewed = now
		if err := f.to.SetWriteDeadline(now.Add(f.t.o.write)); err != nil {
			return err
		}
	}
	_, err := f.to.Write(p)
	return err
}

// finish ends the direction: what is left of a frame goes out, then our Close, and then
// the peer's Close is waited for. p and err are what was read last.
func (f *flow) finish(p []byte, err error) {
	t := f.t
	_ = f.to.SetWriteDeadline(t.end.until)
	for {
		f.carry(f.lastBytes(p))
		if err != nil && !isTimeout(err) {
			t.gone.Store(true)
			if t.closes.Load() == 2 { // there is nothing to wait for
				t.close()
			}
			return
		}
		said := t.closes.Load() == 2 && t.gone.Load() || t.end.code != 0 && f.frames.closed
		if said || !time.Now().Before(t.end.until) || f.from.SetReadDeadline(t.end.until) != nil {
			return
		}
		p, err = f.read()
	}
}

// lastBytes sends what of p may still be sent, and our Close where it may stand. It returns what
// is not followed yet.
func (f *flow) lastBytes(p []byte) []byte {
	if f.mute || f.said {
		return p
	}
	if f.t.end.code == 0 { // both are saying Close: it goes through as it is
		if len(p) > 0 {
			_, err := f.to.Write(p)
			f.mute = err != nil
		}
		return p
	}
	if !f.frames.between() {
		n := f.frames.next(p)
		if _, err := f.to.Write(p[:n]); err != nil {
			f.mute = true
			return p[n:]
		}
		p = p[n:]
	}
	if f.frames.between() && !f.frames.closed {
		f.said = true
		f.say()
	}
	return p
}

// say sends our Close frame.
func (f *flow) say() {
	var mask *[4]byte
	if f.masked {
		mask = new([4]byte)
		if _, err := io.ReadFull(f.t.o.random, mask[:]); err != nil {
			return // unmasked, it would be an error of ours (RFC 6455 §5.1)
		}
	}
	_, _ = f.to.Write(appendClose(nil, f.t.end.code, f.t.end.reason, mask))
}

// lost says that a flow is over. There is room for each one's first word.
func (t *tunnel) lost(l lost) {
	select {
	case t.ended <- l:
	default:
	}
}

package proxy

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// doorLimits are what a door reads anew for each connection, so that a reload changes
// them.
type doorLimits struct {
	connections int           // at once; descriptors may allow fewer
	perAddress  int           // at once from one address; 0: any number
	readTimeout time.Duration // for the PROXY protocol header
	trusted     trusted       // who may send one; nobody of them has a limit of its own
	tls         *tls.Config   // nil: plain
}

// doorOptions are what a door is made with. All fields are required unless their
// comment says otherwise. The functions may be called concurrently.
type doorOptions struct {
	limits        func() doorLimits
	proxyProtocol bool
	shedding      func() bool                 // memory is short; nil: never
	requestID     func(dst []byte) []byte     // appends one, for answers to those who are turned away
	descriptors   func() (limit int, ok bool) // this process's; nil: openFiles
	now           func() time.Time
	log           *slog.Logger
}

// door is the public listener: it counts connections and turns away those that are too
// many, so that those inside are served well. Its Accept fails only once it is closed.
//
// With PROXY protocol its own goroutines accept and read the headers: a peer that sends
// none must not keep others out.
type door struct {
	net.Listener
	o       doorOptions
	metrics *doorMetrics
	ceiling int           // of connections, by descriptors
	ready   chan net.Conn // with PROXY protocol: connections whose header was read
	closed  chan struct{}
	own     sync.WaitGroup

	mu       sync.Mutex // of what follows; short, and never held while waiting
	reserve  *os.File   // a descriptor to give up where there are no others; Accept's alone
	total    int
	by       map[netip.Addr]int    // by seat
	waiting  map[net.Conn]struct{} // connections that a goroutine of ours holds
	leaving  int                   // of them, those that were turned away
	warned   int                   // the limit that was last said to be above the ceiling
	shut     bool
	complain time.Time // when a failure to accept was last logged
}

var _ net.Listener = (*door)(nil)

type doorMetrics struct {
	connections prometheus.Gauge
	refused     *prometheus.CounterVec
}

// refusedReason says why a connection was turned away.
type refusedReason string

const (
	overLimit        refusedReason = "limit"
	overAddressLimit refusedReason = "address_limit"
	outOfDescriptors refusedReason = "descriptors"
	outOfMemory      refusedReason = "memory"
	badProxyProtocol refusedReason = "proxy_protocol"
)

func newDoorMetrics() *doorMetrics {
	m := &doorMetrics{
		connections: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_connections", Help: "Open client connections of the front.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_connections_refused_total", Help: "Client connections that were turned away, by reason.",
		}, []string{"reason"}),
	}
	for _, r := range []refusedReason{overLimit, overAddressLimit, outOfDescriptors, outOfMemory, badProxyProtocol} {
		m.refused.WithLabelValues(string(r))
	}
	return m
}

// newDoor makes a door of l and owns it. Close it to end its goroutines.
func newDoor(l net.Listener, o doorOptions, m *doorMetrics) *door {
	if o.descriptors == nil {
		o.descriptors = openFiles
	}
	d := &door{
		Listener: l, o: o, metrics: m, ceiling: ceiling(o.descriptors), closed: make(chan struct{}),
		by: map[netip.Addr]int{}, waiting: map[net.Conn]struct{}{},
	}
	d.reserve, _ = os.Open(os.DevNull)
	d.mu.Lock()
	d.most(o.limits().connections)
	d.mu.Unlock()
	if o.proxyProtocol {
		d.ready = make(chan net.Conn)
		d.own.Go(d.usher)
	}
	return d
}

// Accept returns the next *transport, or net.ErrClosed.
func (d *door) Accept() (net.Conn, error) {
	if d.ready != nil {
		select {
		case c := <-d.ready:
			return c, nil
		case <-d.closed:
			return nil, net.ErrClosed
		}
	}
	for {
		c, err := d.next()
		if err != nil {
			return nil, err
		}
		limits := d.o.limits()
		if !d.enter(c, limits) {
			continue
		}
		t := d.transport(c, limits, c.RemoteAddr())
		if d.seat(t, limits) {
			return t, nil
		}
	}
}

// Close stops accepting. Connections that Accept returned are left alone.
func (d *door) Close() error {
	d.mu.Lock()
	again := d.shut
	d.shut = true
	for c := range d.waiting {
		_ = c.Close()
	}
	d.mu.Unlock()
	if again {
		return net.ErrClosed
	}
	close(d.closed)
	err := d.Listener.Close()
	d.own.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reserve != nil {
		_ = d.reserve.Close()
		d.reserve = nil
	}
	return err
}

// next accepts, whatever goes wrong, until the door is closed.
func (d *door) next() (net.Conn, error) {
	pause := 5 * time.Millisecond
	for {
		c, err := d.Listener.Accept()
		if err == nil {
			return c, nil
		}
		select {
		case <-d.closed:
			return nil, net.ErrClosed
		default:
		}
		if errors.Is(err, net.ErrClosed) { // by somebody else: there is nothing left to accept
			return nil, net.ErrClosed
		}
		d.complainOf(err)
		if (errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)) && d.sacrifice(pause) {
			continue
		}
		select {
		case <-d.closed:
			return nil, net.ErrClosed
		case <-time.After(pause):
		}
		pause = min(2*pause, time.Second)
	}
}

// complainOf logs why nothing is accepted, now and then.
func (d *door) complainOf(err error) {
	now := d.o.now()
	if now.Sub(d.complain) > 10*time.Second {
		d.complain = now
		d.o.log.Warn("cannot accept a connection", "error", err)
	}
}

// enter counts c in, or turns it away.
func (d *door) enter(c net.Conn, l doorLimits) bool {
	if d.o.shedding != nil && d.o.shedding() {
		d.turnAway(c, l, outOfMemory)
		return false
	}
	d.mu.Lock()
	most := d.most(l.connections)
	full := d.total >= most
	if !full {
		d.total++
	}
	d.mu.Unlock()
	if full {
		reason := overLimit
		if most < l.connections {
			reason = outOfDescriptors
		}
		d.turnAway(c, l, reason)
		return false
	}
	d.metrics.connections.Inc()
	return true
}

// most is how many connections there may be: as set, or as many as descriptors allow.
// The caller holds d.mu.
func (d *door) most(set int) int {
	if set <= d.ceiling {
		d.warned = 0
		return set
	}
	if d.warned != set {
		d.warned = set
		d.o.log.Warn("the limit of open files allows fewer connections than front.max_connections: raise it (ulimit -n, LimitNOFILE)",
			"max_connections", set, "allowed", d.ceiling, "wanted_open_files", set/3*4+spareDescriptors)
	}
	return d.ceiling
}

// seat counts t, which has entered, to its address, or turns it away.
func (d *door) seat(t *transport, l doorLimits) bool {
	if l.perAddress == 0 || l.trusted.has(t.peer) {
		return true
	}
	at := seatOf(t.peer)
	d.mu.Lock()
	full := d.by[at] >= l.perAddress
	if !full {
		d.by[at]++
		t.at, t.seated = at, true
	}
	d.mu.Unlock()
	if full {
		d.leave(at, false)
		d.turnAway(t.socket, l, overAddressLimit)
	}
	return !full
}

// seatOf is what counts as one address: an IPv6 network of 64 bits is one subscriber's.
func seatOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// leave counts a connection out, of this address if it was seated there.
func (d *door) leave(at netip.Addr, seated bool) {
	d.metrics.connections.Dec()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total--
	if !seated {
		return
	}
	if d.by[at]--; d.by[at] == 0 {
		delete(d.by, at)
	}
}

// hold notes that a goroutine of ours is about to hold c, so that Close ends its wait and
// waits for it. It fails when the door is closed, or too many are leaving.
func (d *door) hold(c net.Conn, leaving bool) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut || leaving && d.leaving >= maxLeaving {
		return false
	}
	d.own.Add(1) // here, so that Close cannot have begun to wait
	d.waiting[c] = struct{}{}
	if leaving {
		d.leaving++
	}
	return true
}

// letGo ends what hold began.
func (d *door) letGo(c net.Conn, leaving bool) {
	defer d.own.Done()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.waiting, c)
	if leaving {
		d.leaving--
	}
}

package proxy

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// link is a tunnel that runs, with the far end of each side in the test's hands.
type link struct {
	t                *testing.T
	client, upstream *net.TCPConn
	tunnel           *tunnel
	ended            chan ending
}

// startTunnel runs one on real connections. change may set what the test is about.
func startTunnel(t *testing.T, change func(*tunnelOptions)) *link {
	t.Helper()
	o := tunnelOptions{
		idle: patience, write: patience, every: 10 * time.Millisecond, random: rand.Reader,
		buffers: &sync.Pool{New: func() any { return new([tunnelPiece]byte) }},
	}
	if change != nil {
		change(&o)
	}
	client, nearClient := tcpPair(t)
	upstream, nearUpstream := tcpPair(t)
	l := &link{t: t, client: client, upstream: upstream, ended: make(chan ending, 1)}
	l.tunnel = newTunnel(&tunnelPeer{Conn: nearClient}, &tunnelPeer{Conn: nearUpstream}, o)
	var running sync.WaitGroup
	running.Go(func() { l.ended <- l.tunnel.run() })
	t.Cleanup(func() {
		l.tunnel.stop(endDrain, closeGoingAway, "the test is over")
		running.Wait()
	})
	return l
}

func tcpPair(t *testing.T) (far, near *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), accepted.Close() })
	_ = c.SetDeadline(time.Now().Add(4 * patience))
	return c.(*net.TCPConn), accepted.(*net.TCPConn)
}

// gets expects exactly these bytes from c.
func (l *link) gets(c net.Conn, want []byte) {
	l.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
		l.t.Fatalf("%v; got %x, want %x", err, got[:min(n, 64)], want[:min(len(want), 64)])
	}
}

// says writes b to c.
func (l *link) says(c net.Conn, b []byte) {
	l.t.Helper()
	if _, err := c.Write(b); err != nil {
		l.t.Fatal(err)
	}
}

// getsClose expects one Close frame with this code, and the end behind it.
func (l *link) getsClose(c net.Conn, masked bool, code uint16) {
	l.t.Helper()
	all, err := io.ReadAll(c)
	if err != nil {
		l.t.Fatalf("not closed: %v after %x", err, all)
	}
	if !isClose(all, masked, code) {
		l.t.Errorf("got %x, want a Close frame with %d, masked %v", all, code, masked)
	}
}

func isClose(b []byte, masked bool, code uint16) bool {
	if len(b) < 4 || b[0] != 0x88 || b[1]&0x80 != 0 != masked || int(b[1]&0x7f) > 125 {
		return false
	}
	payload := bytes.Clone(b[2:])
	if masked {
		payload = bytes.Clone(b[6:])
		for i := range payload {
			payload[i] ^= b[2+i%4]
		}
	}
	return len(payload) == int(b[1]&0x7f) && uint16(payload[0])<<8|uint16(payload[1]) == code
}

func (l *link) endsAs(why ending) {
	l.t.Helper()
	select {
	case got := <-l.ended:
		if got != why {
			l.t.Errorf("ended as %q, want %q", got, why)
		}
	case <-time.After(10 * closeWithin):
		l.t.Fatal("the tunnel does not end")
	}
}

// TestTunnelCarries every shape of a frame both ways at once, as they are.
func TestTunnelCarries(t *testing.T) {
	t.Parallel()
	l := startTunnel(t, nil)
	up, down := bytes.Join(shapes(true), nil), bytes.Join(shapes(false), nil)
	var writing sync.WaitGroup
	writing.Go(func() { _, _ = l.client.Write(up) })
	writing.Go(func() { _, _ = l.upstream.Write(down) })
	writing.Go(func() { l.gets(l.upstream, up) })
	l.gets(l.client, down)
	writing.Wait()
}

// TestTunnelClosingHandshake of the peers goes through as it is, whoever begins.
func TestTunnelClosingHandshake(t *testing.T) {
	t.Parallel()
	f := func(why ending, begins, answers func(*link) *net.TCPConn) {
		t.Helper()
		l := startTunnel(t, nil)
		first, second := begins(l), answers(l)
		frame := func(c *net.TCPConn, text string) []byte { return rawFrame(0x88, 0, c == l.client, text) }
		l.says(first, frame(first, "\x0f\xa0mine"))
		l.gets(second, frame(first, "\x0f\xa0mine"))
		l.says(second, frame(second, "\x03\xe8"))
		l.gets(first, frame(second, "\x03\xe8"))
		_ = l.upstream.Close()
		l.getsNothing(l.client)
		l.endsAs(why)
	}
	client := func(l *link) *net.TCPConn { return l.client }
	upstream := func(l *link) *net.TCPConn { return l.upstream }
	f(endClient, client, upstream)
	f(endUpstream, upstream, client)
}

func (l *link) getsNothing(c net.Conn) {
	l.t.Helper()
	if all, err := io.ReadAll(c); err != nil || len(all) > 0 {
		l.t.Errorf("%v: got %x", err, all)
	}
}

// TestTunnelHandshakeIsBounded: peers that said Close and do not close.
func TestTunnelHandshakeIsBounded(t *testing.T) {
	t.Parallel()
	l := startTunnel(t, nil)
	l.says(l.client, rawFrame(0x88, 0, true, ""))
	l.gets(l.upstream, rawFrame(0x88, 0, true, ""))
	l.says(l.upstream, rawFrame(0x88, 0, false, ""))
	l.gets(l.client, rawFrame(0x88, 0, false, ""))
	l.endsAs(endClient)
}

// TestTunnelStopAfterClose: whoever has got a Close frame gets no other.
func TestTunnelStopAfterClose(t *testing.T) {
	t.Parallel()
	l := startTunnel(t, nil)
	l.says(l.client, rawFrame(0x88, 0, true, ""))
	l.gets(l.upstream, rawFrame(0x88, 0, true, ""))
	l.tunnel.stop(endDrain, closeGoingAway, "")
	l.getsClose(l.client, false, closeGoingAway)
	l.getsNothing(l.upstream)
	l.endsAs(endDrain)
}

// TestTunnelStop says Close to both, masked to the upstream, and waits for what they answer.
func TestTunnelStop(t *testing.T) {
	t.Parallel()
	l := startTunnel(t, nil)
	l.says(l.client, rawFrame(0x81, 0, true, "one"))
	l.gets(l.upstream, rawFrame(0x81, 0, true, "one"))
	l.tunnel.stop(endDrain, closeGoingAway, "bye")
	l.tunnel.stop(endInvalid, closePolicy, "the first counts")
	wait := func(c net.Conn, masked bool) {
		want := appendClose(nil, closeGoingAway, "bye", nil)
		got := make([]byte, len(want)+map[bool]int{true: 4}[masked])
		if _, err := io.ReadFull(c, got); err != nil || !isClose(got, masked, closeGoingAway) {
			t.Fatalf("%v: %x", err, got)
		}
		l.says(c, rawFrame(0x81, 0, !masked, "late: not carried"))
		l.says(c, rawFrame(0x88, 0, !masked, "\x03\xe9"))
	}
	wait(l.client, false)
	wait(l.upstream, true)
	l.getsNothing(l.client)
	l.getsNothing(l.upstream)
	l.endsAs(endDrain)
}

// TestTunnelCloseWaitsForTheEndOfAFrame, on both sides, while the rest of it comes.
func TestTunnelCloseWaitsForTheEndOfAFrame(t *testing.T) {
	t.Parallel()
	l := startTunnel(t, nil)
	f := func(from, to *net.TCPConn, masked bool) {
		t.Helper()
		frame := rawFrame(0x82, 0, masked, "0123456789")
		l.says(from, frame[:9])
		l.gets(to, frame[:9])
	}
	f(l.client, l.upstream, true)
	f(l.upstream, l.client, false)
	l.tunnel.stop(endDrain, closeGoingAway, "")
	time.Sleep(50 * time.Millisecond)
	up, down := rawFrame(0x82, 0, true, "0123456789")[9:], rawFrame(0x82, 0, false, "0123456789")[9:]
	l.says(l.client, append(bytes.Clone(up), rawFrame(0x81, 0, true, "behind")...))
	l.says(l.upstream, append(bytes.Clone(down), rawFrame(0x81, 0, false, "behind")...))
	l.gets(l.upstream, up)
	l.gets(l.client, down)
	l.getsClose(l.upstream, true, closeGoingAway)
	l.getsClose(l.client, false, closeGoingAway)
	l.endsAs(endDrain)
}

// TestTunnelInTheMiddleOfAFrame: one that does not come to its end gets no Close frame, which would be
// part of that frame; the other side does.
func TestTunnelInTheMiddleOfAFrame(t *testing.T) {
	t.Parallel()
	l := startTunnel(t, nil)
	half := rawFrame(0x82, 0, true, "0123456789")[:9]
	l.says(l.client, half)
	l.gets(l.upstream, half)
	begun := time.Now()
	l.tunnel.stop(endDrain, closeGoingAway, "")
	l.getsClose(l.client, false, closeGoingAway)
	l.getsNothing(l.upstream)
	l.endsAs(endDrain)
	if took := time.Since(begun); took > 10*closeWithin {
		t.Errorf("took %s", took)
	}
}

// TestTunnelPeerGoes: a side that closes, half closes or resets takes the other with it.
func TestTunnelPeerGoes(t *testing.T) {
	t.Parallel()
	f := func(name string, why ending, goes func(*link)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startTunnel(t, nil)
			goes(l)
			if why == endClient {
				l.getsClose(l.upstream, true, closeGoingAway)
			} else {
				l.getsClose(l.client, false, closeGoingAway)
			}
			l.endsAs(why)
		})
	}
	f("client closes", endClient, func(l *link) { _ = l.client.Close() })
	f("upstream closes", endUpstream, func(l *link) { _ = l.upstream.Close() })
	f("client resets", endClient, func(l *link) { _, _ = l.client.SetLinger(0), l.client.Close() })
	f("upstream resets", endUpstream, func(l *link) { _, _ = l.upstream.SetLinger(0), l.upstream.Close() })
	f("upstream half-closes", endUpstream, func(l *link) { _ = l.upstream.CloseWrite() })
	f("client half-closes", endClient, func(l *link) {
		_ = l.client.CloseWrite()
		l.getsClose(l.client, false, closeGoingAway) // it still reads
	})
}

// TestTunnelTimes out when nothing comes, whatever the lifetime, and at the end of its life, whatever comes.
func TestTunnelTimes(t *testing.T) {
	t.Parallel()
	f := func(name string, why ending, idle, lifetime, pings, least time.Duration) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startTunnel(t, func(o *tunnelOptions) { o.idle, o.lifetime = idle, lifetime })
			begun := time.Now()
			if pings > 0 {
				tick := time.NewTicker(pings)
				defer tick.Stop()
				over := time.After(least)
				for waiting := true; waiting; {
					select {
					case <-tick.C:
						_, _ = l.upstream.Write(rawFrame(0x89, 0, false, ""))
						_, _ = io.ReadFull(l.client, make([]byte, 2))
					case <-over:
						waiting = false
					}
				}
			}
			l.endsAs(why)
			if took := time.Since(begun); took < least {
				t.Errorf("ended after %s", took)
			}
		})
	}
	const short = 100 * time.Millisecond
	f("idle", endIdle, short, 0, 0, short)
	f("idle before its life ends", endIdle, short, patience, 0, short)
	f("a ping keeps it", endIdle, 5*short, 0, short/2, 8*short)
	f("lifetime", endLifetime, patience, short, 0, short)
	f("lifetime, busy", endLifetime, patience, 5*short, short/2, 4*short)
}

// TestTunnelToken ends when the token is no longer valid.
func TestTunnelToken(t *testing.T) {
	t.Parallel()
	var invalid atomic.Bool
	l := startTunnel(t, func(o *tunnelOptions) {
		o.allowed = func() (ending, string) {
			if invalid.Load() {
				return endInvalid, "the access token is no longer valid"
			}
			return "", ""
		}
	})
	l.says(l.client, rawFrame(0x81, 0, true, "one"))
	l.gets(l.upstream, rawFrame(0x81, 0, true, "one"))
	invalid.Store(true)
	l.getsClose(l.client, false, closePolicy)
	l.getsClose(l.upstream, true, closePolicy)
	l.endsAs(endInvalid)
}

// TestTunnelPeerTakesNothing: what is sent to it fills the buffers, and it is not waited for for ever,
// neither before the tunnel is stopped nor after.
func TestTunnelPeerTakesNothing(t *testing.T) {
	t.Parallel()
	f := func(name string, why ending, write time.Duration, stop bool) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := startTunnel(t, func(o *tunnelOptions) { o.write = write })
			var writing sync.WaitGroup
			writing.Go(func() {
				frame := rawFrame(0x82, 0, false, string(make([]byte, 1<<20)))
				for {
					if _, err := l.upstream.Write(frame); err != nil {
						return
					}
				}
			})
			if stop {
				time.Sleep(300 * time.Millisecond)
				l.tunnel.stop(endDrain, closeGoingAway, "")
			}
			l.endsAs(why)
			writing.Wait()
		})
	}
	f("write timeout", endFailed, 200*time.Millisecond, false)
	f("stopped", endDrain, patience, true)
}

// TestTunnelMemory: a quiet tunnel holds no buffer of the pool, and a busy one gives them back.
func TestTunnelMemory(t *testing.T) {
	t.Parallel()
	var taken atomic.Int32
	pool := &sync.Pool{New: func() any { taken.Add(1); return new([tunnelPiece]byte) }}
	l := startTunnel(t, func(o *tunnelOptions) { o.buffers = pool })
	l.says(l.client, rawFrame(0x81, 0, true, "small"))
	l.gets(l.upstream, rawFrame(0x81, 0, true, "small"))
	if n := taken.Load(); n != 0 {
		t.Errorf("%d buffers for a small frame", n)
	}
	large := rawFrame(0x82, 0, true, string(make([]byte, 200<<10)))
	l.says(l.client, large)
	l.gets(l.upstream, large)
	if n := taken.Load(); n < 1 || n > 20 { // the pool may drop some
		t.Errorf("%d buffers for a large one", n)
	}
}

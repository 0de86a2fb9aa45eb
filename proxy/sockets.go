package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"postern/directory"
	"postern/registry"
	"postern/token"
)

// socketLook is how often it is looked whether an open WebSocket is still allowed: with the
// directory's own half second at most, what is taken away ends it within a second.
const socketLook = 500 * time.Millisecond

// sockets are the WebSockets of a front that are open.
type sockets struct {
	buffers sync.Pool // of *[tunnelPiece]byte

	mu       sync.Mutex
	open     map[*tunnel]struct{}
	draining bool
	closed   bool
	running  sync.WaitGroup
}

// add is false when the front is shut down.
func (s *sockets) add(t *tunnel) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.open == nil {
		s.open = map[*tunnel]struct{}{}
	}
	s.open[t] = struct{}{}
	s.running.Add(1)
	if s.draining {
		t.drain()
	}
	return true
}

func (s *sockets) remove(t *tunnel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, t)
	s.running.Done()
}

// drain ends those that are open and those to come. It does not wait.
func (s *sockets) drain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = true
	for t := range s.open {
		t.drain()
	}
}

func (t *tunnel) drain() { t.stop(endDrain, closeGoingAway, "the server is going away") }

// wait returns when all have ended: after drain that is soon.
func (s *sockets) wait() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.running.Wait()
}

// upgrade makes a WebSocket of the client's connection and c, whose next bytes are the
// upstream's 101. Nothing of what the client sent behind its request has gone to c so far.
func (f *Front) upgrade(ctx *fasthttp.RequestCtx, x *exchange, c *upstreamConn, n answerHeadInfo) error {
	if !x.socket.asked {
		return errAnswer // nobody asked
	}
	res := &ctx.Response
	err := res.Header.Read(c.reader)
	if err != nil || !x.socket.accepts(&res.Header) {
		res.Reset()
		return fmt.Errorf("%w: it does not fit the WebSocket handshake", errAnswer)
	}
	x.stream.names = n.drop
	for _, name := range x.stream.names {
		res.Header.Del(name)
	}
	x.tellLimits(&res.Header)
	x.route.response.apply(&res.Header)
	res.Header.ResetConnectionClose()
	res.Header.Set("Connection", "Upgrade")
	res.Header.Set("Upgrade", "websocket")
	x.upstreamStatus = n.status

	head, client, name := res.Header.AppendBytes(nil), x.client, x.route.Name
	first, err := c.reader.Peek(c.reader.Buffered())
	if err != nil {
		return err
	}
	t := newTunnel(&tunnelPeer{Conn: client.Conn}, &tunnelPeer{Conn: c.Conn, first: bytes.Clone(first)}, tunnelOptions{
		idle: x.route.WebSocket.Idle, lifetime: x.route.WebSocket.Lifetime, write: x.state.WriteTimeout,
		every: socketLook, allowed: f.stillAllowed(x), random: f.options.Random, buffers: &f.sockets.buffers, meter: f.meterSocket(x),
	})
	if !f.sockets.add(t) {
		return errors.New("the front is shut down")
	}
	// From here on the tunnel has the connection, as one of the requests that are at its endpoint.
	has, grant, pool := x.taken, x.grant, x.route.upstream
	x.taken, x.grant, x.tells = taken{}, nil, false
	c.reader = nil // its buffer is 32 KiB, which a quiet WebSocket must not hold
	if has.probe { // it has told what it was to find out
		has.probe = false
		has.endpoint.probing.Store(false)
	}
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(net.Conn) {
		defer f.sockets.remove(t)
		defer pool.drop(has)
		if grant != nil {
			defer grant.Release()
		}
		f.serveSocket(t, client, head, name)
	})
	return nil
}

// serveSocket sends the answer's head to the client and carries until the WebSocket ends.
// fasthttp closes the client's connection behind it.
func (f *Front) serveSocket(t *tunnel, client *clientConn, head []byte, route string) {
	f.metrics.sockets.WithLabelValues(route).Inc()
	why := endFailed
	defer func() {
		if p := recover(); p != nil {
			f.options.Log.Error("panic while carrying a WebSocket", "panic", p, "stack", string(debug.Stack()))
		}
		f.metrics.sockets.WithLabelValues(route).Dec()
		f.metrics.socketsClosed.WithLabelValues(route, string(why)).Inc()
	}()
	t.up.from.first = client.detach()
	if _, err := client.Write(head); err != nil {
		why = endClient
		t.close()
		return
	}
	why = t.run()
}

// stillAllowed makes the question whether the WebSocket would be opened again: by the token
// that it began with, which is good, an agreement in force, and the catalogs that it named;
// nil where nothing of it can be taken away. A fault of ours is no reason to end it.
func (f *Front) stillAllowed(x *exchange) func() (ending, string) {
	if x.route.Shadow || !x.known && len(x.named.ids) == 0 {
		return nil
	}
	known, raw, catalogs, unknown := x.known, bytes.Clone(x.raw), bytes.Clone(x.named.ids), x.named.unknown
	return func() (why ending, text string) {
		defer func() {
			if p := recover(); p != nil {
				f.options.Log.Error("panic while looking whether a WebSocket is still allowed", "panic", p, "stack", string(debug.Stack()))
				why = ""
			}
		}()
		var client *directory.Client
		if known {
			now := f.now()
			who, err := f.options.Verifier.Verify(raw, now)
			_, invalid := errors.AsType[token.Invalid](err)
			switch {
			case err != nil && !invalid:
				return "", ""
			case invalid, !who.Client.InForce(registry.At(now)) && !who.Client.Shadow():
				return endInvalid, "the access token is no longer valid"
			case who.Client.ShadowTerms().Catalogs.State != registry.Unset: // what they do not grant is let through
				return "", ""
			}
			client = who.Client
		}
		if unknown || !f.mayUse(client, catalogs) {
			return endCatalog, "the catalog is no longer available"
		}
		return "", ""
	}
}

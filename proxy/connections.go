package proxy

import (
	"context"
	"net"
	"sync"
	"time"
)

// connections are those of a front that are open.
type connections struct {
	mu   sync.Mutex
	open map[*clientConn]struct{}
	none chan struct{} // closed when none is open any more; nil: nobody waits for that
}

func (s *connections) add(c *clientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open = map[*clientConn]struct{}{}
	}
	s.open[c] = struct{}{}
}

func (s *connections) remove(c *clientConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if s.none != nil && len(s.open) == 0 {
		close(s.none)
		s.none = nil
	}
}

// wait returns when none is open, or fails when ctx ends. Nobody may add any more.
func (s *connections) wait(ctx context.Context) error {
	s.mu.Lock()
	if len(s.open) == 0 {
		s.mu.Unlock()
		return nil
	}
	none := make(chan struct{})
	s.none = none
	s.mu.Unlock()
	select {
	case <-none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// closeWaiting closes those that wait for a request, or all.
func (s *connections) closeWaiting(all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		switch waiting := c.waiting.CompareAndSwap(true, false); {
		case all:
			_ = c.cut()
		case waiting && c.secure: // its own goroutine closes it, since to say so may take time
			_ = c.Conn.SetReadDeadline(time.Unix(1, 0))
		case waiting:
			_ = c.Conn.Close()
		}
	}
}

// gate is a listener whose connections are clientConns.
type gate struct {
	net.Listener
	front *Front
}

// Accept waits for the next client.
func (g gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := newClientConn(g.front, conn)
	g.front.connections.add(c)
	return c, nil
}

package main

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// link is the network between one postern and its store: a TCP proxy that a test cuts,
// hangs, slows and heals.
type link struct {
	address string
	target  string

	mu      sync.Mutex
	state   linkState
	changed chan struct{} // closed when state changes
	open    map[net.Conn]bool
	faults  []fault
}

type linkState struct {
	cut   bool          // connections end, and new ones are reset
	hang  bool          // connections are accepted and stay, and no byte passes
	delay time.Duration // before each piece, both ways
}

// fault is one time in which the link was not sound; until is zero while it lasts.
type fault struct{ since, until time.Time }

func startLink(t *testing.T, target string) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{address: listener.Addr().String(), target: target, changed: make(chan struct{}), open: map[net.Conn]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { l.carry(ctx, c) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = listener.Close()
		l.reset()
		all.Wait()
	})
	return l
}

// cut ends all connections and resets new ones.
func (l *link) cut() { l.set(linkState{cut: true}); l.reset() }

// hang keeps all connections, accepts new ones, and passes nothing on.
func (l *link) hang() { l.set(linkState{hang: true}) }

// slow holds each piece back for d.
func (l *link) slow(d time.Duration) { l.set(linkState{delay: d}) }

// heal lets pass what was held back and all that follows.
func (l *link) heal() { l.set(linkState{}) }

func (l *link) set(s linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sound := l.state == linkState{}
	l.state = s
	close(l.changed)
	l.changed = make(chan struct{})
	healed := s == linkState{}
	if sound && !healed {
		l.faults = append(l.faults, fault{since: time.Now()})
	}
	if !sound && healed {
		l.faults[len(l.faults)-1].until = time.Now()
	}
}

// sound reports whether the link had no fault between since and until.
func (l *link) sound(since, until time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		if f.since.Before(until) && (f.until.IsZero() || f.until.After(since)) {
			return false
		}
	}
	return true
}

// connections is how many the store's client holds open.
func (l *link) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.open)
}

// reset ends every connection with a reset, as a host does that has lost them.
func (l *link) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
}

// pass waits until a piece may go on.
func (l *link) pass(ctx context.Context) bool {
	for {
		l.mu.Lock()
		state, changed := l.state, l.changed
		l.mu.Unlock()
		switch {
		case state.cut || ctx.Err() != nil:
			return false
		case !state.hang:
			time.Sleep(state.delay)
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// carry is one connection from its client to the store.
func (l *link) carry(ctx context.Context, client net.Conn) {
	l.mu.Lock()
	l.open[client] = true
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.open, client)
		l.mu.Unlock()
		_ = client.Close()
	}()
	if !l.pass(ctx) {
		_ = client.(*net.TCPConn).SetLinger(0)
		return
	}
	store, err := new(net.Dialer).DialContext(ctx, "tcp", l.target)
	if err != nil {
		_ = client.(*net.TCPConn).SetLinger(0)
		return
	}
	var both sync.WaitGroup
	pump := func(to, from net.Conn) {
		piece := make([]byte, 32<<10)
		for {
			n, err := from.Read(piece)
			if n > 0 && l.pass(ctx) {
				_, err = to.Write(piece[:n])
			}
			if err != nil || ctx.Err() != nil {
				break
			}
		}
		_ = to.Close()
		_ = from.Close()
	}
	both.Go(func() { pump(store, client) })
	both.Go(func() { pump(client, store) })
	both.Wait()
}

// TestLink: the link itself does what the tests of faults rest on.
func TestLink(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		for {
			c, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(c, c); _ = c.Close() }()
		}
	}()
	l := startLink(t, echo.Addr().String())
	dial := func() net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", l.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	answers := func(c net.Conn, patience time.Duration) bool {
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err := c.Write([]byte("x"))
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
		}
		return err == nil
	}
	before := time.Now()
	c := dial()
	if !answers(c, 5*time.Second) {
		t.Fatal("a sound link passes nothing")
	}
	l.hang()
	if answers(c, 100*time.Millisecond) || answers(dial(), 100*time.Millisecond) {
		t.Error("a hanging link passes something")
	}
	l.heal()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Errorf("what was held back is lost: %v", err)
	}
	l.slow(50 * time.Millisecond)
	if started := time.Now(); !answers(c, 5*time.Second) || time.Since(started) < 100*time.Millisecond {
		t.Errorf("a slow link took %s", time.Since(started))
	}
	l.cut()
	if answers(c, 5*time.Second) {
		t.Error("a link that is cut passes something")
	}
	if c, err := net.Dial("tcp", l.address); err == nil { // else it was reset at once
		if answers(c, 5*time.Second) {
			t.Error("a link that is cut passes something new")
		}
		_ = c.Close()
	}
	l.heal()
	healed := time.Now()
	if !answers(dial(), 5*time.Second) {
		t.Error("a healed link passes nothing")
	}
	if l.sound(before, time.Now()) || !l.sound(healed, time.Now()) {
		t.Error("it does not know when it was sound")
	}
}

package proxy

import (
	"context"
	"io"
	"testing"
	"time"
)

// TestShutdownMeetsHalfHeads: clients that have sent a part of a head when the front shuts
// down, however many, neither hold it up beyond its deadline nor lose a head that still
// comes whole.
func TestShutdownMeetsHalfHeads(t *testing.T) {
	f := start(t)
	var slow []*connection
	for range 20 {
		c := f.dial().send(get("/public"))
		if m := c.read("GET"); m.status() != 200 {
			t.Fatal(m.raw)
		}
		slow = append(slow, c.send("GET /public HTTP/1.1\r\nHost: api"))
	}
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	stopped := make(chan error, 1)
	begun := time.Now()
	go func() { stopped <- f.front.Shutdown(ctx) }()
	time.Sleep(200 * time.Millisecond)
	slow[0].send(".test\r\n\r\n")
	if m := slow[0].read("GET"); m.status() != 200 || m.get("Connection") != "close" {
		t.Errorf("the head that came whole: %q", m.raw)
	}
	if err := <-stopped; err == nil || time.Since(begun) > 3*time.Second {
		t.Errorf("ended after %v: %v", time.Since(begun), err)
	}
	_ = f.stop() // says that it was shut down before
	f.stop = func() error { return nil }
	for _, c := range slow[1:] {
		if rest, _ := io.ReadAll(c.r); len(rest) > 0 {
			t.Errorf("answered %q", rest)
		}
	}
}

// TestShutdownKeepsAnswersWhole: an answer to a request whose content was not read is not
// taken away by a reset.
func TestShutdownKeepsAnswersWhole(t *testing.T) {
	f := start(t)
	var all []*connection
	for range 20 {
		all = append(all, f.dial().send("POST / HTTP/1.1\r\n"))
	}
	time.Sleep(50 * time.Millisecond)
	stopped := make(chan error, 1)
	go func() { stopped <- f.stop() }()
	time.Sleep(100 * time.Millisecond)
	for _, c := range all {
		c.send("Host: api.test\r\nContent-Length: 100000\r\n\r\n" + noise(60_000))
	}
	for _, c := range all {
		time.Sleep(10 * time.Millisecond)
		m := c.read("POST")
		if _, err := io.ReadAll(c.r); m.status() != 401 || err != nil { // to other systems than Linux a reset takes the answer too
			t.Errorf("answered %q, then %v", m.raw, err)
		}
		_ = c.Close()
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serviceDoor is what a Service is to its callers: an address that leads each new connection to
// whatever it is set to, and leaves those that are open where they are.
type serviceDoor struct {
	address string
	leads   atomic.Pointer[string]
}

func (d *serviceDoor) to(address string) { d.leads.Store(&address) }

func openDoor(t *testing.T, first string) *serviceDoor {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &serviceDoor{address: l.Addr().String()}
	d.to(first)
	var conns sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { d.carry(ctx, c) })
		}
	})
	t.Cleanup(func() {
		stop()
		_ = l.Close()
		conns.Wait()
	})
	return d
}

func (d *serviceDoor) carry(ctx context.Context, c net.Conn) {
	defer c.Close()
	up, err := net.Dial("tcp", *d.leads.Load())
	if err != nil {
		return
	}
	defer up.Close()
	defer context.AfterFunc(ctx, func() { _, _ = c.Close(), up.Close() })()
	back := make(chan struct{})
	go func() {
		defer close(back)
		_, _ = io.Copy(c, up)
		_ = c.Close()
	}()
	_, _ = io.Copy(up, c)
	_ = up.Close()
	<-back
}

// caller uses the API all the time, as one who knows nothing of the move: with connections
// that it keeps, some requests a connection, and no request sent twice.
type caller struct {
	token           atomic.Pointer[string]
	passed, refused atomic.Int64
	client          http.Client
}

// once sends one request; anything but an answer of the API or a 401 is a failure.
func (c *caller) once(ctx context.Context, url string, last bool) error {
	request, err := http.NewRequestWithContext(ctx, "POST", url+"/orders", io.NopCloser(strings.NewReader("content")))
	if err != nil {
		return err
	}
	request.ContentLength, request.Close = 7, last
	if token := c.token.Load(); token != nil {
		request.Header.Set("Authorization", "Bearer "+*token)
	}
	answer, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	switch {
	case err != nil:
		return err
	case answer.StatusCode == 200 && strings.Contains(string(text), "POST /orders"):
		c.passed.Add(1)
	case answer.StatusCode == 401 && c.token.Load() == nil:
		c.refused.Add(1)
	default:
		return fmt.Errorf("%s %.200s", answer.Status, text)
	}
	return nil
}

// TestMoveLiveAPI does what docs/kubernetes.md says under "Moving a live API behind it",
// with its configurations, to an API that is in use: who has a token by the last step, or
// has none until then, has no failed request; and every step can be undone.
func TestMoveLiveAPI(t *testing.T) {
	_, text, _ := strings.Cut(readFile(t, "docs/kubernetes.md"), "\n## Moving a live API behind it\n")
	text, _, _ = strings.Cut(text, "\n## ")
	up := startUpstream(t)
	dir := t.TempDir()
	configuration := func(access string) string {
		t.Helper()
		for _, block := range fences(text, "yaml") {
			if c, ok := configurationIn(block); ok && strings.Contains(c, "access: "+access+"}") {
				moved := strings.NewReplacer("http://api-direct.default.svc:80", "http://"+up.address, "front: {", "front: {listen: \"127.0.0.1:0\", ").Replace(c)
				if strings.Count(moved, "127.0.0.1") != 2 {
					t.Fatalf("the document has another front or upstream:\n%s", c)
				}
				return moved + "admin: {listen: \"127.0.0.1:0\"}\nstore: sqlite:" + dir + "/postern.db\n"
			}
		}
		t.Fatalf("docs/kubernetes.md has no configuration with access: %s", access)
		return ""
	}
	open, closed := configuration("optional"), configuration("client")
	d := openDoor(t, up.address) // before: straight to the API

	const callers = 4 // the last never gets a token
	all := make([]*caller, callers)
	var failed atomic.Int64
	var load sync.WaitGroup
	ctx, end := context.WithCancel(t.Context())
	defer load.Wait()
	defer end()
	for i := range all {
		c := &caller{client: http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}}
		all[i] = c
		load.Go(func() {
			defer c.client.CloseIdleConnections()
			for n := 1; ctx.Err() == nil; n++ {
				if err := c.once(t.Context(), "http://"+d.address, n%20 == 0); err != nil && failed.Add(1) <= 5 {
					t.Errorf("caller %d: %v", i, err)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	// settled waits until each caller had all its connections anew, and gets what it wants.
	settled := func(what string, counter func(*caller) *atomic.Int64, who ...*caller) {
		t.Helper()
		before := make([]int64, len(who))
		for i, c := range who {
			before[i] = counter(c).Load()
		}
		for i, c := range who {
			eventually(t, time.Second, what, func() bool { return counter(c).Load() > before[i]+40 })
		}
	}
	passed := func(c *caller) *atomic.Int64 { return &c.passed }
	refused := func(c *caller) *atomic.Int64 { return &c.refused }
	settled("the API is used", passed, all...)

	writeFile(t, dir+"/postern.yaml", open)
	p := start(t, dir, "--config", "postern.yaml") // beside it, with nobody coming
	front := strings.TrimPrefix(p.front, "http://")
	reload := func(text, seen string) {
		t.Helper()
		writeFile(t, dir+"/new.yaml", text)
		if err := os.Rename(dir+"/new.yaml", dir+"/postern.yaml"); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, seen, func() bool {
			r, err := send(t.Context(), "GET", p.front+"/", "")
			return err == nil && (r.status == 401) == (seen == "closed")
		})
	}
	credentials := p.client("")
	settled("nobody noticed", passed, all...)
	d.to(front)
	settled("all pass through postern", passed, all...)
	d.to(up.address) // undone
	settled("all pass beside postern", passed, all...)
	d.to(front)
	for _, c := range all[:callers-1] { // one after the other, as their owners find the time
		token := p.goodToken(credentials)
		c.token.Store(&token)
		settled("who has a token passes", passed, all...)
	}
	if all[callers-1].refused.Load() != 0 {
		t.Error("refused before the gate was closed")
	}
	eventually(t, time.Second, "the API is told who is asking", func() bool {
		requests := up.requests()
		return strings.Contains(strings.Join(requests[max(0, len(requests)-20):], ""), "X-Client-Id: "+credentials.id)
	})
	reload(closed, "closed")
	settled("who has a token passes a closed gate", passed, all[:callers-1]...)
	settled("who has none is refused", refused, all[callers-1])
	reload(open, "open") // undone
	settled("all pass again", passed, all...)
	end()
	load.Wait()
	if failed.Load() != 0 {
		t.Errorf("%d requests failed", failed.Load())
	}
}

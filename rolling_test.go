package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// balancer sends requests to those of several posterns that say that they are ready, over
// connections that it keeps, and never sends one again.
type balancer struct {
	t      *testing.T
	client *http.Client
	mu     sync.Mutex
	nodes  []*node
	sent   atomic.Int64
	failed atomic.Int64
}

type node struct {
	*process
	ready atomic.Bool
}

// watch asks n every 50 ms whether it is ready, until ctx ends.
func (b *balancer) watch(ctx context.Context, n *node) {
	for ctx.Err() == nil {
		asking, cancel := context.WithTimeout(ctx, time.Second)
		r, err := send(asking, "GET", n.admin+"/readyz", "")
		cancel()
		n.ready.Store(err == nil && r.status == 200)
		time.Sleep(50 * time.Millisecond)
	}
}

// choose returns a postern that was ready when it was asked last; nil: none was.
func (b *balancer) choose() *node {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, i := range rand.Perm(len(b.nodes)) {
		if b.nodes[i].ready.Load() {
			return b.nodes[i]
		}
	}
	return nil
}

// request sends one POST, which no client library may send twice.
func (b *balancer) request(path, content string, want int, header ...string) {
	n := b.choose()
	if n == nil {
		b.fail("no postern is ready")
		return
	}
	b.sent.Add(1)
	request, err := http.NewRequestWithContext(b.t.Context(), "POST", n.front+path, io.NopCloser(strings.NewReader(content)))
	if err != nil {
		b.fail("%v", err)
		return
	}
	request.ContentLength = int64(len(content))
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	answer, err := b.client.Do(request)
	if err != nil {
		b.fail("%v", err)
		return
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != want {
		b.fail("%s %s %v", answer.Status, text, err)
	}
}

func (b *balancer) fail(format string, args ...any) {
	if b.failed.Add(1) <= 5 {
		b.t.Errorf(format, args...)
	}
}

// TestRollingRestart restarts three posterns on one store one after the other, under
// load: no request fails, and every token is good at each of them.
func TestRollingRestart(t *testing.T) {
	up := startUpstream(t)
	dir := t.TempDir()
	writeFile(t, dir+"/postern.yaml", "front: {listen: \"127.0.0.1:0\", drain: 10s, drain_delay: 500ms}\nadmin: {listen: \"127.0.0.1:0\"}\n"+
		"issuer: {url: \"https://api.example.com\"}\nroutes:\n  - {name: api, path: /, upstream: [\"http://"+up.address+"\"]}\n")
	const workers = 8
	b := &balancer{t: t, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}}
	defer b.client.CloseIdleConnections()
	var watchers sync.WaitGroup
	defer watchers.Wait()
	join := func() (*node, context.CancelFunc) {
		n := &node{process: start(t, dir, "--config", "postern.yaml")}
		ctx, leave := context.WithCancel(t.Context())
		watchers.Go(func() { b.watch(ctx, n) })
		eventually(t, time.Second, "it is ready", n.ready.Load)
		return n, leave
	}
	leaves := make([]context.CancelFunc, 3)
	b.nodes = make([]*node, 3)
	for i := range b.nodes {
		b.nodes[i], leaves[i] = join()
	}
	defer func() {
		for _, leave := range leaves {
			leave()
		}
	}()
	c := b.nodes[0].client("")
	token := b.nodes[0].goodToken(c)

	var load sync.WaitGroup
	defer load.Wait()
	ended := make(chan struct{})
	end := sync.OnceFunc(func() { close(ended) })
	defer end()
	for range workers {
		load.Go(func() {
			for i := 1; ; i++ {
				select {
				case <-ended:
					return
				default:
				}
				if i%50 == 0 {
					b.request("/oauth/token", fmt.Sprintf(`{"client_id": %q, "client_secret": %q}`, c.id, c.secret), 201, "Content-Type", "application/json")
				} else {
					b.request("/tracks", "content", 200, "Authorization", "Bearer "+token)
				}
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	for i := range b.nodes {
		time.Sleep(300 * time.Millisecond)
		old := b.nodes[i]
		old.signal(syscall.SIGTERM)
		if code := old.ends(3 * time.Second); code != exitDone {
			t.Errorf("exit code %d", code)
		}
		leaves[i]()
		n, leave := join()
		b.mu.Lock()
		b.nodes[i], leaves[i] = n, leave
		b.mu.Unlock()
	}
	time.Sleep(300 * time.Millisecond)
	end()
	load.Wait()
	if n := b.failed.Load(); n > 0 || b.sent.Load() < 1000 {
		t.Errorf("%d of %d requests failed", n, b.sent.Load())
	}
	t.Logf("%d requests", b.sent.Load())
}

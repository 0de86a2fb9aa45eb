package main

import (
	"bufio"
	"context"
	"crypto/sha1" // what RFC 6455 asks for
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// patient is an upstream whose answers wait for release: /wait says nothing before, /stream
// never stops talking, /upload reads what it is sent, /ws is a WebSocket that says nothing.
type patient struct {
	*httptest.Server
	release chan struct{}
	waiting atomic.Int64 // requests that arrived and wait
}

func startPatient(t *testing.T) *patient {
	t.Helper()
	u := &patient{release: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("/now", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "now") })
	mux.HandleFunc("/wait", func(w http.ResponseWriter, _ *http.Request) {
		u.waiting.Add(1)
		<-u.release
		_, _ = io.WriteString(w, "done")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		u.waiting.Add(1)
		for {
			_, _ = io.WriteString(w, strings.Repeat("s", 1000))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-u.release:
				_, _ = io.WriteString(w, "done")
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	mux.HandleFunc("/upload", func(w http.ResponseWriter, r *http.Request) {
		u.waiting.Add(1)
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%d %v", n, err)
	})
	mux.HandleFunc("/ws", u.webSocket)
	u.Server = httptest.NewServer(mux)
	t.Cleanup(u.Close)
	return u
}

func (u *patient) webSocket(w http.ResponseWriter, r *http.Request) {
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	digest := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455 §4.2.2
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
		base64.StdEncoding.EncodeToString(digest[:]))
	u.waiting.Add(1)
	_, _ = io.Copy(io.Discard, c) // until postern closes
}

// flight is a request that is under way.
type flight struct {
	kind   string
	status int
	body   string
	closes bool // its answer said Connection: close
	err    error
}

func fly(ctx context.Context, client *http.Client, kind, method, url string, content io.Reader, token string) flight {
	f := flight{kind: kind}
	request, err := http.NewRequestWithContext(ctx, method, url, content)
	if err != nil {
		f.err = err
		return f
	}
	request.Header.Set("Authorization", "Bearer "+token)
	answer, err := client.Do(request)
	if err != nil {
		f.err = err
		return f
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	f.status, f.body, f.closes, f.err = answer.StatusCode, string(text), answer.Close, err
	return f
}

// slowly is content that ends at release.
func slowly(release <-chan struct{}) io.Reader {
	r, w := io.Pipe()
	go func() {
		for {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				return
			}
			select {
			case <-release:
				_ = w.Close()
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return r
}

// TestRow167Drain: SIGTERM with a thousand requests, streams both ways, WebSockets, idle
// and silent connections. Not ready comes first, while requests are served as usual; then
// what is in flight finishes, what is not in flight is closed at once, and the exit code is 0.
func TestRow167Drain(t *testing.T) {
	up := startPatient(t)
	dir := t.TempDir()
	writeFile(t, dir+"/postern.yaml", "front: {listen: \"127.0.0.1:0\", drain: 20s, drain_delay: 1s}\nadmin: {listen: \"127.0.0.1:0\"}\n"+
		"routes:\n  - {name: api, path: /, upstream: [\""+up.URL+"\"], websocket: {enabled: true}}\n")
	p := start(t, dir, "--config", "postern.yaml")
	token := p.goodToken(p.client(""))
	const waits, streams, uploads, sockets, idles = 1000, 20, 20, 20, 50
	transport := &http.Transport{MaxIdleConnsPerHost: waits}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	results := make(chan flight, waits+streams+uploads)
	var flights sync.WaitGroup
	defer flights.Wait()
	release := sync.OnceFunc(func() { close(up.release) })
	defer release()
	for range waits {
		flights.Go(func() { results <- fly(t.Context(), client, "wait", "GET", p.front+"/wait", nil, token) })
	}
	for range streams {
		flights.Go(func() { results <- fly(t.Context(), client, "stream", "GET", p.front+"/stream", nil, token) })
	}
	for range uploads {
		flights.Go(func() {
			results <- fly(t.Context(), client, "upload", "POST", p.front+"/upload", slowly(up.release), token)
		})
	}
	var webSockets, quiet []net.Conn
	for range sockets {
		webSockets = append(webSockets, openWebSocket(t, p, token))
	}
	for i := range 2 * idles { // half of them say nothing, half wait after an answer
		c := dial(t, p)
		if i%2 == 0 {
			fmt.Fprintf(c, "GET /now HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n\r\n", token)
			if answer, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || answer.StatusCode != 200 {
				t.Fatalf("%v %v", answer, err)
			}
		}
		quiet = append(quiet, c)
	}
	eventually(t, 5*time.Second, "all are at the upstream", func() bool { return up.waiting.Load() == waits+streams+uploads+sockets })

	began := time.Now()
	p.signal(syscall.SIGTERM)
	eventually(t, 100*time.Millisecond, "not ready", func() bool {
		r := p.ask("GET", "/readyz")
		return r.status == 503 && strings.Contains(r.body, "draining")
	})
	if f := fly(t.Context(), client, "late", "GET", p.front+"/now", nil, token); f.status != 200 || f.closes || f.err != nil {
		if time.Since(began) < time.Second {
			t.Errorf("in the delay: %+v", f)
		}
	}
	for _, c := range webSockets {
		closedWebSocket(t, c)
	}
	if took := time.Since(began); took < time.Second {
		t.Errorf("WebSockets were closed after %s, before the delay was over", took)
	}
	for _, c := range quiet {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
			t.Errorf("a quiet connection: %d %v", n, err)
			break
		}
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(p.front, "http://")); err == nil {
		_ = c.Close()
		t.Error("still accepting")
	}
	release()
	flights.Wait()
	close(results)
	n := 0
	for f := range results {
		bad := f.err != nil || f.status != 200 || !f.closes && f.kind == "wait"
		switch f.kind {
		case "wait":
			bad = bad || f.body != "done"
		case "stream":
			bad = bad || !strings.HasSuffix(f.body, "sdone")
		case "upload":
			bad = bad || !strings.HasSuffix(f.body, "000 <nil>")
		}
		if bad {
			n++
			if n <= 5 {
				t.Errorf("%.200s", fmt.Sprintf("%+v", f))
			}
		}
	}
	if n > 0 {
		t.Errorf("%d requests in flight failed", n)
	}
	if code := p.ends(2 * time.Second); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	t.Logf("ended %s after SIGTERM", time.Since(began).Round(time.Millisecond))
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

func dial(t *testing.T, p *process) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(p.front, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// openWebSocket opens one, byte by byte: nothing is read beyond the 101.
func openWebSocket(t *testing.T, p *process, token string) net.Conn {
	t.Helper()
	c := dial(t, p)
	fmt.Fprintf(c, "GET /ws HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", token)
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	var head strings.Builder
	for one := make([]byte, 1); !strings.HasSuffix(head.String(), "\r\n\r\n"); {
		if _, err := io.ReadFull(c, one); err != nil {
			t.Fatalf("%v after %q", err, head.String())
		}
		head.Write(one)
	}
	if !strings.HasPrefix(head.String(), "HTTP/1.1 101 ") {
		t.Fatalf("no WebSocket: %s", head.String())
	}
	return c
}

// closedWebSocket reads the close frame 1001 (going away), answers it, and reads the end.
func closedWebSocket(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(15 * time.Second))
	frame := make([]byte, 4)
	if _, err := io.ReadFull(c, frame); err != nil || frame[0] != 0x88 || frame[1] < 2 || frame[1] > 125 || int(frame[2])<<8|int(frame[3]) != 1001 {
		t.Fatalf("close frame % x, %v", frame, err)
	}
	if _, err := io.CopyN(io.Discard, c, int64(frame[1])-2); err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9})
	if _, err := c.Read(frame); err == nil || isTimeout(err) {
		t.Fatalf("after the close: %v", err)
	}
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// stressUpstream is the hidden first argument with which this program starts itself as the
// upstream of a stress run.
const stressUpstream = "stress-upstream"

// serveStressUpstream answers 1 KiB, the bytes that a path asks for, and how many it was sent.
func serveStressUpstream(ctx context.Context, address string) error {
	small, piece := make([]byte, 1<<10), make([]byte, 64<<10)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(small) })
	mux.HandleFunc("/public/bytes/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil {
			http.Error(w, "no number", http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		for n > 0 {
			m, err := w.Write(piece[:min(n, int64(len(piece)))])
			if n -= int64(m); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("/public/sink", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r.Body, make([]byte, 64<<10))
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, n)
	})
	// By default the kernel would take megabytes of each answer that nobody reads: it is postern
	// that is measured here, not the memory for sockets of a machine that has both.
	bound := func(ctx context.Context, c net.Conn) context.Context {
		_ = c.(*net.TCPConn).SetWriteBuffer(128 << 10)
		return ctx
	}
	server := &http.Server{Addr: address, Handler: mux, ConnContext: bound}
	go func() { <-ctx.Done(); _ = server.Close() }()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (b *bench) startStressUpstream(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	b.upstream = "http://" + address
	if b.upstreamProcess, err = b.start("upstream", b.loadCore, nil, self, stressUpstream, address); err != nil {
		return err
	}
	return b.upstreamProcess.ready(ctx, b.upstream+"/")
}

// idleConnections opens b.idlers connections that asked once and then keep still.
func (b *bench) idleConnections(ctx context.Context, g *gate) (func() error, error) {
	host := strings.TrimPrefix(g.url, "http://")
	conns := make([]net.Conn, b.idlers)
	closeAll := func() error {
		for _, c := range conns {
			if c != nil {
				_ = c.Close()
			}
		}
		return nil
	}
	var group sync.WaitGroup
	failures := make(chan error, 8)
	for i := range 8 {
		group.Go(func() {
			for at := i; at < len(conns) && ctx.Err() == nil; at += 8 {
				c, err := dialEasy(host)
				if err != nil {
					failures <- err
					return
				}
				conns[at] = c
				if err := c.ask("GET /public/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n"); err != nil {
					failures <- err
					return
				}
				c.r = nil
			}
		})
	}
	group.Wait()
	select {
	case err := <-failures:
		return nil, errors.Join(fmt.Errorf("open %d connections: %w", b.idlers, err), closeAll())
	default:
	}
	return func() error {
		defer closeAll()
		for i, c := range conns { // they are all still served
			if i%100 == 0 {
				e := c.(*easyClient)
				e.r = bufio.NewReader(e.Conn)
				if err := e.ask("GET /public/ HTTP/1.1\r\nHost: " + host + "\r\n\r\n"); err != nil {
					return fmt.Errorf("idle connection %d: %w", i, err)
				}
			}
		}
		return nil
	}, nil
}

// transfer moves b.bytes through postern as fast as it goes, and counts them at the far end.
func (b *bench) transfer(down bool) func(context.Context, *gate) (func() error, error) {
	return func(ctx context.Context, g *gate) (func() error, error) {
		done := make(chan error, 1)
		go func() { done <- move(ctx, g, down, b.bytes, nil) }()
		return func() error { return <-done }, nil
	}
}

// slowClients are 50 that each take, or send, 10 MiB at about 1 MiB/s.
func (b *bench) slowClients(down bool) func(context.Context, *gate) (func() error, error) {
	return func(ctx context.Context, g *gate) (func() error, error) {
		done := make(chan error, slowPeople)
		for range slowPeople {
			go func() { done <- move(ctx, g, down, slowSize, func() { time.Sleep(60 * time.Millisecond) }) }()
		}
		return func() error {
			var errs []error
			for range slowPeople {
				errs = append(errs, <-done)
			}
			return errors.Join(errs...)
		}, nil
	}
}

// move transfers n bytes; pause, where there is one, is called after each 64 KiB.
func move(ctx context.Context, g *gate, down bool, n int64, pause func()) error {
	if pause == nil {
		pause = func() {}
	}
	method, path, content := http.MethodGet, "/public/bytes/"+strconv.FormatInt(n, 10), io.Reader(nil)
	if !down {
		method, path, content = http.MethodPut, "/public/sink", &zeros{left: n, pause: pause}
	}
	request, err := http.NewRequestWithContext(ctx, method, g.url+path, content)
	if err != nil {
		return err
	}
	transport := &http.Transport{ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10, DisableCompression: true}
	defer transport.CloseIdleConnections()
	answer, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if !down {
		text, err := io.ReadAll(answer.Body)
		if err == nil && string(text) != strconv.FormatInt(n, 10) {
			err = fmt.Errorf("the upstream received %.100q of %d bytes", text, n)
		}
		return err
	}
	buffer, got := make([]byte, 64<<10), int64(0)
	for {
		m, err := answer.Body.Read(buffer)
		got += int64(m)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		pause()
	}
	if got != n {
		return fmt.Errorf("received %d of %d bytes", got, n)
	}
	return nil
}

// zeros are n bytes of content of which the length is not told.
type zeros struct {
	left  int64
	pause func()
}

// Read implements io.Reader.
func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	clear(p[:n])
	z.left -= n
	z.pause()
	return int(n), nil
}

package proxy

import (
	"crypto/tls"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
)

// balance makes all routes lead to one upstream with these endpoints, which is changed.
func balance(change func(*Upstream), addresses ...string) func(*Options) {
	u := Upstream{ConnectTimeout: patience, RetryBudget: 100}
	for _, a := range addresses {
		u.Endpoints = append(u.Endpoints, tcp(a))
	}
	if change != nil {
		change(&u)
	}
	return func(o *Options) {
		for i := range o.Routes {
			o.Routes[i].Upstream = u
		}
	}
}

func (f *fixture) endpoints() []*endpoint {
	return f.front.state.Load().router.all[0].upstream.endpoints
}

// freed asserts that no request and no connection but idle ones is left on the endpoints.
func (f *fixture) freed(name string) {
	f.t.Helper()
	for _, e := range f.endpoints() {
		until(f.t, name+": nothing is left on "+e.label, func() bool {
			e.mu.Lock()
			defer e.mu.Unlock()
			return e.load.Load() == 0 && e.connections.Load() == int64(len(e.idle))
		})
	}
}

// TestRow168UpstreamFails: what it does instead of answering, what the client is told,
// and that nothing of it stays behind.
func TestRow168UpstreamFails(t *testing.T) {
	const timeout = 300 * time.Millisecond
	f := start(t, func(o *Options) {
		for i := range o.Routes {
			o.Routes[i].Timeout, o.Routes[i].Stall = timeout, timeout
		}
	})
	g := func(name string, script func(net.Conn), status int, reason answer.Reason) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			for _, text := range []string{get("/public"), request("POST", "/public", "Content-Length: 2") + "hi"} {
				f.upstream.answers(func(c net.Conn, _ *message) { script(c) })
				m := f.ask(text)
				if m.status() != status {
					t.Errorf("answered %q", m.raw)
				}
				if reason != answer.OK && !strings.Contains(m.content, string(reason)) {
					t.Errorf("answered %q, not %s", m.content, reason)
				}
			}
			f.freed(name)
		})
	}
	done := make(chan struct{})
	hangUp := sync.OnceFunc(func() { close(done) })
	defer hangUp()
	g("resets", reset, 502, answer.UpstreamFailed)
	g("hangs", func(net.Conn) { <-done }, 504, answer.UpstreamTimeout)
	g("hangs within a head", func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nA: b"); <-done }, 504, answer.UpstreamTimeout)
	g("a byte now and then", func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n")
		for range 16 { // longer than the timeout in all, and far below it between two
			time.Sleep(timeout / 10)
			_, _ = io.WriteString(c, "x")
		}
	}, 200, answer.OK)
	g("a head without end", func(c net.Conn) {
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
		for err == nil {
			_, err = io.WriteString(c, "A: "+strings.Repeat("b", 1000)+"\r\n")
		}
	}, 502, answer.UpstreamFailed)
	t.Run("content without end", func(t *testing.T) {
		ended := make(chan struct{})
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
			for piece := make([]byte, 64<<10); err == nil; {
				_, err = c.Write(piece)
			}
			close(ended)
		})
		c := f.dial().send(get("/public"))
		if _, err := io.CopyN(io.Discard, c, 32<<20); err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		<-ended
		f.freed("content without end")
	})
	hangUp()
	f.upstream.close()
	f.freed("closed")
	if m := f.ask(get("/public")); m.status() != 502 {
		t.Errorf("refused: answered %q", m.raw)
	}
	f.freed("refuses")
}

// TestRow170RetriesElsewhere: an endpoint that takes a request and dies. What has no effect
// goes to the other one, once.
func TestRow170RetriesElsewhere(t *testing.T) {
	bad, good := newOrigin(t), newOrigin(t)
	g := func(name, text string, status, sent int, retries float64, change func(*Upstream)) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			f := start(t, balance(change, bad.address, good.address))
			f.endpoints()[1].state.Store(unwell) // so that the bad one is asked first
			bad.answers(func(c net.Conn, _ *message) { f.endpoints()[1].state.Store(0); reset(c) })
			m := f.ask(text)
			if m.status() != status {
				t.Errorf("answered %q", m.raw)
			}
			if a, b := len(bad.received()), len(good.received()); a != 1 || b != sent-1 {
				t.Errorf("the bad one got it %d times, the good one %d times", a, b)
			}
			if n := f.metrics()["postern_upstream_retries_total{route=public}"]; n != retries {
				t.Errorf("%v retries are counted", n)
			}
			f.freed(name)
		})
	}
	g("GET", get("/public"), 200, 2, 1, nil)
	g("GET with content", request("GET", "/public", "Content-Length: 2")+"hi", 200, 2, 1, nil)
	g("POST", request("POST", "/public", "Content-Length: 2")+"hi", 502, 1, 0, nil)
	g("PATCH", request("PATCH", "/public"), 502, 1, 0, nil)
	g("content that was passed on already", request("PUT", "/public", "Content-Length: 200000")+noise(200000), 502, 1, 0, nil)
	g("no budget", get("/public"), 502, 1, 0, func(u *Upstream) { u.RetryBudget = 0 })
}

// TestRow170NobodyTookIt: an endpoint that refuses connections costs no request, whatever
// its method: not a byte of it was sent.
func TestRow170NobodyTookIt(t *testing.T) {
	good := newOrigin(t)
	// The heavy one is asked first: each request needs its retry, which all of them may have.
	f := start(t, balance(func(u *Upstream) { u.Endpoints[0].Weight = 1000 }, refusing(t), good.address))
	for i := range 20 {
		for _, text := range []string{
			get("/public"), request("POST", "/public", "Content-Length: 2") + "hi",
			request("POST", "/public", "Transfer-Encoding: chunked") + chunks(noise(200000), 5000),
		} {
			if m := f.ask(text); m.status() != 200 {
				t.Fatalf("answered %q", m.raw)
			}
			if n := len(good.received()); n != 1 {
				t.Fatalf("request %d was sent %d times", i, n)
			}
		}
	}
	if f.metrics()["postern_upstream_retries_total{route=public}"] == 0 {
		t.Error("no retry is counted")
	}
	f.freed("after all")
}

func TestRow170RetriesWithinBudget(t *testing.T) {
	const requests = 60
	a, b := newOrigin(t), newOrigin(t)
	a.answers(func(c net.Conn, _ *message) { reset(c) })
	b.answers(func(c net.Conn, _ *message) { reset(c) })
	f := start(t, balance(func(u *Upstream) { u.RetryBudget = 10 }, a.address, b.address))
	begun := time.Now()
	for range requests {
		if m := f.ask(get("/public")); m.status() != 502 {
			t.Fatalf("answered %q", m.raw)
		}
	}
	sent := len(a.received()) + len(b.received())
	if most := requests + requests/10; time.Since(begun) < 9*time.Second && (sent > most || sent < requests+budgetFloor) {
		t.Errorf("%d requests were sent %d times", requests, sent)
	}
	if n := f.metrics()["postern_upstream_retries_total{route=public}"]; int(n) != sent-requests {
		t.Errorf("%v retries are counted", n)
	}
	f.freed("after all")
}

func TestBalance(t *testing.T) {
	a, b := newOrigin(t), newOrigin(t)
	f := start(t, balance(func(u *Upstream) {
		u.Failures, u.Open = 3, 300*time.Millisecond
		u.Endpoints[1].Weight = 3
	}, a.address, b.address))
	ask := func(n int) (atA, atB int) {
		t.Helper()
		for range n {
			if m := f.ask(get("/public")); m.status() != 200 && m.status() != 503 {
				t.Fatalf("answered %q", m.raw)
			}
		}
		return len(a.received()), len(b.received())
	}
	if atA, atB := ask(200); atA < 20 || atA > 80 || atA+atB != 200 {
		t.Errorf("%d and %d of 200, not about 50 and 150", atA, atB)
	}
	// An answer is an answer.
	b.says("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
	if _, atB := ask(100); atB < 40 {
		t.Errorf("an endpoint that answers 503 got %d of 100", atB)
	}
	// One that fails gets no more requests, until its time has come and one goes well.
	b.answers(func(c net.Conn, _ *message) { reset(c) })
	for range 100 {
		if m := f.ask(get("/public")); m.status() != 200 { // the retry
			t.Fatalf("answered %q", m.raw)
		}
	}
	if n := len(b.received()); n < 3 || n > 6 {
		t.Errorf("an endpoint that failed 3 times got %d requests", n)
	}
	a.received()
	b.answers(nil)
	until(t, "it is tried again", func() bool { _, atB := ask(1); return atB > 0 })
	if _, atB := ask(100); atB < 40 {
		t.Errorf("an endpoint that is well again got %d of 100", atB)
	}
	f.freed("after all")
}

// TestAllEndpointsAreOpen: that is told at once, and ends.
func TestAllEndpointsAreOpen(t *testing.T) {
	o, p := newOrigin(t), newOrigin(t)
	o.answers(func(c net.Conn, _ *message) { reset(c) })
	p.answers(func(c net.Conn, _ *message) { reset(c) })
	f := start(t, balance(func(u *Upstream) { u.Failures, u.Open = 2, 200*time.Millisecond }, o.address, p.address))
	for range 20 {
		if m := f.ask(get("/public")); m.status() != 502 {
			t.Fatalf("answered %q", m.raw)
		}
	}
	if n := len(o.received()) + len(p.received()); n > 8 {
		t.Errorf("they got %d requests", n)
	}
	o.answers(nil)
	until(t, "it is well again", func() bool { return f.ask(get("/public")).status() == 200 })
	f.freed("after all")
}

// TestTheOnlyEndpointIsAlwaysAsked: there is nobody else who could be.
func TestTheOnlyEndpointIsAlwaysAsked(t *testing.T) {
	o := newOrigin(t)
	o.answers(func(c net.Conn, _ *message) { reset(c) })
	f := start(t, balance(func(u *Upstream) { u.Failures, u.Open = 2, time.Hour }, o.address))
	for range 10 {
		if m := f.ask(get("/public")); m.status() != 502 {
			t.Fatalf("answered %q", m.raw)
		}
	}
	o.answers(nil)
	if m := f.ask(get("/public")); m.status() != 200 {
		t.Errorf("answered %q", m.raw)
	}
}

// TestUpstreamTransports: TLS with both of its versions and a client's certificate, and a
// unix socket: whole exchanges, slow answers and streams, on connections that are kept.
func TestUpstreamTransports(t *testing.T) {
	ca := newAuthority(t)
	server := func(version uint16) *tls.Config {
		return &tls.Config{Certificates: []tls.Certificate{ca.leaf("api.internal")}, MaxVersion: version,
			ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	}
	client := &tls.Config{RootCAs: ca.pool, ServerName: "api.internal", Certificates: []tls.Certificate{ca.leaf("postern")}}
	large := noise(300_000)
	g := func(name string, e Endpoint, wrap func(net.Listener) net.Listener) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen(e.Network, e.Address)
			if err != nil {
				t.Fatal(err)
			}
			e.Address = l.Addr().String()
			o := &origin{t: t, address: e.Address, listener: wrap(l)}
			o.running.Go(o.run)
			t.Cleanup(o.close)
			o.answers(func(c net.Conn, m *message) {
				switch {
				case strings.HasPrefix(m.start, "GET /public/slow"):
					time.Sleep(lookEvery * 3 / 2) // the look at the client must not harm TLS
				case strings.HasPrefix(m.start, "GET /public/large"):
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"+chunks(large, 7000))
					return
				}
				_, _ = io.WriteString(c, ok)
			})
			f := start(t, balance(func(u *Upstream) { u.Endpoints, u.TLS = []Endpoint{e}, client }))
			c := f.dial()
			for range 2 {
				if m := c.send(get("/public/slow")).read("GET"); m.content != "ok" {
					t.Errorf("answered %q", m.raw)
				}
				if m := c.send(get("/public/large")).read("GET"); m.content != large {
					t.Errorf("%d bytes came", len(m.content))
				}
				if m := c.send(request("POST", "/public", "Transfer-Encoding: chunked") + chunks(large, 9000)).read("POST"); m.content != "ok" {
					t.Errorf("answered %q", m.raw)
				}
			}
			for _, m := range o.received() {
				if strings.HasPrefix(m.start, "POST") && m.content != large {
					t.Errorf("%d bytes arrived", len(m.content))
				}
			}
			if n := o.opens(); n != 1 {
				t.Errorf("%d connections were opened", n)
			}
			_ = c.Close()
			f.freed(name)
		})
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		g(tls.VersionName(version), Endpoint{Network: "tcp", Address: "127.0.0.1:0", TLS: true, Weight: 1},
			func(l net.Listener) net.Listener { return tls.NewListener(l, server(version)) })
	}
	g("unix", Endpoint{Network: "unix", Address: filepath.Join(t.TempDir(), "s"), Weight: 1}, func(l net.Listener) net.Listener { return l })
}

// TestReloadKeepsPools: of upstreams that stay, with their connections and health; those
// that go let their requests end.
func TestReloadKeepsPools(t *testing.T) {
	stays, goes, comes := newOrigin(t), newOrigin(t), newOrigin(t)
	f := start(t, func(o *Options) {
		o.Routes = routes(stays.address)
		o.Routes[1].Upstream = to(goes.address)
	})
	f.ask(get("/public/pass"))
	begun, end := make(chan struct{}), make(chan struct{})
	goes.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
		close(begun)
		<-end
		_, _ = io.WriteString(c, "3\r\nend\r\n0\r\n\r\n")
	})
	stream := f.dial().send(get("/public"))
	<-begun
	next := f.front.options.Settings
	next.Routes = routes(stays.address)
	next.Routes[1].Upstream = to(comes.address)
	if err := f.front.Reload(next); err != nil {
		t.Fatal(err)
	}
	close(end)
	if m := stream.read("GET"); m.content != "okend" {
		t.Errorf("the stream: %q", m.raw)
	}
	_ = stream.Close()
	assertEnd(t, goes)
	f.ask(get("/public"))
	f.ask(get("/public/pass"))
	if a, b := comes.opens(), stays.opens(); a != 1 || b != 1 {
		t.Errorf("opened %d connections to the new upstream and %d to the one that stays", a, b)
	}
	// A table that cannot be is refused whole.
	next.Routes[1].Upstream = Upstream{}
	if err := f.front.Reload(next); errorText(err) != `route "public": an upstream needs an endpoint` {
		t.Errorf("reload: %v", err)
	}
	comes.received()
	if m := f.ask(get("/public")); m.status() != 200 || len(comes.received()) != 1 {
		t.Errorf("answered %q", m.raw)
	}
	if strings.Contains(f.log.String(), "panic") {
		t.Error("something panicked")
	}
}

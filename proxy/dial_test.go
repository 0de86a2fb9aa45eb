package proxy

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// names is a resolver whose answers a test changes.
type names struct {
	mu    sync.Mutex
	asked int
	found []netip.Addr
}

func (n *names) lookup(_ context.Context, network, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if network != "ip" || host != "api.internal" {
		return nil, errors.New("asked for another name")
	}
	if len(n.found) == 0 {
		return nil, errors.New("no such host")
	}
	return n.found, nil
}

func (n *names) are(addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.found = nil
	for _, a := range addresses {
		n.found = append(n.found, netip.MustParseAddr(a))
	}
}

func (n *names) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asked
}

// loopbacks listens on one port of several addresses; it returns the port.
func loopbacks(t *testing.T, addresses ...string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(listen(t, "tcp", addresses[0]+":0", silent))
	for _, a := range addresses[1:] {
		listen(t, "tcp", net.JoinHostPort(a, port), silent)
	}
	return port
}

func leadsTo(c *upstreamConn) string { return c.RemoteAddr().(*net.TCPAddr).IP.String() }

func TestPoolResolves(t *testing.T) {
	port := loopbacks(t, "127.0.0.1", "127.0.0.2", "127.0.0.3")
	n := &names{}
	p, clock := startPool(t, Upstream{Endpoints: []Endpoint{tcp("api.internal:" + port)}}, func(o *poolOptions) { o.lookup = n.lookup })
	if _, err := p.take(nil, false); err == nil || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("take: %v", err)
	}
	spread := func(want ...string) {
		t.Helper()
		got := map[string]int{}
		var all []taken
		for range 12 {
			one, err := p.take(nil, true)
			if err != nil {
				t.Fatal(err)
			}
			got[leadsTo(one.conn)]++
			all = append(all, one)
		}
		for _, one := range all {
			p.put(one)
		}
		for _, w := range want {
			if got[w] != 12/len(want) {
				t.Errorf("connected to %v, not evenly to %v", got, want)
			}
		}
	}
	n.are("127.0.0.1", "::ffff:127.0.0.2", "127.0.0.1") // one of them mapped, one twice
	spread("127.0.0.1", "127.0.0.2")
	asked := n.count()
	spread("127.0.0.1", "127.0.0.2")
	if got := n.count(); got != asked {
		t.Errorf("resolved %d times for requests", got-asked)
	}
	e := p.endpoints[0]
	n.are("127.0.0.2", "127.0.0.3")
	spread("127.0.0.1", "127.0.0.2") // nobody has asked yet
	e.resolveAgain(t.Context())
	p.reap(clock.now())
	for _, c := range e.idle {
		if leadsTo(c) == "127.0.0.1" {
			t.Fatal("a connection to an address that is gone is kept")
		}
	}
	if len(e.idle) == 0 {
		t.Error("connections to an address that stays are gone")
	}
	spread("127.0.0.2", "127.0.0.3")
	n.are()
	e.resolveAgain(t.Context())
	p.reap(clock.now())
	spread("127.0.0.2", "127.0.0.3") // the old ones stay
}

// TestPoolResolvesAgain: run does, and not before anybody has connected.
func TestPoolResolvesAgain(t *testing.T) {
	n := &names{}
	n.are("127.0.0.1")
	port := loopbacks(t, "127.0.0.1", "127.0.0.2")
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp("api.internal:" + port)}}, func(o *poolOptions) { o.lookup = n.lookup })
	p.resolveEvery, p.reapEvery = time.Millisecond, time.Millisecond
	stop := make(chan struct{})
	var group sync.WaitGroup
	group.Go(func() { p.run(stop) })
	defer group.Wait()
	defer close(stop)
	time.Sleep(20 * time.Millisecond)
	if got := n.count(); got != 0 {
		t.Errorf("resolved %d times before the first request", got)
	}
	p.put(mustTake(t, p))
	n.are("127.0.0.2")
	until(t, "the connection to the old address is closed", func() bool { return p.endpoints[0].connections.Load() == 0 })
	one := mustTake(t, p)
	if leadsTo(one.conn) != "127.0.0.2" {
		t.Errorf("connected to %s", leadsTo(one.conn))
	}
	p.drop(one)
}

// TestPoolTriesEachAddress: one that refuses and one that does not answer cost no request
// while another answers.
func TestPoolTriesEachAddress(t *testing.T) {
	n := &names{}
	n.are("127.0.0.1", "127.0.0.2", "127.0.0.3")
	port := loopbacks(t, "127.0.0.3")
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp("api.internal:" + port)}}, func(o *poolOptions) { o.lookup = n.lookup })
	for range 6 {
		one, err := p.take(nil, true)
		if err != nil {
			t.Fatal(err)
		}
		if leadsTo(one.conn) != "127.0.0.3" {
			t.Errorf("connected to %s", leadsTo(one.conn))
		}
		p.drop(one)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	if _, err := dialOne(ctx, netip.MustParseAddrPort("192.0.2.1:9"), 3); err == nil || time.Since(begun) > 200*time.Millisecond {
		t.Errorf("an address without an answer: %v after %v", err, time.Since(begun))
	}
}

func TestPoolResolvesNoLiteral(t *testing.T) {
	address := listen(t, "tcp", "127.0.0.1:0", silent)
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{tcp(address)}}, func(o *poolOptions) {
		o.lookup = func(context.Context, string, string) ([]netip.Addr, error) {
			t.Error("an address is resolved")
			return nil, errors.New("no")
		}
	})
	p.put(mustTake(t, p))
	p.endpoints[0].resolveAgain(t.Context())
	p.reap(p.options.now())
	if n := p.endpoints[0].connections.Load(); n != 1 {
		t.Errorf("%d connections are kept", n)
	}
}

func TestPoolUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	accepted := make(chan net.Conn, 2)
	listen(t, "unix", path, func(c net.Conn) { accepted <- c; silent(c) })
	p, _ := startPool(t, Upstream{Endpoints: []Endpoint{{Network: "unix", Address: path, Weight: 1}}})
	first := mustTake(t, p)
	p.put(first)
	p.reap(p.options.now())
	again := mustTake(t, p)
	if again.conn != first.conn {
		t.Error("it is not used again")
	}
	p.put(again)
	_, _ = io.WriteString(<-accepted, "unasked")
	until(t, "the bytes are seen", func() bool { return !again.conn.quiet() })
	again = mustTake(t, p)
	if again.reused {
		t.Error("it is used again with bytes on it")
	}
	p.drop(again)
}

// authority is a CA of a test.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	var der []byte
	der, a.key = a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	var err error
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(of *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	of.SerialNumber = big.NewInt(time.Now().UnixNano())
	of.NotBefore, of.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := of, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, of, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

// leaf is a certificate for a name, of a server or a client.
func (a *authority) leaf(name string) tls.Certificate {
	a.t.Helper()
	of := &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	if ip := net.ParseIP(name); ip != nil {
		of.DNSNames, of.IPAddresses = nil, []net.IP{ip}
	}
	der, key := a.sign(of)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func listenTLS(t testing.TB, c *tls.Config, serve func(*tls.Conn)) string {
	t.Helper()
	return listen(t, "tcp", "127.0.0.1:0", func(raw net.Conn) {
		secure := tls.Server(raw, c)
		if secure.Handshake() == nil {
			serve(secure)
		}
	})
}

// echo answers each byte with it, in a record of its own.
func echo(c *tls.Conn) {
	for one := make([]byte, 1); ; {
		if _, err := c.Read(one); err != nil {
			return
		}
		_, _ = c.Write(one)
	}
}

// byteEach writes one byte and reads its answer.
func byteEach(c *upstreamConn) error {
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte{'x'}); err != nil {
		return err
	}
	b, err := c.reader.ReadByte()
	if err == nil && b != 'x' {
		return errors.New("another byte came: " + string(b))
	}
	return err
}

func TestPoolTLS(t *testing.T) {
	ca, stranger := newAuthority(t), newAuthority(t)
	clients := &tls.Config{Certificates: []tls.Certificate{ca.leaf("127.0.0.1")}, ClientCAs: ca.pool, ClientAuth: tls.RequireAndVerifyClientCert}
	f := func(name, want string, server, client *tls.Config) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			address := listenTLS(t, server, echo)
			p, _ := startPool(t, Upstream{TLS: client, Endpoints: []Endpoint{{Network: "tcp", Address: address, TLS: true, Weight: 1}}})
			one, err := p.take(nil, false)
			if err == nil {
				// What the server says of our certificate comes after the handshake (RFC 8446 §4.4.3).
				err = byteEach(one.conn)
				p.drop(one)
			}
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("error %v, not %q", err, want)
			}
		})
	}
	plain := func(names ...string) *tls.Config {
		c := &tls.Config{}
		for _, n := range names {
			c.Certificates = append(c.Certificates, ca.leaf(n))
		}
		return c
	}
	f("good", "", plain("127.0.0.1"), &tls.Config{RootCAs: ca.pool})
	f("a server name", "", plain("api.internal"), &tls.Config{RootCAs: ca.pool, ServerName: "api.internal"})
	f("another server name", "certificate is valid for api.internal", plain("api.internal"), &tls.Config{RootCAs: ca.pool, ServerName: "b.internal"})
	f("the endpoint's name is not the certificate's", "certificate", plain("api.internal"), &tls.Config{RootCAs: ca.pool})
	f("another CA", "unknown authority", plain("127.0.0.1"), &tls.Config{RootCAs: stranger.pool})
	f("the system's CAs", "unknown authority", plain("127.0.0.1"), nil)
	f("a client certificate", "", clients, &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{ca.leaf("postern")}})
	f("no client certificate", "certificate required", clients, &tls.Config{RootCAs: ca.pool})
	f("another's client certificate", "tls: ", clients, &tls.Config{RootCAs: ca.pool, Certificates: []tls.Certificate{stranger.leaf("postern")}})
	http2 := plain("127.0.0.1")
	http2.NextProtos = []string{"h3"} // crypto/tls excuses a client of HTTP/1.1 at a server of "h2"
	f("no HTTP/1.1", "no application protocol", http2, &tls.Config{RootCAs: ca.pool, NextProtos: []string{"h3"}})
	both := plain("127.0.0.1")
	both.NextProtos = []string{"h2", "http/1.1"}
	f("HTTP/2 or HTTP/1.1", "", both, &tls.Config{RootCAs: ca.pool})
	old := plain("127.0.0.1")
	old.MaxVersion = tls.VersionTLS11
	f("TLS 1.1", "protocol version", old, &tls.Config{RootCAs: ca.pool})
	f("TLS 1.1, and it is all that is configured by default", "protocol version", old, nil)
	t.Run("no handshake", func(t *testing.T) {
		address := listen(t, "tcp", "127.0.0.1:0", silent)
		p, _ := startPool(t, Upstream{ConnectTimeout: 50 * time.Millisecond,
			Endpoints: []Endpoint{{Network: "tcp", Address: address, TLS: true, Weight: 1}}})
		if _, err := p.take(nil, false); !errors.Is(err, context.DeadlineExceeded) && !isTimeout(err) {
			t.Errorf("take: %v", err)
		}
	})
}

// TestPoolTLSIsUsedAgain, with the session tickets of TLS 1.3, and not with anything that
// nobody asked for: in the socket, in what crypto/tls has read, decrypted or not.
func TestPoolTLSIsUsedAgain(t *testing.T) {
	ca := newAuthority(t)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			var raw atomic.Pointer[net.Conn]
			more := make(chan func(*tls.Conn), 1)
			config := &tls.Config{Certificates: []tls.Certificate{ca.leaf("127.0.0.1")}, MaxVersion: version}
			address := listen(t, "tcp", "127.0.0.1:0", func(c net.Conn) {
				held := &holding{Conn: c}
				var asConn net.Conn = held
				raw.Store(&asConn)
				secure := tls.Server(held, config)
				for one := make([]byte, 1); ; {
					if _, err := secure.Read(one); err != nil {
						return
					}
					select {
					case do := <-more:
						do(secure)
					default:
						_, _ = secure.Write(one)
					}
				}
			})
			p, _ := startPool(t, Upstream{TLS: &tls.Config{RootCAs: ca.pool}, Endpoints: []Endpoint{{Network: "tcp", Address: address, TLS: true, Weight: 1}}})
			one := mustTake(t, p)
			for range 5 {
				if err := byteEach(one.conn); err != nil {
					t.Fatal(err)
				}
				_ = one.conn.SetDeadline(time.Unix(1, 0)) // that of an exchange which is over
				p.put(one)
				next := mustTake(t, p)
				if next.conn != one.conn {
					t.Fatal("it is not used again")
				}
				one = next
			}
			f := func(name string, kept bool, do func(c *tls.Conn, held *holding)) {
				t.Helper()
				if err := byteEach(one.conn); err != nil { // the state before
					t.Fatal(name, err)
				}
				more <- func(c *tls.Conn) { do(c, (*raw.Load()).(*holding)) }
				if err := byteEach(one.conn); err != nil {
					t.Fatal(name, err)
				}
				if one.conn.drained() != kept {
					t.Errorf("%s: drained is %v", name, !kept)
				}
				p.put(one)
				next := mustTake(t, p)
				if next.reused != kept {
					t.Errorf("%s: reused is %v", name, next.reused)
				}
				one = next
			}
			f("nothing more", true, func(c *tls.Conn, _ *holding) { _, _ = io.WriteString(c, "x") })
			f("more in the same record", false, func(c *tls.Conn, _ *holding) { _, _ = io.WriteString(c, "xy") })
			f("another record in the same segment", false, func(c *tls.Conn, h *holding) {
				h.hold = true
				_, _ = io.WriteString(c, "x")
				_, _ = io.WriteString(c, "y")
				h.flush(0)
			})
			f("a part of another record", false, func(c *tls.Conn, h *holding) {
				h.hold = true
				_, _ = io.WriteString(c, "x")
				_, _ = io.WriteString(c, "y")
				h.flush(5)
			})
			f("a part of another record's header", false, func(c *tls.Conn, h *holding) {
				h.hold = true
				_, _ = io.WriteString(c, "x")
				first := len(h.held)
				_, _ = io.WriteString(c, "y")
				h.flush(len(h.held) - first - 3)
			})
			f("the end", false, func(c *tls.Conn, h *holding) {
				h.hold = true
				_, _ = io.WriteString(c, "x")
				_ = c.CloseWrite()
				h.flush(0)
			})
			// The answer's last bytes are read past our buffer, and the record goes on.
			more <- func(c *tls.Conn) { _, _ = io.WriteString(c, strings.Repeat("x", 4096)) }
			_, _ = one.conn.Write([]byte{'x'})
			if _, err := io.ReadFull(one.conn, make([]byte, 4095)); err != nil {
				t.Fatal(err)
			}
			if one.conn.drained() {
				t.Error("a decrypted byte is left, and it is drained")
			}
			p.drop(one)
		})
	}
}

// holding holds back what is written until flush.
type holding struct {
	net.Conn
	hold bool
	held []byte
}

func (h *holding) Write(p []byte) (int, error) {
	if h.hold {
		h.held = append(h.held, p...)
		return len(p), nil
	}
	return h.Conn.Write(p)
}

// flush sends what was held, but its last bytes.
func (h *holding) flush(but int) {
	h.hold = false
	_ = h.SetWriteDeadline(time.Time{}) // CloseWrite sets one
	_, _ = h.Conn.Write(h.held[:len(h.held)-but])
	h.held = nil
}

// TestTLSClosesAtOnce: a peer that does not read gets no say in it.
func TestTLSClosesAtOnce(t *testing.T) {
	ca := newAuthority(t)
	near, far := net.Pipe() // a write waits for its reader
	defer far.Close()
	shaken := make(chan error, 1)
	go func() {
		shaken <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{ca.leaf("a")}, SessionTicketsDisabled: true}).Handshake()
	}()
	c := newSecureConn(near, &tls.Config{RootCAs: ca.pool, ServerName: "a"})
	if err := errors.Join(c.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	_ = c.Close()
	if took := time.Since(begun); took > time.Second {
		t.Errorf("took %v", took)
	}
}

package proxy

import (
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestTrailersAreNamedInAnyCase: as the settings write them, so do both sides read them,
// and no other field comes with them.
func TestTrailersAreNamedInAnyCase(t *testing.T) {
	for _, configured := range []string{"X-Sum", "x-sum", "X-SUM"} {
		f := start(t, func(o *Options) { o.Routes[1].Trailers = []string{configured} })
		f.upstream.answers(func(c net.Conn, _ *message) {
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Client-Id\r\n\r\n"+
				"2\r\nok\r\n0\r\nx-Sum: 1\r\nX-Client-Id: evil\r\nX_Sum: 2\r\n\r\n")
		})
		m := f.ask(request("POST", "/public", "Transfer-Encoding: chunked", "Trailer: X-Sum") +
			"2\r\nin\r\n0\r\nX-sum: 3\r\nX-Client-Id: evil\r\nX.Sum: 4\r\n\r\n")
		if want := []line{{configured, "1"}}; m.content != "ok" || !strings.EqualFold(m.get("Trailer"), "x-sum") || !slices.Equal(m.trailer, want) {
			t.Errorf("%s: answered %q", configured, m.raw)
		}
		got := f.upstream.received()
		if want := []line{{configured, "3"}}; len(got) != 1 || !strings.EqualFold(got[0].get("Trailer"), "x-sum") || !slices.Equal(got[0].trailer, want) {
			t.Errorf("%s: the upstream received %v", configured, got)
		}
	}
}

// breaking is a listener whose connections break on the second write: behind an answer's head.
type breaking struct{ net.Listener }

func (l breaking) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return &breakingConn{Conn: c}, err
}

type breakingConn struct {
	net.Conn
	writes int
}

func (c *breakingConn) Write(p []byte) (int, error) {
	if c.writes++; c.writes > 1 {
		panic("the connection broke")
	}
	return c.Conn.Write(p)
}

// TestPanicWithinAStream: what breaks while content is passed on costs both connections,
// and no more: the process lives, and the upstream's load goes down.
func TestPanicWithinAStream(t *testing.T) {
	usual := start(t)
	usual.upstream.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	front, err := New(usual.front.options)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- front.Serve(breaking{l}) }()
	f := &fixture{t: t, address: l.Addr().String()}
	c := f.dial().send(get("/public"))
	if text, _ := io.ReadAll(c.r); !strings.HasSuffix(string(text), "\r\n\r\n") { // the head alone
		t.Errorf("answered %q", text)
	}
	if err := errors.Join(front.Shutdown(t.Context()), <-served); err != nil {
		t.Error(err)
	}
	e := front.state.Load().router.all[1].upstream.endpoints[0]
	if load, open := e.load.Load(), e.connections.Load(); load != 0 || open != 0 {
		t.Errorf("%d requests and %d connections are left", load, open)
	}
}

// late takes half of what is written first, and that too late.
type late struct {
	net.Conn
	taken []byte
}

func (c *late) Write(p []byte) (int, error) {
	if len(c.taken) == 0 {
		c.taken = append(c.taken, p[:len(p)/2]...)
		return len(p) / 2, os.ErrDeadlineExceeded
	}
	c.taken = append(c.taken, p...)
	return len(p), nil
}
func (*late) SetWriteDeadline(time.Time) error { return nil }

// TestNothingFollowsALostWrite: content must not stand where the rest of its head was lost.
func TestNothingFollowsALostWrite(t *testing.T) {
	l := &late{}
	c := newClientConn(&Front{}, l)
	_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n")
	if n, err := io.WriteString(c, "\r\nX-Forged: 1\r\n\r\n"); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || strings.Contains(string(l.taken), "Forged") {
		t.Errorf("%d bytes, %v: the client has %q", n, err, l.taken)
	}
}

package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// message is a request or an answer exactly as it was on the wire.
type message struct {
	raw        string // every byte of it
	start      string // request line or status line
	fields     []line
	content    string
	chunked    bool
	trailer    []line
	connection int // of an origin, from 1
}

type line struct{ name, value string }

// all returns the values of a field, whatever its case and order.
func (m *message) all(name string) (values []string) {
	for _, l := range m.fields {
		if strings.EqualFold(l.name, name) {
			values = append(values, l.value)
		}
	}
	return values
}

// get is the only value of a field: "" without one, and all of them where there are more.
func (m *message) get(name string) string { return strings.Join(m.all(name), " AND ") }

func (m *message) status() int {
	_, rest, _ := strings.Cut(m.start, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, _ := strconv.Atoi(code)
	return n
}

func (m *message) head() string {
	before, _, _ := strings.Cut(m.raw, "\r\n\r\n")
	return before + "\r\n\r\n"
}

// recorder reads messages strictly and keeps their bytes.
type recorder struct {
	*bufio.Reader
	raw []byte
}

func newRecorder(r io.Reader) *recorder { return &recorder{Reader: bufio.NewReader(r)} }

func (r *recorder) line() (string, error) {
	text, err := r.ReadString('\n')
	r.raw = append(r.raw, text...)
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(text, "\r\n") {
		return "", fmt.Errorf("the line %q does not end in CRLF", text)
	}
	return strings.TrimSuffix(text, "\r\n"), nil
}

func (r *recorder) exactly(n int64) (string, error) {
	b, err := io.ReadAll(io.LimitReader(r.Reader, n)) // n may be much more than will come
	if err == nil && int64(len(b)) < n {
		err = io.ErrUnexpectedEOF
	}
	r.raw = append(r.raw, b...)
	return string(b), err
}

func (r *recorder) section() (fields []line, err error) {
	for {
		text, err := r.line()
		if err != nil || text == "" {
			return fields, err
		}
		name, value, ok := strings.Cut(text, ":")
		if !ok {
			return fields, fmt.Errorf("no colon in %q", text)
		}
		fields = append(fields, line{name, strings.Trim(value, " \t")})
	}
}

// request reads one request; io.EOF where there is none.
func (r *recorder) request() (*message, error) {
	return r.message(func(*message) (none, untilEOF bool) { return false, false })
}

// answer reads the answer to a request.
func (r *recorder) answer(method string) (*message, error) {
	return r.message(func(m *message) (none, untilEOF bool) {
		status := m.status()
		return method == "HEAD" || status < 200 || status == 204 || status == 304, true
	})
}

func (r *recorder) message(framing func(*message) (none, untilEOF bool)) (*message, error) {
	r.raw = r.raw[:0]
	m := &message{}
	done := func(err error) (*message, error) { m.raw = string(r.raw); return m, err }
	var err error
	if m.start, err = r.line(); err != nil {
		return done(err)
	}
	if m.fields, err = r.section(); err != nil {
		return done(err)
	}
	none, untilEOF := framing(m)
	length := m.all("Content-Length")
	m.chunked = slices.Equal(m.all("Transfer-Encoding"), []string{"chunked"})
	switch {
	case none:
	case m.chunked:
		var content strings.Builder
		for {
			piece, err := r.chunk()
			content.WriteString(piece)
			if err != nil || piece == "" {
				m.content = content.String()
			}
			if err != nil {
				return done(err)
			}
			if piece == "" {
				m.trailer, err = r.section()
				return done(err)
			}
		}
	case len(length) > 0:
		n, err := strconv.ParseInt(length[0], 10, 64)
		if err != nil {
			return done(err)
		}
		m.content, err = r.exactly(n)
		return done(err)
	case untilEOF:
		all, err := io.ReadAll(r.Reader)
		r.raw = append(r.raw, all...)
		m.content = string(all)
		return done(err)
	}
	return done(nil)
}

// chunk reads one chunk; it is empty for the last.
func (r *recorder) chunk() (string, error) {
	head, err := r.line()
	if err != nil {
		return "", err
	}
	size, _, _ := strings.Cut(head, ";")
	n, err := strconv.ParseInt(size, 16, 64)
	if err != nil || n == 0 {
		return "", err
	}
	piece, err := r.exactly(n)
	if err != nil {
		return piece, err
	}
	end, err := r.line()
	if err == nil && end != "" {
		err = fmt.Errorf("%q behind a chunk", end)
	}
	return piece, err
}

// origin is a raw upstream: it keeps every byte of the requests that it receives.
type origin struct {
	t        testing.TB
	address  string
	listener net.Listener
	running  sync.WaitGroup

	mu          sync.Mutex
	script      func(c net.Conn, m *message) // answers; nil: 200 with "ok"
	opened      []net.Conn
	requests    []*message
	broken      []string // what came of a request that was not whole
	connections int
}

func newOrigin(t testing.TB) *origin {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &origin{t: t, address: l.Addr().String(), listener: l}
	o.running.Go(o.run)
	t.Cleanup(o.close)
	return o
}

func (o *origin) close() {
	_ = o.listener.Close()
	o.mu.Lock()
	for _, c := range o.opened {
		_ = c.Close()
	}
	o.mu.Unlock()
	o.running.Wait()
}

// answers sets what is done with each request from now on.
func (o *origin) answers(script func(c net.Conn, m *message)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.script = script
}

// says answers each request from now on with these bytes.
func (o *origin) says(text string) {
	o.answers(func(c net.Conn, _ *message) { _, _ = io.WriteString(c, text) })
}

func (o *origin) run() {
	for {
		c, err := o.listener.Accept()
		if err != nil {
			return
		}
		o.mu.Lock()
		o.opened = append(o.opened, c)
		o.connections++
		number := o.connections
		o.mu.Unlock()
		o.running.Go(func() { o.serve(c, number) })
	}
}

func (o *origin) serve(c net.Conn, number int) {
	defer c.Close()
	r := newRecorder(c)
	for {
		m, err := r.request()
		m.connection = number
		o.mu.Lock()
		script := o.script
		if err == nil {
			o.requests = append(o.requests, m)
		} else if m.raw != "" {
			o.broken = append(o.broken, m.raw)
		}
		o.mu.Unlock()
		if err != nil {
			return
		}
		if script == nil {
			script = func(c net.Conn, _ *message) { _, _ = io.WriteString(c, ok) }
		}
		script(c, m)
	}
}

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// received returns the whole requests so far and forgets them.
func (o *origin) received() []*message {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.requests
	o.requests = nil
	return all
}

// opens is the number of connections so far.
func (o *origin) opens() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.connections
}

func itoa(n int) string { return strconv.Itoa(n) }

// hangsUpAfter answers each request from now on with these bytes and closes the connection.
func (o *origin) hangsUpAfter(text string) {
	o.answers(func(c net.Conn, _ *message) {
		_, _ = io.WriteString(c, text)
		_ = c.Close()
	})
}

// halves is the number of requests that began and did not end.
func (o *origin) halves() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.broken)
}

func (o *origin) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.broken = nil
}

// connectionsEnd waits until every connection that was accepted so far has ended.
func (o *origin) connectionsEnd() {
	_ = o.listener.Close()
	o.running.Wait()
}

package proxy

import (
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"postern/answer"
)

const (
	accessPending = 4 << 20 // bytes waiting to be written; lines beyond are dropped and counted
	accessEvery   = time.Second
	accessCut     = 1 << 10 // of a path or a user agent
)

// AccessLog writes one JSON line for each request, off the request's path: a request
// appends to memory, one goroutine writes. It never holds a query, a secret or a token.
type AccessLog struct {
	out     io.Writer
	dropped prometheus.Counter

	mu      sync.Mutex // for appending and swapping, never across a write
	pending []byte

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

// NewAccessLog starts writing to out. Close it to write what is left.
func NewAccessLog(out io.Writer) *AccessLog {
	a := &AccessLog{
		out: out, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_access_lines_dropped_total", Help: "Access lines that were lost because the log could not be written in time.",
		}),
	}
	go a.run()
	return a
}

// Collectors returns the log's metrics for main to register.
func (a *AccessLog) Collectors() []prometheus.Collector { return []prometheus.Collector{a.dropped} }

// Close writes what is pending and stops.
func (a *AccessLog) Close() {
	close(a.stop)
	<-a.done
}

func (a *AccessLog) run() {
	defer close(a.done)
	tick := time.NewTicker(accessEvery)
	defer tick.Stop()
	var writing []byte
	for stopping := false; !stopping; {
		select {
		case <-tick.C:
		case <-a.wake:
		case <-a.stop:
			stopping = true
		}
		a.mu.Lock()
		writing, a.pending = a.pending, writing[:0]
		a.mu.Unlock()
		if len(writing) > 0 {
			_, _ = a.out.Write(writing) // nowhere to say that the log cannot be written
		}
	}
}

func (a *AccessLog) write(x *exchange, route string, reason answer.Reason, status int, took time.Duration, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending) > accessPending {
		a.dropped.Inc()
		return
	}
	before := len(a.pending)
	a.pending = appendAccessLine(a.pending, x, route, reason, status, took, now)
	if before < accessPending/8 && len(a.pending) >= accessPending/8 {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

// appendAccessLine writes the fields that an operator asks for at 3 a.m. The path comes
// without its query: clients put tokens there.
func appendAccessLine(b []byte, x *exchange, route string, reason answer.Reason, status int, took time.Duration, now time.Time) []byte {
	b = append(b, `{"time":"`...)
	b = now.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z07:00")
	b = appendMember(b, "request_id", x.requestID)
	b = appendMember(b, "method", x.head.method)
	b = appendMember(b, "host", x.head.host)
	b = appendMember(b, "path", x.head.path)
	b = appendMember(b, "route", route)
	b = append(b, `","status":`...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, `,"reason":"`...)
	b = append(b, reason...)
	if x.upstreamStatus != 0 {
		b = append(b, `","upstream_status":`...)
		b = strconv.AppendInt(b, int64(x.upstreamStatus), 10)
		b = append(b, `,"upstream_ms":`...)
		b = strconv.AppendFloat(b, milliseconds(x.upstreamTook), 'f', 3, 64)
		b = append(b, `,"duration_ms":`...)
	} else {
		b = append(b, `","duration_ms":`...)
	}
	b = strconv.AppendFloat(b, milliseconds(took), 'f', 3, 64)
	b = append(b, `,"peer":"`...)
	b = appendAddress(b, x.peer)
	for _, f := range x.head.fields {
		if equalFold(f.name, "user-agent") {
			b = appendMember(b, "user_agent", f.value)
			break
		}
	}
	if c := x.who.Client; c != nil {
		b = appendMember(b, "organization_id", c.OrganizationID)
		b = appendMember(b, "client_id", c.ID)
		b = append(b, `","token_id":"`...)
		b = appendUUID(b, x.who.Token)
	}
	return append(b, "\"}\n"...)
}

// appendMember closes the string before it and opens one, escaped and cut.
func appendMember[T string | []byte](b []byte, name string, value T) []byte {
	b = append(b, `","`...)
	b = append(b, name...)
	b = append(b, `":"`...)
	cut := false
	if len(value) > accessCut {
		value, cut = value[:accessCut], true
	}
	for i := 0; i < len(value); i++ {
		c := value[i]
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c >= utf8.RuneSelf || c == 0x7f: // one line, and no terminal's escape
			b = append(b, '\\', 'u', '0', '0', "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
		default:
			b = append(b, c)
		}
	}
	if cut {
		b = append(b, "..."...)
	}
	return b
}

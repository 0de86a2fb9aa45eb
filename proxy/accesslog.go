package proxy

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

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

	choice    atomic.Pointer[accessChoice]
	successes atomic.Uint64 // seen, written or not

	mu      sync.Mutex // for appending and swapping, never across a write
	pending []byte
	record  accessRecord // scratch: the line that is appended

	wake chan struct{}
	stop chan struct{}
	done chan struct{}
}

// NewAccessLog starts writing to out: all fields, every request. Close it to write what is
// left.
func NewAccessLog(out io.Writer) *AccessLog {
	a := &AccessLog{
		out: out, wake: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_access_lines_dropped_total", Help: "Access lines that were lost because the log could not be written in time.",
		}),
	}
	a.choice.Store(&accessChoice{fields: allAccessFields(), sample: 1})
	go a.run()
	return a
}

// AccessLogOptions say what is written.
type AccessLogOptions struct {
	Fields []string // of AccessFields, in the order of the line; none: all
	Sample int      // one of so many successes is written, refusals and failures always; 0 and 1: all
}

// accessChoice is AccessLogOptions, looked up.
type accessChoice struct {
	fields []accessField
	sample uint64
}

// Choose replaces what is written from now on. It may be called while requests are served.
func (a *AccessLog) Choose(o AccessLogOptions) error {
	fields, err := accessFieldsOf(o.Fields)
	if err != nil {
		return err
	}
	a.choice.Store(&accessChoice{fields: fields, sample: uint64(max(1, o.Sample))})
	return nil
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

// write appends a request's line. Of successes, requests that were forwarded and not
// answered with a server error, the first of each sample is written.
func (a *AccessLog) write(x *exchange, route string, reason answer.Reason, status int, took time.Duration, now time.Time) {
	choice := a.choice.Load()
	if choice.sample > 1 && reason == answer.OK && status < 500 && (a.successes.Add(1)-1)%choice.sample != 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.pending) > accessPending {
		a.dropped.Inc()
		return
	}
	before := len(a.pending)
	a.record = accessRecord{x: x, route: route, reason: reason, status: status, took: took, now: now}
	a.pending = a.record.append(a.pending, choice.fields)
	a.record.x = nil // it goes back to its pool
	if before < accessPending/8 && len(a.pending) >= accessPending/8 {
		select {
		case a.wake <- struct{}{}:
		default:
		}
	}
}

package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"time"
)

// The states in which an endpoint gets no requests.
const (
	opened uint32 = 1 << iota // requests failed; after a while one request tries it again
	unwell                    // its check failed; a check that succeeds ends it
)

// failureNotice is the least time between two log lines about one endpoint's failures.
const failureNotice = 10 * time.Second

// well reports whether the endpoint gets requests.
func (e *endpoint) well() bool { return e.state.Load() == 0 }

// succeeded says that the endpoint has answered, whatever it said.
func (e *endpoint) succeeded() {
	if e.failures.Load() != 0 {
		e.failures.Store(0)
	}
	if e.state.Load()&opened != 0 && e.state.And(^opened)&opened != 0 {
		e.probing.Store(false) // the request that tried it may go on for hours
		e.pool.options.log.Info("an upstream is well again", "upstream", e.label)
	}
}

// failed says that the endpoint refused or reset the connection, did not answer in
// time, or said what is no answer. As many in a row as are configured open it. An answer
// of 502, 503 or 504 is no failure of it; nor is a kept connection that it closed. The
// client is not told the cause, so the log is, now and then.
func (e *endpoint) failed(cause error) {
	limit, inARow, now := e.pool.upstream.Failures, e.failures.Add(1), e.pool.options.now()
	if told := e.told.Load(); now.UnixNano()-told >= int64(failureNotice) && e.told.CompareAndSwap(told, now.UnixNano()) {
		e.pool.options.log.Warn("an upstream failed", "upstream", e.label, "error", cause, "in_a_row", inARow)
	}
	if inARow < int64(limit) || limit <= 0 {
		return
	}
	if len(e.pool.endpoints) == 1 { // who would be asked instead?
		return
	}
	e.until.Store(now.Add(e.pool.upstream.Open).UnixNano())
	if e.state.Or(opened)&opened == 0 {
		e.pool.options.log.Warn("an upstream failed too often in a row; it gets no requests for a while",
			"upstream", e.label, "failures", limit, "open", e.pool.upstream.Open)
	}
}

// checks asks the endpoint whether it is well, until ctx ends. The time between two
// checks differs by up to a tenth, so that replicas do not ask together.
func (e *endpoint) checks(ctx context.Context) {
	interval := e.pool.upstream.Check.Interval
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := e.check(ctx)
		if ctx.Err() != nil {
			return // it says nothing of the endpoint
		}
		e.checked(err)
		timer.Reset(interval*9/10 + time.Duration(e.pool.options.random()%uint64(interval/5+1)))
	}
}

// checked takes in what a check found.
func (e *endpoint) checked(err error) {
	if err != nil {
		if e.state.Or(unwell)&unwell == 0 {
			e.pool.options.log.Warn("an upstream's check failed; it gets no requests", "upstream", e.label, "error", err)
		}
		return
	}
	e.failures.Store(0)
	if e.state.Swap(0) != 0 {
		e.probing.Store(false)
		e.pool.options.log.Info("an upstream is well again", "upstream", e.label)
	}
}

// check asks once, on a connection of its own.
func (e *endpoint) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, e.pool.upstream.Check.Timeout)
	defer cancel()
	c, err := e.open(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = c.SetDeadline(time.Unix(1, 0))
		close(expired)
	})
	defer func() {
		if !stop() {
			<-expired
		}
	}()
	_, err = fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: postern\r\nAccept: */*\r\nConnection: close\r\n\r\n",
		e.pool.upstream.Check.Path, e.field)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	reader := bufio.NewReaderSize(c, answerHead)
	for range maxInterim {
		status, err := readStatus(reader)
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		switch {
		case 200 <= status && status < 400:
			return nil
		case status >= 200:
			return fmt.Errorf("it answers %d", status)
		}
	}
	return errAnswer
}

// readStatus reads the head of an answer for its status.
func readStatus(r *bufio.Reader) (status int, err error) {
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		if first {
			if n, err := fmt.Sscanf(string(line), "HTTP/1.%1d %3d", new(int), &status); n != 2 || err != nil || status < 100 {
				return 0, errors.New("it is no answer of HTTP/1")
			}
		}
		if len(line) <= 2 {
			return status, nil
		}
	}
}

package proxy

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/valyala/fasthttp"
)

// maxAttempts is how many endpoints a request is brought to at most.
const maxAttempts = 3

// send exchanges the request for an answer with the upstream. What failed is tried once
// more where that cannot repeat an effect (again), and within the budget.
func (f *Front) send(ctx *fasthttp.RequestCtx, x *exchange) error {
	p := x.route.upstream
	var avoid *endpoint
	var before error
	for fresh := false; ; fresh = true {
		t, err := p.take(avoid, fresh)
		if !fresh {
			p.request()
		}
		if errors.Is(err, errNoUpstream) && before != nil {
			return before
		}
		if x.attempts++; t.endpoint != nil {
			x.endpoint = t.endpoint.label
		}
		began, stale := false, false
		if err != nil {
			err = fmt.Errorf("connect to the upstream: %w", err)
		} else {
			x.taken = t
			if began, err = f.once(ctx, x, t.conn); err == nil {
				t.endpoint.succeeded()
				return nil
			}
			if stale = t.reused && !began && !isTimeout(err); !stale && !clientFault(err) {
				t.endpoint.failed(err)
			}
			f.done(x, false)
		}
		// What replaces a kept connection that was closed, as any may be, is no retry.
		if !x.again(t, began, stale, err) || !stale && !p.mayRetry() {
			return err
		}
		x.route.metrics.retries.Inc()
		before, avoid = err, t.endpoint
	}
}

// again reports whether the request may be sent once more after a failed attempt t.
//
//   - Not a byte was sent, since nobody took the connection: another endpoint may get it.
//   - It was sent, and not a byte of an answer came: it goes to another endpoint, or
//     where the connection was a kept one that was closed meanwhile, to any, once; and
//     only if it has no effect when it is done twice (RFC 9110 §9.2.2).
func (x *exchange) again(t taken, began, stale bool, err error) bool {
	others := len(x.route.upstream.endpoints) > 1
	switch {
	case t.endpoint == nil || clientFault(err) || ownFault(err):
		return false
	case t.conn == nil:
		return others && x.attempts < maxAttempts
	}
	return x.attempts == 1 && !began && !isTimeout(err) && (stale || others) && x.repeatable()
}

// ownFault reports whether it is this process that cannot go on: it has no descriptor left.
func ownFault(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// clientFault reports whether the upstream has no part in the failure.
func clientFault(err error) bool {
	return errors.Is(err, errClient) || errors.Is(err, errTooMuch) || errors.Is(err, errGone)
}

// repeatable reports whether sending the request twice has the effect of sending it once
// (RFC 9110 §9.2.2), and all of it is still here.
func (x *exchange) repeatable() bool {
	if x.streams() {
		return false
	}
	switch string(x.head.method) {
	case "GET", "HEAD", "OPTIONS", "PUT", "DELETE":
		return true
	}
	return false
}

// abandon closes the connection without settling: something panicked.
func (x *exchange) abandon() {
	x.free()
	x.stream.conn = nil
	if x.taken.conn != nil {
		x.front.done(x, false)
	}
}

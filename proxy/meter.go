package proxy

import (
	"time"

	"postern/answer"
	"postern/directory"
)

// Meter counts what clients use. *usage.Meter is one. None of its methods waits.
type Meter interface {
	// Request counts a request that is let through.
	Request(c *directory.Client, now time.Time)
	// Content counts bytes of content that came from the client, and that went to it.
	Content(c *directory.Client, now time.Time, in, out int64)
	// Refused counts a request that is answered with reason.
	Refused(c *directory.Client, now time.Time, reason answer.Reason)
}

// through counts the request, which is let through: at once, for what comes of it may take
// as long as a WebSocket lives.
func (f *Front) through(x *exchange) {
	if x.known && f.options.Meter != nil {
		f.options.Meter.Request(x.who.Client, x.started)
	}
}

// meterContent counts what content came and went since the last call. Streams call it as
// they go on.
func (f *Front) meterContent(x *exchange) {
	if !x.known || f.options.Meter == nil {
		return
	}
	in, out := x.client.content.got-x.meteredIn, x.bytesOut-x.meteredOut
	if in != 0 || out != 0 {
		x.meteredIn, x.meteredOut = x.meteredIn+in, x.meteredOut+out
		f.options.Meter.Content(x.who.Client, f.now(), in, out)
	}
}

// meterOutcome counts what is left to count when the exchange is settled.
func (f *Front) meterOutcome(x *exchange, reason answer.Reason) {
	f.meterContent(x)
	if x.known && reason != answer.OK && f.options.Meter != nil {
		f.options.Meter.Refused(x.who.Client, x.started, reason)
	}
}

// meterSocket makes what counts the bytes of a WebSocket, both ways; nil where nobody knows
// whose they are.
func (f *Front) meterSocket(x *exchange) func(in, out int64) {
	if !x.known || f.options.Meter == nil {
		return nil
	}
	client := x.who.Client
	return func(in, out int64) { f.options.Meter.Content(client, f.now(), in, out) }
}

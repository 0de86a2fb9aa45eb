// Package usage counts what each client uses, by UTC hour: requests that were let through,
// refused ones by reason, bytes of content, access tokens. The counts are kept in memory and
// added to the store's in batches, where many replicas add up into the same rows.
//
// What it must never do: make a request wait, for the store, for the batch or for a lock; or
// count anything twice. A process that is killed loses what it counted since it last wrote,
// an interval at most; one that ends as it should loses nothing. Start reading at Request,
// then write.go.
package usage

import (
	"sync/atomic"
	"time"

	"postern/answer"
	"postern/directory"
)

// Request counts one request of c that was let through at now.
func (m *Meter) Request(c *directory.Client, now time.Time) {
	t := at(c, now)
	t.requests.Add(1)
	m.list(t)
}

// Content counts bytes of content that came from c, or went to it.
func (m *Meter) Content(c *directory.Client, now time.Time, in, out int64) {
	t := at(c, now)
	if in != 0 {
		t.in.Add(in)
	}
	if out != 0 {
		t.out.Add(out)
	}
	m.list(t)
}

// Refused counts one request of c that was answered with reason.
func (m *Meter) Refused(c *directory.Client, now time.Time, reason answer.Reason) {
	t := at(c, now)
	all := t.refused.Load()
	if all == nil {
		t.refused.CompareAndSwap(nil, new(refusals))
		all = t.refused.Load()
	}
	all[reason.Index()].Add(1)
	m.list(t)
}

// Issued counts an access token that was issued to c, or refreshed.
func (m *Meter) Issued(c *directory.Client, now time.Time) {
	t := at(c, now)
	t.tokens.Add(1)
	m.list(t)
}

// tally counts one hour of one state of a client. Several may count the same hour of the same
// client: they are added up when they are written. All is atomic but next, which belongs to
// whoever sets listed, and then to whoever takes the list.
type tally struct {
	client string
	hour   int64 // since 1970

	requests, tokens, in, out atomic.Int64
	refused                   atomic.Pointer[refusals] // nil: none yet

	listed atomic.Bool // it has a place in the list of what is to be collected
	next   *tally
}

// refusals are counted by answer.Reason's Index.
type refusals [answer.Count]atomic.Int64

const hour = int64(time.Hour / time.Second)

// at is the tally of the hour of now. Each state of a client has a place for its own, so that
// there is nothing to look up and nothing to lock; a new one is made once an hour.
func at(c *directory.Client, now time.Time) *tally {
	h := now.Unix() / hour
	if t, ok := c.Usage.Load().(*tally); ok && t.hour == h {
		return t
	}
	t := &tally{client: c.ID, hour: h}
	c.Usage.Store(t) // where two did at once, both tallies count
	return t
}

// list puts t where collect finds it, unless it is there. Called after counting: whoever
// collects in between finds it then, or leaves it listed again.
func (m *Meter) list(t *tally) {
	if t.listed.Load() || !t.listed.CompareAndSwap(false, true) {
		return
	}
	for {
		head := m.listed.Load()
		t.next = head
		if m.listed.CompareAndSwap(head, t) {
			return
		}
	}
}

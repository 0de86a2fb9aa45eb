package proxy

import (
	"cmp"
	"container/list"
	"slices"
	"sync"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
)

const (
	maxRefusals       = 4096 // kept in all
	maxClientRefusals = 64   // of one client
	refusedPathCut    = 256  // bytes
	refusedMethodCut  = 32
	// maxBlamed is how many refused tokens a second are looked at for whose they are: it
	// costs a signature each.
	maxBlamed = 100
)

// Refused is one request that was refused, or would have been.
type Refused struct {
	Time      time.Time
	ClientID  string
	RequestID string
	Reason    answer.Reason
	Status    int
	Message   string // of the refusal, from its closed set
	Method    string // cut, as Path is
	Path      string // as it came, without the query: clients put tokens there
	Route     string // "none" where none was found, "" on routes of our own
	Shadowed  bool   // it was forwarded all the same
}

// Refusals remembers the last refusals of known clients, in a bounded part of memory: for
// the question of a client's developer why a request was refused. One client has a bounded
// share, and when all is full, who has most gives first: a flood hides nobody else's. Only
// refusals take its lock. Safe for concurrent use.
type Refusals struct {
	mu      sync.Mutex
	clients map[string]*refusedClient
	kept    int
	levels  [maxClientRefusals + 1]*list.List // clients by how many they have, who was refused last at the back

	second int64 // of blamed
	blamed int
}

type refusedClient struct {
	id    string
	kept  []Refused     // the oldest first
	place *list.Element // in levels[len(kept)]
}

// NewRefusals makes an empty memory.
func NewRefusals() *Refusals {
	r := &Refusals{clients: map[string]*refusedClient{}}
	for i := range r.levels {
		r.levels[i] = list.New()
	}
	return r
}

// Add remembers told, of a client that exists.
func (r *Refusals) Add(told Refused) {
	told.Method, told.Path = shortened(told.Method, refusedMethodCut), shortened(told.Path, refusedPathCut)
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.clients[told.ClientID]; c != nil && len(c.kept) == maxClientRefusals {
		r.drop(c)
	} else if r.kept == maxRefusals {
		r.dropOfMost()
	}
	c := r.clients[told.ClientID]
	if c == nil {
		c = &refusedClient{id: told.ClientID}
		r.clients[c.id] = c
	}
	r.leave(c)
	told.ClientID = c.id // one string for all
	c.kept = append(c.kept, told)
	r.kept++
	c.place = r.levels[len(c.kept)].PushBack(c)
}

// Issuing adds what an issuer refused, on a route of our own.
func (r *Refusals) Issuing(now func() time.Time) func(ctx *fasthttp.RequestCtx, clientID string, reason answer.Reason, requestID string) {
	return func(ctx *fasthttp.RequestCtx, clientID string, reason answer.Reason, requestID string) {
		r.Add(Refused{
			Time: now(), ClientID: clientID, RequestID: requestID, Reason: reason, Status: ctx.Response.StatusCode(), Message: reason.Message(),
			Method: string(ctx.Method()), Path: string(ctx.URI().PathOriginal()),
		})
	}
}

// shortened is a copy where it is cut: what it was part of may be large.
func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return text[:most] + "..."
}

// drop forgets the oldest of c, and c itself when it has no other.
func (r *Refusals) drop(c *refusedClient) {
	r.leave(c)
	c.kept = slices.Delete(c.kept, 0, 1)
	r.kept--
	if len(c.kept) == 0 {
		delete(r.clients, c.id)
		return
	}
	c.place = r.levels[len(c.kept)].PushBack(c)
}

// dropOfMost is drop for the client that has most; of several, the one that was refused
// longest ago.
func (r *Refusals) dropOfMost() {
	n := maxClientRefusals
	for r.levels[n].Len() == 0 {
		n--
	}
	r.drop(r.levels[n].Front().Value.(*refusedClient))
}

func (r *Refusals) leave(c *refusedClient) {
	if c.place != nil {
		r.levels[len(c.kept)].Remove(c.place)
	}
}

// Client returns what is remembered of a client, the newest first.
func (r *Refusals) Client(id string) []Refused {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.clients[id]
	if c == nil {
		return nil
	}
	all := slices.Clone(c.kept)
	slices.Reverse(all)
	return all
}

// Request returns what is remembered of a request: more than one where several came with
// the same request id.
func (r *Refusals) Request(id string) (all []Refused) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.clients {
		for _, told := range c.kept {
			if told.RequestID == id && len(all) < maxClientRefusals {
				all = append(all, told)
			}
		}
	}
	slices.SortFunc(all, func(a, b Refused) int { return b.Time.Compare(a.Time) })
	return all
}

// mayBlame reports whether one more token may be looked at.
func (r *Refusals) mayBlame(now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := now.Unix(); s != r.second {
		r.second, r.blamed = s, 0
	}
	r.blamed++
	return r.blamed <= maxBlamed
}

// blame finds out whose token was refused, to remember it by.
func (f *Front) blame(x *exchange, raw []byte) {
	if o := &f.options; o.Refusals != nil && o.Whose != nil && o.Refusals.mayBlame(x.started) {
		x.blamed = o.Whose(raw)
	}
}

// remember keeps a request that was refused, or would have been, where its client is known.
func (f *Front) remember(x *exchange, reason answer.Reason, message, route string, status int) {
	if f.options.Refusals == nil {
		return
	}
	client := x.blamed
	if x.known {
		client = x.who.Client.ID
	}
	if client == "" {
		return
	}
	f.options.Refusals.Add(Refused{
		Time: x.started, ClientID: client, RequestID: string(x.requestID), Reason: reason, Status: status, Message: cmp.Or(message, reason.Message()),
		Method: string(x.head.method), Path: string(x.head.path), Route: route, Shadowed: reason == x.shadow,
	})
}

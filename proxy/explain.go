package proxy

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
)

// Step is one of those in which a request is judged.
type Step string

// The steps, in their order.
const (
	StepHead      Step = "head"
	StepRoute     Step = "route"
	StepWebSocket Step = "websocket"
	StepNamed     Step = "catalog name" // how it is named, not which
	StepToken     Step = "token"
	StepScopes    Step = "scopes"
	StepAgreement Step = "agreement"
	StepCatalog   Step = "catalog"
	StepLimits    Step = "limits"
	StepAssertion Step = "assertion"
	StepContent   Step = "content"
)

// Steps lists them all.
func Steps() []Step {
	return []Step{StepHead, StepRoute, StepWebSocket, StepNamed, StepToken, StepScopes, StepAgreement, StepCatalog, StepLimits, StepAssertion, StepContent}
}

// Explanation is what the front makes of a request, and what that rests on. It holds no
// token, no query and no value of the client's fields.
type Explanation struct {
	Refusal answer.Refusal // Reason "": it is let through
	Step    Step           // that refuses; "": none

	Own       bool // answered by postern, on a route of its own
	Decision  bool // a gateway's question about another request
	Preflight bool // answered by postern, for its route

	Method, Host, Path string
	Query              bool   // there is one
	Read               string // Path decoded, as its route was found by; "": as it is

	Route     *Route // nil: none was found
	WebSocket bool

	Known bool // who is asking
	Who   directory.Principal

	Named    []Named // catalogs, as the request names them
	Unknown  bool    // it names one that no catalog can have
	Shadowed Step    // that would refuse, outside shadow; "": none
	Shadow   answer.Refusal

	Forwarded string      // the path that the upstream gets
	Endpoints []string    // of the upstream
	Identity  [][2]string // names and values of the identity fields; an assertion's value is ""
}

// Named is a catalog that a request names.
type Named struct {
	ExternalID string
	Found      bool
	Catalog    directory.Catalog
	Open       bool // to whoever asks
}

// Explain judges the request with this head as one that comes over a connection, by the
// same code, and tells nobody but the caller. f need not serve. Nobody is trusted to have
// forwarded the request.
func (f *Front) Explain(head []byte) Explanation {
	client := newClientConn(f, &headOnly{r: bytes.NewReader(head)})
	defer client.giveBuffer()
	if !client.nextHead() {
		return Explanation{Refusal: malformed("the request's head has no end"), Step: StepHead}
	}
	x := f.begin(client)
	defer f.release(x)
	refusal, ok := f.judge(x)
	var e Explanation
	if !ok {
		e.Refusal, e.Step = refusal, f.stepOf(x, refusal)
	}
	switch {
	case !ok || x.ours || x.deciding:
	case x.preflight:
		method, _ := preflightOf(&x.head)
		if refusal, ok = x.route.cors.preflight(&fasthttp.Response{}, &x.head, method); !ok {
			e.Refusal, e.Step = refusal, StepRoute
		}
	default:
		if refusal, ok = x.announced(); !ok {
			e.Refusal, e.Step = refusal, StepContent
		}
	}
	h := &x.head
	e.Own, e.Decision, e.Preflight, e.WebSocket = x.ours, x.deciding || x.state.decides(h.path), x.preflight, x.socket.asked
	e.Method, e.Host, e.Path, e.Query = string(h.method), string(h.host), string(h.path), len(h.query) > 0
	if e.Known = x.known; x.known {
		e.Who = x.who
	}
	if x.route == nil || x.ours {
		return e
	}
	e.Route = &x.route.Route
	if !plain(h.path) {
		e.Read = string(reading{}.read(nil, h.path))
	}
	if e.Forwarded = e.Path; !x.route.rewriting.none() {
		e.Forwarded = string(x.moved)
	}
	for _, to := range x.route.upstream.endpoints {
		e.Endpoints = append(e.Endpoints, to.label)
	}
	if e.Step == "" {
		e.Identity = x.identityFields()
	}
	for id := range bytes.FieldsSeq(x.named.ids) {
		one := Named{ExternalID: string(id)}
		one.Catalog, one.Found, one.Open = f.open(x.who.Client, id)
		e.Named = append(e.Named, one)
	}
	e.Unknown = x.named.unknown
	if x.shadow != "" {
		e.Shadow = answer.Refusal{Reason: x.shadow, Message: x.noted}
		e.Shadowed, _ = f.stepOfReason(x, x.shadow)
	}
	return e
}

// stepOfReason says which step refuses with r, where that tells.
func (f *Front) stepOfReason(x *exchange, r answer.Reason) (s Step, ok bool) {
	switch r {
	case answer.MissingToken, answer.InvalidToken:
		return StepToken, true
	case answer.InsufficientScope:
		return StepScopes, true
	case answer.ForbiddenAgreement:
		return StepAgreement, true
	case answer.ForbiddenCatalog:
		return StepCatalog, true
	case answer.RateLimited, answer.ConcurrencyLimited, answer.QuotaExceeded:
		return StepLimits, true
	case answer.NotFound:
		return StepRoute, true
	case answer.Unavailable:
		if x.known {
			return StepAssertion, true
		}
		return StepToken, true
	}
	return "", false
}

// stepOf says which step refused x. Where neither reason nor message tells, it finds the
// route again.
func (f *Front) stepOf(x *exchange, r answer.Refusal) Step {
	if s, ok := f.stepOfReason(x, r.Reason); ok {
		return s
	}
	if x.route == nil {
		return StepHead
	}
	if _, ok := f.findRoute(x, x.head.method); !ok {
		return StepRoute
	}
	if x.socket.asked && r.Status != 0 { // of an origin; what is wrong with its token has the usual one
		return StepWebSocket
	}
	switch r.Message {
	case catalogAmbiguous:
		return StepNamed
	case catalogMissing:
		return StepCatalog
	}
	return StepToken
}

// identityFields are the lines that the upstream gets, taken apart.
func (x *exchange) identityFields() (fields [][2]string) {
	for line := range strings.Lines(string(x.appendIdentity(nil))) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\r\n"), ": ")
		if name == assertionField {
			value = "" // it is worth as much as a token
		}
		fields = append(fields, [2]string{name, value})
	}
	return fields
}

// headOnly is a connection on which a head comes and nothing else.
type headOnly struct{ r io.Reader }

func (c *headOnly) Read(p []byte) (int, error)       { return c.r.Read(p) }
func (c *headOnly) Write(p []byte) (int, error)      { return len(p), nil }
func (c *headOnly) Close() error                     { return nil }
func (c *headOnly) LocalAddr() net.Addr              { return net.TCPAddrFromAddrPort(netip.AddrPort{}) }
func (c *headOnly) RemoteAddr() net.Addr             { return net.TCPAddrFromAddrPort(netip.AddrPort{}) }
func (c *headOnly) SetDeadline(time.Time) error      { return nil }
func (c *headOnly) SetReadDeadline(time.Time) error  { return nil }
func (c *headOnly) SetWriteDeadline(time.Time) error { return nil }

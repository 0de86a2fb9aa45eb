package proxy

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"postern/secret"
)

// Headers are the names under which the upstream reads the identity.
type Headers struct {
	Organization, Client, Environment, Token, Agreement, Catalog, Scopes string
}

// DefaultHeaders are the names of the contract. They are reserved even where others
// are configured.
func DefaultHeaders() Headers {
	return Headers{
		Organization: "X-Organization-Id", Client: "X-Client-Id", Environment: "X-Client-Environment",
		Token: "X-Token-Id", Agreement: "X-Agreement-Id", Catalog: "X-Catalog-Id", Scopes: "X-Scopes",
	}
}

func (h Headers) all() []string {
	return []string{h.Organization, h.Client, h.Environment, h.Token, h.Agreement, h.Catalog, h.Scopes}
}

// Options of a front: what is fixed for its life, and the settings it starts with. All
// fields are required unless their comment says otherwise.
type Options struct {
	Settings

	Issuer   Issuer       // nil: this postern only verifies
	Verifier Verifier     // required when a route needs a client
	Asserter Asserter     // required when a route has an assertion
	Catalogs Catalogs     // required when a route has a catalog
	NewGrant func() Grant // of the limiter; nil: nothing is limited
	Meter    Meter        // nil: nobody counts what clients use

	ProxyProtocol bool // each connection begins with a PROXY protocol header, from trusted proxies only

	Now    func() time.Time
	Random io.Reader // for request ids, and for choosing between upstreams
	Log    *slog.Logger
	Access *AccessLog // nil: none

	Refusals *Refusals // remembers those of known clients; nil: nothing does
	// Whose returns the client that a refused token of ours was issued to, and "" of any
	// other: an expired or revoked token is somebody's. nil: nobody's.
	Whose func(raw []byte) string
}

// Settings are what Front.Reload replaces, all at once. A request, a stream and a
// WebSocket live on under those that they began with. Sizes are bytes.
type Settings struct {
	Routes  []Route
	Headers Headers
	Realm   string // of the Bearer challenge

	TLS *tls.Config // nil: plain HTTP. Whether there is TLS at all is fixed when the front starts

	// TrustedProxies may say whom they forward for: X-Forwarded-*, Forwarded, PROXY protocol.
	TrustedProxies []netip.Prefix
	DecisionPath   string // of the decision endpoint; "": none

	MaxHeader      int           // request line and fields; more is 431
	MaxTarget      int           // request target; more is 414
	MaxFields      int           // field lines; more is 431
	Buffer         int           // content up to this size is read whole, larger content is streamed
	ReadTimeout    time.Duration // for the head, and between two reads of the content
	MinBodyRate    int           // bytes a second that content must come with, on average; 0: any
	WriteTimeout   time.Duration // between two writes to the client
	IdleTimeout    time.Duration // of a client's connection between requests
	MaxConnections int           // client connections at once
	// MaxConnectionsPerAddress are those of one address; 0: any number. Trusted proxies have no limit.
	MaxConnectionsPerAddress int
}

// Access says who may use a route.
type Access string

// The kinds of access.
const (
	Client   Access = "client"   // a valid access token is needed
	Optional Access = "optional" // none is needed, but one that is sent must be valid
	Public   Access = "public"   // none is looked at
)

// Route is one entry of the routing table.
type Route struct {
	Name    string   // the metric label and log field
	Host    string   // exact, "*.example.com", or "" for any; lower case, no port
	Path    string   // matches itself and everything below it, by whole segments
	Exact   bool     // matches itself alone
	Methods []string // none: any

	Access    Access
	Scopes    []string // the token must have them all
	ScopesAny []string // and one of these, where there are any
	Catalog   Catalog  // that a request names; the zero value: none
	Shadow    bool     // what its access, scopes, catalog, agreements and limits refuse is forwarded, and counted

	PassAuthorization bool    // forward the client's Authorization; otherwise it is removed
	StripPrefix       string  // is taken off the path before it is forwarded; Path begins with it
	AddPrefix         string  // is put before the path, after StripPrefix
	RequestFields     []Field // set or removed before forwarding; they win over the client's
	ResponseFields    []Field // set or removed on the way back
	Trailers          []string
	CORS              *CORS      // nil: postern answers no preflight, and adds nothing
	Assertion         *Assertion // nil: none
	WebSocket         WebSocket

	Upstream Upstream
	MaxBody  int64         // content of a request; more is 413; 0: any size
	Timeout  time.Duration // to the head of the final answer, from the last byte sent
	Stall    time.Duration // between two reads of the answer's content
}

// Catalog says where a route's requests name the catalog that they are about: in one
// place.
type Catalog struct {
	Path          int // segment of the path as the client sent it, from 1
	Query, Header string
	Required      bool // one that names none is 400
}

// Field is set, or removed where it has no value.
type Field struct {
	Name   string
	Value  secret.Secret // may be an upstream's credentials
	Remove bool
}

// CORS is what a browser's script from elsewhere may do (the Fetch standard, CORS protocol).
type CORS struct {
	Origins     []string // exact, such as https://app.example.com, or "*"
	Methods     []string // beside GET, HEAD and POST
	Headers     []string // fields that a script may send; "*": any but Authorization, which must be named
	Expose      []string // fields that a script may read
	Credentials bool     // cookies; not together with origin "*"
	MaxAge      time.Duration
}

// Assertion makes X-Postern-Assertion: a short-lived JWT of the identity.
type Assertion struct {
	Audience string // its aud
}

// WebSocket says whether a route's requests may become WebSockets (RFC 6455).
type WebSocket struct {
	Enabled bool
	// Query and Subprotocol let a browser, which cannot set Authorization, send its token:
	// in the query parameter of this name; in a subprotocol with this prefix. "": neither.
	Query, Subprotocol string
	Idle               time.Duration // without a frame either way; then 1001
	Lifetime           time.Duration // then 1001; 0: any
	Origins            []string      // Origin that a browser may have; none: any
}

// Upstream is the origin servers of a route. Routes with equal ones share connections
// and health.
type Upstream struct {
	Endpoints      []Endpoint
	TLS            *tls.Config   // of the endpoints that have TLS
	TLSIdentity    string        // tells TLS configurations apart: file names and their content's digest
	ConnectTimeout time.Duration // TLS included; 0: 5 s

	Failures int           // consecutive ones after which an endpoint gets no more requests
	Open     time.Duration // for how long, until one request tries it again
	Check    HealthCheck

	RetryBudget int // retries, per cent of the requests; 0: none

	MaxIdle int // connections kept idle to each endpoint; 0: 512
}

// Endpoint is one origin server, or a name that may resolve to several addresses.
type Endpoint struct {
	Network string // "tcp" or "unix"
	Address string // host:port, or a socket's path
	TLS     bool
	Weight  int // share of requests relative to the others', 1 or more
}

// HealthCheck asks endpoints whether they are well. The zero value: nobody is asked.
type HealthCheck struct {
	Path     string // answered with 2xx or 3xx by one that is well
	Interval time.Duration
	Timeout  time.Duration
}

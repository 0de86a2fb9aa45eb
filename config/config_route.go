package config

import "postern/secret"

// Route is one thing that is forwarded.
type Route struct {
	Name      string         `yaml:"name" default:"" doc:"label in metrics and logs, unique; empty: host and path"`
	Host      string         `yaml:"host" default:"" doc:"a host name in lower case, or *.example.com for all below it; empty: any"`
	Path      string         `yaml:"path" default:"/" doc:"matches itself and all below it, by whole segments: /status does not open /status-admin"`
	Match     string         `yaml:"match" default:"prefix" enum:"prefix,exact" doc:"exact: the path matches itself alone, and wins over prefixes"`
	Methods   []string       `yaml:"methods" doc:"the methods it forwards; empty: any"`
	Access    string         `yaml:"access" default:"client" enum:"client,optional,public" doc:"client demands an access token; optional does not, but refuses a wrong one; public looks at none, and tells the upstream nobody's name"`
	Scopes    []string       `yaml:"scopes" doc:"scopes that the access token must have, all of them"`
	ScopesAny []string       `yaml:"scopes_any" doc:"scopes of which the access token must have one"`
	Catalog   RouteCatalog   `yaml:"catalog" doc:"where a request names the catalog that it is about: in one of path, query and header"`
	Enforce   string         `yaml:"enforce" default:"enforce" enum:"enforce,shadow" doc:"shadow forwards what a token, its scope, an agreement, a catalog or a limit would have refused, and counts it"`
	Assertion RouteAssertion `yaml:"assertion" doc:"a signed identity for the upstream"`
	WebSocket WebSocket      `yaml:"websocket" doc:"WebSockets (RFC 6455)"`
	CORS      CORS           `yaml:"cors" doc:"what scripts of other origins may do in a browser; counts when origins is not empty"`

	Authorization   string   `yaml:"authorization" default:"strip" enum:"strip,pass" doc:"whether the upstream sees the client's field Authorization"`
	StripPrefix     string   `yaml:"strip_prefix" default:"" doc:"is taken off the path before it is forwarded; path begins with it, by whole segments"`
	AddPrefix       string   `yaml:"add_prefix" default:"" doc:"is put before the path, after strip_prefix"`
	RequestHeaders  []Field  `yaml:"request_headers" doc:"fields that are set or removed on the way to the upstream"`
	ResponseHeaders []Field  `yaml:"response_headers" doc:"fields that are set or removed on the way back"`
	Trailers        []string `yaml:"trailers" doc:"trailer fields that are passed on, both ways; empty: none"`

	Upstream       []Upstream  `yaml:"upstream" required:"true" shorthand:"url" doc:"where it forwards to, one or more; a plain string is its url"`
	UpstreamTLS    UpstreamTLS `yaml:"upstream_tls" doc:"TLS to upstreams with https URLs"`
	Health         Health      `yaml:"health" doc:"when an upstream gets no requests for a while"`
	RetryBudget    int         `yaml:"retry_budget" default:"20" min:"0" max:"100" doc:"requests that may be sent to another upstream once more, in per cent of all; 0: none"`
	MaxBody        Size        `yaml:"max_body" default:"" doc:"the largest request content; empty: front.max_body"`
	Timeout        Duration    `yaml:"timeout" default:"30s" doc:"time to the head of the upstream's answer; never total"`
	StallTimeout   Duration    `yaml:"stall_timeout" default:"" doc:"time between the bytes of the answer's content; empty: timeout"`
	ConnectTimeout Duration    `yaml:"connect_timeout" default:"5s" doc:"time to connect to an upstream, with TLS"`
}

// RouteCatalog says where the requests of a route name their catalog. It is empty where they
// name none.
type RouteCatalog struct {
	Path     int    `yaml:"path" default:"0" min:"0" max:"100" doc:"the segment of the path that is its external id, counted from 1; 0: none"`
	Query    string `yaml:"query" default:"" doc:"the query parameter that is; where there are several, each is checked"`
	Header   string `yaml:"header" default:"" doc:"the field that is; where there are several lines, each is checked"`
	Required bool   `yaml:"required" default:"false" doc:"a request that names none is answered 400, and not forwarded"`
}

// RouteAssertion says whether a route's upstream gets X-Postern-Assertion.
type RouteAssertion struct {
	Enabled  bool   `yaml:"enabled" default:"false" doc:"sends X-Postern-Assertion, a JWT of who is asking; needs issuer.enabled"`
	Audience string `yaml:"audience" default:"" doc:"its claim aud; empty: the route's name"`
}

// WebSocket says whether and how requests of a route become WebSockets.
type WebSocket struct {
	Enabled     bool     `yaml:"enabled" default:"false" doc:"requests may become WebSockets"`
	Query       string   `yaml:"query" default:"" doc:"query parameter in which browsers may send the access token; empty: none"`
	Subprotocol string   `yaml:"subprotocol" default:"" doc:"beginning of a subprotocol whose rest is the access token, for browsers; empty: none"`
	Idle        Duration `yaml:"idle" default:"5m" doc:"time without a frame either way, after which it is closed"`
	Lifetime    Duration `yaml:"lifetime" default:"" doc:"time after which it is closed in any case; empty: any"`
	Origins     []string `yaml:"origins" doc:"origins of the pages that may open one; empty: any"`
}

// CORS is what scripts of other origins may do in a browser (the Fetch standard).
type CORS struct {
	Origins     []string `yaml:"origins" doc:"origins of such scripts, such as https://app.example.com, or *; empty: postern takes no part in CORS"`
	Methods     []string `yaml:"methods" doc:"methods that they may use beside GET, HEAD and POST"`
	Headers     []string `yaml:"headers" doc:"fields that they may send; *: any but Authorization"`
	Expose      []string `yaml:"expose" doc:"fields of answers that they may read; *: any"`
	Credentials bool     `yaml:"credentials" default:"false" doc:"they may send cookies; not with *"`
	MaxAge      Duration `yaml:"max_age" default:"10m" max:"24h" doc:"how long a browser may keep the answer to its preflight"`
}

// Field is a field that is set or removed. Value is complete after Load: what a file
// holds is in it.
type Field struct {
	Name      string        `yaml:"name" required:"true" doc:"its name"`
	Value     secret.Secret `yaml:"value" default:"" doc:"sets it to this; one of value, value_file and remove is needed"`
	ValueFile string        `yaml:"value_file" default:"" file:"true" doc:"sets it to what this file holds"`
	Remove    bool          `yaml:"remove" default:"false" doc:"removes it"`
}

// Upstream is one origin server, or a name that stands for several.
type Upstream struct {
	URL    string `yaml:"url" required:"true" doc:"http://host:port, https://host:port, or unix:/path of a socket"`
	Weight int    `yaml:"weight" default:"1" min:"1" max:"1000" doc:"its share of the requests, relative to that of the others"`
}

// UpstreamTLS is TLS between postern and upstreams. The files are PEM.
type UpstreamTLS struct {
	CA          string `yaml:"ca" default:"" file:"true" doc:"PEM file of the authorities that sign upstreams' certificates; empty: those of the system"`
	ServerName  string `yaml:"server_name" default:"" doc:"name that upstreams' certificates must have, and that they are asked for; empty: the URL's host"`
	Certificate string `yaml:"certificate" default:"" file:"true" doc:"PEM file of the certificate and chain that postern presents, needs key; empty: none"`
	Key         string `yaml:"key" default:"" file:"true" doc:"PEM file of that certificate's private key"`
}

// Health is when an upstream is taken for ill.
type Health struct {
	Failures int      `yaml:"failures" default:"5" min:"1" max:"1000" doc:"failures in a row after which an upstream gets no more requests"`
	Open     Duration `yaml:"open" default:"10s" doc:"for how long, until one request tries it again"`
	Path     string   `yaml:"path" default:"" doc:"path that each upstream is asked for, and answers with 2xx or 3xx while it is well; empty: nobody is asked"`
	Interval Duration `yaml:"interval" default:"10s" doc:"time between two such questions"`
	Timeout  Duration `yaml:"timeout" default:"2s" doc:"time for the answer, at most interval"`
}

// Endpoint is an upstream as it is dialled.
type Endpoint struct {
	Network string // "tcp" or "unix"
	Address string // host:port, or a socket's path
	TLS     bool
	Weight  int
}

// Endpoints are the route's upstreams, in the order of the file.
func (r Route) Endpoints() []Endpoint {
	all := make([]Endpoint, 0, len(r.Upstream))
	for _, u := range r.Upstream {
		e, _, _ := splitUpstream(u.URL)
		e.Weight = u.Weight
		all = append(all, e)
	}
	return all
}

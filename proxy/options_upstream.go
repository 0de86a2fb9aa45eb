package proxy

import (
	"crypto/tls"
	"time"
)

// Upstream is the origin servers of a route. Routes with equal ones share connections
// and health.
type Upstream struct {
	Endpoints      []Endpoint
	TLS            *tls.Config // of the endpoints that have TLS
	TLSIdentity    string      // tells TLS configurations apart: file names and their content's digest
	ConnectTimeout time.Duration

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

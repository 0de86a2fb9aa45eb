// Package config is postern's one configuration value: defaults, then a YAML file,
// then environment variables, then flags; validated as a whole, with every fault
// reported at once and each named by file, line and key.
//
// It reads files and nothing else: no network, no store. No message of it shows the
// text of a secret, nor a value that a ${NAME} brought in. yaml.v3 lives here and only
// here, and only ever reads an operator's file: at most 1 MiB, without anchors, aliases,
// tags or a second document.
//
// Each setting is declared once, as a field of Config below: its tags carry its key,
// its default, its bounds and its meaning, and the defaults, the loader, the reference
// table and the JSON Schema are all made from them. Start reading at Config, then Load.
package config

import (
	"reflect"
	"slices"

	"postern/secret"
)

//go:generate go test . -run TestSchema -update

// Config is all that postern can be told. Values that Load returns are complete and
// valid: whoever reads one need not check again. It is a plain value: treat its
// slices as read-only, then it is safe for concurrent use.
//
// The tags of its fields: yaml is the key; default is its value when nobody sets it,
// where "" for a duration or a size is 0, which stands for not set; required marks a
// setting without one; enum lists the only values; min and max bound numbers, sizes and
// durations (both included); zero lets a duration or a size be nothing; file marks the
// name of a file; shorthand, on a list of mappings, is the key that a plain value stands
// for; single, on a list of plain values, lets one stand without the list; restart marks
// what takes a restart, and no reload, to change; doc is its meaning, for people.
type Config struct {
	Front        Front         `yaml:"front" doc:"the public door: token routes, and all that is forwarded"`
	Decision     Decision      `yaml:"decision" doc:"answers for proxies that ask whether to forward a request of theirs"`
	Admin        Admin         `yaml:"admin" restart:"true" doc:"the private door: metrics and health"`
	Store        secret.Secret `yaml:"store" restart:"true" default:"sqlite:postern.db" doc:"where organizations, clients and tokens are kept: sqlite:PATH, relative to the working directory, or for several replicas postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full, which needs keys.master_key"`
	StoreFile    string        `yaml:"store_file" restart:"true" default:"" file:"true" doc:"a file that holds the value of store"`
	StoreOptions StoreOptions  `yaml:"store_options" restart:"true" doc:"how PostgreSQL is used; without effect on SQLite"`
	Redis        secret.Secret `yaml:"redis" restart:"true" default:"" doc:"where replicas on one store share their limits: redis://USER:PASSWORD@HOST:6379/0, or rediss:// for TLS; empty: each holds limits by itself"`
	RedisFile    string        `yaml:"redis_file" restart:"true" default:"" file:"true" doc:"a file that holds the value of redis"`
	Limits       Limits        `yaml:"limits" restart:"true" doc:"how the limits of clients and organizations are held"`
	Keys         Keys          `yaml:"keys" restart:"true" doc:"what protects the signing keys in the store, and when a new one follows"`
	Issuer       Issuer        `yaml:"issuer" restart:"true" doc:"the token route"`
	Assertion    Assertion     `yaml:"assertion" restart:"true" doc:"the signed identity that routes with an assertion send to their upstream"`
	Verify       Verify        `yaml:"verify" restart:"true" doc:"how access tokens are verified"`
	Usage        Usage         `yaml:"usage" restart:"true" doc:"how it is counted what clients use"`
	Headers      Headers       `yaml:"headers" doc:"names of the header fields that tell the upstream who is asking"`
	Log          Log           `yaml:"log" doc:"what is written to standard error"`
	Routes       []Route       `yaml:"routes" doc:"what is forwarded where; the most exact host wins, then the longest path of whole segments"`

	file     string // that it was read from
	warnings []string
}

// Front is the public listener.
type Front struct {
	Listen                   string   `yaml:"listen" restart:"true" default:"127.0.0.1:8080" doc:"address and port; port 0 takes a free one"`
	TLS                      FrontTLS `yaml:"tls" doc:"TLS to clients, version 1.2 at least; without a certificate the front speaks plain HTTP"`
	TrustedProxies           []string `yaml:"trusted_proxies" doc:"addresses and networks (10.0.0.0/8) of proxies: whom to believe X-Forwarded-*, Forwarded and PROXY protocol headers; empty: nobody"`
	ProxyProtocol            bool     `yaml:"proxy_protocol" restart:"true" default:"false" doc:"each connection begins with a PROXY protocol header, version 1 or 2; needs trusted_proxies"`
	MaxHeader                Size     `yaml:"max_header" default:"16KiB" min:"4KiB" max:"1MiB" doc:"the largest request head; a larger one is answered 431"`
	MaxTarget                Size     `yaml:"max_target" default:"8KiB" min:"256B" max:"1MiB" doc:"the longest request target, smaller than max_header; a longer one is answered 414"`
	MaxFields                int      `yaml:"max_fields" default:"100" min:"10" max:"1000" doc:"the most field lines in a request head; more are answered 431"`
	MaxBody                  Size     `yaml:"max_body" default:"" doc:"the largest request content; larger is answered 413; empty: any size"`
	MinBodyRate              Size     `yaml:"min_body_rate" default:"100B" zero:"true" doc:"bytes a second that a request's content must come with on average, after a first read_timeout; 0B: any"`
	Buffer                   Size     `yaml:"buffer" default:"64KiB" min:"1KiB" max:"64MiB" doc:"bodies up to this size are buffered, larger ones and those of unknown size are streamed, both ways"`
	ReadTimeout              Duration `yaml:"read_timeout" default:"30s" doc:"time for a request's head, and between the bytes of its body"`
	IdleTimeout              Duration `yaml:"idle_timeout" default:"75s" doc:"time that a connection may wait for its next request"`
	WriteTimeout             Duration `yaml:"write_timeout" default:"30s" doc:"time that a client may take to accept the next bytes of an answer"`
	MaxConnections           int      `yaml:"max_connections" default:"10000" min:"1" max:"1000000" doc:"connections that are open at once"`
	MaxConnectionsPerAddress int      `yaml:"max_connections_per_address" default:"0" min:"0" max:"1000000" doc:"connections that are open at once from one address, which is not a trusted proxy's; 0: any number"`
	DrainDelay               Duration `yaml:"drain_delay" default:"0s" zero:"true" doc:"time after SIGTERM in which /readyz says no and the front still accepts, for load balancers to notice; 0s: none"`
	Drain                    Duration `yaml:"drain" default:"25s" doc:"time that requests in flight get to finish after SIGTERM and drain_delay"`
}

// FrontTLS is TLS between clients and the front. The files are PEM.
type FrontTLS struct {
	Certificate       string `yaml:"certificate" default:"" file:"true" doc:"PEM file of the certificate and the chain to its issuer, needs key; empty: plain HTTP; from or to empty needs a restart"`
	Key               string `yaml:"key" default:"" file:"true" doc:"PEM file of the certificate's private key"`
	ClientCA          string `yaml:"client_ca" default:"" file:"true" doc:"PEM file of the authorities that sign the certificates of clients; needs client_certificate"`
	ClientCertificate string `yaml:"client_certificate" default:"none" enum:"none,optional,required" doc:"whether clients present a certificate; one that is presented must be signed by client_ca"`
}

// Enabled reports whether the front speaks TLS.
func (t FrontTLS) Enabled() bool { return t.Certificate != "" }

// Decision is the endpoint that other proxies ask.
type Decision struct {
	Path string `yaml:"path" default:"" doc:"path of the decision endpoint for nginx auth_request, Traefik ForwardAuth, Envoy ext_authz and Caddy forward_auth; needs front.trusted_proxies; empty: off"`
}

// Admin is the private listener.
type Admin struct {
	Listen string `yaml:"listen" default:"127.0.0.1:9090" doc:"address and port of /metrics, /livez and /readyz; port 0 takes a free one"`
}

// StoreOptions bounds what one process asks of PostgreSQL.
type StoreOptions struct {
	Connections      int      `yaml:"connections" default:"8" min:"2" max:"1000" doc:"connections that are open at once, besides one for the change feed"`
	StatementTimeout Duration `yaml:"statement_timeout" default:"2s" min:"100ms" doc:"how long an answer is waited for, and then the next row; afterwards the store is away: 503"`
}

// Limits is how the limits that terms set are held.
type Limits struct {
	Replicas int `yaml:"replicas" default:"1" min:"1" max:"1000" doc:"how many replicas serve: as long as Redis does not tell, each lets through its equal part of every limit"`
}

// Keys is the master key, which wraps the data keys that wrap the signing keys, and how one
// signing key follows another.
type Keys struct {
	// MasterKey is 32 raw bytes once Load has returned it, or empty: none.
	MasterKey     secret.Secret `yaml:"master_key" default:"" doc:"32 random bytes in base64 or hex (openssl rand -base64 32) that the signing keys are encrypted with; give it by the environment or a file, never by a flag; empty: they are stored in clear"`
	MasterKeyFile string        `yaml:"master_key_file" default:"" file:"true" doc:"a file that holds the value of master_key"`
	Rotate        Duration      `yaml:"rotate" default:"" min:"1s" doc:"how long a signing key signs until the next one does, by itself; of many replicas one makes it; empty: only postern key rotate does"`
	Publish       Duration      `yaml:"publish" default:"2h" zero:"true" max:"8760h" doc:"how long a new signing key is in the JWK Set before it signs, less than rotate: at least as long as anybody who verifies keeps the set"`
}

// Issuer is the token route.
type Issuer struct {
	Enabled     bool     `yaml:"enabled" default:"true" doc:"false leaves the token route and the well-known documents to the upstream"`
	URL         string   `yaml:"url" default:"" doc:"the issuer's identifier, the claim iss: scheme and host alone; required unless the front listens on loopback, where empty means http:// (https:// with front.tls) and front.listen"`
	Audience    string   `yaml:"audience" default:"" doc:"the claim aud; empty: issuer.url"`
	Realm       string   `yaml:"realm" default:"postern" doc:"the realm that challenges (WWW-Authenticate) name"`
	TokenPath   string   `yaml:"token_path" default:"/oauth/token" doc:"the path of the token route; all below it is the issuer's too"`
	Algorithm   string   `yaml:"algorithm" default:"ES256" enum:"ES256,RS256,EdDSA" doc:"the algorithm that access tokens are signed with"`
	Lifetime    Duration `yaml:"lifetime" default:"2h" min:"1s" doc:"how long an access token lives, at most max_lifetime"`
	MaxLifetime Duration `yaml:"max_lifetime" default:"24h" min:"1s" doc:"how long one can be kept alive by refreshing it, counted from its first issue"`
}

// Assertion is what the assertions of all routes have in common.
type Assertion struct {
	Lifetime Duration `yaml:"lifetime" default:"5m" min:"1m" max:"1h" doc:"how long an assertion is valid"`
}

// Verify is how access tokens are verified.
type Verify struct {
	Leeway       Duration `yaml:"leeway" default:"30s" max:"1h" doc:"how far clocks may differ for the claims iat and nbf; exp is exact"`
	Cache        Size     `yaml:"cache" default:"32MiB" min:"1MiB" doc:"memory for tokens that were verified already"`
	MaxStaleness Duration `yaml:"max_staleness" default:"5m" doc:"how long the store may be away before on_stale applies"`
	OnStale      string   `yaml:"on_stale" default:"refuse" enum:"refuse,serve" doc:"past max_staleness: refuse answers 503, serve goes on with what is known"`
}

// Usage is how it is counted what clients use.
type Usage struct {
	Interval Duration `yaml:"interval" default:"10s" min:"1s" max:"1h" doc:"how often what was counted is written to the store: a process that is killed loses so much of it at most"`
	Keep     Duration `yaml:"keep" default:"9600h" min:"768h" doc:"how long the usage of an hour stays in the store, longer than the month that quotas are for: 9600h are 400 days"`
}

// Headers is the names of the identity fields. Every spelling of them, and of their
// defaults, is removed from what clients send.
type Headers struct {
	Organization string `yaml:"organization" default:"X-Organization-Id" doc:"field that carries the organization's id"`
	Client       string `yaml:"client" default:"X-Client-Id" doc:"field that carries the client's id"`
	Environment  string `yaml:"environment" default:"X-Client-Environment" doc:"field that carries the client's environment"`
	Token        string `yaml:"token" default:"X-Token-Id" doc:"field that carries the token's id"`
	Agreement    string `yaml:"agreement" default:"X-Agreement-Id" doc:"field that carries the agreement's id"`
	Catalog      string `yaml:"catalog" default:"X-Catalog-Id" doc:"field that carries the catalog's external id"`
	Scopes       string `yaml:"scopes" default:"X-Scopes" doc:"field that carries the token's scopes, separated by spaces"`
}

// Log is what is written to standard error.
type Log struct {
	Access       bool     `yaml:"access" restart:"true" default:"false" doc:"one JSON line for each request"`
	AccessFields []string `yaml:"access_fields" enum:"time,request_id,method,host,path,route,status,reason,upstream_status,upstream_ms,duration_ms,peer,user_agent,organization_id,client_id,token_id,bytes_in,bytes_out,upstream,attempts,shadow" doc:"the members of that line; empty: all"`
	AccessSample int      `yaml:"access_sample" default:"1" min:"1" max:"1000000" doc:"one of so many successes is written; refusals always are"`
	Format       string   `yaml:"format" restart:"true" default:"json" enum:"json,text" doc:"form of the ordinary log"`
	Level        string   `yaml:"level" restart:"true" default:"info" enum:"debug,info,warn,error" doc:"the least level that is written"`
}

// Default is the configuration of one who says nothing. It is not valid yet: it has
// no route, and no issuer.url.
func Default() Config {
	var c Config
	setDefaults(reflect.ValueOf(&c).Elem())
	return c
}

// Warnings lists what Load let pass and an operator should know: each line names
// where it comes from and what to do. Write them loudly.
func (c Config) Warnings() []string { return slices.Clone(c.warnings) }

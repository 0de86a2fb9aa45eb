// Package issuer gives clients their access tokens, in the guide's own JSON dialect and
// in OAuth 2's. Beside the token route it refreshes, revokes and introspects tokens, and
// publishes the JWK Set and the metadata that any OAuth 2 client works with.
//
// What it must never do: let a token leave before its record is durable, answer our
// own fault with 401, say whether a client identifier exists, or put a secret, a token
// or any input into an error, a log line or a metric. It speaks to no upstream, and
// what lies under the token path is never forwarded, however it is spelled. Start
// reading at Serve, then issue: each route is one function, read top to bottom.
package issuer

import (
	"context"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/token"
)

// Directory is the live state that issuing decides with. *directory.Directory is one.
type Directory interface {
	// Client returns a client from memory, else from the store: registry.ErrNotFound
	// when there is none (never remembered), registry.ErrUnavailable when the store had
	// to be asked and did not answer.
	Client(ctx context.Context, id string) (*directory.Client, error)
	// Reread is Client straight from the store.
	Reread(ctx context.Context, id string) (*directory.Client, error)
	// SigningKey returns the key that signs at now, or registry.ErrUnavailable.
	SigningKey(now time.Time) (*token.SigningKey, error)
	// Keys returns the keys that verify.
	Keys() (*token.KeySet, uint64)
	// CatchUp returns nil once every change that was committed before is in effect here.
	CatchUp(ctx context.Context) error
}

// Verifier says whom a token speaks for, as the front does it. *verifier.Verifier is one.
type Verifier interface {
	// Verify reports whom raw speaks for at now. Its error is a token.Invalid, which is
	// the caller's fault, or wraps registry.ErrUnavailable. It does not keep raw.
	Verify(raw []byte, now time.Time) (directory.Principal, error)
}

// Store keeps the records of issues. *registry.Registry is one.
type Store interface {
	// IssueToken returns nil once t is durable and not before. It marks the client
	// secret secretID used. It is called concurrently.
	IssueToken(ctx context.Context, t registry.Token, secretID string) error
	// RefreshToken notes that the record was refreshed and lives to expires at least, and
	// returns it once that is durable: registry.ErrNotFound when the record is not the
	// subject's, was revoked or removed, or may not be refreshed. It cannot overtake a
	// revocation.
	RefreshToken(ctx context.Context, id, subjectID string, now, expires registry.Time) (registry.Token, error)
	// RevokeToken revokes every token of one record, or returns registry.ErrNotFound. A
	// second call changes nothing.
	RevokeToken(ctx context.Context, a registry.Actor, id string) (registry.Token, error)
	// Prune removes what no answer needs any more and says how many rows that were.
	Prune(ctx context.Context, now registry.Time) (rows int, err error)
}

// Meter counts what clients use. *usage.Meter is one. None of its methods waits.
type Meter interface {
	// Issued counts an access token that was issued or refreshed.
	Issued(c *directory.Client, now time.Time)
	// Refused counts a request of an authenticated client that is answered with reason.
	Refused(c *directory.Client, now time.Time, reason answer.Reason)
}

// Limiter holds clients to the rate at which they may get access tokens.
type Limiter interface {
	// Issue asks for one access token of c, all limits of it and of its organization, all or
	// nothing. It waits for nobody, and may be called concurrently.
	Issue(c *directory.Client, now time.Time) Limit
}

// Limit is what a limiter says about one access token.
type Limit struct {
	Refusal       answer.Refusal // without a Reason it may be issued
	Shared        bool           // it is the organization's limit that refuses, which its clients have in common
	Policy, State string         // RateLimit-Policy and RateLimit; "": no limit applies
}

// Options of an issuer. Every field is needed unless it says otherwise.
type Options struct {
	URL         string          // the claim iss
	Audience    string          // the claim aud; "": URL
	Realm       string          // of the Basic challenge; "": postern
	TokenPath   string          // absolute, one segment at least, no trailing slash: /oauth/token
	Lifetime    time.Duration   // of an access token
	MaxLifetime time.Duration   // no access token lives longer, whatever the terms say; nor does a refreshed one, from its first issue
	Algorithm   token.Algorithm // for the metadata: what tokens are signed with; "": ES256
	KeyPublish  time.Duration   // how long a new signing key is in the JWK Set before it signs: others may keep the set for half of that, five minutes at most
	Scopes      []string        // for the metadata: the scopes that are told to everybody; may be none
	Limiter     Limiter         // nil: nothing is limited
	Verifier    Verifier        // checks the tokens that clients refresh and introspect
	Meter       Meter           // nil: nobody counts what clients use
	Now         func() time.Time
	Random      io.Reader // for token ids and the key of the back-off; concurrent use must be safe (crypto/rand.Reader)
	Log         *slog.Logger
	// Refused is told of each request of a client that exists which was refused, authenticated
	// or not, when the answer is written. nil: nobody is.
	Refused func(ctx *fasthttp.RequestCtx, clientID string, reason answer.Reason, requestID string)
}

const (
	// storeTimeout is how long a request waits for the store, once to know its client and once
	// to record: past it, 503. What checking a secret takes between the two is not the store's.
	storeTimeout = 2 * time.Second

	// maxAge is how long others may keep the public documents, at most: a removed key is gone
	// from theirs by then.
	maxAge = 5 * time.Minute

	jwksPath = "/.well-known/jwks.json"
)

// Issuer is safe for concurrent use. It has no goroutine of its own: the caller of Run has.
type Issuer struct {
	directory Directory
	store     Store
	options   Options

	tokenSegments [][]byte // of TokenPath, lower case
	refreshPath   string
	revokePath    string
	introspection string // its path
	cacheControl  string // of the public documents
	challenge     string // WWW-Authenticate with 401
	issuerText    []byte // URL as a JSON string
	audienceText  []byte // Audience as a JSON string
	backoff       *backoff
	weak          *weak
	metrics       *metrics
	bodies        sync.Pool // of *[]byte, one for each request body being read

	issuing       outage // of issuing and refreshing
	revoking      outage
	introspecting outage

	compared atomic.Int64 // digest comparisons, so that a test can count the work of a refusal
}

// New makes an issuer. It panics when o.Random cannot be read: nothing that is issued
// without randomness would be safe.
func New(d Directory, s Store, o Options) *Issuer {
	if o.Audience == "" {
		o.Audience = o.URL
	}
	if o.Realm == "" {
		o.Realm = "postern"
	}
	if o.Algorithm == "" {
		o.Algorithm = token.ES256
	}
	i := &Issuer{
		directory:     d,
		store:         s,
		options:       o,
		refreshPath:   o.TokenPath + "/refresh",
		revokePath:    o.TokenPath + "/revoke",
		introspection: o.TokenPath + "/introspect",
		cacheControl:  "public, max-age=" + strconv.Itoa(int(min(maxAge, o.KeyPublish/2).Seconds())),
		challenge:     `Basic realm=` + quoted(o.Realm),
		issuerText:    jsonText(o.URL),
		audienceText:  jsonText(o.Audience),
		backoff:       newBackoff(o.Random, o.Now()),
		weak:          newWeak(o.Random),
		issuing:       outage{broken: "cannot issue access tokens", mended: "issuing access tokens again"},
		revoking:      outage{broken: "cannot revoke access tokens", mended: "revoking access tokens again"},
		introspecting: outage{broken: "cannot introspect access tokens", mended: "introspecting access tokens again"},
	}
	for segment := range strings.SplitSeq(strings.Trim(o.TokenPath, "/"), "/") {
		i.tokenSegments = append(i.tokenSegments, []byte(strings.ToLower(segment)))
	}
	i.metrics = newMetrics(i.backoff)
	i.bodies.New = func() any { b := make([]byte, 0, 512); return &b }
	return i
}

// quoted writes text as an RFC 9110 quoted-string; what cannot stand in one is dropped.
func quoted(text string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(text) {
		if c == '"' || c == '\\' {
			b.WriteByte('\\')
		}
		if c >= 0x20 && c < 0x7f {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Owns reports whether the issuer answers for path, the raw path of a request without
// its query: the token path, everything below it, every spelling that some upstream
// could read as one of these, and the well-known documents' paths exactly. It does not
// allocate.
func (i *Issuer) Owns(path []byte) bool {
	switch string(path) {
	case jwksPath, serverPath, providerPath:
		return true
	}
	return covers(i.tokenSegments, path)
}

// Serve answers a request whose path it Owns and returns the reason that was answered,
// answer.OK with success. requestID must be safe to show.
func (i *Issuer) Serve(ctx *fasthttp.RequestCtx, requestID string) answer.Reason {
	switch path := ctx.URI().PathOriginal(); string(path) {
	case i.options.TokenPath:
		return i.issue(ctx, requestID)
	case i.refreshPath:
		return i.refresh(ctx, requestID)
	case i.revokePath:
		return i.revoke(ctx, requestID)
	case i.introspection:
		return i.introspect(ctx, requestID)
	case jwksPath:
		return i.jwks(ctx, requestID)
	case serverPath, providerPath:
		keys, _ := i.directory.Keys()
		return i.publish(ctx, jsonType, metadata(i.options, keys), requestID)
	}
	// A look-alike or a path below ours: no upstream may see what was sent to it.
	return i.refuse(ctx, guide, answer.Refusal{Reason: answer.NotFound, Close: hasBody(ctx)}, requestID)
}

// Collectors are the issuer's metrics.
func (i *Issuer) Collectors() []prometheus.Collector { return i.metrics.collectors() }

package limiter

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"

	"postern/secret"
)

// place is a Redis, and how to log in to it.
type place struct {
	host, port string
	user       string // "": default
	password   secret.Secret
	database   int
	secure     bool           // by TLS
	roots      *x509.CertPool // that are trusted then; nil: the machine's
}

var (
	errURL = errors.New("redis: this is no address of a Redis: write redis://user:password@host:port/number, or rediss:// for TLS; " +
		"all but host is optional; in a password write %23 for #, %25 for %, %2F for /, %3F for ? and %40 for @")
	errLate  = fmt.Errorf("no answer within %s", late)
	errMoved = errors.New("the nodes of the cluster name one another, and none has the keys")
)

// patient is ctx with the end of patience with Redis.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, late, errLate)
}

// parseAddress reads the address of a Redis. Its error has nothing of the text, which may
// hold a password.
func parseAddress(address secret.Secret, roots *x509.CertPool) (place, error) {
	u, err := url.Parse(address.Reveal())
	// What follows ? or # may be the rest of a password.
	if err != nil || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "redis" && u.Scheme != "rediss" {
		return place{}, errURL
	}
	p := place{host: u.Hostname(), port: u.Port(), secure: u.Scheme == "rediss", roots: roots}
	if p.host == "" {
		p.host = "localhost"
	}
	if p.port == "" {
		p.port = "6379"
	}
	if _, err := strconv.ParseUint(p.port, 10, 16); err != nil {
		return place{}, errURL
	}
	if number := strings.TrimPrefix(u.Path, "/"); number != "" {
		n, err := strconv.ParseUint(number, 10, 31)
		if err != nil {
			return place{}, errURL
		}
		p.database = int(n)
	}
	if u.User != nil {
		password, _ := u.User.Password()
		p.user, p.password = u.User.Username(), secret.Secret(password)
	}
	return p, nil
}

// moved is the place that a node of a cluster names in err, where the keys are instead of at
// p: MOVED SLOT HOST:PORT. Without a host it is p's.
func (p place) moved(err error) (to place, ok bool) {
	refused, _ := errors.AsType[redis.Error](err)
	words := strings.Fields(string(refused))
	if len(words) != 3 || words[0] != "MOVED" {
		return place{}, false
	}
	colon := strings.LastIndexByte(words[2], ':') // an IPv6 address has no brackets here
	if colon < 0 || words[2][:colon] == "?" {     // the node does not know the name that it is to tell
		return place{}, false
	}
	to = p
	to.port = words[2][colon+1:]
	if host := words[2][:colon]; host != "" {
		to.host = host
	}
	return to, true
}

// connection is one to a Redis. After any error it must be ended: what comes late must not
// meet the next question.
type connection struct {
	place
	wire
	redis redis.Conn
}

// wire is the connection as the library sees it, which would give each read a time of its
// own, have TLS take leave of a Redis that hangs, and believe any length.
type wire struct {
	net.Conn
	raw    net.Conn // the same, without TLS
	bounds *bounds  // of what is read
}

func (w wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if fault := w.bounds.check(p[:n]); fault != nil {
		return 0, fault
	}
	return n, err
}

func (w wire) SetReadDeadline(time.Time) error { return nil }
func (w wire) Close() error                    { return w.raw.Close() }

// bounded does what writes and reads, all of it by the end of ctx.
func (w wire) bounded(ctx context.Context, do func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = w.raw.SetDeadline(time.Unix(1, 0)) })
	err := do()
	if !stop() { // nothing more can be said
		return context.Cause(ctx)
	}
	return err
}

// connect connects and logs in.
func connect(ctx context.Context, p place) (*connection, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(p.host, p.port))
	if err != nil {
		return nil, err
	}
	w := wire{raw, raw, new(bounds)}
	if p.secure {
		w.Conn = tls.Client(raw, &tls.Config{RootCAs: p.roots, ServerName: p.host, MinVersion: tls.VersionTLS12})
	}
	c := &connection{place: p, wire: w, redis: redis.NewConn(w, 0, 0)}
	if err := w.bounded(ctx, c.login); err != nil {
		c.end()
		return nil, err
	}
	return c, nil
}

// login logs in and chooses the database.
func (c *connection) login() error {
	if secure, ok := c.wire.Conn.(*tls.Conn); ok {
		if err := secure.Handshake(); err != nil {
			return err
		}
	}
	who := []any{c.password.Reveal()}
	if c.user != "" {
		who = []any{c.user, c.password.Reveal()}
	}
	if c.user != "" || c.password != "" {
		if _, err := c.redis.Do("AUTH", who...); err != nil {
			return loginFault(err)
		}
	}
	if c.database != 0 {
		if _, err := c.redis.Do("SELECT", c.database); err != nil {
			return fmt.Errorf("choose database %d: %w", c.database, err)
		}
	}
	return nil
}

// loginFault is what may be shown of a login that failed: an answer can repeat the password.
func loginFault(err error) error {
	refused, ok := errors.AsType[redis.Error](err)
	if !ok {
		return err
	}
	code, _, _ := strings.Cut(string(refused), " ")
	return fmt.Errorf("log in: %s: Redis does not know this user with this password", code)
}

func (c *connection) end() { _ = c.redis.Close() }

// command is one command and its arguments.
type command struct {
	name      string
	arguments []any
}

func say(name string, arguments ...any) command { return command{name, arguments} }

// ask sends the commands in one go and returns an answer to each, or the first error.
func (c *connection) ask(ctx context.Context, commands []command) ([]any, error) {
	answers := make([]any, len(commands))
	err := c.bounded(ctx, func() (err error) {
		for _, one := range commands {
			if err := c.redis.Send(one.name, one.arguments...); err != nil {
				return err
			}
		}
		if err := c.redis.Flush(); err != nil {
			return err
		}
		for i := range answers {
			if answers[i], err = c.redis.Receive(); err != nil {
				return err
			}
		}
		return nil
	})
	return answers, err
}

package issuer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/registry"
	"postern/secret"
)

// errInvalidClient says that the credentials are nobody's. What exactly is wrong with
// them is not told to anyone.
var errInvalidClient = errors.New("client authentication failed")

// failedClient is errInvalidClient about a client that there is: its identifier, for those
// who may see it. The answer is the same.
type failedClient string

func (failedClient) Error() string { return errInvalidClient.Error() }
func (failedClient) Unwrap() error { return errInvalidClient }

const (
	// secretSlots is how many live secrets a client can have: so many digests are compared
	// at every look, whether they are there or not.
	secretSlots = 2

	maxClientID = 128  // bytes
	maxForeign  = 1024 // bytes of a secret that is not of our making
)

// caller is a client that has authenticated.
type caller struct {
	*directory.Client
	secret registry.ClientSecret // that proves it
}

// identify authenticates the client behind req, whom it notes there, and answers one that fails too often in
// other words. Without a Reason in refusal, the caller is who it says. Faults of our own
// are noted in o.
func (i *Issuer) identify(req *request, source net.IP, now time.Time, o *outage, requestID string) (who caller, refusal answer.Refusal) {
	who, err := i.authenticate(req.credentials, registry.At(now))
	if failed, ok := errors.AsType[failedClient](err); ok {
		req.known = string(failed)
	}
	switch {
	case err == nil:
		req.known, req.proved = who.ID, who.Client
		i.backoff.passed(req.clientID, source)
		return who, answer.Refusal{}
	case errors.Is(err, errBusy): // no outage: it is over as soon as the queue is shorter
		return caller{}, answer.Refusal{Reason: answer.TemporarilyUnavailable}
	case !errors.Is(err, errInvalidClient):
		return caller{}, o.begins(i.options.Log, "the store does not say who the client is", err, requestID)
	}
	if wait := i.backoff.failed(req.clientID, source, now); wait > 0 {
		return caller{}, answer.Refusal{Reason: answer.RateLimited, RetryAfter: wait}
	}
	return caller{}, answer.Refusal{Reason: answer.InvalidClient}
}

// inTime reads a client. Not bound to the connection: fasthttp tells nobody that the caller
// left.
func inTime(read func(context.Context, string) (*directory.Client, error), id string) (*directory.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return read(ctx, id)
}

// authenticate finds the client that c speaks for, and the secret that proves it. It fails
// with errInvalidClient, with errBusy, or with the store's error when that could not be
// asked. An unknown identifier costs what a wrong secret costs: one read of the store and
// the same comparisons.
func (i *Issuer) authenticate(c credentials, now registry.Time) (caller, error) {
	text := []byte(c.clientSecret.Reveal())
	if !possible(text) || !clientID(c.clientID) {
		return caller{}, errInvalidClient // nobody has these: no need to look
	}
	client, err := inTime(i.directory.Client, c.clientID)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return caller{}, fmt.Errorf("read client: %w", err)
	}
	found, ok := i.match(client, text, now)
	if !ok && client != nil {
		// What is held may be older than the secret: one that was made a moment ago, on
		// another replica, is good at once. An unknown client needs no second look: it is
		// never held, so the store has just been asked.
		client, err = inTime(i.directory.Reread, c.clientID)
		if err != nil && !errors.Is(err, registry.ErrNotFound) {
			return caller{}, fmt.Errorf("read client again: %w", err)
		}
	}
	if !ok {
		found, ok = i.match(client, text, now)
	}
	if !ok && !ours(text) {
		if found, ok, err = i.matchWeak(client, text, now); err != nil {
			return caller{}, err
		}
	}
	switch {
	case client == nil:
		return caller{}, errInvalidClient
	case !ok || client.Refused():
		return caller{}, failedClient(client.ID)
	}
	return caller{client, found}, nil
}

// match finds the live secret of client that text is: by its digest, or because it was
// proved before. It takes no shortcut: a nil client is compared as often as one with all
// its secrets, and a hit as often as a miss.
func (i *Issuer) match(client *directory.Client, text []byte, now registry.Time) (found registry.ClientSecret, ok bool) {
	digest := secret.DigestOf(text)
	var secrets []registry.ClientSecret
	if client != nil {
		secrets = client.Secrets
	}
	n := max(secretSlots, len(secrets))
	for slot := range n {
		candidate := registry.ClientSecret{ExpiresAt: -1} // matches nothing: it expired before all time
		if slot < len(secrets) {
			candidate = secrets[slot]
		}
		equal := candidate.Digest.Equal(digest) && !candidate.Weak() // a weak one has no digest
		if !ours(text) && i.weak.proved(candidate, text) {
			equal = true
		}
		if equal && candidate.Live(now) {
			found, ok = candidate, true
		}
	}
	i.compared.Add(int64(n))
	return found, ok
}

// matchWeak is match by slow hashes.
func (i *Issuer) matchWeak(client *directory.Client, text []byte, now registry.Time) (found registry.ClientSecret, ok bool, err error) {
	var live []registry.ClientSecret
	if client != nil {
		for _, s := range client.Secrets {
			if s.Live(now) {
				live = append(live, s)
			}
		}
	}
	waiting, cancel := context.WithTimeout(context.Background(), weakPatience)
	defer cancel()
	found, first, ok, err := i.weak.verify(waiting, live, text)
	if first {
		i.options.Log.Warn("a client authenticates with an imported secret that is weak: rotate it", "client_id", client.ID)
	}
	return found, ok, err
}

// ours reports whether text can only be a secret of our making.
func ours(text []byte) bool { return strings.HasPrefix(string(text), secret.Prefix) }

// possible reports whether some client could have text for its secret: a well-formed one
// of ours, or an imported one.
func possible(text []byte) bool {
	if ours(text) {
		return secret.WellFormed(text)
	}
	return len(text) >= 1 && len(text) <= maxForeign
}

// clientID reports whether a client could have id: ours are UUIDs in lower case, imported
// ones any unreserved characters of RFC 3986. Exact bytes only: no other spelling is the
// same client.
func clientID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '~', c == '-':
		default:
			return false
		}
	}
	return len(id) >= 1 && len(id) <= maxClientID
}

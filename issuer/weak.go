package issuer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"postern/registry"
	"postern/secret"
)

const (
	weakAtOnce  = 2  // slow hashes computed at the same time
	weakWaiting = 64 // requests that wait for one; the next is told to come again
	// weakPatience is how long one of these waits.
	weakPatience = 2 * time.Second
	weakProven   = 65_536 // secrets whose proof is remembered
)

// errBusy says that too many wait for a slow hash: our own fault, not the caller's.
var errBusy = errors.New("too many imported secrets wait to be checked")

// weak checks imported secrets that people or other systems chose: they are kept as a slow
// hash, which a flood of requests must not be able to turn into a flood of work. So few
// are computed at once, few wait, and a secret that has proved right is remembered: its
// hash is computed once for each client and process.
type weak struct {
	key   [sha256.Size]byte // of the proofs: what is remembered says nothing about a secret
	slots chan struct{}     // one for each hash being computed
	queue atomic.Int64      // requests that compute or wait
	met   atomic.Pointer[registry.ClientSecret]
	check func(kind registry.SecretKind, hash secret.Secret, text []byte) bool // verifyWeak; a test counts its calls

	mu     sync.Mutex // guards proven, for map work only
	proven *simplelru.LRU[string, proof]
}

// proof is the keyed digest of a secret and of the hash that it was proved by.
type proof [sha256.Size]byte

func newWeak(random io.Reader) *weak {
	w := &weak{slots: make(chan struct{}, weakAtOnce), check: verifyWeak}
	if _, err := io.ReadFull(random, w.key[:]); err != nil {
		panic(fmt.Sprintf("BUG: issuer: read randomness: %v", err))
	}
	proven, err := simplelru.NewLRU[string, proof](weakProven, nil)
	if err != nil {
		panic(fmt.Sprintf("BUG: issuer: size the proofs: %v", err))
	}
	w.proven = proven
	return w
}

func (w *weak) proofOf(s registry.ClientSecret, text []byte) proof {
	h := hmac.New(sha256.New, w.key[:])
	io.WriteString(h, s.Hash.Reveal())
	h.Write([]byte{0}) // no hash has one, so that the two parts cannot run into each other
	h.Write(text)
	return proof(h.Sum(nil))
}

// proved reports whether text was proved to be s before. It costs the same for any s.
func (w *weak) proved(s registry.ClientSecret, text []byte) bool {
	want := w.proofOf(s, text)
	w.mu.Lock()
	got, ok := w.proven.Get(s.ID)
	w.mu.Unlock()
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1 && ok && s.Weak()
}

// verify finds the one of secrets that text is. Once this process has met a weak secret,
// a client without one, and no client, cost what one with it does: one hash. first says
// that text was proved just now. It fails with errBusy.
func (w *weak) verify(ctx context.Context, secrets []registry.ClientSecret, text []byte) (found registry.ClientSecret, first, ok bool, err error) {
	var candidates []registry.ClientSecret
	for _, s := range secrets {
		if s.Weak() {
			w.met.Store(&s)
			candidates = append(candidates, s)
		}
	}
	if len(candidates) == 0 {
		met := w.met.Load()
		if met == nil {
			return found, false, false, nil
		}
		candidates = append(candidates, registry.ClientSecret{Kind: met.Kind, Hash: met.Hash}) // nobody's: it has no id
	}
	leave, err := w.enter(ctx)
	if err != nil {
		return found, false, false, err
	}
	defer leave()
	for _, s := range candidates {
		if w.proved(s, text) { // by another request, while this one waited
			return s, false, true, nil
		}
		if right := w.check(s.Kind, s.Hash, text); right && s.ID != "" {
			w.mu.Lock()
			w.proven.Add(s.ID, w.proofOf(s, text))
			w.mu.Unlock()
			found, first, ok = s, true, true
		}
	}
	return found, first, ok, nil
}

// enter waits for a slot, in a queue that is bounded.
func (w *weak) enter(ctx context.Context) (leave func(), err error) {
	if w.queue.Add(1) > weakAtOnce+weakWaiting {
		w.queue.Add(-1)
		return nil, errBusy
	}
	select {
	case w.slots <- struct{}{}:
		return func() { <-w.slots; w.queue.Add(-1) }, nil
	case <-ctx.Done():
		w.queue.Add(-1)
		return nil, errBusy
	}
}

// verifyWeak reports whether hash, which comes from elsewhere, is text's.
func verifyWeak(kind registry.SecretKind, hash secret.Secret, text []byte) bool {
	switch kind {
	case registry.Bcrypt:
		return secret.MatchesBcrypt(hash, text)
	case registry.Argon2id:
		return secret.MatchesArgon2id(hash, text)
	}
	return false
}

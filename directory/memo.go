package directory

import (
	"sync"
	"sync/atomic"
)

// maxAssertions bounds how many assertions one memo holds, each for another audience.
const maxAssertions = 16

// Memo keeps the assertions that were made about one verified token, so that a signature
// is paid for once and not with each request. It belongs to one verification: what the
// client's live state or the keys were then is what the assertions say. The zero value
// is empty. Safe for concurrent use; do not copy it.
type Memo struct {
	making sync.Mutex // held while an assertion is made; never by those who find one
	newest atomic.Pointer[Assertion]
}

// Assertion is a signed assertion, and when it may be handed out. It is never changed.
type Assertion struct {
	Audience   string
	JWS        string
	Generation uint64 // of the keys, read before it was signed
	From       int64  // seconds: its iat
	Renew      int64  // seconds: from then on another one is made
	Until      int64  // seconds: its exp
	older      *Assertion
}

// usable reports whether a, which may be nil, may be handed out still.
func (a *Assertion) usable(generation uint64, now int64) bool {
	return a != nil && a.Generation == generation && a.From <= now && now < a.Until
}

// fresh is usable and not yet due to be renewed.
func (a *Assertion) fresh(generation uint64, now int64) bool {
	return a.usable(generation, now) && now < a.Renew
}

// Find returns the assertion for audience that needs no renewal, made under this
// generation of the keys. It takes no lock and allocates nothing.
func (m *Memo) Find(audience string, generation uint64, now int64) (jws string, ok bool) {
	if a := m.about(audience); a.fresh(generation, now) {
		return a.JWS, true
	}
	return "", false
}

func (m *Memo) about(audience string) *Assertion {
	for a := m.newest.Load(); a != nil; a = a.older {
		if a.Audience == audience {
			return a
		}
	}
	return nil
}

// Renew is Find that has an assertion made where there is none: once, however many ask
// at the same time. Who finds one that is merely due to be renewed does not wait.
func (m *Memo) Renew(audience string, generation uint64, now int64, sign func() (Assertion, error)) (string, error) {
	if !m.making.TryLock() {
		if a := m.about(audience); a.usable(generation, now) {
			return a.JWS, nil
		}
		m.making.Lock()
	}
	defer m.making.Unlock()
	if jws, ok := m.Find(audience, generation, now); ok {
		return jws, nil
	}
	made, err := sign()
	if err != nil {
		return "", err
	}
	m.keep(&made, now)
	return made.JWS, nil
}

// keep puts made before those for other audiences that may still be used.
func (m *Memo) keep(made *Assertion, now int64) {
	last, n := made, 1
	for a := m.newest.Load(); a != nil && n < maxAssertions; a = a.older {
		if a.Audience != made.Audience && a.usable(made.Generation, now) {
			kept := *a // the old list is being read
			kept.older = nil
			last.older = &kept
			last = &kept
			n++
		}
	}
	m.newest.Store(made)
}

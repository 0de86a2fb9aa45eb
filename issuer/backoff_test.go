package issuer

import (
	"crypto/rand"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"postern/answer"
	"postern/registry"
)

func TestRow071WrongSecrets(t *testing.T) {
	w := start(t, registry.Terms{})
	other, otherSecret := w.newClient("")
	refused := 0
	for n := range 50 {
		r := w.ask(credentialsOf(w.client.ID, strange(t)))
		if n < backoffFailures {
			w.want(r, 401, answer.InvalidClient)
			continue
		}
		if r.StatusCode == 401 { // the first delay is a second: a slow machine may see its end
			w.want(r, 401, answer.InvalidClient)
			continue
		}
		w.want(r, 429, answer.RateLimited)
		refused++
		if after, err := strconv.Atoi(r.Header.Get("Retry-After")); err != nil || after < 1 || after > 60 {
			t.Fatalf("Retry-After: %q", r.Header.Get("Retry-After"))
		}
	}
	if refused < 20 {
		t.Errorf("%d of 40 were told to wait", refused)
	}
	if n := w.issuer.backoff.held.Load(); n != 1 {
		t.Errorf("%d pairs are held, want 1", n)
	}

	// Nobody else feels it, this client's own secret passes, and with that all is forgotten.
	w.wantIssued(w.ask(credentialsOf(other.ID, otherSecret)))
	w.want(w.ask(credentialsOf(other.ID, strange(t))), 401, answer.InvalidClient)
	w.wantIssued(w.ask(w.good()))
	w.want(w.ask(credentialsOf(w.client.ID, strange(t))), 401, answer.InvalidClient)
}

// An unknown client is sent away like a known one: no oracle in the 429.
func TestRow071UnknownClient(t *testing.T) {
	w := start(t, registry.Terms{})
	for _, id := range []string{uuid.NewString(), "no uuid"} {
		for range backoffFailures {
			w.want(w.ask(credentialsOf(id, w.secret)), 401, answer.InvalidClient)
		}
		w.want(w.ask(credentialsOf(id, w.secret)), 429, answer.RateLimited)
	}
}

// A malformed secret counts like a wrong one.
func TestRow071MalformedSecrets(t *testing.T) {
	w := start(t, registry.Terms{})
	for range backoffFailures {
		w.want(w.ask(credentialsOf(w.client.ID, "guess")), 401, answer.InvalidClient)
	}
	w.want(w.ask(credentialsOf(w.client.ID, "guess")), 429, answer.RateLimited)
}

func TestBackoff(t *testing.T) {
	epoch := time.Unix(1_700_000_000, 0)
	b := newBackoff(rand.Reader, epoch)
	here, there := net.IPv4(10, 0, 0, 1), net.IPv4(10, 0, 0, 2)
	at := time.Duration(0)
	f := func(source net.IP, want time.Duration) {
		t.Helper()
		if got := b.failed("a", source, epoch.Add(at)); got != want {
			t.Fatalf("at %s: wait %s, want %s", at, got, want)
		}
	}
	for range backoffFailures {
		f(here, 0)
	}
	f(here, time.Second)
	f(there, 0) // another address
	at += 400 * time.Millisecond
	f(here, 600*time.Millisecond)
	for _, delay := range []time.Duration{2, 4, 8, 16, 32, 60, 60} { // each failure after the wait doubles it
		at += time.Minute
		f(here, 0)
		f(here, delay*time.Second)
	}
	at += time.Hour // a clock that went ahead, or quiet
	for range backoffFailures {
		f(here, 0)
	}
	f(here, time.Second)
	at -= 2 * time.Hour // and one that went back
	f(here, 0)

	// What was counted on a clock that went back counts no more.
	b = newBackoff(rand.Reader, epoch)
	for range 3 {
		for range backoffFailures / 2 {
			f(here, 0)
		}
		at -= time.Hour
	}

	// Nine a minute are nobody's attack.
	b = newBackoff(rand.Reader, epoch)
	for range 5 {
		for range backoffFailures - 1 {
			f(here, 0)
		}
		at += backoffWindow + time.Second
	}
}

func TestBackoffIsBounded(t *testing.T) {
	now := time.Now()
	b := newBackoff(rand.Reader, now)
	long := strings.Repeat("x", 1000)
	for n := range backoffEntries + 1000 {
		b.failed(long+strconv.Itoa(n), net.IPv4zero, now)
	}
	if n := b.held.Load(); n != backoffEntries {
		t.Errorf("%d pairs, want %d", n, backoffEntries)
	}
	b.passed(long+strconv.Itoa(backoffEntries+999), net.IPv4zero)
	if n := b.held.Load(); n != backoffEntries-1 {
		t.Errorf("%d pairs after one passed, want %d", n, backoffEntries-1)
	}
}

package issuer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/crypto/bcrypt"

	"postern/answer"
	"postern/registry"
	"postern/secret"
)

// imported puts a client into the store as it comes from elsewhere, with a secret of a kind.
func (w *world) imported(id string, kind registry.SecretKind, text string) {
	w.t.Helper()
	c := registry.ImportedClient{ID: id, OrganizationID: w.organization.ID, Application: "old", Environment: "production", Kind: kind, AllowDuplicate: true}
	switch kind {
	case registry.SHA256:
		c.Digest = secret.DigestOf([]byte(text))
	case registry.Bcrypt:
		hash, err := bcrypt.GenerateFromPassword([]byte(text), bcrypt.MinCost)
		w.check(err)
		c.Hash = secret.Secret(hash)
	case registry.Argon2id:
		hash, err := secret.HashArgon2id([]byte(text), rand.Reader)
		w.check(err)
		c.Hash = hash
	}
	w.check(w.store.ImportClients(w.t.Context(), operator, []registry.ImportedClient{c}, nil))
	w.catchUp()
}

// counted counts the slow hashes that are computed.
type counted struct {
	total, now, most atomic.Int64
}

func (w *world) countHashes() *counted {
	c := new(counted)
	check := w.issuer.weak.check
	w.issuer.weak.check = func(kind registry.SecretKind, hash secret.Secret, text []byte) bool {
		c.total.Add(1)
		n := c.now.Add(1)
		defer c.now.Add(-1)
		for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
		}
		return check(kind, hash, text)
	}
	return c
}

func TestImportedSecrets(t *testing.T) {
	w := start(t, registry.Terms{})
	hashes := w.countHashes()
	f := func(id string, kind registry.SecretKind, text string, weak bool) {
		t.Helper()
		t.Run(id, func(t *testing.T) {
			w.imported(id, kind, text)
			before := hashes.total.Load()
			ask := func(text string) reply { return w.ask(credentialsOf(id, secret.Secret(text))) }
			for range 3 { // the hash is computed once
				r := ask(text)
				got, claims := w.wantIssued(r)
				notice := ""
				if weak {
					notice = "rotate this client secret"
				}
				if r.Header.Get("X-Postern-Notice") != notice || claims.Client != id || got.Data.SubjectID != id || !w.works(got.Data.Token) {
					t.Errorf("notice %q, client %s", r.Header.Get("X-Postern-Notice"), claims.Client)
				}
			}
			want := int64(0)
			if weak {
				want = 1
			}
			if n := hashes.total.Load() - before; n != want {
				t.Errorf("%d hashes, want %d", n, want)
			}
			w.want(ask(text+"x"), 401, answer.InvalidClient)
			w.want(ask("x"), 401, answer.InvalidClient)
			w.want(w.ask(credentialsOf(strings.ToUpper(id), secret.Secret(text))), 401, answer.InvalidClient)
			r := w.submit("", "grant_type=client_credentials", basic(id, text))
			w.wantGranted(r)

			// Rotated, it is one of ours; killed, the old one is no good though it was remembered.
			fresh, err := w.store.RotateClientSecret(t.Context(), operator, id, 0)
			w.check(err)
			w.catchUp()
			w.skew.Add(int64(time.Second))
			w.want(ask(text), 401, answer.InvalidClient)
			r = ask(fresh.Reveal())
			if w.wantIssued(r); r.Header.Get("X-Postern-Notice") != "" {
				t.Error("a good secret has a notice")
			}
		})
	}
	f("old-client.1", registry.SHA256, "a secret with 256 bits, they say", false)
	f("old_client~2", registry.Bcrypt, "hunter2", true)
	f("Old-Client-3", registry.Argon2id, "correct-horse", true)
	f(strings.Repeat("x", 127)+"y", registry.Argon2id, strings.Repeat("a", maxForeign), true)
	told := strings.Count(w.log.String(), "imported secret that is weak")
	if told != 3 {
		t.Errorf("told %d times, want once for each of 3 clients", told)
	}
	if log := w.log.String(); strings.Contains(log, "hunter2") || strings.Contains(log, "$2a$") || strings.Contains(log, "argon2id$") {
		t.Error("a secret or its hash was logged")
	}
}

// Once a weak secret was met, every strange one costs a hash: whoever's it is not.
func TestRow060UnknownClientLikeWrongImportedSecret(t *testing.T) {
	w := start(t, registry.Terms{})
	hashes := w.countHashes()
	work := func(id, text string) (string, int64, int64) {
		before, compared := hashes.total.Load(), w.issuer.compared.Load()
		r := w.ask(credentialsOf(id, secret.Secret(text)))
		w.want(r, 401, answer.InvalidClient)
		return canonical(r), hashes.total.Load() - before, w.issuer.compared.Load() - compared
	}
	if _, n, _ := work("nobody", "guess"); n != 0 {
		t.Errorf("%d hashes where no secret is weak", n)
	}
	w.imported("old-client", registry.Argon2id, "correct-horse")
	wrong, wrongHashes, wrongCompared := work("old-client", "guess")
	unknown, unknownHashes, unknownCompared := work("nobody", "guess")
	ours, oursHashes, oursCompared := work(w.client.ID, "guess")
	if wrong != unknown || wrong != ours {
		t.Errorf("the answers differ\n%s\n%s\n%s", wrong, unknown, ours)
	}
	if wrongHashes != 1 || unknownHashes != 1 || oursHashes != 1 {
		t.Errorf("%d, %d and %d hashes", wrongHashes, unknownHashes, oursHashes)
	}
	if wrongCompared != unknownCompared || wrongCompared != oursCompared {
		t.Errorf("%d, %d and %d comparisons", wrongCompared, unknownCompared, oursCompared)
	}
	// The right secret for the hash that stands in for nobody's proves nobody.
	work("nobody", "correct-horse")
	work(uuid.NewString(), "correct-horse")
	// One of our form is never hashed.
	if _, n, _ := work("old-client", strange(t).Reveal()); n != 0 {
		t.Errorf("%d hashes for a secret of our form", n)
	}
	if _, n, _ := work("old-client", strings.Repeat("a", maxForeign+1)); n != 0 {
		t.Errorf("%d hashes for a secret that is too long", n)
	}
}

func TestRow076ImportedSecrets(t *testing.T) {
	w := start(t, registry.Terms{})
	w.imported("old-client", registry.Argon2id, "correct-horse")
	good, _ := w.wantIssued(w.ask(w.good())) // its holder calls the API meanwhile
	hashes := w.countHashes()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	before, most := memory.HeapInuse, atomic.Uint64{}

	const n = 1000
	var statuses [600]atomic.Int64
	var all sync.WaitGroup
	release := make(chan struct{})
	check := w.issuer.weak.check
	w.issuer.weak.check = func(kind registry.SecretKind, hash secret.Secret, text []byte) bool {
		<-release // until all have come, so that the queue is as full as it gets
		defer func() {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most.Store(max(most.Load(), now.HeapInuse))
		}()
		return check(kind, hash, text)
	}
	for k := range n {
		all.Go(func() {
			r, err := exchange(w.address, post(credentialsOf("old-client", secret.Secret(fmt.Sprint("guess ", k)))))
			if err != nil {
				t.Error(err)
				return
			}
			statuses[r.StatusCode].Add(1)
			if r.StatusCode == 503 && (r.Header.Get("Retry-After") == "" || r.code() != "temporarily_unavailable") {
				t.Errorf("503 is %s", r.body)
			}
		})
	}
	for statuses[503].Load() < n-weakAtOnce-weakWaiting {
		time.Sleep(time.Millisecond)
	}
	// What is full is this queue alone: a secret of ours and a token pass.
	w.wantStatus(w.ask(w.good()), 201)
	if !w.works(good.Data.Token) {
		t.Error("verification waits for hashes")
	}
	close(release)
	all.Wait()
	if most := hashes.most.Load(); most > weakAtOnce {
		t.Errorf("%d hashes at once", most)
	}
	if got := hashes.total.Load(); got > weakAtOnce+weakWaiting {
		t.Errorf("%d hashes, want %d at most", got, weakAtOnce+weakWaiting)
	}
	if refused, failed := statuses[503].Load(), statuses[401].Load()+statuses[429].Load(); refused < n-weakAtOnce-weakWaiting || refused+failed != n || failed == 0 {
		t.Errorf("%d refused, %d failed", refused, failed)
	}
	// A thousand at once would be 19 GiB; what is measured holds garbage and the clients too.
	if grown := int64(most.Load() - before); grown > 1<<30 {
		t.Errorf("the heap grew by %d MiB", grown>>20)
	}
	if n := w.issuer.weak.queue.Load(); n != 0 {
		t.Errorf("%d are in the queue", n)
	}
	// With the right one, however many ask: one hash for each slot, and then none.
	total := hashes.total.Load()
	for range 100 {
		all.Go(func() {
			if r, err := exchange(w.address, post(credentialsOf("old-client", "correct-horse"))); err != nil || r.StatusCode != 201 && r.StatusCode != 503 {
				t.Errorf("%v %d", err, r.StatusCode)
			}
		})
	}
	all.Wait()
	if got := hashes.total.Load() - total; got > weakAtOnce {
		t.Errorf("%d hashes for one secret", got)
	}
	w.wantStatus(w.ask(credentialsOf("old-client", "correct-horse")), 201)
}

func (w *world) wantStatus(r reply, status int) {
	w.t.Helper()
	if r.StatusCode != status {
		w.t.Fatalf("got %d, want %d: %s", r.StatusCode, status, r.body)
	}
}

// What a slow hash takes is not the store's: the record is still waited for.
func TestSlowHashLeavesTheStoreItsTime(t *testing.T) {
	w := start(t, registry.Terms{})
	w.imported("slow", registry.Argon2id, "correct-horse")
	check := w.issuer.weak.check
	w.issuer.weak.check = func(kind registry.SecretKind, hash secret.Secret, text []byte) bool {
		time.Sleep(storeTimeout)
		return check(kind, hash, text)
	}
	w.wantIssued(w.ask(credentialsOf("slow", "correct-horse")))
}

// A full queue is no outage, and no failure of the client's.
func TestWeakQueueFull(t *testing.T) {
	w := start(t, registry.Terms{})
	w.imported("old-client", registry.Argon2id, "correct-horse")
	w.issuer.weak.queue.Store(weakAtOnce + weakWaiting)
	for range 2 * backoffFailures {
		w.want(w.ask(credentialsOf("old-client", "guess")), 503, answer.TemporarilyUnavailable)
	}
	w.wantOAuth(w.submit("", "grant_type=client_credentials", basic("old-client", "correct-horse")), 503, answer.TemporarilyUnavailable)
	w.issuer.weak.queue.Store(weakAtOnce + weakWaiting - 1)
	w.wantIssued(w.ask(credentialsOf("old-client", "correct-horse")))
	w.issuer.weak.queue.Store(weakAtOnce + weakWaiting)
	w.wantIssued(w.ask(credentialsOf("old-client", "correct-horse"))) // it was proved
	if strings.Contains(w.log.String(), "cannot issue access tokens") || w.issuer.backoff.held.Load() != 0 {
		t.Error("a full queue is told as an outage, or as a failure")
	}
}

// Who waits too long for a hash is told to come again, and gives its place up.
func TestWeakQueueGivesUp(t *testing.T) {
	w := newWeak(rand.Reader)
	held := make([]func(), weakAtOnce)
	for n := range held {
		var err error
		if held[n], err = w.enter(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.enter(ctx); !errors.Is(err, errBusy) {
		t.Fatal(err)
	}
	for _, leave := range held {
		leave()
	}
	if n := w.queue.Load(); n != 0 {
		t.Errorf("%d are in the queue", n)
	}
	leave, err := w.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	leave()
}

// What a hash of another maker wants is bounded, also where it came into the store unchecked.
func TestVerifyWeak(t *testing.T) {
	f := func(name string, kind registry.SecretKind, hash, text string, want bool) {
		t.Helper()
		began := time.Now()
		if got := verifyWeak(kind, secret.Secret(hash), []byte(text)); got != want {
			t.Errorf("%s: %t", name, got)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("%s: took %s", name, took)
		}
	}
	phc, err := secret.HashArgon2id([]byte("a"), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := phc.Reveal()
	f("argon2id", registry.Argon2id, good, "a", true)
	f("wrong", registry.Argon2id, good, "b", false)
	f("the hash itself", registry.Argon2id, good, good, false)
	// The reference implementation's own example.
	f("the reference", registry.Argon2id, "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc", "password", true)
	for old, strange := range map[string]string{
		"m=19456": "m=4194304", "t=2": "t=4294967295", "p=1": "p=255", "$argon2id$": "$argon2i$", "v=19": "v=16", "m=19456,": "",
	} {
		f(strange, registry.Argon2id, strings.Replace(good, old, strange, 1), "a", false)
	}
	f("nothing", registry.Argon2id, "", "", false)
	cheap, err := bcrypt.GenerateFromPassword([]byte("a"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	f("bcrypt", registry.Bcrypt, string(cheap), "a", true)
	f("bcrypt, from elsewhere", registry.Bcrypt, strings.Replace(string(cheap), "$2a$", "$2y$", 1), "a", true)
	f("wrong", registry.Bcrypt, string(cheap), "b", false)
	f("a cost of 31", registry.Bcrypt, strings.Replace(string(cheap), "$04$", "$31$", 1), "a", false)
	f("another kind", registry.SHA256, string(cheap), "a", false)
	f("argon2id as bcrypt", registry.Bcrypt, good, "a", false)
}

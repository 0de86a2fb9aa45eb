package verifier

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"postern/directory"
	"postern/registry"
	"postern/secret"
	"postern/token"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	issuer   = "https://api.example.com"
	audience = "https://api.example.com/v1"
)

var start = time.Unix(1_700_000_000, 0)

// memory is a store and its feed: what the directory needs of the registry, in memory.
type memory struct {
	mu      sync.Mutex
	grants  map[string]registry.Grant
	keys    []registry.Key
	revoked map[string]registry.Revocation
	changes []registry.Change
	read    bool // the feed was read once
	fail    error
	reads   int                         // of grants
	onGrant func(context.Context) error // called without the lock, after the grant was read
}

func (m *memory) Grant(ctx context.Context, id string) (registry.Grant, error) {
	m.mu.Lock()
	g, ok := m.grants[id]
	m.reads++
	fail, onGrant := m.fail, m.onGrant
	m.mu.Unlock()
	if fail != nil {
		return registry.Grant{}, fail
	}
	if onGrant != nil {
		if err := onGrant(ctx); err != nil {
			return registry.Grant{}, err
		}
	}
	if !ok {
		return registry.Grant{}, registry.ErrNotFound
	}
	return g, nil
}

func (m *memory) Keys(context.Context) ([]registry.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]registry.Key{}, m.keys...), m.fail
}

func (m *memory) Revocations(context.Context) ([]registry.Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []registry.Revocation
	for _, r := range m.revoked {
		all = append(all, r)
	}
	return all, m.fail
}

func (m *memory) Revocation(_ context.Context, id string) (registry.Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.revoked[id]
	if m.fail == nil && !ok {
		return r, registry.ErrNotFound
	}
	return r, m.fail
}

func (*memory) EachCatalog(context.Context, func(registry.Catalog)) error { return nil }
func (*memory) Catalog(context.Context, string) (registry.Catalog, error) {
	return registry.Catalog{}, registry.ErrNotFound
}

func (m *memory) Poll(context.Context) ([]registry.Change, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, false, m.fail
	}
	changes, reset := m.changes, !m.read
	m.changes, m.read = nil, true
	return changes, reset, nil
}

func (*memory) News() (<-chan struct{}, time.Duration) { return nil, 100 * time.Millisecond }

// world is a verifier over a real directory over a store in memory.
type world struct {
	testing.TB
	store     *memory
	directory *directory.Directory
	verifier  *Verifier
	key       *token.SigningKey
	clock     time.Time // of the directory; tests set it while nothing runs
	serial    uint64
}

func newWorld(t testing.TB, change ...func(*directory.Options, *Options)) *world {
	t.Helper()
	w := &world{TB: t, clock: start, store: &memory{grants: map[string]registry.Grant{}, revoked: map[string]registry.Revocation{}}}
	w.key = w.addKey(token.ES256, 0)
	w.addClient("client-a", "organization-a")
	w.addClient("client-b", "organization-b")
	do := directory.Options{Poll: time.Hour, Now: func() time.Time { return w.clock }, Log: slog.New(slog.DiscardHandler)}
	vo := Options{Issuer: issuer, Audience: audience, Leeway: 30 * time.Second}
	for _, c := range change {
		c(&do, &vo)
	}
	d, err := directory.Open(t.Context(), w.store, w.store, do)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	v, err := New(d, vo)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	w.directory, w.verifier = d, v
	return w
}

// addKey puts a key into the store that verifies until end; zero: without end.
func (w *world) addKey(a token.Algorithm, end registry.Time) *token.SigningKey {
	w.Helper()
	k, err := token.GenerateSigningKey(a, rand.Reader)
	if err != nil {
		w.Fatal(err)
	}
	der, err := k.MarshalPKCS8()
	if err != nil {
		w.Fatal(err)
	}
	w.change(registry.KindKey, k.ID(), func(m *memory) {
		m.keys = append(m.keys, registry.Key{ID: k.ID(), Algorithm: string(a), Private: secret.Secret(der.Reveal()), VerifiesUntil: end})
	})
	return k
}

func (w *world) addClient(id, organization string) {
	w.change(registry.KindClient, id, func(m *memory) {
		m.grants[id] = registry.Grant{
			Client:       registry.Client{ID: id, OrganizationID: organization},
			Organization: registry.Organization{ID: organization},
		}
	})
}

// change commits a change to the store; the directory sees it when it catches up.
func (w *world) change(kind registry.Kind, id string, f func(*memory)) {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	f(w.store)
	w.store.changes = append(w.store.changes, registry.Change{Kind: kind, ID: id})
}

func (w *world) changeClient(id string, f func(*registry.Grant)) {
	w.change(registry.KindClient, id, func(m *memory) {
		g := m.grants[id]
		f(&g)
		m.grants[id] = g
	})
}

func (w *world) revoke(id uuid.UUID) {
	w.change(registry.KindToken, id.String(), func(m *memory) {
		m.revoked[id.String()] = registry.Revocation{TokenID: id.String(), Until: registry.At(w.clock.Add(24 * time.Hour))}
	})
}

func (w *world) catchUp() {
	w.Helper()
	if err := w.directory.CatchUp(w.Context()); err != nil {
		w.Fatal(err)
	}
}

// v7 makes a UUIDv7 of a time and a number.
func v7(at time.Time, n uint64) uuid.UUID {
	var id uuid.UUID
	binary.BigEndian.PutUint64(id[:8], uint64(at.UnixMilli())<<16|0x7000)
	binary.BigEndian.PutUint64(id[8:], 0x8000_0000_0000_0000|n)
	return id
}

// claims of a new token of a client, issued at start.
func (w *world) claims(client, organization string) token.Claims {
	w.serial++
	return token.Claims{
		ID: v7(start, w.serial), Organization: organization, Client: client, Issuer: issuer, Audience: audience,
		Scope: "search tag", IssuedAt: start.Unix(), Expires: start.Unix() + 7200,
	}
}

func (w *world) sign(c token.Claims) []byte {
	w.Helper()
	signed, err := w.key.Sign(c)
	if err != nil {
		w.Fatal(err)
	}
	return []byte(signed)
}

// accept verifies raw, which must be good, and waits until the cache has taken it in.
func (w *world) accept(raw []byte, now time.Time) directory.Principal {
	w.Helper()
	p, err := w.verifier.Verify(raw, now)
	if err != nil {
		w.Fatalf("refused: %v", err)
	}
	w.verifier.cache.Wait()
	return p
}

func (w *world) refuse(raw []byte, now time.Time, want token.Invalid) {
	w.Helper()
	if p, err := w.verifier.Verify(raw, now); err != error(want) || p != (directory.Principal{}) {
		w.Errorf("got %+v, %v; want %q", p, err, want)
	}
	w.verifier.cache.Wait()
}

func (w *world) unavailable(raw []byte, now time.Time) {
	w.Helper()
	if p, err := w.verifier.Verify(raw, now); !errors.Is(err, registry.ErrUnavailable) || p != (directory.Principal{}) {
		w.Errorf("got %+v, %v; want it unavailable", p, err)
	}
}

func (w *world) mustBe(p directory.Principal, c token.Claims) {
	w.Helper()
	if p.Client == nil || p.Client.ID != c.Client || p.Client.OrganizationID != c.Organization || p.Token != c.ID || p.Scope != c.Scope || p.Expires != c.Expires {
		w.Errorf("got %+v, want %+v", p, c)
	}
}

func digest(raw []byte) [sha256.Size]byte { return sha256.Sum256(raw) }

// held reports whether the cache holds raw.
func (w *world) held(raw []byte) bool {
	e, ok := w.verifier.cache.Get(w.verifier.hash(digest(raw)))
	return ok && e.sum == digest(raw)
}

// counted reads one counter of the verifier's collectors; outcome is "" where there is none.
func (w *world) counted(name, outcome string) float64 {
	w.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(w.verifier.Collectors()...)
	families, err := reg.Gather()
	if err != nil {
		w.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if outcome != "" && m.GetLabel()[0].GetValue() != outcome {
				continue
			}
			if m.GetGauge() != nil {
				return m.GetGauge().GetValue()
			}
			return m.GetCounter().GetValue()
		}
	}
	w.Fatalf("no metric %s %s", name, outcome)
	return 0
}

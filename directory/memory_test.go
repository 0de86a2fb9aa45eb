package directory

import (
	"context"
	"crypto/rand"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"postern/registry"
	"postern/secret"
	"postern/token"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		shared.Close()
		os.Exit(code)
	}))
}

var start = time.Unix(1_700_000_000, 0)

// memory is a store and its feed in memory. A test may set its fields while it holds mu
// or while nothing reads.
type memory struct {
	mu       sync.Mutex
	grants   map[string]registry.Grant
	catalogs map[string]registry.Catalog // by id
	keys     []registry.Key
	revoked  []registry.Revocation
	changes  []registry.Change
	reset    bool
	news     chan struct{}

	failPoll, failKeys, failRevocation, failCatalog error
	onGrant                                         func() // without mu, after the grant was read
	reads, loads                                    int    // of grants; of all revocations
	catalogReads, catalogLoads                      int
}

func (m *memory) Grant(ctx context.Context, id string) (registry.Grant, error) {
	m.mu.Lock()
	g, ok := m.grants[id]
	m.reads++
	onGrant := m.onGrant
	m.mu.Unlock()
	if onGrant != nil {
		onGrant()
	}
	if err := ctx.Err(); err != nil {
		return registry.Grant{}, registry.ErrUnavailable
	}
	if !ok {
		return registry.Grant{}, registry.ErrNotFound
	}
	return g, nil
}

func (m *memory) Keys(context.Context) ([]registry.Key, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]registry.Key{}, m.keys...), m.failKeys
}

func (m *memory) Revocations(context.Context) ([]registry.Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads++
	return append([]registry.Revocation{}, m.revoked...), nil
}

func (m *memory) Revocation(_ context.Context, id string) (registry.Revocation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failRevocation != nil {
		return registry.Revocation{}, m.failRevocation
	}
	for _, r := range m.revoked {
		if r.TokenID == id {
			return r, nil
		}
	}
	return registry.Revocation{}, registry.ErrNotFound
}

func (m *memory) EachCatalog(_ context.Context, use func(registry.Catalog)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.catalogLoads++
	for _, c := range m.catalogs {
		if c.RemovedAt == 0 {
			use(c)
		}
	}
	return m.failCatalog
}

func (m *memory) Catalog(_ context.Context, id string) (registry.Catalog, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.catalogReads++
	c, ok := m.catalogs[id]
	if !ok {
		return c, registry.ErrNotFound
	}
	return c, m.failCatalog
}

func (m *memory) Poll(context.Context) ([]registry.Change, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failPoll != nil {
		return nil, false, m.failPoll
	}
	changes, reset := m.changes, m.reset
	m.changes, m.reset = nil, false
	return changes, reset, nil
}

func (m *memory) News() (<-chan struct{}, time.Duration) { return m.news, 100 * time.Millisecond }

// change commits a change.
func (m *memory) change(kind registry.Kind, id string, f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f != nil {
		f()
	}
	m.changes = append(m.changes, registry.Change{Kind: kind, ID: id})
}

func (m *memory) changeClient(id string, f func(*registry.Grant)) {
	m.change(registry.KindClient, id, func() {
		g := m.grants[id]
		f(&g)
		m.grants[id] = g
	})
}

// world is a directory that reads its feed only when told to.
type world struct {
	*testing.T
	*Directory
	store *memory
	clock time.Time
	log   *strings.Builder
}

func newWorld(t *testing.T, change ...func(*Options)) *world {
	t.Helper()
	w := &world{T: t, clock: start, log: &strings.Builder{}, store: &memory{reset: true, grants: map[string]registry.Grant{}, catalogs: map[string]registry.Catalog{}}}
	for _, id := range []string{"a", "b", "c"} {
		w.store.grants[id] = registry.Grant{
			Client:       registry.Client{ID: id, OrganizationID: "organization-" + id, AgreementID: "agreement-" + id},
			Organization: registry.Organization{ID: "organization-" + id},
			Agreement:    &registry.Agreement{ID: "agreement-" + id},
		}
	}
	o := Options{Poll: time.Hour, Now: func() time.Time { return w.clock }, Log: slog.New(slog.NewTextHandler(w.log, nil))}
	for _, c := range change {
		c(&o)
	}
	d, err := Open(t.Context(), w.store, w.store, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	w.Directory = d
	return w
}

func (w *world) catchUp() {
	w.Helper()
	if err := w.CatchUp(w.Context()); err != nil {
		w.Fatal(err)
	}
}

func (w *world) client(id string) *Client {
	w.Helper()
	c, err := w.Client(w.Context(), id)
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// key makes a row of the store's.
func key(t *testing.T, a token.Algorithm, signsFrom, verifiesUntil time.Time) registry.Key {
	t.Helper()
	k, err := token.GenerateSigningKey(a, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := k.MarshalPKCS8()
	if err != nil {
		t.Fatal(err)
	}
	row := registry.Key{ID: k.ID(), Algorithm: string(a), Private: secret.Secret(der.Reveal()), SignsFrom: registry.At(signsFrom)}
	if !verifiesUntil.IsZero() {
		row.VerifiesUntil = registry.At(verifiesUntil)
	}
	return row
}

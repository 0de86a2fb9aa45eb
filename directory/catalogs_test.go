package directory

import (
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"

	"postern/registry"
)

// has compares all catalogs that are held, "external id:id owner" or "… public".
func (w *world) has(what, want string) {
	w.Helper()
	var got []string
	for external, c := range *w.catalogs.Load() {
		if found, ok := w.Catalog([]byte(external)); !ok || found != c || c.ExternalID != external {
			w.Errorf("%s: %q is %+v", what, external, found)
		}
		text := external + ":" + c.ID
		if c.OrganizationID != "" {
			text += " " + c.OrganizationID
		}
		if c.Public {
			text += " public"
		}
		got = append(got, text)
	}
	slices.Sort(got)
	if text := strings.Join(got, ", "); text != want {
		w.Errorf("%s: held are %s, want %s", what, text, want)
	}
	if n := w.HeldCatalogs(); n != len(got) {
		w.Errorf("%s: %d are counted", what, n)
	}
}

func (m *memory) changeCatalog(c registry.Catalog) {
	m.change(registry.KindCatalog, c.ID, func() { m.catalogs[c.ID] = c })
}

func TestCatalogs(t *testing.T) {
	w := newWorld(t)
	w.has("at first", "")
	if _, ok := w.Catalog(nil); ok {
		t.Error("there is a catalog without an external id")
	}
	w.store.changeCatalog(registry.Catalog{ID: "1", ExternalID: "jazz", OrganizationID: "a"})
	w.store.changeCatalog(registry.Catalog{ID: "2", ExternalID: "free", Public: true})
	w.has("not looked yet", "")
	w.catchUp()
	w.has("made", "free:2 public, jazz:1 a")
	if w.store.catalogReads != 2 || w.store.catalogLoads != 1 {
		t.Errorf("%d reads, %d loads", w.store.catalogReads, w.store.catalogLoads)
	}
	before := w.catalogs.Load()
	w.store.change(registry.KindClient, "a", nil)
	w.catchUp()
	if w.catalogs.Load() != before {
		t.Error("replaced though no catalog has changed")
	}
	w.store.changeCatalog(registry.Catalog{ID: "1", ExternalID: "blues", OrganizationID: "a"})
	w.store.changeCatalog(registry.Catalog{ID: "3", ExternalID: "jazz", OrganizationID: "b"})
	w.catchUp()
	w.has("renamed, and its external id is another's", "blues:1 a, free:2 public, jazz:3 b")
	if len(*before) != 2 {
		t.Error("a state was changed that readers may hold")
	}
	w.store.changeCatalog(registry.Catalog{ID: "1", ExternalID: "blues", OrganizationID: "a", RemovedAt: 1})
	w.store.change(registry.KindCatalog, "2", func() { delete(w.store.catalogs, "2") })
	w.catchUp()
	w.has("removed, and gone", "jazz:3 b")

	// One line that is about many.
	loads := w.store.catalogLoads
	w.store.change(registry.KindCatalog, "", func() { w.store.catalogs["4"] = registry.Catalog{ID: "4", ExternalID: "x", OrganizationID: "a"} })
	w.store.change(registry.KindCatalog, "", nil)
	w.catchUp()
	w.has("imported", "jazz:3 b, x:4 a")
	if w.store.catalogLoads != loads+1 {
		t.Errorf("%d loads for one look", w.store.catalogLoads-loads)
	}
	// Very many lines.
	for i := range maxRereads + 1 {
		w.store.changeCatalog(registry.Catalog{ID: fmt.Sprint("many-", i), ExternalID: fmt.Sprint("m", i), OrganizationID: "a"})
	}
	reads := w.store.catalogReads
	w.catchUp()
	if w.store.catalogReads != reads || w.HeldCatalogs() != maxRereads+3 {
		t.Errorf("%d reads, %d held", w.store.catalogReads-reads, w.HeldCatalogs())
	}
	// A reset: what went unheard is gone.
	maps.DeleteFunc(w.store.catalogs, func(id string, _ registry.Catalog) bool { return id != "3" })
	w.store.reset = true
	w.catchUp()
	w.has("reset", "jazz:3 b")
}

// A change that cannot be read is not forgotten.
func TestCatalogsWhenTheStoreFails(t *testing.T) {
	w := newWorld(t)
	w.store.changeCatalog(registry.Catalog{ID: "1", ExternalID: "jazz", OrganizationID: "a"})
	w.catchUp()
	for _, id := range []string{"1", ""} {
		w.store.failCatalog = registry.ErrUnavailable
		w.store.change(registry.KindCatalog, id, func() {
			w.store.catalogs["1"] = registry.Catalog{ID: "1", ExternalID: "after" + id, OrganizationID: "a"}
		})
		before := *w.catalogs.Load()
		if err := w.CatchUp(t.Context()); !errors.Is(err, registry.ErrUnavailable) {
			t.Fatal(err)
		}
		if !maps.Equal(*w.catalogs.Load(), before) {
			t.Error("half a state is held")
		}
		w.store.failCatalog = nil
		w.catchUp() // nothing is in the feed any more
		w.has("later", "after"+id+":1 a")
	}
}

func TestMayUse(t *testing.T) {
	w := newWorld(t)
	own := Catalog{ID: "1", ExternalID: "own", OrganizationID: "organization-a"}
	others := Catalog{ID: "2", ExternalID: "others", OrganizationID: "organization-b"}
	public := Catalog{ID: "3", ExternalID: "public", OrganizationID: "organization-b", Public: true}
	nobodys := Catalog{ID: "4", ExternalID: "nobodys"} // no such row can be: private, without an owner
	f := func(name string, change func(*registry.Grant), mayUseOthers bool) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w.store.changeClient("a", change)
			w.catchUp()
			c := w.client("a")
			if got := c.MayUse(others); got != mayUseOthers {
				t.Errorf("may use another organization's: %v", got)
			}
			if !c.MayUse(own) || !c.MayUse(public) {
				t.Error("may not use its own, or a public one")
			}
			if allocs := testing.AllocsPerRun(10, func() { c.MayUse(others) }); allocs != 0 {
				t.Errorf("%v allocations", allocs)
			}
		})
	}
	grants := func(organization, agreement registry.Set) func(*registry.Grant) {
		return func(g *registry.Grant) {
			g.Organization.Terms.Catalogs, g.Agreement = organization, &registry.Agreement{ID: "agreement-a", Terms: registry.Terms{Catalogs: agreement}}
		}
	}
	names := func(all ...string) registry.Set { return registry.Set{State: registry.Value, Values: all} }
	var unset registry.Set
	all := registry.Set{State: registry.Unlimited}
	f("nothing set", grants(unset, unset), false)
	f("none granted", grants(names(), unset), false)
	f("another granted", grants(names("other", "others2", "Others"), unset), false)
	f("granted to the organization", grants(names("zebra", "others", "apple"), unset), true)
	f("the agreement grants less", grants(names("others"), names()), false)
	f("the agreement grants it", grants(unset, names("z", "y", "others", "a")), true)
	f("all granted", grants(all, unset), true)
	f("all granted by the agreement", grants(names(), all), true)
	f("the agreement was removed", func(g *registry.Grant) {
		g.Organization.Terms.Catalogs, g.Agreement = names("others"), &registry.Agreement{ID: "agreement-a", RemovedAt: 1, Terms: registry.Terms{Catalogs: all}}
	}, false)
	if c := w.client("b"); c.MayUse(nobodys) || (&Client{}).MayUse(nobodys) {
		t.Error("what nobody owns is somebody's own")
	}

	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("%05d", len(many)-i)
	}
	w.store.changeClient("a", grants(names(many...), unset))
	w.catchUp()
	c := w.client("a")
	for _, id := range append(many, "00000", "10001", "") {
		if got := c.MayUse(Catalog{ExternalID: id, OrganizationID: "organization-b"}); got != slices.Contains(many[:1], id) && got != (id >= "00001" && id <= "10000") {
			t.Fatalf("%q: %v", id, got)
		}
	}
	if many[0] != "10000" {
		t.Error("the terms that were read were changed")
	}
}

// TestCatalogsInMemory: 100,000 of them take what README says.
func TestCatalogsInMemory(t *testing.T) {
	const n = 100_000
	w := newWorld(t)
	for i := range n {
		id := fmt.Sprintf("019a2c5e-7d31-7c40-9b1e-%012d", i)
		w.store.catalogs[id] = registry.Catalog{ID: id, ExternalID: fmt.Sprintf("catalog-%08d", i), OrganizationID: fmt.Sprintf("019a2c5e-7d31-7c40-9b1e-%012d", i/100)}
	}
	live := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := live()
	w.store.change(registry.KindCatalog, "", nil)
	w.catchUp()
	took := live() - before
	t.Logf("%d catalogs take %.1f MiB beside their strings", w.HeldCatalogs(), float64(took)/(1<<20))
	if w.HeldCatalogs() != n || took > 32<<20 {
		t.Errorf("%d held in %d bytes", w.HeldCatalogs(), took)
	}
	key := []byte("catalog-00012345")
	if allocs := testing.AllocsPerRun(100, func() {
		if c, ok := w.Catalog(key); !ok || c.ExternalID != "catalog-00012345" {
			t.Error("not found")
		}
	}); allocs != 0 {
		t.Errorf("%v allocations", allocs)
	}
}

func BenchmarkCatalog(b *testing.B) {
	catalogs := catalogMap{}
	for i := range 100_000 {
		id := fmt.Sprintf("catalog-%08d", i)
		catalogs[id] = Catalog{ExternalID: id, OrganizationID: "other"}
	}
	d := &Directory{}
	d.catalogs.Store(&catalogs)
	c := &Client{facts: facts{OrganizationID: "own", Terms: registry.Terms{Catalogs: registry.Set{State: registry.Value}}}}
	for i := range 10_000 {
		c.Terms.Catalogs.Values = append(c.Terms.Catalogs.Values, fmt.Sprintf("catalog-%08d", i))
	}
	key := []byte("catalog-00001234")
	b.ReportAllocs()
	for b.Loop() {
		if found, ok := d.Catalog(key); !ok || !c.MayUse(found) {
			b.Fatal("refused")
		}
	}
}

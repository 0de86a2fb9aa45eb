package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"
)

func TestImportCatalogs(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, c := context.Background(), newClock()
		r := open(t, file(t), at(c))
		owner := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		gone := must(r.CreateOrganization(ctx, operator, "Gone", Terms{}))(t)
		if err := r.RemoveOrganization(ctx, operator, gone.ID); err != nil {
			t.Fatal(err)
		}
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)
		c.add(time.Second)
		own := func(id, name string) ImportedCatalog {
			return ImportedCatalog{ExternalID: id, OrganizationID: owner.ID, Name: name}
		}
		rows := []ImportedCatalog{own("jazz", "Jazz"), own("blues", "Blues"), {ExternalID: "free", Public: true, Name: "Free"}}
		do := func(what string, rows []ImportedCatalog, want CatalogImport) {
			t.Helper()
			before := len(must(r.Events(ctx, 1000))(t))
			planned, err := r.CheckCatalogs(ctx, rows)
			same(t, what+", planned", planned, err, want)
			if n := len(must(r.Events(ctx, 1000))(t)); n != before {
				t.Errorf("%s: a check has written %d events", what, n-before)
			}
			done, err := r.ImportCatalogs(ctx, operator, rows, nil)
			same(t, what, done, err, want)
			written := want.Created + want.Changed
			if n := len(must(r.Events(ctx, 1000))(t)); n != before+written {
				t.Errorf("%s: %d events, want %d", what, n-before, written)
			}
			heard := map[string]Kind{}
			if written > 0 {
				heard[""] = KindCatalog
			}
			same(t, what+", heard", kinds(t, feed), nil, heard)
		}
		do("first", rows, CatalogImport{Created: 3})
		do("again", rows, CatalogImport{Unchanged: 3})
		made := must(r.FindCatalog(ctx, "jazz"))(t)
		if made.OrganizationID != owner.ID || made.Public || made.Name != "Jazz" || made.CreatedAt != At(c.now()) {
			t.Errorf("made is %+v", made)
		}
		c.add(time.Second)
		rows[0].Name, rows[1].Public = "Modern jazz", true
		do("changed", append(rows, own("soul", "Soul")), CatalogImport{Created: 1, Changed: 2, Unchanged: 1})
		made.Name = "Modern jazz"
		got, err := r.FindCatalog(ctx, "jazz")
		same(t, "changed", got, err, made)
		e := must(r.Events(ctx, 3))(t)
		if e[0].Action != "import" || e[0].Detail != "soul" || e[2].Action != "change" || e[2].ID != made.ID || e[2].Actor != operator {
			t.Errorf("events are %+v", e)
		}
		// An external id that is free again is another catalog's.
		if err := r.RemoveCatalog(ctx, operator, made.ID); err != nil {
			t.Fatal(err)
		}
		poll(t, feed)
		do("after removal", rows[:1], CatalogImport{Created: 1})
		if got := must(r.FindCatalog(ctx, "jazz"))(t); got.ID == made.ID {
			t.Error("a removed catalog is back")
		}

		bad := []ImportedCatalog{
			own("ok", "ok"), own("a b", "x"), own("x", ""), {ExternalID: "y", Name: "y"}, {ExternalID: "jazz", Public: true, Name: "not theirs"},
			{ExternalID: "z", OrganizationID: gone.ID, Name: "z"}, {ExternalID: "z2", OrganizationID: gone.ID, Name: "z"},
			{ExternalID: "w", OrganizationID: "none", Name: "w"}, own("ok", "twice"), own("a\x00b", "x"),
		}
		want := []string{
			"row 1: external_id: use 1 to 200 visible ASCII characters without blanks",
			"row 2: name: use 1 to 200 characters, not 0",
			"row 3: organization_id: a private catalog has an owner",
			"row 4: catalog " + must(r.FindCatalog(ctx, "jazz"))(t).ID + " has this external_id, and another owner: move it, or leave it out",
			"row 5: the organization was removed",
			"row 6: the organization was removed",
			"row 7: there is no such organization",
			"row 8: an earlier one has the same external_id",
			"row 9: external_id: use 1 to 200 visible ASCII characters without blanks",
		}
		for name, f := range map[string]func() error{
			"check":  func() error { _, err := r.CheckCatalogs(ctx, bad); return err },
			"import": func() error { _, err := r.ImportCatalogs(ctx, operator, bad, nil); return err },
		} {
			var got []string
			err := f()
			if all, ok := errors.AsType[interface {
				error
				Unwrap() []error
			}](err); ok {
				for _, one := range all.Unwrap() {
					got = append(got, one.Error())
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s: faults are %q (%v)", name, got, err)
			}
		}
		_, err = r.FindCatalog(ctx, "ok")
		wants(t, "a row of a bad import", err, ErrNotFound, "no such catalog")
	})
}

// TestImportManyCatalogs: in seconds, and again.
func TestImportManyCatalogs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		owner := must(r.CreateOrganization(ctx, operator, "Blue Note", Terms{}))(t)
		const n = 20_000
		rows := make([]ImportedCatalog, n)
		for i := range rows {
			rows[i] = ImportedCatalog{ExternalID: fmt.Sprintf("catalog-%08d", i), OrganizationID: owner.ID, Name: fmt.Sprintf("Catalog %d", i)}
		}
		for _, want := range []CatalogImport{{Created: n}, {Unchanged: n}} {
			began, told := time.Now(), 0
			got, err := r.ImportCatalogs(ctx, operator, rows, func(done int) {
				if done <= told {
					t.Errorf("%d after %d", done, told)
				}
				told = done
			})
			same(t, "import", got, err, want)
			t.Logf("%+v in %s", got, time.Since(began))
			if written := want.Created + want.Changed; told != written {
				t.Errorf("told of %d, want %d", told, written)
			}
		}
		count := 0
		if err := r.EachCatalog(ctx, func(Catalog) { count++ }); err != nil || count != n {
			t.Errorf("%d are there (%v)", count, err)
		}
	})
}

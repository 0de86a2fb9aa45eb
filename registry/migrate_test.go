package registry

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"postern/secret"
)

// TestMigrate: tables without a key, for whoever has no master key; the first Open makes it.
func TestMigrate(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		path := file(t)
		o := least(path)
		o.MasterKey = ""
		const many = 4
		all := make(chan Migration, many)
		failed := make(chan error, many)
		for range many {
			go func() {
				m, err := Migrate(ctx, o)
				all <- m
				failed <- err
			}()
		}
		made := 0
		for range many {
			if err := <-failed; err != nil {
				t.Error(err)
			}
			m := <-all
			if m.To != newest(t) || m.From != 0 && m.From != m.To {
				t.Errorf("%+v", m)
			}
			if m.From == 0 {
				made++
			}
		}
		if made != 1 {
			t.Errorf("%d made the tables", made)
		}
		if strings.HasPrefix(path, "postgres://") {
			if _, err := Open(ctx, Options{DSN: secret.Secret(path)}); err == nil || !strings.Contains(err.Error(), "set keys.master_key_file") {
				t.Errorf("opened without a master key: %v", err)
			}
		}
		r := open(t, path, master(strings.Repeat("m", dataKeySize)))
		newClient(t, r)
		var wrapping string
		if err := r.engine.read.QueryRow("SELECT wrapping FROM data_key").Scan(&wrapping); err != nil || wrapping != wrappedByMaster {
			t.Errorf("the data key is wrapped by %q (%v)", wrapping, err)
		}
	})
}

// newest is the version of the tables that this program makes.
func newest(t *testing.T) int64 {
	return int64(len(must(fs.Glob(embedded, "migrations/*.sql"))(t)))
}

// TestMigrateUpgrades what an older program made.
func TestMigrateUpgrades(t *testing.T) {
	ctx := context.Background()
	path := file(t)
	r := open(t, path)
	known := newest(t)
	if _, err := r.engine.write.Exec("ALTER TABLE agreement DROP COLUMN enforce; DROP TABLE usage; DROP TABLE usage_refusal; DROP TABLE usage_writer; DELETE FROM goose_db_version WHERE version_id >= 4"); err != nil {
		t.Fatal(err)
	}
	if m, err := Migrate(ctx, least(path)); err != nil || m != (Migration{3, known}) {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := r.engine.write.Exec("INSERT INTO goose_db_version (version_id, is_applied) VALUES ($1, 1)", known+1); err != nil {
		t.Fatal(err)
	}
	if m, err := Migrate(ctx, least(path)); err != nil || m != (Migration{known + 1, known + 1}) {
		t.Errorf("a newer one made them: %+v, %v", m, err)
	}
	if _, err := r.engine.write.Exec("UPDATE counter SET oldest = $1", known+1); err != nil {
		t.Fatal(err)
	}
	if m, err := Migrate(ctx, least(path)); err == nil || !strings.Contains(err.Error(), "upgrade postern") {
		t.Errorf("a newer one made them, and older ones must not go on: %+v, %v", m, err)
	}
}

// TestOlderProgramMakesAgreements: during a rolling upgrade one that knows no mode goes on.
func TestOlderProgramMakesAgreements(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		r := open(t, file(t))
		o := must(r.CreateOrganization(context.Background(), operator, "x", Terms{}))(t)
		execOn(t, r, `INSERT INTO agreement (id, organization_id, name, starts_at, ends_at, created_at) VALUES ('g', $1, 'x', NULL, NULL, 1)`, o.ID)
		execOn(t, r, `UPDATE agreement SET name = 'y', starts_at = 1, ends_at = 2 WHERE id = 'g'`)
		got, err := r.Agreement(context.Background(), "g")
		same(t, "agreement", got, err, Agreement{ID: "g", OrganizationID: o.ID, Name: "y", StartsAt: 1, EndsAt: 2, Enforce: Enforce, CreatedAt: 1})
	})
}

package registry

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/secret"
)

// engines is how a test gets an empty store on each engine. It may be called many times.
func engines(t *testing.T) map[string]func(*testing.T) secret.Secret {
	return map[string]func(*testing.T) secret.Secret{
		"sqlite":   func(t *testing.T) secret.Secret { return secret.Secret("sqlite:" + file(t)) },
		"postgres": func(t *testing.T) secret.Secret { return secret.Secret(shared.Fresh(t)) },
	}
}

// pairs runs f for engines to copy from and to. From PostgreSQL to PostgreSQL, each half is
// that of another pair.
func pairs(t *testing.T, f func(t *testing.T, from, to func(*testing.T) secret.Secret)) {
	for fromName, from := range engines(t) {
		for toName, to := range engines(t) {
			if fromName == "postgres" && toName == "postgres" {
				continue
			}
			t.Run(fromName+" to "+toName, func(t *testing.T) { f(t, from, to) })
		}
	}
}

// openAt opens the store that dsn names until close is called, or the test ends.
func openAt(t *testing.T, dsn secret.Secret, change ...func(*Options)) *Registry {
	t.Helper()
	return open(t, "", append([]func(*Options){func(o *Options) { o.DSN = dsn }, master(masterKey)}, change...)...)
}

// fillStore puts something into every table, odd values too, and n tokens.
func fillStore(t *testing.T, r *Registry, n int) Client {
	t.Helper()
	ctx := context.Background()
	organization := must(r.CreateOrganization(ctx, operator, "Blå Nöte – 𝄞 \"q\" 'x'", Terms{
		Products: Set{State: Value, Values: []string{"tracks"}}, Catalogs: Set{State: Unlimited}, RequestRate: Limit{State: Value, Value: 7}}))(t)
	agreement := must(r.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: organization.ID, Name: "gold", Enforce: Shadow, Terms: Terms{QuotaDay: Limit{State: Unlimited}}}))(t)
	must(r.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "ext", OrganizationID: organization.ID, Name: "Own"}))(t)
	c, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: organization.ID, AgreementID: agreement.ID, Application: "player", Environment: "prod"})
	if err != nil {
		t.Fatal(err)
	}
	must(r.RotateClientSecret(ctx, operator, c.ID, time.Hour))(t)
	must(r.RotateKey(ctx, operator, newKey(t, "key-1", "ES256"), 0, time.Hour))(t)
	must(r.RotateKey(ctx, operator, newKey(t, "key-2", "EdDSA"), 0, time.Hour))(t)
	must(r.RevokeToken(ctx, operator, issued(t, r, c).ID))(t)
	for i := range int64(3 * pageSize / 4) { // more than a page of refusals
		u := Usage{ClientID: c.ID, Hour: Time(i * 3_600_000), Counts: Counts{Requests: 1, Refused: map[string]int64{"rate_limited": 1, "quota_exceeded": 2}}}
		if err := r.AddUsage(ctx, UsageBatch{"writer", i + 1, []Usage{u}}); err != nil {
			t.Fatal(err)
		}
	}
	var many sync.WaitGroup // so that they share commits
	for range n - 1 {
		many.Go(func() {
			if err := r.IssueToken(ctx, newToken(t, time.Now(), c), ""); err != nil {
				t.Error(err)
			}
		})
	}
	many.Wait()
	return c
}

// filled is a new store with something in every table, closed again.
func filled(t *testing.T, dsn secret.Secret, n int) (secret.Secret, Client) {
	t.Helper()
	r := openAt(t, dsn)
	c := fillStore(t, r, n)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return dsn, c
}

// digests checks a store and returns what it has, but its data key and audit trail.
func digests(t *testing.T, dsn secret.Secret) string {
	t.Helper()
	report, err := Check(context.Background(), dsn, masterKey, nil)
	if err != nil || len(report.Faults) > 0 {
		t.Errorf("check: %v %q", err, report.Faults)
	}
	var all []string
	for _, table := range report.Tables {
		if table.Rows == 0 {
			t.Errorf("nothing is in %s", table.Name)
		}
		if table.Name != "event" && table.Name != "data_key" {
			all = append(all, fmt.Sprint(table))
		}
	}
	return strings.Join(all, "\n")
}

func TestCopy(t *testing.T) {
	pairs(t, func(t *testing.T, from, to func(*testing.T) secret.Secret) {
		ctx := context.Background()
		source, c := filled(t, from(t), 3*pageSize/2)
		target := to(t)
		last := Progress{}
		report, err := Copy(ctx, CopyOptions{From: source, To: target, MasterKey: masterKey, Actor: operator, Progress: func(p Progress) {
			if p.All != last.All && last.All != 0 || p.Done <= last.Done {
				t.Errorf("progress: %+v after %+v", p, last)
			}
			last = p
		}})
		if err != nil {
			t.Fatal(err)
		}
		if last.Done != last.All || report.Rows*2 != last.All || report.Keys != 2 || report.Wrapped || report.Behind {
			t.Errorf("progress ended with %+v, report is %+v", last, report)
		}
		if got, want := digests(t, target), digests(t, source); got != want {
			t.Errorf("copied\n%s\nwant\n%s", got, want)
		}
		old, copied := openAt(t, source), openAt(t, target)
		keys := func(r *Registry) string {
			var text strings.Builder
			for _, k := range must(r.Keys(ctx))(t) {
				fmt.Fprintln(&text, k.ID, secret.DigestOf([]byte(k.Private.Reveal())))
			}
			return text.String()
		}
		if got, want := keys(copied), keys(old); got != want {
			t.Errorf("keys are %s, want %s", got, want)
		}
		same(t, "client", must(copied.Client(ctx, c.ID))(t), nil, must(old.Client(ctx, c.ID))(t))
		if events := must(copied.Events(ctx, 1))(t); len(events) != 1 || events[0].Action != "copy" || events[0].Actor != operator || events[0].Kind != KindStore {
			t.Errorf("the audit trail ends with %+v", events)
		}
		// It is served like any other: numbers go on.
		issued(t, copied, c)
		if err := copied.DisableClient(ctx, operator, c.ID); err != nil {
			t.Error(err)
		}
		digests(t, target)
	})
}

// TestCopyHasAllColumns: what a migration added to a table is copied like the rest.
func TestCopyHasAllColumns(t *testing.T) {
	pairs(t, func(t *testing.T, from, to func(*testing.T) secret.Secret) {
		source, c := filled(t, from(t), 1)
		target := to(t)
		if _, err := Copy(context.Background(), CopyOptions{From: source, To: target, MasterKey: masterKey}); err != nil {
			t.Fatal(err)
		}
		was, is := must(openAt(t, source).Grant(context.Background(), c.ID))(t), must(openAt(t, target).Grant(context.Background(), c.ID))(t)
		same(t, "client", is, nil, was)
		if is.Agreement.Enforce != Shadow {
			t.Errorf("the agreement is %+v", is.Agreement)
		}
	})
}

// TestCopyHasAllTables fails when a migration adds a table that is not copied.
func TestCopyHasAllTables(t *testing.T) {
	r := open(t, file(t))
	var tables []string
	err := each(context.Background(), r.engine.read, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		tables = append(tables, name)
		return err
	}, `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT IN ('counter', 'goose_db_version') ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	var known []string
	for _, table := range copied() {
		known = append(known, table.name)
	}
	slices.Sort(known)
	if !slices.Equal(known, tables) {
		t.Errorf("copied are %v, and there are %v", known, tables)
	}
}

func TestCopyRefuses(t *testing.T) {
	pairs(t, func(t *testing.T, from, to func(*testing.T) secret.Secret) {
		ctx := context.Background()
		source, _ := filled(t, from(t), 1)
		busy := to(t)
		r := openAt(t, busy)
		must(r.CreateOrganization(ctx, operator, "Other", Terms{}))(t)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		before := mustCheck(t, busy)
		_, err := Copy(ctx, CopyOptions{From: source, To: busy, MasterKey: masterKey})
		wants(t, "not empty", err, ErrConflict, "the target is not empty (it has rows in organization)")
		_, err = Copy(ctx, CopyOptions{From: source, To: source, MasterKey: masterKey})
		wants(t, "itself", err, ErrConflict, "the target is not empty")
		if after := mustCheck(t, busy); after != before {
			t.Errorf("a refused copy wrote: %s, before %s", after, before)
		}
		target := to(t)
		_, err = Copy(ctx, CopyOptions{From: source, To: target, MasterKey: secret.Secret(strings.Repeat("x", 32))})
		if err == nil || !strings.Contains(err.Error(), "wrapped by another master key") {
			t.Errorf("wrong master key: %v", err)
		}
		// What fails in the middle leaves nothing, and can be done again.
		stop := errors.New("stop")
		_, err = Copy(ctx, CopyOptions{From: source, To: target, MasterKey: masterKey, between: func(s stage) error {
			if s == stageFilled {
				return stop
			}
			return nil
		}})
		if !errors.Is(err, stop) {
			t.Errorf("error is %v", err)
		}
		if _, err = Copy(ctx, CopyOptions{From: source, To: target, MasterKey: masterKey}); err != nil {
			t.Errorf("once more: %v", err)
		}
		if got, want := digests(t, target), digests(t, source); got != want {
			t.Errorf("copied\n%s\nwant\n%s", got, want)
		}
	})
}

func mustCheck(t *testing.T, dsn secret.Secret) string {
	t.Helper()
	return fmt.Sprint(must(Check(context.Background(), dsn, masterKey, nil))(t))
}

func TestCopyRefusesWhatIsNoStore(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text.db")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	foreign, newer := filepath.Join(dir, "foreign.db"), file(t)
	execute(t, foreign, `CREATE TABLE recipe (id TEXT)`)
	if err := open(t, newer).Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	f := func(name, dsn, want string) {
		t.Helper()
		target := file(t)
		_, err := Copy(context.Background(), CopyOptions{From: secret.Secret(dsn), To: secret.Secret("sqlite:" + target)})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: error is %v, want it to say %q", name, err, want)
		}
		if _, err := os.Stat(target); err == nil {
			t.Errorf("%s: the target was made", name)
		}
	}
	f("missing", "sqlite:"+filepath.Join(dir, "none.db"), "no such file")
	f("directory", "sqlite:"+dir, "is not a regular file")
	f("text", "sqlite:"+text, "it is not an SQLite database")
	f("another program's", "sqlite:"+foreign, "it is not a store of postern")
	f("newer", "sqlite:"+newer, "was made by a newer postern")
	f("unknown", "mysql://admin:hunter2@db/postern", "unknown kind of store")
}

// TestCopyWrapsAnOpenDataKey: the way from a store without a master key to one with it. The
// source stays as it is.
func TestCopyWrapsAnOpenDataKey(t *testing.T) {
	ctx := context.Background()
	path, target := file(t), file(t)
	r := open(t, path)
	fillStore(t, r, 1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	report, err := Copy(ctx, CopyOptions{From: secret.Secret("sqlite:" + path), To: secret.Secret("sqlite:" + target), MasterKey: masterKey})
	if err != nil || !report.Wrapped || report.Keys != 2 {
		t.Fatalf("%+v %v", report, err)
	}
	if keys, err := open(t, target).Keys(ctx); err == nil {
		t.Errorf("%d keys are there without the master key", len(keys))
	}
	if keys := must(openAt(t, secret.Secret("sqlite:"+target)).Keys(ctx))(t); len(keys) != 2 {
		t.Errorf("%d keys", len(keys))
	}
	if keys := must(open(t, path).Keys(ctx))(t); len(keys) != 2 {
		t.Errorf("the source has %d keys without a master key", len(keys))
	}
}

// TestCopyWithoutKeys: the master key is lost, the clients and their secrets are not.
func TestCopyWithoutKeys(t *testing.T) {
	for name, to := range engines(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			source, c := filled(t, secret.Secret("sqlite:"+file(t)), 1)
			target := to(t)
			other := secret.Secret(anotherKey)
			if _, err := Copy(ctx, CopyOptions{From: source, To: target, MasterKey: other, WithoutKeys: true}); err != nil {
				t.Fatal(err)
			}
			r := openAt(t, target, master(anotherKey))
			if keys := must(r.KeyHistory(ctx))(t); len(keys) != 0 {
				t.Errorf("%d keys came along", len(keys))
			}
			must(r.RotateKey(ctx, operator, newKey(t, "key-3", "ES256"), 0, time.Hour))(t)
			if keys := must(r.Keys(ctx))(t); len(keys) != 1 {
				t.Errorf("%d keys", len(keys))
			}
			if got := must(r.Client(ctx, c.ID))(t); len(got.Secrets) != 2 {
				t.Errorf("%d secrets", len(got.Secrets))
			}
		})
	}
}

// TestCopyOfAnOlderStore: a backup that an older postern made has fewer columns.
func TestCopyOfAnOlderStore(t *testing.T) {
	path, target := file(t), file(t)
	source, c := filled(t, secret.Secret("sqlite:"+path), 1)
	execute(t, path, `ALTER TABLE client_secret DROP COLUMN kind`)
	execute(t, path, `ALTER TABLE agreement DROP COLUMN enforce`)
	for _, table := range []string{"usage", "usage_refusal", "usage_writer"} {
		execute(t, path, `DROP TABLE `+table)
	}
	execute(t, path, `DELETE FROM goose_db_version WHERE version_id > 1`)
	before := must(os.ReadFile(path))(t)
	if _, err := Copy(context.Background(), CopyOptions{From: source, To: secret.Secret("sqlite:" + target), MasterKey: masterKey}); err != nil {
		t.Fatal(err)
	}
	got := must(openAt(t, secret.Secret("sqlite:"+target)).Grant(context.Background(), c.ID))(t)
	if s := got.Client.Secrets; len(s) != 2 || s[0].Kind != SHA256 {
		t.Errorf("secrets are %+v", s)
	}
	if got.Agreement.Enforce != Enforce {
		t.Errorf("the agreement is %+v", got.Agreement)
	}
	if string(must(os.ReadFile(path))(t)) != string(before) {
		t.Error("the source was changed")
	}
}

// TestBackupWhileServing: whatever was acknowledged before the backup began is in it, and what
// is in it is of one moment.
func TestBackupWhileServing(t *testing.T) {
	for name, dsn := range engines(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			r := openAt(t, dsn(t))
			c := fillStore(t, r, 10)
			var mu sync.Mutex
			var acknowledged []string
			stop := make(chan struct{})
			var writers sync.WaitGroup
			end := sync.OnceFunc(func() {
				close(stop)
				writers.Wait()
			})
			defer end()
			for range 4 {
				writers.Go(func() {
					for {
						select {
						case <-stop:
							return
						default:
						}
						id := must(NewID(time.Now(), rand.Reader))(t).String()
						now := At(time.Now())
						token := Token{ID: id, SubjectType: "Client", SubjectID: c.ID, OrganizationID: c.OrganizationID, KeyID: "key-1", IssuedAt: now, ExpiresAt: now.later(time.Hour)}
						if err := r.IssueToken(ctx, token, ""); err != nil {
							t.Error(err)
							return
						}
						if _, err := r.RevokeToken(ctx, operator, id); err != nil {
							t.Error(err)
							return
						}
						mu.Lock()
						acknowledged = append(acknowledged, id)
						mu.Unlock()
					}
				})
			}
			dir := t.TempDir()
			for round := range 3 {
				time.Sleep(20 * time.Millisecond)
				mu.Lock()
				before := slices.Clone(acknowledged)
				mu.Unlock()
				path := filepath.Join(dir, fmt.Sprintf("backup-%d.db", round))
				if _, err := Backup(ctx, CopyOptions{From: r.options.DSN, MasterKey: masterKey}, path, false); err != nil {
					t.Fatal(err)
				}
				digests(t, secret.Secret("sqlite:"+path))
				b := openAt(t, secret.Secret("sqlite:"+path))
				for _, id := range before {
					if _, err := b.Revocation(ctx, id); err != nil {
						t.Fatalf("round %d: token %s, revoked before the backup: %v", round, id, err)
					}
				}
				if err := b.Close(); err != nil {
					t.Fatal(err)
				}
			}
			end()
			if len(acknowledged) == 0 {
				t.Error("nothing was written")
			}
		})
	}
}

func TestBackupIsOneFile(t *testing.T) {
	ctx := context.Background()
	source, _ := filled(t, secret.Secret("sqlite:"+file(t)), 1)
	dir := t.TempDir()
	path := filepath.Join(dir, "backup.db")
	o := CopyOptions{From: source, MasterKey: masterKey}
	must(Backup(ctx, o, path, false))(t)
	first := must(os.ReadFile(path))(t)
	_, err := Backup(ctx, o, path, false)
	wants(t, "once more", err, ErrConflict, "backup.db is there already")
	if string(must(os.ReadFile(path))(t)) != string(first) {
		t.Error("it was written to")
	}
	must(Backup(ctx, o, path, true))(t)
	if string(must(os.ReadFile(path))(t)) == string(first) {
		t.Error("it was not replaced")
	}
	_, err = Backup(ctx, o, dir, true)
	wants(t, "a directory", err, ErrConflict, "is not a regular file")
	if _, err = Backup(ctx, o, filepath.Join(dir, "none", "backup.db"), true); err == nil {
		t.Error("a directory that is not there")
	}
	// Reading it makes no file beside it.
	must(Check(ctx, secret.Secret("sqlite:"+path), masterKey, nil))(t)
	entries := must(os.ReadDir(dir))(t)
	info := must(os.Stat(path))(t)
	if len(entries) != 1 || info.Mode().Perm() != 0o600 {
		t.Errorf("left are %v, with mode %v", entries, info.Mode())
	}
}

func TestRestore(t *testing.T) {
	for name, dsn := range engines(t) {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			source, c := filled(t, dsn(t), 3)
			path := filepath.Join(t.TempDir(), "backup.db")
			must(Backup(ctx, CopyOptions{From: source, MasterKey: masterKey}, path, false))(t)
			if err := os.Chmod(path, 0o400); err != nil {
				t.Fatal(err)
			}
			f := func(revoke bool, live int) {
				target := dsn(t)
				follower := openAt(t, target)
				feed := must(follower.Feed(ctx))(t)
				defer feed.Close()
				if _, _, err := feed.Poll(ctx); err != nil {
					t.Fatal(err)
				}
				report, err := Restore(ctx, CopyOptions{To: target, MasterKey: masterKey, RevokeTokens: revoke, Actor: operator}, path)
				if err != nil {
					t.Fatal(err)
				}
				if report.Behind {
					t.Error("somebody wrote to the backup")
				}
				// Whoever followed the empty store loads everything: it has another epoch.
				if _, reset, err := feed.Poll(ctx); err != nil || !reset {
					t.Errorf("the follower is reset: %v %v", reset, err)
				}
				r := openAt(t, target)
				if all := must(r.Tokens(ctx, TokenFilter{ClientID: c.ID}))(t); len(all) != live {
					t.Errorf("revoke %v: %d tokens are good, want %d", revoke, len(all), live)
				}
				if events := must(r.Events(ctx, 1))(t); events[0].Action != "restore" {
					t.Errorf("the audit trail ends with %+v", events)
				}
			}
			f(false, 2)
			f(true, 0)
		})
	}
}

// TestCopySaysThatTheSourceWasWrittenTo: whoever moves a store must stop postern first.
func TestCopySaysThatTheSourceWasWrittenTo(t *testing.T) {
	for name, dsn := range engines(t) {
		t.Run(name, func(t *testing.T) {
			source, c := filled(t, dsn(t), 1)
			r := openAt(t, source)
			report, err := Copy(context.Background(), CopyOptions{From: source, To: secret.Secret("sqlite:" + file(t)), MasterKey: masterKey, between: func(s stage) error {
				if s == stageOpened {
					issued(t, r, c)
				}
				return nil
			}})
			if err != nil || !report.Behind {
				t.Errorf("behind is %v: %v", report.Behind, err)
			}
		})
	}
}

// TestCopyVerifies: what does not arrive as it was sent is never committed.
func TestCopyVerifies(t *testing.T) {
	source, _ := filled(t, secret.Secret("sqlite:"+file(t)), 3)
	path := file(t)
	if err := open(t, path, master(masterKey)).Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, path, `CREATE TRIGGER thief AFTER INSERT ON token BEGIN UPDATE token SET scope = 'other' WHERE id = NEW.id; END`)
	_, err := Copy(context.Background(), CopyOptions{From: source, To: secret.Secret("sqlite:" + path), MasterKey: masterKey})
	if err == nil || !strings.Contains(err.Error(), "verify token: ") {
		t.Fatalf("error is %v", err)
	}
	if n := len(must(open(t, path, master(masterKey)).Organizations(context.Background()))(t)); n != 0 {
		t.Errorf("%d organizations were committed", n)
	}
}

func TestCheckFindsFaults(t *testing.T) {
	f := func(name, statement, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			path := file(t)
			dsn, _ := filled(t, secret.Secret("sqlite:"+path), 2)
			execute(t, path, statement)
			report, err := Check(context.Background(), dsn, masterKey, nil)
			if err != nil || len(report.Faults) != 1 || !strings.Contains(report.Faults[0], want) {
				t.Errorf("faults are %q (%v), want %q", report.Faults, err, want)
			}
		})
	}
	f("a gap in the feed", `DELETE FROM change WHERE seq = 3`, "change has gaps")
	f("a gap in the audit trail", `DELETE FROM event WHERE seq = 3`, "event has gaps")
	f("an older counter", `UPDATE counter SET seq = 2`, "the counter is at 2")
	f("a reference to nothing", `DELETE FROM agreement`, "a row of client refers to a row of agreement that is not there")
	f("a damaged key", `UPDATE signing_key SET private = 'AAAA' || private WHERE id = 'key-1'`, "the signing key key-1 does not open")
	f("a damaged data key", `UPDATE data_key SET material = 'AAAA' || material`, "wrapped by another master key")
}

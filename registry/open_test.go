package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"postern/secret"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode fs.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	foreign := filepath.Join(dir, "foreign.db")
	execute(t, foreign, `CREATE TABLE recipe (id TEXT)`)
	newer := file(t)
	if err := open(t, newer).Close(); err != nil {
		t.Fatal(err)
	}
	execute(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (9999, 1)`)
	open(t, newer) // a newer version alone is no reason
	execute(t, newer, `UPDATE counter SET oldest = 9999`)

	f := func(name, dsn, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			r, err := Open(context.Background(), Options{DSN: secret.Secret(dsn)})
			if err == nil {
				_ = r.Close()
				t.Fatal("it opened")
			}
			if !strings.HasPrefix(err.Error(), "open store: ") || !strings.Contains(err.Error(), want) {
				t.Errorf("error is %q, want it to say %q", err, want)
			}
		})
	}
	f("postgres", "postgres://admin:hunter2@db/postern", "PostgreSQL holds signing keys only if they are encrypted: set keys.master_key_file")
	f("unknown scheme", "mysql://admin:hunter2@db/postern", "unknown kind of store; use sqlite:PATH")
	f("no scheme", "postern.db", "unknown kind of store; use sqlite:PATH")
	f("nothing", "", "unknown kind of store; use sqlite:PATH")
	f("no path", "sqlite:", "no path")
	f("memory", "sqlite::memory:", "only plain files")
	f("uri", "sqlite:file:x.db?mode=memory", "only plain files")
	f("host", "sqlite://postern.db", "sqlite:// names no host")
	f("missing directory", "sqlite:"+filepath.Join(dir, "none", "postern.db"), "none does not exist; create it first")
	f("directory", "sqlite:"+dir, "is not a regular file")
	f("no database", "sqlite:"+write("text.db", strings.Repeat("no database ", 1000), 0o600), "text.db is not an SQLite database")
	f("another program's database", "sqlite:"+foreign, "foreign.db is the database of another program")
	f("newer version", "sqlite:"+newer, fmt.Sprintf("was made by a newer postern (its tables have version 9999, this program knows %d): upgrade postern", newest(t)))
	f("open to the world", "sqlite:"+write("world.db", "", 0o604), "world.db is open to every user of this machine (mode 0604)")
	if os.Getuid() == 0 {
		f("unwritable directory", "sqlite:/proc/self/postern.db", "cannot create files in the directory /proc/self")
	} else {
		shut := filepath.Join(dir, "shut")
		if err := os.Mkdir(shut, 0o500); err != nil {
			t.Fatal(err)
		}
		f("unwritable directory", "sqlite:"+filepath.Join(shut, "postern.db"), "cannot create files in the directory "+shut)
	}
	t.Run("short master key", func(t *testing.T) {
		_, err := Open(context.Background(), Options{DSN: secret.Secret("sqlite:" + file(t)), MasterKey: "short"})
		if want := "open store: keys.master_key_file: the master key must be 32 bytes, not 5"; err == nil || err.Error() != want {
			t.Errorf("error is %v, want %s", err, want)
		}
	})
}

// execute runs one statement on a database file and closes it.
func execute(t *testing.T, path, query string, args ...any) {
	t.Helper()
	driver, file := "sqlite", true
	if strings.HasPrefix(path, "postgres") {
		driver, file = "pgx", false
	}
	db, err := sql.Open(driver, path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(query, args...); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if !file {
		return
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestFileIsItsOwnersAlone(t *testing.T) {
	path := file(t)
	newClient(t, open(t, path))
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s%s has mode %v (%v), want 0600", path, suffix, info.Mode(), err)
		}
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".postern-new-*"))
	if len(left) != 0 || err != nil {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestGroupReadableFileIsWarnedAbout(t *testing.T) {
	path := file(t)
	if err := os.WriteFile(path, nil, 0o640); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	if err := open(t, path, logTo(&log)).Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), "open to its group") {
		t.Errorf("log is %q", log.String())
	}
}

func TestOddFileName(t *testing.T) {
	path := filepath.Join(t.TempDir(), `a b?mode=memory&x=%41#'"é.db`)
	r := open(t, path)
	newClient(t, r)
	if info, err := os.Stat(path); err != nil || info.Size() == 0 {
		t.Errorf("the store is not in the file that was named: %v", err)
	}
}

func TestRow164EveryConnectionIsSynchronous(t *testing.T) {
	ctx := context.Background()
	r := open(t, file(t))
	feed := must(r.Feed(ctx))(t)
	defer feed.Close()
	check := func(name string, db *sql.DB) {
		t.Helper()
		var held []*sql.Conn
		for range db.Stats().MaxOpenConnections {
			conn := must(db.Conn(ctx))(t)
			held = append(held, conn)
			for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "5000"} {
				var got string
				if err := conn.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
					t.Errorf("%s, connection %d: %s is %s (%v), want %s", name, len(held), pragma, got, err, want)
				}
			}
		}
		if len(held) == 0 {
			t.Errorf("%s has no bound", name)
		}
		for _, conn := range held {
			_ = conn.Close()
		}
	}
	check("write", r.engine.write.DB)
	check("read", r.engine.read.DB)
	feed.drop() // so that its pool gives out its one connection
	check("feed", feed.db.DB)
	if n := r.engine.write.Stats().MaxOpenConnections; n != 1 {
		t.Errorf("%d writers, want 1", n)
	}
}

func TestReadersCannotWrite(t *testing.T) {
	r := open(t, file(t))
	if _, err := r.engine.read.Exec(`UPDATE counter SET seq = 7`); err == nil {
		t.Error("a reader wrote")
	}
}

func TestManyOpenOneNewFileAtOnce(t *testing.T) {
	path := file(t)
	children := 0
	var wait sync.WaitGroup
	for range 4 {
		cmd, lines := startChild(t, "open", path)
		children++
		wait.Go(func() {
			opened := lines.Scan() && lines.Text() == "opened"
			if err := cmd.Wait(); err != nil || !opened {
				t.Errorf("a child: %v, %s", err, lines.Text())
			}
		})
	}
	for range 4 {
		wait.Go(func() {
			r, err := Open(context.Background(), Options{DSN: secret.Secret("sqlite:" + path)})
			if err != nil {
				t.Error(err)
				return
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	r := open(t, path)
	for table, want := range map[string]int{"counter": 1, "data_key": 1, "goose_db_version": int(newest(t)) + 1} {
		var n int
		if err := r.engine.read.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil || n != want {
			t.Errorf("%s has %d rows (%v), want %d", table, n, err, want)
		}
	}
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	ctx := context.Background()
	r := open(t, file(t))
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"0001_init.sql": "", // applied already, and not looked at
		"0002_more.sql": "",
		"9998_good.sql": "-- +goose Up\nCREATE TABLE good (id TEXT);",
		"9999_bad.sql":  "-- +goose Up\nCREATE TABLE bad (id TEXT); CREATE TABLE counter (id TEXT);",
	} {
		files[name] = &fstest.MapFile{Data: []byte(text)}
	}
	conn := must(r.engine.write.Conn(ctx))(t)
	defer conn.Close()
	if err := r.engine.lock(ctx, conn); err != nil {
		t.Fatal(err)
	}
	_, err := migrate(ctx, conn, r.engine.dialect(), files)
	if err == nil || !strings.Contains(err.Error(), "version:9999") {
		t.Errorf("error is %v", err)
	}
	if err := r.engine.unlock(ctx, conn, false); err != nil {
		t.Fatal(err)
	}
	var n int
	if err := r.engine.read.QueryRow(`SELECT (SELECT count(*) FROM sqlite_master WHERE name IN ('good', 'bad')) + (SELECT count(*) FROM goose_db_version WHERE version_id > $1)`, newest(t)).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d things were left (%v)", n, err)
	}
}

func TestOpenOfLockedStoreIsUnavailable(t *testing.T) {
	path := file(t)
	r := open(t, path)
	unlock := lockStore(t, r)
	defer unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, Options{DSN: secret.Secret("sqlite:" + path)}); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
}

// lockStore takes the write lock as another process would, and returns what gives it back.
func lockStore(t *testing.T, r *Registry) func() {
	t.Helper()
	db := must(r.engine.database.(*sqliteDatabase).pool("_txlock=immediate"))(t)
	tx := must(db.Begin())(t)
	return sync.OnceFunc(func() {
		_ = tx.Rollback()
		_ = db.Close()
	})
}

func TestClosedStoreIsUnavailable(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("the second Close: %v", err)
		}
		f := func(name string, err error) {
			t.Helper()
			if !errors.Is(err, ErrUnavailable) {
				t.Errorf("%s: error is %v, want ErrUnavailable", name, err)
			}
		}
		_, err := r.Grant(ctx, c.ID)
		f("Grant", err)
		_, err = r.Keys(ctx)
		f("Keys", err)
		_, err = r.Revocations(ctx)
		f("Revocations", err)
		_, err = r.Organizations(ctx)
		f("Organizations", err)
		_, err = r.CreateOrganization(ctx, operator, "x", Terms{})
		f("CreateOrganization", err)
		_, err = r.Prune(ctx, r.now())
		f("Prune", err)
		f("IssueToken", r.IssueToken(ctx, newToken(t, r.options.Now(), c), ""))
		_, _, err = feed.Poll(ctx)
		f("Poll", err)
		_, err = r.Feed(ctx)
		f("Feed", err)
	})
}

func TestEndedContextIsUnavailable(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		r := open(t, file(t))
		c, _ := newClient(t, r)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := r.Grant(ctx, c.ID)
		if !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("Grant: error is %v", err)
		}
		if err := r.IssueToken(ctx, newToken(t, r.options.Now(), c), ""); !errors.Is(err, ErrUnavailable) {
			t.Errorf("IssueToken: error is %v", err)
		}
		if err := r.DisableClient(ctx, operator, c.ID); !errors.Is(err, ErrUnavailable) {
			t.Errorf("DisableClient: error is %v", err)
		}
	})
}

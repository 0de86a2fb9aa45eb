package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	code "modernc.org/sqlite/lib"
)

// sqliteDatabase is a store in one file, for one machine.
type sqliteDatabase struct {
	path  string
	file  fs.FileInfo // of path, when it was opened
	write *pool       // one connection; each transaction takes the write lock when it begins
}

// patience is how long a statement waits for a lock that another process holds. A context
// that ends sooner ends the wait.
const patience = 5 * time.Second

// openSQLiteEngine opens the file at path and takes care of its mode.
func openSQLiteEngine(ctx context.Context, path string, log *slog.Logger) (*engine, error) {
	switch {
	case path == "":
		return nil, errors.New("open store: no path; use sqlite:PATH, for example sqlite:postern.db")
	case strings.HasPrefix(path, ":") || strings.HasPrefix(path, "file:") || strings.Contains(path, "\x00"):
		return nil, errors.New("open store: only plain files can be a store; use sqlite:PATH, for example sqlite:postern.db")
	case strings.HasPrefix(path, "//") && !strings.HasPrefix(path, "///"):
		return nil, errors.New("open store: sqlite:// names no host; use sqlite:PATH or sqlite:/PATH")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	info, err := ensureFile(path, log)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	d := &sqliteDatabase{path: path, file: info}
	e := &engine{database: d}
	// What is deleted is overwritten, and a journal that a slow reader let grow shrinks again.
	if e.write, err = d.pool("_txlock=immediate", "secure_delete(fast)", "journal_size_limit(67108864)"); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	e.write.SetMaxOpenConns(1)
	d.write = e.write
	if e.read, err = d.pool("", "query_only(1)"); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), e.write.Close())
	}
	e.read.SetMaxOpenConns(max(4, runtime.GOMAXPROCS(0)))
	e.read.SetMaxIdleConns(max(4, runtime.GOMAXPROCS(0)))
	e.read.SetConnMaxIdleTime(5 * time.Minute)
	if err := d.probe(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", d.explain(err)), e.close())
	}
	return e, nil
}

// ensureFile makes the file, for its owner alone: the journal files take over its mode.
func ensureFile(path string, log *slog.Logger) (fs.FileInfo, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = createFile(path)
		if err == nil || errors.Is(err, fs.ErrExist) {
			info, err = os.Stat(path)
		}
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	mode := info.Mode().Perm()
	if mode&0o007 != 0 {
		return nil, fmt.Errorf("%s is open to every user of this machine (mode %#o); it holds signing keys: chmod 600 it", path, mode)
	}
	if mode&0o070 != 0 {
		// Not refused: a Kubernetes volume with an fsGroup opens its files to the group at each mount.
		log.Warn("the store's file is open to its group; it holds signing keys: chmod 600 it", "path", path, "mode", fmt.Sprintf("%#o", mode))
	}
	return info, nil
}

// present fails when the file was removed or replaced since it was opened: the connections
// go on with the old one, and what is written there is seen by nobody and lost.
func (d *sqliteDatabase) present() error {
	info, err := os.Stat(d.path)
	if err == nil && !os.SameFile(info, d.file) {
		err = errors.New("the file was replaced")
	}
	if err != nil {
		return fmt.Errorf("%w: %w; put it back, or restart postern", ErrUnavailable, err)
	}
	return nil
}

// exclude has nothing to do: whoever has begun holds the write lock.
func (d *sqliteDatabase) exclude(context.Context, *sql.Tx) error { return nil }

// alone likewise.
func (d *sqliteDatabase) alone(context.Context, *sql.Tx) (bool, error) { return true, nil }

// createFile makes an empty file with mode 0600 under another name and links it in place.
// No descriptor of path itself is opened here: closing one would drop the locks that
// another Open of this process holds on the file (that is how POSIX locks work).
func createFile(path string) error {
	dir := filepath.Dir(path)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the directory %s does not exist; create it first", dir)
	}
	f, err := os.CreateTemp(dir, ".postern-new-*")
	if err != nil {
		return fmt.Errorf("cannot create files in the directory %s: %w", dir, err)
	}
	defer os.Remove(f.Name())
	if err := f.Close(); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// A file system without hard links.
	if f, err = os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600); err != nil {
		return err
	}
	return f.Close()
}

// pool opens nothing yet. The pragmas are part of the DSN, so that each connection has
// them whenever it is made.
func (d *sqliteDatabase) pool(parameter string, pragmas ...string) (*pool, error) {
	query := url.Values{"_error_rc": {"1"}, "_pragma": append([]string{
		fmt.Sprintf("busy_timeout(%d)", patience.Milliseconds()), "foreign_keys(1)", "journal_mode(WAL)", "synchronous(FULL)",
	}, pragmas...)}
	dsn := (&url.URL{Scheme: "file", Path: d.path}).String() + "?" + query.Encode()
	if parameter != "" {
		dsn += "&" + parameter
	}
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	return &pool{DB: sql.OpenDB(connector)}, nil
}

// probe connects, and asks for what SQLite may refuse without an error.
func (d *sqliteDatabase) probe(ctx context.Context) error {
	// Turning a new file to write-ahead logging does not wait for others who do the same.
	deadline := time.Now().Add(2 * patience)
	for {
		err := d.write.PingContext(ctx)
		if err == nil {
			break
		}
		if primary(err) != code.SQLITE_BUSY || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1"} {
		var got string
		if err := d.write.QueryRowContext(ctx, "PRAGMA "+pragma).Scan(&got); err != nil {
			return err
		}
		if got != want {
			return fmt.Errorf("%s: cannot set %s to %s here (it is %s); use a local file system", d.path, pragma, want, got)
		}
	}
	var tables, ours int
	err := d.write.QueryRowContext(ctx, `SELECT count(*), count(CASE WHEN name = $1 THEN 1 END) FROM sqlite_master WHERE type = 'table'`,
		goose.DefaultTablename).Scan(&tables, &ours)
	if err == nil && tables > 0 && ours == 0 {
		return fmt.Errorf("%s is the database of another program", d.path)
	}
	return err
}

// explain says in words what an operator can do about an error of opening.
func (d *sqliteDatabase) explain(err error) error {
	switch primary(err) {
	case code.SQLITE_NOTADB:
		return fmt.Errorf("%s is not an SQLite database: %w", d.path, err)
	case code.SQLITE_CANTOPEN, code.SQLITE_READONLY, code.SQLITE_PERM:
		return fmt.Errorf("%s, or the directory it is in, cannot be written to: %w: %w: %w", d.path, ErrUnwritable, ErrUnavailable, err)
	}
	if unavailable(err) || d.unavailable(err) {
		return fmt.Errorf("%s: %w: %w", d.path, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", d.path, err)
}

func (d *sqliteDatabase) feed() (*pool, error) {
	p, err := d.pool("", "query_only(1)")
	if err != nil {
		return nil, err
	}
	p.SetMaxOpenConns(1)
	return p, nil
}

func (d *sqliteDatabase) interval() time.Duration { return 100 * time.Millisecond }

// listen: SQLite tells nobody who did not ask.
func (d *sqliteDatabase) listen(*slog.Logger) *listener { return nil }

func (d *sqliteDatabase) announce(context.Context, *sql.Tx) error { return nil }

// version changes on conn whenever another connection has committed anything. It costs
// one look at shared memory.
func (d *sqliteDatabase) version(ctx context.Context, conn *sql.Conn) (v int64, err error) {
	err = conn.QueryRowContext(ctx, "PRAGMA data_version").Scan(&v)
	return v, err
}

// lock begins a transaction on conn that holds the write lock, and unlock ends it: for
// what needs a connection and not a sql.Tx.
func (d *sqliteDatabase) lock(ctx context.Context, conn *sql.Conn) error {
	_, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE")
	return err
}

func (d *sqliteDatabase) unlock(ctx context.Context, conn *sql.Conn, commit bool) error {
	end := "ROLLBACK"
	if commit {
		end = "COMMIT"
	}
	_, err := conn.ExecContext(ctx, end)
	return err
}

func (d *sqliteDatabase) dialect() goose.Dialect { return goose.DialectSQLite3 }

// prepares: parsing is most of what a small statement costs.
func (d *sqliteDatabase) prepares() bool { return true }

// rows is one: there is no way to the server to save, and what is wrong is known at once.
func (d *sqliteDatabase) rows() int { return 1 }

// scrub moves what was overwritten out of the journal, where its old text still is.
func (d *sqliteDatabase) scrub(ctx context.Context) error {
	_, err := d.write.ExecContext(ctx, "PRAGMA wal_checkpoint(TRUNCATE)")
	return err
}

// primary is the SQLite result code of err without its extension; 0 when it has none.
func primary(err error) int {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() & 0xff
	}
	return 0
}

// unavailable reports whether err is about the state of the store and not about what it
// was asked.
func (d *sqliteDatabase) unavailable(err error) bool {
	switch primary(err) {
	case code.SQLITE_BUSY, code.SQLITE_LOCKED, code.SQLITE_FULL, code.SQLITE_IOERR, code.SQLITE_CANTOPEN, code.SQLITE_READONLY,
		code.SQLITE_PROTOCOL, code.SQLITE_INTERRUPT, code.SQLITE_NOMEM, code.SQLITE_CORRUPT, code.SQLITE_NOTADB, code.SQLITE_PERM:
		return true
	}
	return false
}

// duplicate reports whether err says that a row with the same key is there already.
func (d *sqliteDatabase) duplicate(err error) bool {
	if e, ok := errors.AsType[*sqlite.Error](err); ok {
		return e.Code() == code.SQLITE_CONSTRAINT_UNIQUE || e.Code() == code.SQLITE_CONSTRAINT_PRIMARYKEY
	}
	return false
}

// dangling reports whether err says that a row refers to one that is not there.
func (d *sqliteDatabase) dangling(err error) bool {
	known, ok := errors.AsType[*sqlite.Error](err)
	return ok && known.Code() == code.SQLITE_CONSTRAINT_FOREIGNKEY
}

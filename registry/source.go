package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite"
	code "modernc.org/sqlite/lib"

	"postern/secret"
)

// source is one moment of a store that is read and never written to: no table is made or
// changed, no journal is begun, no key is wrapped. It sees all that was committed before it
// was opened. Whoever writes meanwhile does not wait for it.
type source struct {
	*sql.Tx
	db      *sql.DB
	sqlite  bool
	version int64 // of its tables
}

// openSource opens the store that dsn names, which must be there.
func openSource(ctx context.Context, dsn secret.Secret) (*source, error) {
	s := &source{}
	var err error
	if path, ok := strings.CutPrefix(dsn.Reveal(), "sqlite:"); ok {
		s.sqlite = true
		s.db, err = openSQLiteSource(path)
	} else {
		s.db, err = openOtherSource(ctx, dsn)
	}
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.db.SetMaxOpenConns(1)
	if err := s.begin(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), s.close())
	}
	return s, nil
}

// openSQLiteSource opens a file that is there, for reading. A backup may lie where nothing can
// be written: SQLite then opens it so. Where it can be, SQLite takes its own journal away
// again when it was the only one to read.
func openSQLiteSource(path string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return openSQLite(path, url.Values{"mode": {"rw"}, "_pragma": {"query_only(1)"}})
}

// openSQLite opens a file as it is, without the pragmas of an engine's pool.
func openSQLite(path string, query url.Values) (*sql.DB, error) {
	all := url.Values{"_error_rc": {"1"}, "_pragma": append([]string{fmt.Sprintf("busy_timeout(%d)", patience.Milliseconds())}, query["_pragma"]...)}
	if mode, ok := query["mode"]; ok {
		all["mode"] = mode
	}
	connector, err := sqlite.NewConnector((&url.URL{Scheme: "file", Path: path}).String() + "?" + all.Encode())
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

// openOtherSource is for PostgreSQL.
func openOtherSource(ctx context.Context, dsn secret.Secret) (*sql.DB, error) {
	if scheme, _, _ := strings.Cut(dsn.Reveal(), ":"); scheme != "postgres" && scheme != "postgresql" {
		return nil, unknownStore()
	}
	d, err := newPostgres(dsn, 0)
	if err != nil {
		return nil, err
	}
	p := d.pool(1, d.timeout)
	if err := d.probe(ctx, p); err != nil {
		return nil, errors.Join(d.explain(err), p.Close())
	}
	return p.DB, nil
}

// begin takes the snapshot, with the first statement.
func (s *source) begin(ctx context.Context) (err error) {
	options := &sql.TxOptions{ReadOnly: true}
	if !s.sqlite {
		options.Isolation = sql.LevelRepeatableRead
	}
	if s.Tx, err = s.db.BeginTx(ctx, options); err != nil {
		return sourceFault(err)
	}
	if !s.sqlite {
		// Reading all of a large table takes longer than any statement of a server may.
		if _, err := s.ExecContext(ctx, takeYourTime); err != nil {
			return err
		}
	}
	err = s.QueryRowContext(ctx, `SELECT COALESCE(max(version_id), 0) FROM `+goose.DefaultTablename+` WHERE is_applied`).Scan(&s.version)
	if err != nil {
		return sourceFault(err)
	}
	known, err := knownVersion()
	if err == nil && s.version > known {
		return fmt.Errorf("it was made by a newer postern (its tables have version %d, this program knows %d): use that one", s.version, known)
	}
	return err
}

// close ends the snapshot.
func (s *source) close() error {
	if s.Tx != nil {
		_ = s.Rollback() // nothing was written
	}
	return s.db.Close()
}

// sourceFault says in words what is wrong with what should be a store.
func sourceFault(err error) error {
	if sqlState(err) == "42P01" { // no such table
		return &refusal{ErrNotStore, fmt.Sprintf("it is not a store of postern: %v", err)}
	}
	if errors.Is(err, sql.ErrNoRows) { // every store has those that are asked for
		return &refusal{ErrDamaged, fmt.Sprintf("it is damaged: %v", err)}
	}
	switch primary(err) {
	case code.SQLITE_NOTADB:
		return &refusal{ErrNotStore, fmt.Sprintf("it is not an SQLite database: %v", err)}
	case code.SQLITE_ERROR:
		return &refusal{ErrNotStore, fmt.Sprintf("it is not a store of postern: %v", err)}
	case code.SQLITE_CANTOPEN, code.SQLITE_READONLY, code.SQLITE_PERM:
		// Also to read: a journal that was left behind is worked in first.
		return fmt.Errorf("its file, or the directory it is in, cannot be written to: %w: %w: %w", ErrUnwritable, ErrUnavailable, err)
	case code.SQLITE_BUSY, code.SQLITE_LOCKED:
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	case code.SQLITE_CORRUPT:
		return &refusal{ErrDamaged, fmt.Sprintf("it is damaged: %v", err)}
	}
	return err
}

// knownVersion is the version of the tables that this program makes.
func knownVersion() (version int64, err error) {
	files, err := migrations()
	if err != nil {
		return 0, err
	}
	names, err := fs.Glob(files, "*.sql")
	for _, name := range names {
		n, err := goose.NumericComponent(name)
		if err != nil {
			return 0, err
		}
		version = max(version, n)
	}
	return version, err
}

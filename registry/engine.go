package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/pressly/goose/v3"

	"postern/secret"
)

// engine is one open database: its pools, and what differs between SQLite and PostgreSQL.
// The rest of the package is one SQL text.
type engine struct {
	database
	write *pool // for transactions that write, and for nothing else
	read  *pool
}

// database is all that differs between databases: how to begin, how to see that somebody
// else committed, and what its errors mean. Safe for concurrent use.
type database interface {
	// present fails when what is written now would be seen by nobody.
	present() error
	// exclude makes a transaction that has just begun the only one that changes things, until
	// it ends. What it reads afterwards is the newest.
	exclude(ctx context.Context, tx *sql.Tx) error
	// alone reports whether no other transaction that asked for it prunes now.
	alone(ctx context.Context, tx *sql.Tx) (bool, error)
	// feed opens a pool of one connection for one follower.
	feed() (*pool, error)
	// version changes on conn whenever another connection has committed anything; 0 where to
	// ask for it costs as much as to ask for the changes.
	version(ctx context.Context, conn *sql.Conn) (int64, error)
	// interval is how often a follower looks without news.
	interval() time.Duration
	// listen begins to bring a follower news; nil where the database announces nothing.
	listen(log *slog.Logger) *listener
	// announce makes the commit of tx news.
	announce(ctx context.Context, tx *sql.Tx) error
	// lock begins a transaction on conn that holds the lock of all that start, and unlock
	// ends it: for what needs a connection and not a sql.Tx.
	lock(ctx context.Context, conn *sql.Conn) error
	unlock(ctx context.Context, conn *sql.Conn, commit bool) error
	// dialect is for the migrations.
	dialect() goose.Dialect
	// prepares reports whether statements are worth preparing.
	prepares() bool
	// rows is how many tokens one INSERT takes.
	rows() int
	// scrub removes what was overwritten from where it still is.
	scrub(ctx context.Context) error
	// explain says in words what an operator can do about an error of opening.
	explain(err error) error
	// unavailable reports whether err is about the state of the store and not about what it
	// was asked, duplicate whether a row with the same key is there already, and dangling
	// whether a row refers to one that is not there.
	unavailable(err error) bool
	duplicate(err error) bool
	dangling(err error) bool
}

// pool is a sql.DB with the patience of those who ask it.
type pool struct {
	*sql.DB
	// patience is how long a caller waits for an answer, and then from row to row. 0: the
	// database bounds the wait itself.
	patience time.Duration
}

// bound bounds a transaction, or one statement, by the pool's patience: a server that hangs
// keeps neither its callers nor their connections.
func (p *pool) bound(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.patience <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, p.patience)
}

// openEngine opens the store that dsn names.
func openEngine(ctx context.Context, o Options) (*engine, error) {
	dsn := o.DSN.Reveal()
	scheme, path, _ := strings.Cut(dsn, ":")
	switch {
	case scheme == "sqlite":
		return openSQLiteEngine(ctx, path, o.Log)
	case isPostgres(o.DSN):
		return openPostgresEngine(ctx, o)
	}
	return nil, fmt.Errorf("open store: %w", unknownStore())
}

// isPostgres reports whether dsn names a store in PostgreSQL.
func isPostgres(dsn secret.Secret) bool {
	scheme, _, _ := strings.Cut(dsn.Reveal(), ":")
	return scheme == "postgres" || scheme == "postgresql"
}

// unknownStore does not quote the DSN: it may hold a password.
func unknownStore() error {
	return errors.New("unknown kind of store; use sqlite:PATH, for example sqlite:postern.db, or postgres://USER:PASSWORD@HOST/DATABASE")
}

// begin starts a transaction that writes.
func (e *engine) begin(ctx context.Context) (*sql.Tx, error) {
	if err := e.present(); err != nil {
		return nil, err
	}
	return e.write.BeginTx(ctx, nil)
}

// beginChange starts a transaction that changes what others decide by: one at a time.
func (e *engine) beginChange(ctx context.Context) (*sql.Tx, error) {
	tx, err := e.begin(ctx)
	if err != nil {
		return nil, err
	}
	if err := e.exclude(ctx, tx); err != nil {
		return nil, errors.Join(err, ignoreDone(tx.Rollback()))
	}
	return tx, nil
}

// ignoreDone drops what a rollback says after its transaction has ended by itself.
func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrTxDone) {
		return nil
	}
	return err
}

func (e *engine) close() error { return errors.Join(e.read.Close(), e.write.Close()) }

// statement is one that is asked for often: prepared where that is worth it.
type statement struct {
	text     string
	prepared *sql.Stmt
}

// prepare makes a statement of one of the engine's pools.
func (e *engine) prepare(ctx context.Context, p *pool, text string) (s statement, err error) {
	s.text = text
	if e.prepares() {
		s.prepared, err = p.PrepareContext(ctx, text)
	}
	return s, err
}

// query runs the statement on the pool that it was prepared for.
func (s statement) query(ctx context.Context, p *pool, args ...any) (*sql.Rows, error) {
	if s.prepared != nil {
		return s.prepared.QueryContext(ctx, args...)
	}
	return p.QueryContext(ctx, s.text, args...)
}

// exec runs the statement in a transaction.
func (s statement) exec(ctx context.Context, tx *sql.Tx, args ...any) error {
	var err error
	if s.prepared != nil {
		_, err = tx.StmtContext(ctx, s.prepared).ExecContext(ctx, args...)
	} else {
		_, err = tx.ExecContext(ctx, s.text, args...)
	}
	return err
}

var _, _ database = (*sqliteDatabase)(nil), (*postgresDatabase)(nil)

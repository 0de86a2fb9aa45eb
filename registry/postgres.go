package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"

	"postern/secret"
)

const (
	defaultConnections      = 8
	defaultStatementTimeout = 2 * time.Second
	connectTimeout          = 2 * time.Second
	// startTimeout is how long one that starts waits for the others that do.
	startTimeout = time.Minute

	// Advisory locks, by name: the first halves of UUIDs, so that no other program takes them.
	startLock = 0x5b1d0c4a7f3e42a6
	pruneLock = 0x2c9e61f08d5b4e17
)

// postgresDatabase is a store that replicas share. Nothing of it is tied to a connection
// beyond a transaction (neither prepared statements nor locks), so that it also works
// through a pooler that lends connections by the transaction.
type postgresDatabase struct {
	dsn     *pgx.ConnConfig // never shown
	timeout time.Duration

	// A connection that was made before the server of its time turned read-only is not used
	// again: the writable one is another one now.
	generation atomic.Int64
	renewed    atomic.Int64 // when it was last raised, in Unix nanoseconds
}

// openPostgresEngine connects to the store that o.DSN names.
func openPostgresEngine(ctx context.Context, o Options) (*engine, error) {
	d, err := newPostgres(o.DSN, o.StatementTimeout)
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	d.warn(o.Log)
	total := o.Connections
	if total == 0 {
		total = defaultConnections
	}
	writers := max(1, total/2)
	e := &engine{
		database: d,
		write:    d.pool(writers, d.timeout),
		// A read may go on for longer than patience while rows arrive.
		read: d.pool(max(1, total-writers), 15*d.timeout),
	}
	if err := d.probe(ctx, e.write); err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", d.explain(err)), e.close())
	}
	return e, nil
}

// newPostgres connects to nothing yet. timeout 0 is the usual one.
func newPostgres(dsn secret.Secret, timeout time.Duration) (*postgresDatabase, error) {
	config, err := pgx.ParseConfig(dsn.Reveal())
	if err != nil {
		// The error quotes the DSN, and leaves out only the passwords that it recognizes.
		return nil, errors.New("the PostgreSQL DSN is not valid; use postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full")
	}
	if timeout <= 0 {
		timeout = defaultStatementTimeout
	}
	d := &postgresDatabase{dsn: config, timeout: timeout}
	// Parameters and statement in one round trip, nothing that the server keeps for the
	// connection, and never the simple protocol, where parameters are text inside the statement.
	config.DefaultQueryExecMode = pgx.QueryExecModeExec
	config.StatementCacheCapacity, config.DescriptionCacheCapacity = 0, 0
	if config.ConnectTimeout == 0 || config.ConnectTimeout > connectTimeout {
		config.ConnectTimeout = connectTimeout
	}
	config.OnNotice = func(*pgconn.PgConn, *pgconn.Notice) {} // they are for people who type SQL
	d.parameter("application_name", "postern")
	d.parameter("lock_timeout", milliseconds(timeout))
	// A replica that stops in the middle of a transaction gives its locks back.
	d.parameter("idle_in_transaction_session_timeout", milliseconds(2*timeout))
	return d, nil
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }

// parameter sets what the DSN does not.
func (d *postgresDatabase) parameter(name, value string) {
	if _, ok := d.dsn.RuntimeParams[name]; !ok {
		d.dsn.RuntimeParams[name] = value
	}
}

// warn tells of passwords and keys that travel for all to see.
func (d *postgresDatabase) warn(log *slog.Logger) {
	if d.dsn.TLSConfig != nil && !d.dsn.TLSConfig.InsecureSkipVerify {
		return
	}
	if ip := net.ParseIP(d.dsn.Host); strings.HasPrefix(d.dsn.Host, "/") || d.dsn.Host == "localhost" || ip.IsLoopback() {
		return
	}
	log.Warn("the server of the store is not verified: anyone on the way can read and change it; add sslmode=verify-full to the DSN, and sslrootcert=FILE for a CA of your own")
}

// pool opens nothing yet.
func (d *postgresDatabase) pool(connections int, statementTimeout time.Duration) *pool {
	config := d.dsn.Copy()
	if _, ok := config.RuntimeParams["statement_timeout"]; !ok {
		config.RuntimeParams["statement_timeout"] = milliseconds(statementTimeout)
	}
	p := &pool{DB: sql.OpenDB(d.connector(config)), patience: d.timeout}
	p.SetMaxOpenConns(connections)
	p.SetMaxIdleConns(connections)
	// So that after a change of name or a failover the connections move.
	p.SetConnMaxLifetime(30 * time.Minute)
	p.SetConnMaxIdleTime(5 * time.Minute)
	return p
}

const generationKey = "postern generation"

func (d *postgresDatabase) connector(config *pgx.ConnConfig) driver.Connector {
	return stdlib.GetConnector(*config,
		stdlib.OptionAfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
			conn.PgConn().CustomData()[generationKey] = d.generation.Load()
			return durable(ctx, conn)
		}),
		stdlib.OptionResetSession(func(_ context.Context, conn *pgx.Conn) error {
			if conn.PgConn().CustomData()[generationKey] != d.generation.Load() {
				return driver.ErrBadConn
			}
			return nil
		}),
	)
}

// durable makes a commit wait for the disk where the database's or the role's settings do
// not. What is stronger stays.
func durable(ctx context.Context, conn *pgx.Conn) error {
	var commit string
	if err := conn.QueryRow(ctx, `SELECT current_setting('synchronous_commit')`).Scan(&commit); err != nil {
		return err
	}
	if commit != "off" && commit != "local" {
		return nil
	}
	_, err := conn.Exec(ctx, `SET synchronous_commit = on`)
	return err
}

// probe connects, and asks for what would fail later.
func (d *postgresDatabase) probe(ctx context.Context, p *pool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*connectTimeout)
	defer cancel()
	var encoding string
	var tables, ours bool
	err := p.QueryRowContext(ctx, `SELECT current_setting('server_encoding'), to_regclass($1) IS NOT NULL, to_regclass('counter') IS NOT NULL`,
		goose.DefaultTablename).Scan(&encoding, &tables, &ours)
	switch {
	case err != nil:
		return err
	case encoding != "UTF8":
		return fmt.Errorf("the database has the encoding %s: make one with ENCODING 'UTF8'", encoding)
	case tables && !ours:
		return errors.New("the database, or its schema, is that of another program: give postern one of its own")
	}
	return nil
}

// takeYourTime lifts the timeouts of one transaction.
const takeYourTime = `SELECT set_config('statement_timeout', '0', true), set_config('idle_in_transaction_session_timeout', '0', true)`

// present has nothing to look at: a server that is away says so.
func (d *postgresDatabase) present() error { return nil }

// exclude locks the counter, which every change ends with anyhow. Each statement after this
// one sees what was committed before the lock was had.
func (d *postgresDatabase) exclude(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `SELECT seq FROM counter WHERE id = 1 FOR UPDATE`)
	return err
}

func (d *postgresDatabase) alone(ctx context.Context, tx *sql.Tx) (alone bool, err error) {
	err = tx.QueryRowContext(ctx, `SELECT pg_try_advisory_xact_lock($1)`, int64(pruneLock)).Scan(&alone)
	return alone, err
}

func (d *postgresDatabase) feed() (*pool, error) { return d.pool(1, d.timeout), nil }

func (d *postgresDatabase) version(context.Context, *sql.Conn) (int64, error) { return 0, nil }

func (d *postgresDatabase) interval() time.Duration { return 500 * time.Millisecond }

// lock is of the transaction, not of the session: through a pooler the next statement may
// be another session's.
func (d *postgresDatabase) lock(ctx context.Context, conn *sql.Conn) error {
	if _, err := conn.ExecContext(ctx, `BEGIN`); err != nil {
		return err
	}
	limit := milliseconds(startTimeout)
	_, err := conn.ExecContext(ctx, `SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $1, true), set_config('idle_in_transaction_session_timeout', $1, true)`, limit)
	if err == nil {
		_, err = conn.ExecContext(ctx, `SELECT pg_advisory_xact_lock($1)`, int64(startLock))
	}
	if err != nil {
		return errors.Join(err, d.unlock(context.WithoutCancel(ctx), conn, false))
	}
	return nil
}

func (d *postgresDatabase) unlock(ctx context.Context, conn *sql.Conn, commit bool) error {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	end := "ROLLBACK"
	if commit {
		end = "COMMIT"
	}
	_, err := conn.ExecContext(ctx, end)
	return err
}

func (d *postgresDatabase) dialect() goose.Dialect { return goose.DialectPostgres }

// prepares: a prepared statement is one connection's, and a pooler lends another one.
func (d *postgresDatabase) prepares() bool { return false }

// rows: one way to the server for all tokens of a batch.
func (d *postgresDatabase) rows() int { return maxBatch }

// scrub can do nothing: old rows stay in the log and in backups as long as these are kept.
func (d *postgresDatabase) scrub(context.Context) error { return nil }

// explain says in words what an operator can do about an error of opening.
func (d *postgresDatabase) explain(err error) error {
	switch sqlState(err) {
	case "28P01", "28000":
		return fmt.Errorf("PostgreSQL refused the user or the password: %w: %w", ErrUnavailable, err)
	case "3D000":
		return fmt.Errorf("PostgreSQL has no such database: create it, and give it to the user of the DSN: %w", err)
	case "42501":
		return fmt.Errorf("the user of the DSN may not do this: make it the owner of the database: %w", err)
	case "08P01":
		return fmt.Errorf("a pooler may refuse the parameters of the connection: let it ignore statement_timeout, lock_timeout and idle_in_transaction_session_timeout, and set them for the role: %w", err)
	}
	if unavailable(err) || d.unavailable(err) {
		return fmt.Errorf("PostgreSQL: %w: %w", ErrUnavailable, err)
	}
	return fmt.Errorf("PostgreSQL: %w", err)
}

// sqlState is the SQLSTATE of err; "" when the server has not answered.
func sqlState(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

func (d *postgresDatabase) unavailable(err error) bool {
	code := sqlState(err)
	switch {
	case code == "":
		return lost(err)
	case code == "25006": // read-only: after a failover this is the wrong server
		d.renew()
		return true
	case strings.HasPrefix(code, "08"), // connection
		strings.HasPrefix(code, "53"), // disk full, out of memory, too many connections
		strings.HasPrefix(code, "57"), // shutdown, crash, statement timeout, cannot connect now
		strings.HasPrefix(code, "58"), // I/O
		strings.HasPrefix(code, "40"), // deadlock, serialization
		strings.HasPrefix(code, "28"), // the password was changed
		strings.HasPrefix(code, "XX"), // internal, corrupted
		code == "55P03",               // lock timeout
		code == "25P03",               // idle in transaction for too long
		code == "3D000":               // the database is being replaced
		return true
	}
	return false
}

// lost reports whether err is of the way to the server.
func lost(err error) bool {
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || pgconn.SafeToRetry(err) || pgconn.Timeout(err) ||
		strings.Contains(err.Error(), "conn closed") // pgx exports no error for it
}

// renew makes every connection of before a bad one. Once in a second: a server that stays
// read-only is not to be hammered with new connections.
func (d *postgresDatabase) renew() {
	now, last := time.Now().UnixNano(), d.renewed.Load()
	if now-last >= int64(time.Second) && d.renewed.CompareAndSwap(last, now) {
		d.generation.Add(1)
	}
}

func (d *postgresDatabase) duplicate(err error) bool { return sqlState(err) == "23505" }

func (d *postgresDatabase) dangling(err error) bool { return sqlState(err) == "23503" }

package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var embedded embed.FS

// migrations are the files of this version.
func migrations() (fs.FS, error) { return fs.Sub(embedded, "migrations") }

// Migration is what became of the tables: their version before, 0 when there were none,
// and after. The latter is higher than what this program knows where a newer one made them.
type Migration struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
}

// Migrate does to the tables what Open does, and leaves the keys alone: the master key is
// not needed, on PostgreSQL neither. It fails as Open does.
func Migrate(ctx context.Context, o Options) (m Migration, err error) {
	o = o.whole()
	e, err := openEngine(ctx, o)
	if err != nil {
		return m, err
	}
	r := &Registry{options: o, engine: e}
	err = r.locked(ctx, func(conn *sql.Conn) (err error) {
		m, err = r.makeTables(ctx, conn)
		return err
	})
	if err != nil {
		err = fmt.Errorf("open store: %w", e.explain(err))
	}
	return m, errors.Join(err, e.close())
}

// makeTables makes or upgrades the tables, and the row that every store has. conn holds the
// lock of all that start.
func (r *Registry) makeTables(ctx context.Context, conn *sql.Conn) (m Migration, err error) {
	files, err := migrations()
	if err != nil {
		return m, err
	}
	if m, err = migrate(ctx, conn, r.engine.dialect(), files); err != nil {
		return m, err
	}
	epoch, err := r.newID()
	if err != nil {
		return m, err
	}
	_, err = conn.ExecContext(ctx, `INSERT INTO counter (id, seq, events, epoch) VALUES (1, 0, 0, $1) ON CONFLICT (id) DO NOTHING`, epoch)
	return m, err
}

// migrate brings the tables up to this version. conn holds the write lock and goes on
// holding it, so that processes that start at once take turns, and so that several
// migrations are done as a whole or not at all.
func migrate(ctx context.Context, conn *sql.Conn, dialect goose.Dialect, files fs.FS) (m Migration, err error) {
	err = conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(driver.Conn)
		if !ok {
			return errors.New("the database driver has no connection")
		}
		db := sql.OpenDB(nested{c})
		defer db.Close()
		db.SetMaxOpenConns(1)
		p, err := goose.NewProvider(dialect, db, files, goose.WithDisableGlobalRegistry(true), goose.WithLogger(goose.NopLogger()))
		if err != nil {
			return err
		}
		var known int64
		if m.From, known, err = p.GetVersions(ctx); err != nil {
			return fmt.Errorf("read the store's version: %w", err)
		}
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate the store: %w", err)
		}
		m.To = max(m.From, known)
		// During a rolling upgrade, programs of before go on with tables that newer ones made.
		var oldest int64
		if m.From > known {
			err = db.QueryRowContext(ctx, `SELECT oldest FROM counter WHERE id = 1`).Scan(&oldest)
		}
		if err != nil {
			return fmt.Errorf("read the store's version: %w", err)
		}
		if oldest > known {
			return fmt.Errorf("the store was made by a newer postern (its tables have version %d, this program knows %d): upgrade postern", m.From, known)
		}
		return nil
	})
	return m, err
}

// nested is a pool of the one connection that it is given, on which a transaction is open
// already: a transaction inside it is a savepoint. It hides whatever else the driver's
// connection can do, so that database/sql uses Prepare and Begin only.
type nested struct{ driver.Conn }

// Connect implements driver.Connector.
func (n nested) Connect(context.Context) (driver.Conn, error) { return n, nil }

// Driver implements driver.Connector. Nothing asks for it.
func (n nested) Driver() driver.Driver { return nil }

// Close leaves the connection open: it is not ours.
func (n nested) Close() error { return nil }

// Begin implements driver.Conn.
func (n nested) Begin() (driver.Tx, error) { return n, n.exec("SAVEPOINT migration") }

// Commit implements driver.Tx.
func (n nested) Commit() error { return n.exec("RELEASE SAVEPOINT migration") }

// Rollback implements driver.Tx.
func (n nested) Rollback() error {
	return errors.Join(n.exec("ROLLBACK TO SAVEPOINT migration"), n.exec("RELEASE SAVEPOINT migration"))
}

func (n nested) exec(query string) error {
	s, err := n.Prepare(query)
	if err != nil {
		return err
	}
	defer s.Close()
	if s, ok := s.(driver.StmtExecContext); ok {
		_, err = s.ExecContext(context.Background(), nil)
		return err
	}
	_, err = s.Exec(nil) //lint:ignore SA1019 every driver has it; what replaces it is optional
	return err
}

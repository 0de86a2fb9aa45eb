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

// migrate brings the tables up to this version. conn holds the write lock and goes on
// holding it, so that processes that start at once take turns, and so that several
// migrations are done as a whole or not at all.
func migrate(ctx context.Context, conn *sql.Conn, dialect goose.Dialect, files fs.FS) error {
	return conn.Raw(func(driverConn any) error {
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
		if _, err := p.Up(ctx); err != nil {
			return fmt.Errorf("migrate the store: %w", err)
		}
		current, known, err := p.GetVersions(ctx)
		if err != nil {
			return fmt.Errorf("read the store's version: %w", err)
		}
		// During a rolling upgrade, programs of before go on with tables that newer ones made.
		var oldest int64
		if current > known {
			err = db.QueryRowContext(ctx, `SELECT oldest FROM counter WHERE id = 1`).Scan(&oldest)
		}
		if err != nil {
			return fmt.Errorf("read the store's version: %w", err)
		}
		if oldest > known {
			return fmt.Errorf("the store was made by a newer postern (its tables have version %d, this program knows %d): upgrade postern", current, known)
		}
		return nil
	})
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

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"postern/secret"
)

// Backup copies the store o.From into the file path, an SQLite store of mode 0600, whatever
// the engine of From is. From may be served meanwhile: all that was acknowledged before is in
// the file. It is there as a whole and on the disk when Backup returns, or not at all. A file
// that is there already is replaced when replace is set, else that is ErrConflict. o.To is
// not used; a data key that lies open in From lies open in the backup without a master key.
func Backup(ctx context.Context, o CopyOptions, path string, replace bool) (report CopyReport, err error) {
	path, err = filepath.Abs(path)
	if err != nil {
		return report, fmt.Errorf("write to: %w", err)
	}
	if err := mayWrite(path, replace); err != nil {
		return report, err
	}
	// A directory of its own, so that the journals of SQLite never lie beside the backup.
	dir, err := os.MkdirTemp(filepath.Dir(path), ".postern-backup-*")
	if err != nil {
		return report, fmt.Errorf("write to: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	made := filepath.Join(dir, "store.db")
	o.To, o.action = secret.Secret("sqlite:"+made), "backup"
	if report, err = Copy(ctx, o); err != nil {
		return report, err
	}
	if err := settle(ctx, made); err != nil {
		return report, fmt.Errorf("write to: %w", err)
	}
	return report, publish(made, path, replace)
}

// mayWrite says early what publish would say.
func mayWrite(path string, replace bool) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("write to: %w", err)
	case !info.Mode().IsRegular():
		return conflict("%s is not a regular file", path)
	case !replace:
		return conflict("%s is there already", path)
	}
	return nil
}

// settle makes one file of a store that nobody has open: no journal, all on the disk.
func settle(ctx context.Context, path string) error {
	db, err := openSQLite(path, nil)
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	var mode, verdict string
	err = db.QueryRowContext(ctx, `PRAGMA journal_mode = DELETE`).Scan(&mode)
	if err == nil {
		err = db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&verdict)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if mode != "delete" || verdict != "ok" {
		return fmt.Errorf("the file is not whole: journal %s, %s", mode, verdict)
	}
	return syncPath(path)
}

// publish gives the file its name, and makes the name durable.
func publish(made, path string, replace bool) error {
	move := os.Link // unlike a rename, it never replaces what came meanwhile
	if replace {
		move = os.Rename
	}
	if err := move(made, path); errors.Is(err, fs.ErrExist) {
		return conflict("%s is there already", path)
	} else if err != nil {
		return fmt.Errorf("write to: %w", err)
	}
	return syncPath(filepath.Dir(path))
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Restore copies a backup, or any SQLite store in a file, into the empty store o.To; o.From
// is not used. See Copy.
func Restore(ctx context.Context, o CopyOptions, path string) (CopyReport, error) {
	o.From, o.action = secret.Secret("sqlite:"+path), "restore"
	return Copy(ctx, o)
}

package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
)

// ErrInvalid is wrapped by the errors that say what is wrong with the input of a mutation.
var ErrInvalid = errors.New("invalid input")

// ErrUnwritable is wrapped, beside ErrUnavailable, by an error of opening that does not end by
// waiting: the store's file or its directory is not for this user to write to.
var ErrUnwritable = errors.New("no permission to write")

// ErrDamaged and ErrNotStore are the kinds of error of Check, Backup, Copy and Restore about a
// source that cannot be read, now or later.
var (
	ErrDamaged  = errors.New("the store is damaged")
	ErrNotStore = errors.New("not a store of postern")
)

// refusal is an error whose text is for people and whose kind is for errors.Is.
type refusal struct {
	kind error
	text string
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.kind }

func invalid(format string, a ...any) error {
	return &refusal{ErrInvalid, fmt.Sprintf(format, a...)}
}

func conflict(format string, a ...any) error {
	return &refusal{ErrConflict, fmt.Sprintf(format, a...)}
}

// notFound does not quote the id: it is input, and the caller knows it.
func notFound(kind Kind) error {
	return &refusal{ErrNotFound, fmt.Sprintf("there is no such %s", kind)}
}

// fault wraps what a statement or a transaction returned, once, at the border of the
// package: an error that has a kind already is passed on, what is the store's own fault
// wraps ErrUnavailable.
func (r *Registry) fault(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrNotFound), errors.Is(err, ErrConflict), errors.Is(err, ErrInvalid), errors.Is(err, ErrUnavailable):
		return err
	case r.engine.duplicate(err):
		return fmt.Errorf("%s: %w: %w", doing, ErrConflict, err)
	case r.engine.dangling(err):
		return fmt.Errorf("%s: it refers to what is not there: %w: %w", doing, ErrNotFound, err)
	case r.unavailable(err):
		return fmt.Errorf("%s: %w: %w", doing, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// unavailable reports whether err says that the store cannot answer now, whatever it was asked.
func (r *Registry) unavailable(err error) bool {
	// database/sql does not export its "database is closed".
	return r.closed.Load() || unavailable(err) || r.engine.unavailable(err)
}

// unavailable knows the errors that are the same for every engine.
func unavailable(err error) bool {
	for _, known := range []error{ErrUnavailable, context.Canceled, context.DeadlineExceeded, sql.ErrConnDone, sql.ErrTxDone, driver.ErrBadConn} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

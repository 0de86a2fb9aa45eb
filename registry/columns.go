package registry

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// querier is a pool, a connection or a transaction: find functions compose inside either.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// execer is a transaction, or one that keeps its statements: what writes composes inside either.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// set runs one statement that writes.
func set(ctx context.Context, x execer, query string, args ...any) error {
	_, err := x.ExecContext(ctx, query, args...)
	return err
}

// Value stores never as NULL.
func (t Time) Value() (driver.Value, error) {
	if t == 0 {
		return nil, nil
	}
	return int64(t), nil
}

// Scan reads NULL as never.
func (t *Time) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*t = 0
	case int64:
		*t = Time(v)
	default:
		return fmt.Errorf("a time is stored as %T", v)
	}
	return nil
}

// later is t plus d in the store's unit.
func (t Time) later(d time.Duration) Time { return t + Time(d.Milliseconds()) }

// nullable stores "" as NULL.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// storable reports whether s can be in a TEXT column at all: PostgreSQL takes neither NUL nor
// what is not UTF-8. A look-up of anything else finds nothing.
func storable(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// each calls scan for each row of a query and closes it. A pool's patience is for each row.
func each(ctx context.Context, q querier, scan func(*sql.Rows) error, query string, args ...any) error {
	if p, ok := q.(*pool); ok && p.patience > 0 {
		limited, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		timer := time.AfterFunc(p.patience, func() { cancel(context.DeadlineExceeded) })
		defer timer.Stop()
		ctx = limited
		inner := scan
		scan = func(rows *sql.Rows) error {
			timer.Reset(p.patience)
			return inner(rows)
		}
	}
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	return scanAll(rows, scan)
}

func scanAll(rows *sql.Rows, scan func(*sql.Rows) error) error {
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// one is the only element of found, or ErrNotFound.
func one[T any](found []T, kind Kind, err error) (T, error) {
	var none T
	if err != nil {
		return none, err
	}
	if len(found) == 0 {
		return none, notFound(kind)
	}
	return found[0], nil
}

const unlimited = -1

// termsColumns are the columns of the table terms under an alias, in the order of termsRow.
func termsColumns(alias string) string {
	names := append(setNames(), limitNames()...)
	return alias + "." + strings.Join(names, ", "+alias+".")
}

// termsRow scans the columns of terms; a missing row, all NULL, inherits everything.
type termsRow struct {
	sets   [2]sql.NullString
	limits [7]sql.NullInt64
}

func (r *termsRow) fields() []any {
	all := []any{&r.sets[0], &r.sets[1]}
	for i := range r.limits {
		all = append(all, &r.limits[i])
	}
	return all
}

func (r *termsRow) terms() (Terms, error) {
	var t Terms
	for i, s := range t.sets() {
		switch text := r.sets[i]; {
		case !text.Valid:
		case text.String == "*":
			s.State = Unlimited
		default:
			s.State = Value
			if err := json.Unmarshal([]byte(text.String), &s.Values); err != nil {
				return Terms{}, fmt.Errorf("read terms: %w", err)
			}
		}
	}
	for i, l := range t.limits() {
		switch number := r.limits[i]; {
		case !number.Valid:
		case number.Int64 == unlimited:
			l.State = Unlimited
		default:
			*l = Limit{State: Value, Value: number.Int64}
		}
	}
	return t, nil
}

// setNames and limitNames are the columns, and the names in JSON.
func setNames() []string { return []string{"products", "catalogs"} }

func limitNames() []string {
	return []string{"request_rate", "request_burst", "concurrent", "quota_day", "quota_month", "token_lifetime", "issue_rate"}
}

func (t *Terms) sets() []*Set { return []*Set{&t.Products, &t.Catalogs} }

// limits are the numbers of t in the order of their columns.
func (t *Terms) limits() []*Limit {
	return []*Limit{&t.RequestRate, &t.RequestBurst, &t.Concurrent, &t.QuotaDay, &t.QuotaMonth, &t.TokenLifetime, &t.IssueRate}
}

// saveTerms writes the terms of one organization or agreement.
func saveTerms(ctx context.Context, x execer, owner string, t Terms) error {
	args := []any{owner}
	for _, s := range t.sets() {
		switch s.State {
		case Unset:
			args = append(args, nil)
		case Unlimited:
			args = append(args, "*")
		default:
			text, err := json.Marshal(append([]string{}, s.Values...))
			if err != nil {
				return err
			}
			args = append(args, string(text))
		}
	}
	for _, l := range t.limits() {
		switch l.State {
		case Unset:
			args = append(args, nil)
		case Unlimited:
			args = append(args, unlimited)
		default:
			args = append(args, l.Value)
		}
	}
	_, err := x.ExecContext(ctx, `INSERT INTO terms (owner_id, products, catalogs, request_rate, request_burst, concurrent, quota_day, quota_month, token_lifetime, issue_rate)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (owner_id) DO UPDATE SET products = excluded.products, catalogs = excluded.catalogs,
			request_rate = excluded.request_rate, request_burst = excluded.request_burst, concurrent = excluded.concurrent,
			quota_day = excluded.quota_day, quota_month = excluded.quota_month,
			token_lifetime = excluded.token_lifetime, issue_rate = excluded.issue_rate`, args...)
	return err
}

package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"postern/secret"
)

// CopyOptions says what is copied, and where to.
type CopyOptions struct {
	From, To secret.Secret // DSNs; From is only read, and To is empty or not there yet
	// MasterKey is that of both stores. It opens the keys of the copy as a check, and wraps
	// a data key that lies open in From. "": nothing is checked, and the keys are copied as
	// they are.
	MasterKey secret.Secret
	// WithoutKeys leaves all keys behind: the copy has a data key of its own and no signing
	// key, and no token of From is good there. It is for a master key that was lost.
	WithoutKeys bool
	// RevokeTokens refuses every token that was issued before now, in the copy.
	RevokeTokens bool
	Actor        Actor             // for the audit trail of the copy
	Progress     func(Progress)    // called often, from the goroutine of Copy; may be nil
	Now          func() time.Time  // time.Now
	Random       io.Reader         // crypto/rand.Reader
	Log          *slog.Logger      // discarded when nil
	action       string            // for the audit trail; "copy" when empty
	between      func(stage) error // a test's own; may be nil
}

// stage is a moment at which a test looks at a copy.
type stage string

const (
	stageOpened stage = "opened" // the snapshot of From is taken
	stageFilled stage = "filled" // all rows are in To, not verified and not committed
)

// Progress is how far a copy is.
type Progress struct {
	Table     string
	Verifying bool  // the copy is read again
	Done, All int64 // rows, of all tables; each is counted twice, once when it is verified
}

// TableReport is one table of a store.
type TableReport struct {
	Name   string `json:"name"`
	Rows   int64  `json:"rows"`
	Digest string `json:"sha256"` // of all its rows, in whatever order
}

// CopyReport is what was copied and verified.
type CopyReport struct {
	Tables []TableReport `json:"tables"`
	Rows   int64         `json:"rows"`
	// Keys is how many signing keys the master key opened in the copy.
	Keys int `json:"keys_opened"`
	// Wrapped: the data key lay open in From; in the copy the master key wraps it.
	Wrapped bool `json:"keys_wrapped"`
	// Behind: From was written to meanwhile, and the copy has nothing of that.
	Behind bool `json:"source_changed"`
}

// copied are the tables in an order in which each refers to earlier ones only. counter is
// written by the copy itself.
func copied() []storedTable {
	return []storedTable{
		{"organization", "id", 1}, {"agreement", "id", 1}, {"terms", "owner_id", 1}, {"catalog", "id", 1}, {"client", "id", 1}, {"client_secret", "id", 1},
		{"token", "id", 1}, {"data_key", "id", 1}, {"signing_key", "id", 1}, {"change", "seq", 1}, {"event", "seq", 1},
		{"usage", "client_id, hour", usageVersion}, {"usage_refusal", "client_id, hour, reason", usageVersion}, {"usage_writer", "id", usageVersion},
	}
}

// tables are those that this copy takes.
func (c *copying) tables() []storedTable {
	return slices.DeleteFunc(copied(), func(t storedTable) bool {
		return t.since > c.from.version || c.o.WithoutKeys && (t.name == "data_key" || t.name == "signing_key")
	})
}

// storedTable is a table, its primary key, and the version of the tables that began to have it.
type storedTable struct {
	name, key string
	since     int64
}

// usageVersion is the first with usage.
const usageVersion = 5

// Copy copies all of a store into an empty one, on whatever engines: ids, times and wrapped
// keys as they are. It reads one moment of From, so that everything is there that was
// acknowledged before; From may be served meanwhile. To is written in one transaction and
// read again before the commit: it becomes the whole copy, or stays as it was. Its epoch is
// new, so that every replica that follows it reloads. ErrConflict when To is not empty.
func Copy(ctx context.Context, o CopyOptions) (report CopyReport, err error) {
	from, err := openSource(ctx, o.From)
	if err != nil {
		return report, fmt.Errorf("read from: %w", err)
	}
	defer func() { err = errors.Join(err, from.close()) }()
	if o.MasterKey != "" && !o.WithoutKeys {
		if _, err := openKeys(ctx, from, o.MasterKey); err != nil {
			return report, fmt.Errorf("read from: %w", err)
		}
	}
	c := copying{o: o, from: from, progress: o.Progress}
	if c.progress == nil {
		c.progress = func(Progress) {}
	}
	if err := c.measure(ctx); err != nil {
		return report, err
	}
	if err := o.at(stageOpened); err != nil {
		return report, err
	}
	to, err := Open(ctx, Options{DSN: o.To, MasterKey: o.MasterKey, Now: o.Now, Random: o.Random, Log: o.Log})
	if err != nil {
		return report, fmt.Errorf("write to: %w", err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if report, err = c.run(ctx, to); err != nil {
		return report, to.fault("copy store", err)
	}
	report.Behind, err = c.behind(ctx)
	return report, err
}

func (o CopyOptions) at(s stage) error {
	if o.between == nil {
		return nil
	}
	return o.between(s)
}

// copying is one copy at work.
type copying struct {
	o        CopyOptions
	from     *source
	progress func(Progress)
	step     Progress
	mark     mark
}

// mark tells two moments of a store apart.
type mark struct{ seq, events, tokens, refreshed, usage int64 }

const markQuery = `SELECT seq, events, (SELECT count(*) FROM token), (SELECT COALESCE(max(refreshed_at), 0) FROM token) FROM counter WHERE id = 1`

func (m *mark) read(ctx context.Context, s *source) error {
	err := s.QueryRowContext(ctx, markQuery).Scan(&m.seq, &m.events, &m.tokens, &m.refreshed)
	if err != nil || s.version < usageVersion {
		return err
	}
	return s.QueryRowContext(ctx, `SELECT CAST(COALESCE(sum(batch), 0) AS BIGINT) FROM usage_writer`).Scan(&m.usage)
}

// measure counts what there is to do.
func (c *copying) measure(ctx context.Context) error {
	for _, t := range c.tables() {
		var n int64
		if err := c.from.QueryRowContext(ctx, `SELECT count(*) FROM `+t.name).Scan(&n); err != nil {
			return fmt.Errorf("count the rows of %s: %w", t.name, sourceFault(err))
		}
		c.step.All += 2 * n
	}
	if err := c.mark.read(ctx, c.from); err != nil {
		return fmt.Errorf("read the counter: %w", sourceFault(err))
	}
	return nil
}

// behind reports whether somebody wrote to the source since the snapshot.
func (c *copying) behind(ctx context.Context) (bool, error) {
	now, err := openSource(ctx, c.o.From)
	if err != nil {
		return false, fmt.Errorf("read from: %w", err)
	}
	var after mark
	err = after.read(ctx, now)
	return after != c.mark, errors.Join(err, now.close())
}

// run fills to, verifies it and commits.
func (c *copying) run(ctx context.Context, to *Registry) (report CopyReport, err error) {
	inner, err := to.engine.beginChange(ctx)
	if err != nil {
		return report, err
	}
	defer inner.Rollback() // after a commit there is nothing to roll back
	if !strings.HasPrefix(c.o.To.Reveal(), "sqlite:") {
		if _, err := inner.ExecContext(ctx, takeYourTime); err != nil {
			return report, err
		}
	}
	if err := mustBeEmpty(ctx, inner); err != nil {
		return report, err
	}
	if !c.o.WithoutKeys {
		if _, err := inner.ExecContext(ctx, `DELETE FROM data_key`); err != nil {
			return report, err
		}
	}
	var tallies []*tally
	for _, t := range c.tables() {
		n, err := c.fill(ctx, inner, t)
		if err != nil {
			return report, fmt.Errorf("copy %s: %w", t.name, err)
		}
		tallies = append(tallies, n)
	}
	if err := c.o.at(stageFilled); err != nil {
		return report, err
	}
	c.step.Verifying = true
	for i, t := range c.tables() {
		want := tallies[i]
		got := newTally(want.columns)
		if err := c.read(ctx, inner, t, got, nil); err != nil {
			return report, fmt.Errorf("verify %s: %w", t.name, err)
		}
		if got.sum() != want.sum() || got.rows != want.rows {
			return report, fmt.Errorf("verify %s: %d rows were written and %d others are there; nothing was committed", t.name, want.rows, got.rows)
		}
		report.Tables = append(report.Tables, TableReport{t.name, got.rows, got.sum()})
		report.Rows += got.rows
	}
	if report.Keys, report.Wrapped, err = c.finish(ctx, inner, to); err != nil {
		return report, err
	}
	return report, inner.Commit()
}

// mustBeEmpty looks at the target. Opening it has made a data key.
func mustBeEmpty(ctx context.Context, tx *sql.Tx) error {
	for _, t := range copied() {
		if t.name == "data_key" {
			continue
		}
		var some int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM (SELECT 1 FROM `+t.name+` LIMIT 1) AS found`).Scan(&some)
		if err != nil {
			return err
		}
		if some > 0 {
			return conflict("the target is not empty (it has rows in %s): name a file that is not there yet, or a new database", t.name)
		}
	}
	return nil
}

// finish writes what is not copied: the counter with a new epoch, the line of the audit
// trail, and what the options ask for.
func (c *copying) finish(ctx context.Context, tx *sql.Tx, to *Registry) (keys int, wrapped bool, err error) {
	if c.o.MasterKey != "" && !c.o.WithoutKeys {
		if wrapped, err = wrapOpenKeys(ctx, tx, to); err != nil {
			return 0, false, err
		}
		if keys, err = openKeys(ctx, tx, c.o.MasterKey); err != nil {
			return 0, false, err
		}
	}
	now := to.now()
	if c.o.RevokeTokens {
		if _, err := tx.ExecContext(ctx, `UPDATE organization SET tokens_valid_from = $1 WHERE COALESCE(tokens_valid_from, 0) < $1`, int64(now)); err != nil {
			return 0, false, err
		}
	}
	epoch, err := to.newID()
	if err != nil {
		return 0, false, err
	}
	events := c.mark.events + 1
	if _, err := tx.ExecContext(ctx, `UPDATE counter SET seq = $1, events = $2, epoch = $3 WHERE id = 1`, c.mark.seq, events, epoch); err != nil {
		return 0, false, err
	}
	action, detail := c.o.action, fmt.Sprintf("%d rows", c.step.All/2)
	if action == "" {
		action = "copy"
	}
	if c.o.WithoutKeys {
		detail += ", no keys"
	}
	if c.o.RevokeTokens {
		detail += ", all tokens revoked"
	}
	a := c.o.Actor
	_, err = tx.ExecContext(ctx, insertEventQuery, events, int64(now), a.Kind, a.ID, a.Address, action, string(KindStore), "", detail)
	return keys, wrapped, err
}

// fill copies one table, and tells what it read.
func (c *copying) fill(ctx context.Context, tx *sql.Tx, t storedTable) (*tally, error) {
	columns, err := columnsOf(ctx, c.from, t)
	if err != nil {
		return nil, err
	}
	read := newTally(columns)
	return read, c.read(ctx, c.from, t, read, func(rows [][]any) error {
		args := make([]any, 0, len(rows)*len(columns))
		for _, row := range rows {
			args = append(args, row...)
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO `+t.name+` (`+strings.Join(columns, ", ")+`) VALUES `+places(len(rows), len(columns)), args...)
		return err
	})
}

// read reads one table page by page, by its primary key: no statement takes long.
func (c *copying) read(ctx context.Context, q querier, t storedTable, into *tally, use func(rows [][]any) error) error {
	c.step.Table = t.name
	return pages(ctx, q, t, into.columns, func(rows [][]any) error {
		for _, row := range rows {
			if err := into.add(row); err != nil {
				return err
			}
		}
		if use != nil {
			if err := use(rows); err != nil {
				return err
			}
		}
		c.step.Done += int64(len(rows))
		c.progress(c.step)
		return nil
	})
}

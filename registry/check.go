package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"postern/secret"
)

// CheckReport is what a check of a store found.
type CheckReport struct {
	Version int64         `json:"version"` // of the tables
	Tables  []TableReport `json:"tables"`
	Keys    int           `json:"keys_opened"` // signing keys that the master key opened
	Faults  []string      `json:"faults"`      // empty: it is whole
}

// Check reads all of a store and reports what is not whole: the file's pages and references
// (SQLite), gaps in the feed and in the audit trail, keys that do not open. Nothing is written,
// and the store may be served meanwhile. Two stores with equal digests have the same rows.
// Without a master key, only keys that lie open are opened.
func Check(ctx context.Context, dsn, master secret.Secret, progress func(Progress)) (report CheckReport, err error) {
	s, err := openSource(ctx, dsn)
	if err != nil {
		return report, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	c := copying{o: CopyOptions{From: dsn}, from: s, progress: progress}
	if c.progress == nil {
		c.progress = func(Progress) {}
	}
	if err := c.measure(ctx); err != nil {
		return report, err
	}
	c.step.All /= 2 // nothing is verified
	report.Version, report.Faults = s.version, []string{}
	if s.sqlite {
		if report.Faults, err = sqliteFaults(ctx, s); err != nil {
			return report, err
		}
	}
	for _, t := range c.tables() {
		columns, err := columnsOf(ctx, s, t)
		if err != nil {
			return report, fmt.Errorf("read %s: %w", t.name, sourceFault(err))
		}
		n := newTally(columns)
		if err := c.read(ctx, s, t, n, nil); err != nil {
			return report, fmt.Errorf("read %s: %w", t.name, sourceFault(err))
		}
		report.Tables = append(report.Tables, TableReport{t.name, n.rows, n.sum()})
	}
	gaps, err := gapFaults(ctx, s)
	if err != nil {
		return report, err
	}
	report.Faults = append(report.Faults, gaps...)
	stored, err := storedKeys(ctx, s)
	if err != nil {
		return report, err
	}
	if master == "" && slices.ContainsFunc(stored, func(k storedKey) bool { return k.wrapping != wrappedByNone }) {
		return report, nil
	}
	if report.Keys, err = openKeys(ctx, s, master); err != nil {
		report.Faults = append(report.Faults, err.Error())
	}
	return report, nil
}

// sqliteFaults asks SQLite itself.
func sqliteFaults(ctx context.Context, q querier) ([]string, error) {
	found := []string{}
	err := each(ctx, q, func(rows *sql.Rows) error {
		var line string
		err := rows.Scan(&line)
		if line != "ok" {
			found = append(found, line)
		}
		return err
	}, `PRAGMA integrity_check(20)`)
	if err != nil {
		return nil, sourceFault(err)
	}
	err = each(ctx, q, func(rows *sql.Rows) error {
		var table, parent string
		err := rows.Scan(&table, new(sql.NullInt64), &parent, new(sql.NullInt64))
		found = append(found, fmt.Sprintf("a row of %s refers to a row of %s that is not there", table, parent))
		return err
	}, `PRAGMA foreign_key_check`)
	return found, sourceFault(err)
}

// gapFaults looks at the two logs: their numbers have no gap and end where the counter is.
func gapFaults(ctx context.Context, q querier) (found []string, err error) {
	for _, log := range []struct{ table, counter string }{{"change", "seq"}, {"event", "events"}} {
		var rows, first, last, counter int64
		err := q.QueryRowContext(ctx, `SELECT count(*), COALESCE(min(seq), 0), COALESCE(max(seq), 0), (SELECT `+log.counter+` FROM counter WHERE id = 1) FROM `+log.table).
			Scan(&rows, &first, &last, &counter)
		switch {
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", log.table, sourceFault(err))
		case rows > 0 && rows != last-first+1:
			found = append(found, fmt.Sprintf("%s has gaps: %d rows from %d to %d", log.table, rows, first, last))
		case rows > 0 && last != counter:
			found = append(found, fmt.Sprintf("%s ends at %d, and the counter is at %d", log.table, last, counter))
		}
	}
	return found, nil
}

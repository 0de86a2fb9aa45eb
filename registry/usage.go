package registry

import (
	"cmp"
	"context"
	"database/sql"
	"maps"
	"slices"
	"strings"
)

// Counts are what was used.
type Counts struct {
	Requests int64            `json:"requests"` // that were let through
	Tokens   int64            `json:"tokens"`   // access tokens, issued and refreshed
	BytesIn  int64            `json:"bytes_in"` // of content, from the client
	BytesOut int64            `json:"bytes_out"`
	Refused  map[string]int64 `json:"refused"` // requests, by reason; nil: none
}

// Add adds what other counts.
func (c *Counts) Add(other Counts) {
	c.Requests += other.Requests
	c.Tokens += other.Tokens
	c.BytesIn += other.BytesIn
	c.BytesOut += other.BytesOut
	for reason, n := range other.Refused {
		if c.Refused == nil {
			c.Refused = map[string]int64{}
		}
		c.Refused[reason] += n
	}
}

// Usage is what one client used in one hour, or some clients together.
type Usage struct {
	ClientID string
	Hour     Time // when it begins, UTC
	Counts
}

// UsageBatch is what one process counted and nobody has written yet: each client and hour
// once. Number is larger than that of its writer's batch before, and Writer is nobody else's.
type UsageBatch struct {
	Writer string
	Number int64
	Usage  []Usage
}

// usageRows is how many rows one INSERT of usage has, so that its parameters fit.
const usageRows = 100

// The condition waits for an attempt at the same batch that is not over yet.
const (
	claimBatchQuery = `INSERT INTO usage_writer (id, batch, at) VALUES ($1, $2, $3)
		ON CONFLICT (id) DO UPDATE SET batch = excluded.batch, at = excluded.at WHERE usage_writer.batch < excluded.batch`
	addUsageInto = `INSERT INTO usage (client_id, hour, requests, tokens, bytes_in, bytes_out) VALUES `
	addUsageOnto = ` ON CONFLICT (client_id, hour) DO UPDATE SET requests = usage.requests + excluded.requests, tokens = usage.tokens + excluded.tokens,
		bytes_in = usage.bytes_in + excluded.bytes_in, bytes_out = usage.bytes_out + excluded.bytes_out`
	addRefusalInto = `INSERT INTO usage_refusal (client_id, hour, reason, requests) VALUES `
	addRefusalOnto = ` ON CONFLICT (client_id, hour, reason) DO UPDATE SET requests = usage_refusal.requests + excluded.requests`
)

// AddUsage adds a batch to what is stored, in one transaction. After any error it may be
// called again with the same batch, and has to be before the writer's next one: when it was
// stored all the same, nothing is added twice. It writes neither a change nor an event.
func (r *Registry) AddUsage(ctx context.Context, b UsageBatch) (err error) {
	defer r.observe(opUsage, r.options.Now(), &err)
	return r.fault("add usage", r.addUsage(ctx, b))
}

func (r *Registry) addUsage(ctx context.Context, b UsageBatch) error {
	ctx, cancel := r.engine.write.bound(ctx)
	defer cancel()
	tx, err := r.engine.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback() // after a commit there is nothing to roll back
	claimed, err := tx.ExecContext(ctx, claimBatchQuery, b.Writer, b.Number, int64(r.now()))
	if err != nil {
		return err
	}
	if n, err := claimed.RowsAffected(); err != nil || n == 0 { // it is there: only its commit's answer was lost
		return err
	}
	// Sorted: writers that lock rows in different order would wait for each other.
	all := slices.SortedFunc(slices.Values(b.Usage), func(a, b Usage) int {
		if c := strings.Compare(a.ClientID, b.ClientID); c != 0 {
			return c
		}
		return cmp.Compare(a.Hour, b.Hour)
	})
	var rows, refusals [][]any
	for _, u := range all {
		rows = append(rows, []any{u.ClientID, int64(u.Hour), u.Requests, u.Tokens, u.BytesIn, u.BytesOut})
		for _, reason := range slices.Sorted(maps.Keys(u.Refused)) {
			refusals = append(refusals, []any{u.ClientID, int64(u.Hour), reason, u.Refused[reason]})
		}
	}
	if err := addRows(ctx, tx, addUsageInto, addUsageOnto, rows); err != nil {
		return err
	}
	if err := addRows(ctx, tx, addRefusalInto, addRefusalOnto, refusals); err != nil {
		return err
	}
	return tx.Commit()
}

// addRows inserts rows, some at once, between the two ends of a statement.
func addRows(ctx context.Context, tx *sql.Tx, into, onto string, rows [][]any) error {
	for some := range slices.Chunk(rows, usageRows) {
		if _, err := tx.ExecContext(ctx, into+places(len(some), len(some[0]))+onto, slices.Concat(some...)...); err != nil {
			return err
		}
	}
	return nil
}

// UsageFilter says whose usage, and of which hours: from From, and before To; 0: any.
type UsageFilter struct {
	ClientID       string // or
	OrganizationID string // all clients of it, removed ones too
	From, To       Time
}

// Usage returns what was used, hour by hour, those without anything left out. ClientID is
// empty: it is the sum of all that f names.
func (r *Registry) Usage(ctx context.Context, f UsageFilter) (found []Usage, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	whose, id := `client_id = $1`, f.ClientID
	if f.OrganizationID != "" {
		whose, id = `client_id IN (SELECT id FROM client WHERE organization_id = $1)`, f.OrganizationID
	}
	if !storable(id) {
		return nil, nil
	}
	where, args := ` WHERE `+whose+` AND hour >= $2`, []any{id, int64(f.From)}
	if f.To != 0 {
		where, args = where+` AND hour < $3`, append(args, int64(f.To))
	}
	// One statement, so that it is of one moment.
	query := `SELECT hour, '' AS reason, CAST(SUM(requests) AS BIGINT), CAST(SUM(tokens) AS BIGINT), CAST(SUM(bytes_in) AS BIGINT), CAST(SUM(bytes_out) AS BIGINT)
			FROM usage` + where + ` GROUP BY hour
		UNION ALL SELECT hour, reason, CAST(SUM(requests) AS BIGINT), 0, 0, 0 FROM usage_refusal` + where + ` GROUP BY hour, reason
		ORDER BY 1, 2`
	err = r.atLength(ctx, func(q querier) error {
		return each(ctx, q, func(rows *sql.Rows) error {
			var u Usage
			var reason string
			if err := rows.Scan(&u.Hour, &reason, &u.Requests, &u.Tokens, &u.BytesIn, &u.BytesOut); err != nil {
				return err
			}
			if reason != "" {
				u.Refused, u.Requests = map[string]int64{reason: u.Requests}, 0
			}
			if last := len(found) - 1; last >= 0 && found[last].Hour == u.Hour {
				found[last].Add(u.Counts)
			} else {
				found = append(found, u)
			}
			return nil
		}, query, args...)
	})
	return found, r.fault("read usage", err)
}

// Spent calls use with what each client spent since the beginning of a UTC day, and since
// that of its month: requests that were let through, as far as they are stored.
func (r *Registry) Spent(ctx context.Context, day, month Time, use func(clientID, organizationID string, inDay, inMonth int64)) (err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	err = r.atLength(ctx, func(q querier) error {
		return each(ctx, q, func(rows *sql.Rows) error {
			var client, organization string
			var inDay, inMonth int64
			if err := rows.Scan(&client, &organization, &inDay, &inMonth); err != nil {
				return err
			}
			use(client, organization, inDay, inMonth)
			return nil
		}, `SELECT u.client_id, c.organization_id, CAST(SUM(CASE WHEN u.hour >= $1 THEN u.requests ELSE 0 END) AS BIGINT), CAST(SUM(u.requests) AS BIGINT)
			FROM usage u JOIN client c ON c.id = u.client_id WHERE u.hour >= $2 GROUP BY u.client_id, c.organization_id`, int64(day), int64(month))
	})
	return r.fault("read what was spent", err)
}

// atLength calls do with what reads longer than any statement may that somebody waits for.
func (r *Registry) atLength(ctx context.Context, do func(querier) error) error {
	if !isPostgres(r.options.DSN) {
		return do(r.engine.read)
	}
	tx, err := r.engine.read.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return err
	}
	defer tx.Rollback() // nothing was written
	if _, err := tx.ExecContext(ctx, takeYourTime); err != nil {
		return err
	}
	return do(tx)
}

// PruneUsage deletes the usage of hours that begin before, and says how many rows that were.
func (r *Registry) PruneUsage(ctx context.Context, before Time) (rows int, err error) {
	defer r.observe(opPrune, r.options.Now(), &err)
	for _, query := range []string{
		`DELETE FROM usage WHERE (client_id, hour) IN (SELECT client_id, hour FROM usage WHERE hour < $1 LIMIT $2)`,
		`DELETE FROM usage_refusal WHERE (client_id, hour, reason) IN (SELECT client_id, hour, reason FROM usage_refusal WHERE hour < $1 LIMIT $2)`,
		`DELETE FROM usage_writer WHERE id IN (SELECT id FROM usage_writer WHERE at < $1 LIMIT $2)`,
	} {
		n, err := r.sweepAll(ctx, query, int64(before), pruneBatch)
		rows += n
		if err != nil {
			return rows, r.fault("prune usage", err)
		}
	}
	return rows, nil
}

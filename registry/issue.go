package registry

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	maxBatch = 256  // tokens of one transaction
	maxQueue = 4096 // tokens that wait for one; beyond that IssueToken refuses at once

	// rest is the least time between two of the writer's transactions: SQLite has no queue for
	// its write lock, and without a gap other processes (a revocation on the command line) would
	// wait for luck. What is asked for meanwhile shares the next transaction.
	rest = 500 * time.Microsecond

	// markEvery is how often the last use of one secret is recorded at most.
	markEvery = time.Minute

	insertTokenInto  = `INSERT INTO token (id, subject_type, subject_id, organization_id, issuer_type, issuer_id, scope, key_id, issued_at, expires_at) VALUES `
	insertTokenQuery = insertTokenInto + `($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`
	markUsedQuery    = `UPDATE client_secret SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at <= $3)`
)

// issue is one token on its way to the writer.
type issue struct {
	ctx      context.Context // of the caller: a token that nobody waits for is not stored
	token    Token
	secretID string
	result   chan error // has room for one: the writer never waits for the caller
}

// IssueToken stores the record of a token and returns once it is durable. Of t it stores
// what is known when a token is issued, nothing of refreshing or revoking. secretID is the
// secret that the client used ("": none): its last use is recorded, once a minute at most.
//
// Tokens that are asked for at the same time share a transaction; none can fail because of
// another. When ctx ends first, the record may be stored all the same; no token goes with it
// then. ErrConflict when the id is taken, ErrUnavailable when the store is away or too many
// wait for it.
func (r *Registry) IssueToken(ctx context.Context, t Token, secretID string) (err error) {
	defer r.observe(opIssue, r.options.Now(), &err)
	if err := checkToken(t); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return r.fault("issue token", err)
	}
	i := &issue{ctx, t, secretID, make(chan error, 1)}
	select {
	case <-r.closing:
		return fmt.Errorf("issue token: the store is closed: %w", ErrUnavailable)
	default:
	}
	select {
	case r.queue <- i:
	default:
		return fmt.Errorf("issue token: too many are waiting: %w", ErrUnavailable)
	}
	select {
	case err := <-i.result:
		return r.fault("issue token", err)
	case <-ctx.Done():
		return r.fault("issue token", ctx.Err())
	case <-r.stopped:
	}
	// The writer has returned: it answered, or this token came too late for it.
	select {
	case err := <-i.result:
		return r.fault("issue token", err)
	default:
		return fmt.Errorf("issue token: the store is closed: %w", ErrUnavailable)
	}
}

// RecordToken stores the record of a token that a issued by hand, with an event, and returns
// once both are durable. ErrConflict when the id is taken.
func (r *Registry) RecordToken(ctx context.Context, a Actor, t Token) error {
	if err := checkToken(t); err != nil {
		return err
	}
	return r.mutate(ctx, "record token", a, func(tx *tx) (*deed, error) {
		return &deed{"issue", KindToken, t.ID, "client " + t.SubjectID},
			tx.set(ctx, insertTokenQuery, tokenRow(&t)...)
	})
}

// checkToken holds what readers of the record rely on.
func checkToken(t Token) error {
	id, err := uuid.Parse(t.ID)
	if err != nil || id.String() != t.ID {
		return invalid("id: a token's id is a UUID in lower case")
	}
	if t.IssuedAt <= 0 || t.ExpiresAt <= t.IssuedAt {
		return invalid("expires_at: a token expires after it is issued")
	}
	if t.SubjectType == "" {
		return invalid("subject_type: it is missing")
	}
	return nil
}

// commitTokens is the writer: the one goroutine that stores tokens. Close stops it, and
// waits until it has stored what was in the queue.
func (r *Registry) commitTokens() {
	defer close(r.stopped)
	w := writer{r: r, marked: make(map[string]Time)}
	for {
		select {
		case i := <-r.queue:
			time.Sleep(rest - time.Since(w.ended)) // real time, whatever Options.Now says: it is others who wait
			w.commit(r.gather(i))
			w.ended = time.Now()
		case <-r.closing:
			for {
				select {
				case i := <-r.queue:
					w.commit(r.gather(i))
				default:
					return
				}
			}
		}
	}
}

// gather takes what else is waiting, up to one batch.
func (r *Registry) gather(first *issue) []*issue {
	batch := append(make([]*issue, 0, min(maxBatch, len(r.queue)+1)), first)
	for len(batch) < maxBatch {
		select {
		case i := <-r.queue:
			batch = append(batch, i)
		default:
			return batch
		}
	}
	return batch
}

// writer is the state of commitTokens.
type writer struct {
	r      *Registry
	marked map[string]Time // when the last use of a secret was recorded by this process
	ended  time.Time       // when the last transaction ended
}

// commit stores a batch and answers everyone in it.
func (w *writer) commit(batch []*issue) {
	live := batch[:0]
	for _, i := range batch {
		if err := i.ctx.Err(); err != nil {
			i.result <- err
			continue
		}
		live = append(live, i)
	}
	w.settle(live)
}

// settle stores those that are still waited for, and answers them.
func (w *writer) settle(live []*issue) {
	for len(live) > 0 {
		bad, err := w.store(live)
		if bad == some && len(live) > 1 { // halves: few are bad, so few transactions find them
			half := len(live) / 2
			w.settle(live[:half:half])
			w.settle(live[half:])
			return
		}
		if bad >= 0 { // the others have nothing to do with it
			live[bad].result <- err
			live = slices.Delete(live, bad, bad+1)
			continue
		}
		for _, i := range live {
			i.result <- err
		}
		if bad == -1 && err != nil {
			w.refuse(err)
		}
		return
	}
}

// refuse answers those who wait behind a batch that the store could not take: they have
// waited as long.
func (w *writer) refuse(err error) {
	for range len(w.r.queue) {
		i := <-w.r.queue
		i.result <- err
	}
}

// some is the bad row of a statement that does not say which.
const some = -2

// store is one transaction. When a row cannot be stored, bad says which, or that it is some,
// and nothing is; bad is -1 otherwise.
func (w *writer) store(batch []*issue) (bad int, err error) {
	defer w.r.observe(opBatch, w.r.options.Now(), &err)
	// Of all callers, and so of none: the engine bounds the wait.
	ctx, cancel := w.r.engine.write.bound(context.Background())
	defer cancel()
	tx, err := w.r.engine.begin(ctx)
	if err != nil {
		return -1, w.r.fault("issue token", err)
	}
	defer tx.Rollback() // after a commit there is nothing to roll back
	if bad, err := w.insert(ctx, tx, batch); err != nil {
		return w.blame(bad, err)
	}
	used := make(map[string]Time)
	for _, i := range batch {
		if t := i.token.IssuedAt; i.secretID != "" && t >= max(w.marked[i.secretID], used[i.secretID]).later(markEvery) {
			used[i.secretID] = t
		}
	}
	// Sorted: two replicas that lock rows in different order would wait for each other.
	for _, id := range slices.Sorted(maps.Keys(used)) {
		if err := w.r.markUsed.exec(ctx, tx, int64(used[id]), id, int64(used[id].later(-markEvery))); err != nil {
			return w.blame(some, err)
		}
	}
	if err := tx.Commit(); err != nil {
		return -1, w.r.fault("issue token", err)
	}
	if len(w.marked) > 10*maxQueue {
		clear(w.marked) // the statement has the same condition: forgetting costs a look-up
	}
	maps.Copy(w.marked, used)
	return -1, nil
}

// insert stores the rows of batch, as many at once as the engine likes.
func (w *writer) insert(ctx context.Context, tx *sql.Tx, batch []*issue) (bad int, err error) {
	if w.r.engine.rows() == 1 || len(batch) == 1 {
		for n, i := range batch {
			if err := w.r.insertToken.exec(ctx, tx, tokenRow(&i.token)...); err != nil {
				return n, err
			}
		}
		return -1, nil
	}
	for rest := batch; len(rest) > 0; {
		n := min(w.r.engine.rows(), len(rest))
		args := make([]any, 0, 10*n)
		for _, i := range rest[:n] {
			args = append(args, tokenRow(&i.token)...)
		}
		if _, err := tx.ExecContext(ctx, insertTokenInto+places(n, 10), args...); err != nil {
			return some, err
		}
		rest = rest[n:]
	}
	return -1, nil
}

// blame says whose fault an error is: the store's (bad is -1), or that of a row.
func (w *writer) blame(bad int, err error) (int, error) {
	switch {
	case w.r.engine.duplicate(err):
		return bad, conflict("a token with this id is there already")
	case w.r.unavailable(err):
		bad = -1
	}
	return bad, w.r.fault("issue token", err)
}

// tokenRow are the arguments of insertTokenQuery.
func tokenRow(t *Token) []any {
	return []any{t.ID, t.SubjectType, t.SubjectID, t.OrganizationID, nullable(t.IssuerType), nullable(t.IssuerID),
		t.Scope, t.KeyID, int64(t.IssuedAt), int64(t.ExpiresAt)}
}

// places are the placeholders of so many rows of so many columns: ($1, $2), ($3, $4).
func places(rows, columns int) string {
	var b strings.Builder
	for i := range rows * columns {
		switch {
		case i == 0:
			b.WriteString("($")
		case i%columns == 0:
			b.WriteString("), ($")
		default:
			b.WriteString(", $")
		}
		b.WriteString(strconv.Itoa(i + 1))
	}
	b.WriteByte(')')
	return b.String()
}

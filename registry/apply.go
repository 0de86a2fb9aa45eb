package registry

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"postern/secret"
)

// Declaration is what Apply brings the store to: all of what the organizations are that it
// names. A field that is left out has its zero value, and not what it had before.
//
// A thing is found by its ID where it has one. Else an organization is found by its name, an
// agreement by its name within the organization, a catalog by its external id, and a client
// by its application and environment within the organization; what is not found is made.
type Declaration struct {
	Organizations []DeclaredOrganization
	Catalogs      []DeclaredCatalog // of no organization
}

// DeclaredOrganization is an organization and what is its own.
type DeclaredOrganization struct {
	Place      string // where it is declared, for people: faults begin with it
	ID         string
	Name       string
	Terms      Terms
	Disabled   bool
	Removed    bool // it is removed where it is there, and nothing else of it is looked at
	Agreements []DeclaredAgreement
	Catalogs   []DeclaredCatalog
	Clients    []DeclaredClient
}

// DeclaredAgreement is an agreement of the organization that it is declared in.
type DeclaredAgreement struct {
	Place    string
	ID       string
	Name     string
	StartsAt Time
	EndsAt   Time
	Terms    Terms
	Enforce  Mode // "": Enforce
	Removed  bool
}

// DeclaredCatalog is a catalog of the organization that it is declared in, or of none.
type DeclaredCatalog struct {
	Place      string
	ID         string
	ExternalID string
	Name       string
	Public     bool
	Removed    bool
}

// DeclaredClient is a client of the organization that it is declared in.
type DeclaredClient struct {
	Place       string
	ID          string // of a client that is to be made too
	Application string
	Environment string // as Environment takes it
	Agreement   string // the name or the id of one of the organization's; "": none
	Disabled    bool
	Removed     bool
	Secrets     []DeclaredSecret // none: those that the client has are left alone
}

// DeclaredSecret is a secret that a client has.
type DeclaredSecret struct {
	Kind       SecretKind    // SHA256, or Argon2id for a weak one
	Digest     secret.Digest // of a weak one too: an imported digest may be its
	WellFormed bool          // it is known to have the form of ours; with SHA256 only
	Text       secret.Secret // of a weak one
}

// WeakSecrets computes slow hashes. Apply asks for the same ones that Plan asked for: who
// remembers the answers keeps Apply from computing while nobody else can write.
type WeakSecrets interface {
	// Matches reports whether text is the secret of which stored is the record.
	Matches(stored ClientSecret, text secret.Secret) bool
	// Hash is the PHC string that is kept of text.
	Hash(text secret.Secret) (secret.Secret, error)
}

// ApplyOptions say how a declaration is applied.
type ApplyOptions struct {
	// Prune removes what the organizations of the declaration own and it does not declare, and
	// ends the secrets that it does not declare of clients of which it declares some.
	Prune bool
	// Overlap is how long a secret that another one replaces is still good.
	Overlap  time.Duration
	Weak     WeakSecrets
	Progress func(done int) // told now and then how many changes are written; may be nil
}

// Plan is what it takes to bring a store to a declaration.
type Plan struct {
	Steps      []Step // removals first
	Unchanged  int    // things that are as they are declared
	Undeclared int    // things and secrets that pruning would remove
}

// Step is one thing that is made, changed or removed.
type Step struct {
	Action string // "create", "change" or "remove"
	Kind   Kind
	ID     string // "" in a plan of what has none yet
	Name   string
	Fields []FieldChange // what differs; no secret

	made   bool // the id was made for it
	events []deed
	write  []func(ctx context.Context, x execer) error
}

// FieldChange is a field's value before and after, for people; "" is unset.
type FieldChange struct{ Field, Old, New string }

// field notes a difference, if it is one.
func (s *Step) field(name, before, after string) {
	if before != after {
		s.Fields = append(s.Fields, FieldChange{name, before, after})
	}
}

// do notes what writes the step, and its line in the audit trail.
func (s *Step) do(action, detail string, write func(ctx context.Context, x execer) error) {
	s.events = append(s.events, deed{action, s.Kind, s.ID, detail})
	s.write = append(s.write, write)
}

// DeclarationFault is what is wrong with one thing of a declaration. It names no secret.
type DeclarationFault struct {
	Place   string
	Problem string
	kind    error
}

func (f *DeclarationFault) Error() string { return f.Place + ": " + f.Problem }

// Unwrap returns the kind: ErrConflict, ErrNotFound or ErrInvalid.
func (f *DeclarationFault) Unwrap() error { return f.kind }

// Plan returns what Apply would do now, and writes nothing. When the declaration cannot be
// applied, the error joins one *DeclarationFault for each thing that is wrong.
func (r *Registry) Plan(ctx context.Context, d Declaration, o ApplyOptions) (plan Plan, err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	inner, err := r.engine.read.BeginTx(ctx, nil)
	if err != nil {
		return Plan{}, r.fault("plan", err)
	}
	defer inner.Rollback()
	p := &planner{r: r, q: inner, now: r.now(), o: o}
	if err := p.survey(ctx, d); err != nil {
		return Plan{}, r.fault("plan", err)
	}
	_ = inner.Rollback() // before slow hashes are computed: all is read
	plan, err = p.finish()
	for i := range plan.Steps {
		if plan.Steps[i].made {
			plan.Steps[i].ID = ""
		}
	}
	return plan, r.fault("plan", err)
}

// Apply does what Plan says, of the state that the store then has, in one transaction that
// holds the write lock from the start: of two that apply at once the second finds what the
// first has written. It returns what it did. While it writes (some seconds for 10,000
// clients) nobody else can.
//
// Each step has an event and a change of its own. Where nothing differs nothing is written.
func (r *Registry) Apply(ctx context.Context, a Actor, d Declaration, o ApplyOptions) (plan Plan, err error) {
	defer r.observe(opMutate, r.options.Now(), &err)
	inner, err := r.engine.beginChange(ctx)
	if err != nil {
		return Plan{}, r.fault("apply", err)
	}
	defer inner.Rollback() // after a commit there is nothing to roll back
	tx := &tx{inner, r.now()}
	p := &planner{r: r, q: tx, now: tx.now, o: o}
	err = p.survey(ctx, d)
	if err == nil {
		plan, err = p.finish()
	}
	if err != nil {
		return Plan{}, r.fault("apply", err)
	}
	if len(plan.Steps) == 0 {
		return plan, nil
	}
	w := newKeeper(tx)
	defer w.close()
	err = plan.run(ctx, w, o.Progress)
	if err == nil {
		err = recordSteps(ctx, w, a, plan.Steps)
	}
	if err == nil {
		err = r.engine.announce(ctx, tx.Tx)
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return Plan{}, r.fault("apply", err)
	}
	return plan, nil
}

// run writes the steps.
func (p Plan) run(ctx context.Context, w *keeper, progress func(int)) error {
	if progress == nil {
		progress = func(int) {}
	}
	for i, step := range p.Steps {
		for _, write := range step.write {
			if err := write(ctx, w); err != nil {
				return err
			}
		}
		if done := i + 1; done%importStep == 0 || done == len(p.Steps) {
			progress(done)
		}
	}
	return nil
}

// keeper is a transaction that prepares each statement once.
type keeper struct {
	tx   *tx
	kept map[string]*sql.Stmt
}

func newKeeper(tx *tx) *keeper { return &keeper{tx: tx, kept: map[string]*sql.Stmt{}} }

// ExecContext makes a keeper an execer.
func (k *keeper) ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error) {
	statement := k.kept[query]
	if statement == nil {
		var err error
		if statement, err = k.tx.PrepareContext(ctx, query); err != nil {
			return nil, err
		}
		k.kept[query] = statement
	}
	return statement.ExecContext(ctx, args...)
}

func (k *keeper) close() {
	for _, statement := range k.kept {
		_ = statement.Close()
	}
}

// recordSteps is record for many: the numbers are taken as the last step.
func recordSteps(ctx context.Context, w *keeper, a Actor, steps []Step) error {
	var events, changes [][]any
	tx := w.tx
	for _, s := range steps {
		changes = append(changes, []any{int64(0), string(s.Kind), s.ID, int64(tx.now)})
		for _, d := range s.events {
			events = append(events, []any{int64(0), int64(tx.now), a.Kind, a.ID, a.Address, d.action, string(d.kind), d.id, d.detail})
		}
	}
	return recordRows(ctx, w, changes, events)
}

// recordRows writes lines of the feed and of the audit trail; the first column of each is
// left for its number.
func recordRows(ctx context.Context, w *keeper, changes, events [][]any) error {
	var change, event int64
	err := w.tx.QueryRowContext(ctx, `UPDATE counter SET seq = seq + $1, events = events + $2 WHERE id = 1 RETURNING seq, events`,
		len(changes), len(events)).Scan(&change, &event)
	if err != nil {
		return err
	}
	err = insertNumbered(ctx, w, `INSERT INTO change (seq, kind, id, at) VALUES `, changes, change)
	return errors.Join(err, insertNumbered(ctx, w, `INSERT INTO event (seq, at, actor_kind, actor_id, actor_address, action, kind, id, detail) VALUES `, events, event))
}

// numberedRows is how many rows one statement inserts: enough to save PostgreSQL's round trips,
// and few enough for SQLite, which looks for each parameter among all before it.
const numberedRows = 20

// insertNumbered inserts rows whose first column counts up to last.
func insertNumbered(ctx context.Context, x execer, into string, rows [][]any, last int64) error {
	for i := range rows {
		rows[i][0] = last - int64(len(rows)-1-i)
	}
	return insertRows(ctx, x, into, rows)
}

// insertRows inserts rows of one length.
func insertRows(ctx context.Context, x execer, into string, rows [][]any) error {
	for len(rows) > 0 {
		n := min(numberedRows, len(rows))
		var args []any
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if err := set(ctx, x, into+places(n, len(rows[0])), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

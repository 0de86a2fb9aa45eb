package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"postern/secret"
)

// ImportedClient is a client of another program, with the identifier and the secret that it
// has there.
type ImportedClient struct {
	ID             string // 1 to 128 of A-Z, a-z, 0-9, ., _, ~ and -
	OrganizationID string
	Application    string
	Environment    string // as Environment takes it
	Kind           SecretKind
	Digest         secret.Digest // of a SHA256 secret
	Hash           secret.Secret // of a Bcrypt or an Argon2id one
	WellFormed     bool          // the secret is known to have the form of ours; with SHA256 only
	AllowDuplicate bool          // several clients for one application and environment
}

// ImportFault is what is wrong with one row of an import. Its text names no secret.
type ImportFault struct {
	Row     int // index of the client or catalog
	Problem string
	kind    error
}

func (f *ImportFault) Error() string { return fmt.Sprintf("row %d: %s", f.Row, f.Problem) }

// Unwrap returns the kind: ErrConflict, ErrNotFound or ErrInvalid.
func (f *ImportFault) Unwrap() error { return f.kind }

const (
	importIDs = 500 // identifiers that one statement looks for
	// importStep is how often progress is told.
	importStep = 1000
)

// ImportClients makes all of clients, in one transaction, or none. When some cannot be made,
// the error joins one *ImportFault for each that is wrong. progress, if not nil, is called
// now and then with how many are written, from this goroutine. While it writes (a second or
// less for 10,000 clients) nobody else can: issuing waits, and fails after a few seconds.
//
// Each client has an event of its own; the feed tells of the organizations.
func (r *Registry) ImportClients(ctx context.Context, a Actor, clients []ImportedClient, progress func(done int)) (err error) {
	defer r.observe(opMutate, r.options.Now(), &err)
	if progress == nil {
		progress = func(int) {}
	}
	inner, err := r.engine.beginChange(ctx)
	if err != nil {
		return r.fault("import clients", err)
	}
	defer inner.Rollback() // after a commit there is nothing to roll back
	tx := &tx{inner, r.now()}
	checked, err := checkImport(ctx, tx, clients)
	if err == nil {
		err = r.insertClients(ctx, tx, a, checked, progress)
	}
	if err != nil {
		return r.fault("import clients", err)
	}
	return r.fault("import clients", tx.Commit())
}

// CheckImport returns the error that ImportClients would, and writes nothing.
func (r *Registry) CheckImport(ctx context.Context, clients []ImportedClient) (err error) {
	defer r.observe(opRead, r.options.Now(), &err)
	inner, err := r.engine.read.BeginTx(ctx, nil)
	if err != nil {
		return r.fault("check import", err)
	}
	defer inner.Rollback()
	_, err = checkImport(ctx, &tx{inner, r.now()}, clients)
	return r.fault("check import", err)
}

// checkImport returns the clients as they will be stored. Each is told its first fault.
func checkImport(ctx context.Context, tx *tx, clients []ImportedClient) ([]ImportedClient, error) {
	taken, err := takenIDs(ctx, tx, clients)
	if err != nil {
		return nil, err
	}
	c := importCheck{taken: taken, organizations: map[string]*importOrganization{}}
	checked := make([]ImportedClient, 0, len(clients))
	var faults []error
	for row, client := range clients {
		err := c.check(ctx, tx, &client)
		if refused, ok := errors.AsType[*refusal](err); ok {
			faults = append(faults, &ImportFault{Row: row, Problem: refused.text, kind: refused.kind})
		} else if err != nil {
			return nil, err
		}
		checked = append(checked, client)
	}
	return checked, errors.Join(faults...)
}

// takenIDs finds the identifiers that clients of the store have already, removed ones too.
func takenIDs(ctx context.Context, q querier, clients []ImportedClient) (map[string]string, error) {
	taken := map[string]string{}
	for len(clients) > 0 {
		n := min(importIDs, len(clients))
		var ids []any
		for _, c := range clients[:n] {
			if storable(c.ID) {
				ids = append(ids, c.ID)
			}
		}
		clients = clients[n:]
		if len(ids) == 0 {
			continue
		}
		err := each(ctx, q, func(rows *sql.Rows) error {
			var id string
			err := rows.Scan(&id)
			taken[id] = "a client with this client_id is there already"
			return err
		}, `SELECT id FROM client WHERE id IN `+places(1, len(ids)), ids...)
		if err != nil {
			return nil, err
		}
	}
	return taken, nil
}

// importCheck is what the rows before one have shown.
type importCheck struct {
	taken         map[string]string // by identifier: why it cannot be taken again
	organizations map[string]*importOrganization
}

// importOrganization is an organization that rows name.
type importOrganization struct {
	err     error
	clients map[[2]string]string // by application and environment: whose they are
}

// check says what is wrong with one client, a *refusal, and brings it to its stored form.
func (i *importCheck) check(ctx context.Context, tx *tx, c *ImportedClient) (err error) {
	if err := checkClientID(c.ID); err != nil {
		return err
	}
	if why := i.taken[c.ID]; why != "" {
		return conflict("%s", why)
	}
	i.taken[c.ID] = "an earlier one has the same client_id"
	if err := checkName("application", c.Application); err != nil {
		return err
	}
	if c.Environment, err = checkEnvironment(c.Environment); err != nil {
		return err
	}
	if err := checkImportedSecret(*c); err != nil {
		return err
	}
	o := i.organizations[c.OrganizationID]
	if o == nil {
		if o, err = findImportOrganization(ctx, tx, c.OrganizationID); err != nil {
			return err
		}
		i.organizations[c.OrganizationID] = o
	}
	if o.err != nil {
		return o.err
	}
	key := [2]string{c.Application, c.Environment}
	if other, ok := o.clients[key]; ok && !c.AllowDuplicate {
		return conflict("client %s is this application's in %s already: use it, remove it, or allow a duplicate", other, c.Environment)
	}
	o.clients[key] = c.ID
	return nil
}

// findImportOrganization reads an organization and whose its applications are. An
// organization that takes no clients has an err, which goes for each row that names it.
func findImportOrganization(ctx context.Context, tx *tx, id string) (*importOrganization, error) {
	o := &importOrganization{clients: map[[2]string]string{}}
	_, err := liveOrganization(ctx, tx, id)
	if _, ok := errors.AsType[*refusal](err); ok {
		o.err = err
		return o, nil
	}
	if err != nil {
		return nil, err
	}
	return o, each(ctx, tx, func(rows *sql.Rows) error {
		var clientID string
		var key [2]string
		err := rows.Scan(&clientID, &key[0], &key[1])
		o.clients[key] = clientID
		return err
	}, `SELECT id, application, environment FROM client WHERE organization_id = $1 AND removed_at IS NULL`, id)
}

// checkImportedSecret accepts a digest, or a slow hash within the bounds.
func checkImportedSecret(c ImportedClient) error {
	switch c.Kind {
	case SHA256:
		if c.Hash != "" || c.Digest == (secret.Digest{}) {
			return invalid("client_secret_sha256: there is no digest")
		}
		return nil
	case Bcrypt:
		if err := secret.CheckBcrypt(c.Hash); err != nil {
			return invalid("client_secret_bcrypt: %s", err)
		}
		return nil
	case Argon2id:
		if _, err := secret.ParseArgon2id(c.Hash); err != nil {
			return invalid("client_secret_argon2id: %s", err)
		}
		return nil
	}
	return invalid("the kind of the client secret is unknown")
}

// insertClients writes what checkImport passed: clients, their secrets and events, and one
// change for each organization.
func (r *Registry) insertClients(ctx context.Context, tx *tx, a Actor, clients []ImportedClient, progress func(int)) error {
	if len(clients) == 0 {
		return nil
	}
	w := newKeeper(tx)
	defer w.close()
	var changes [][]any
	events := make([][]any, 0, len(clients))
	told := map[string]bool{}
	for i, c := range clients {
		if err := r.importClient(ctx, w, c); err != nil {
			return err
		}
		if !told[c.OrganizationID] {
			told[c.OrganizationID] = true
			changes = append(changes, []any{nil, string(KindOrganization), c.OrganizationID, int64(tx.now)})
		}
		events = append(events, []any{nil, int64(tx.now), a.Kind, a.ID, a.Address, "import", string(KindClient), c.ID, c.Application + " " + c.Environment})
		if done := i + 1; done%importStep == 0 || done == len(clients) {
			progress(done)
		}
	}
	if err := recordRows(ctx, w, changes, events); err != nil {
		return err
	}
	return r.engine.announce(ctx, tx.Tx)
}

// importClient writes a client and its secret.
func (r *Registry) importClient(ctx context.Context, w *keeper, c ImportedClient) (err error) {
	s := ClientSecret{Kind: c.Kind, Digest: c.Digest, Hash: c.Hash, Imported: c.Kind != SHA256 || !c.WellFormed, CreatedAt: w.tx.now}
	if s.ID, err = r.newID(); err != nil {
		return err
	}
	err = insertClient(ctx, w, Client{ID: c.ID, OrganizationID: c.OrganizationID, Application: c.Application, Environment: c.Environment, CreatedAt: w.tx.now})
	if err != nil {
		return err
	}
	return insertSecret(ctx, w, c.ID, s)
}

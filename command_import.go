package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"

	"postern/registry"
	"postern/secret"
)

// ClientImportCommand imports the clients of another program, with their secrets.
type ClientImportCommand struct {
	where
	File           string `arg:"" placeholder:"FILE" help:"The clients: CSV with a header line, or a JSON array of objects."`
	Format         string `enum:",csv,json" default:"" placeholder:"NAME" help:"csv or json; by default as FILE ends."`
	Organization   string `placeholder:"ID" help:"The organization of the rows without an organization_id."`
	Hash           string `enum:"plain,sha256,bcrypt,argon2id" default:"plain" placeholder:"KIND" help:"What the column client_secret holds: plain, sha256, bcrypt or argon2id; plain ones are stored as argon2id."`
	AllowDuplicate bool   `help:"Import a client although its application has one in this environment."`
	DryRun         bool   `help:"Check everything, write nothing, and say what would happen."`
}

// Help says what a row has and gives examples.
func (ClientImportCommand) Help() string {
	return "A row has organization_id (or there is --organization), client_id, application, environment, and exactly one of " +
		"client_secret, client_secret_sha256 (hex or base64; only for secrets that nobody can guess), client_secret_bcrypt (cost up to 14) and " +
		"client_secret_argon2id (a PHC string, m up to 65536, t up to 10, p up to 4). All rows are imported, or none; while they are written, about a second for 10,000, " +
		"no token is issued.\n\n" +
		example("postern client import clients.csv --organization "+exampleID+" --dry-run", "postern client import clients.json --hash bcrypt")
}

// Run imports the file and answers with what came of it.
func (c *ClientImportCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		rows, faults, err := readImport(c.File, c.Format, clientShape(c.Organization != ""))
		if err != nil {
			return err
		}
		clients, err := c.check(ctx, e, r, rows, faults)
		if err != nil {
			return err
		}
		if !c.DryRun {
			if err := c.hash(ctx, e, rows, clients); err != nil {
				return err
			}
			if err := r.ImportClients(ctx, e.actor(), clients, e.progress("wrote", len(clients))); err != nil {
				return faultsOf(rows, nil, err)
			}
		}
		return c.answer(e, clients)
	})
	if err != nil {
		return cannot("import "+c.File, err, next{notFound: organizationsHint})
	}
	return nil
}

// check returns the clients as the registry takes them, or one error about all that is
// wrong. Secrets in clear have a stand-in for their hash, which takes long.
func (c *ClientImportCommand) check(ctx context.Context, e *environment, r *registry.Registry, rows []importRow, faults []importFault) ([]registry.ImportedClient, error) {
	standIn, err := secret.HashArgon2id(nil, e.Random)
	if err != nil {
		return nil, err
	}
	good := make([]importRow, 0, len(rows))
	clients := make([]registry.ImportedClient, 0, len(rows))
	for _, row := range rows {
		client, problem := row.client(c.Hash)
		client.OrganizationID = cmp.Or(client.OrganizationID, c.Organization)
		if problem == "" && client.OrganizationID == "" {
			problem = "it has no organization_id, and there is no --organization"
		}
		if problem != "" {
			faults = append(faults, importFault{row.place, problem})
			continue
		}
		client.AllowDuplicate = c.AllowDuplicate
		if row.clear(c.Hash) && !client.WellFormed {
			client.Hash = standIn
		}
		good, clients = append(good, row), append(clients, client)
	}
	if err := r.CheckImport(ctx, clients); err != nil || len(faults) > 0 {
		return nil, faultsOf(good, faults, err)
	}
	return clients, nil
}

// hash replaces the stand-ins: one core for each hash, all cores at once.
func (c *ClientImportCommand) hash(ctx context.Context, e *environment, rows []importRow, clients []registry.ImportedClient) error {
	var slow []int
	for i, row := range rows {
		if row.clear(c.Hash) && !clients[i].WellFormed {
			slow = append(slow, i)
		}
	}
	progress := e.progress("hashed", len(slow))
	var mu sync.Mutex // guards next, done and failed
	next, done, failed := 0, 0, error(nil)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		if failed = cmp.Or(failed, ctx.Err()); failed != nil || next == len(slow) {
			return 0, false
		}
		next++
		return slow[next-1], true
	}
	var workers sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(slow)) {
		workers.Go(func() {
			for i, ok := take(); ok; i, ok = take() {
				hash, err := secret.HashArgon2id([]byte(rows[i].fields[0].Reveal()), e.Random)
				mu.Lock()
				clients[i].Hash = hash
				failed = cmp.Or(failed, err)
				done++
				progress(done)
				mu.Unlock()
			}
		})
	}
	workers.Wait()
	return failed
}

// progress returns what tells how far a long import is: nothing for up to 1,000 rows.
func (e *environment) progress(verb string, all int) func(done int) {
	const step = 1000
	return func(done int) {
		if all > step && (done%step == 0 || done == all) {
			e.note("%s %d of %d", verb, done, all)
		}
	}
}

// answer tells what was imported, or would be.
func (c *ClientImportCommand) answer(e *environment, clients []registry.ImportedClient) error {
	kinds, organizations := map[registry.SecretKind]int{}, map[string]bool{}
	for _, client := range clients {
		kinds[client.Kind]++
		organizations[client.OrganizationID] = true
	}
	if c.JSON {
		return e.json(struct {
			DryRun        bool                        `json:"dry_run"`
			Clients       int                         `json:"clients"`
			Organizations int                         `json:"organizations"`
			Secrets       map[registry.SecretKind]int `json:"secrets"` // clients by the kind of their secret
		}{c.DryRun, len(clients), len(organizations), kinds})
	}
	verb := "imported"
	if c.DryRun {
		verb = "would import"
	}
	rows := []row{{verb, fmt.Sprintf("%s of %s", counted(len(clients), "client"), counted(len(organizations), "organization"))}}
	for _, kind := range []registry.SecretKind{registry.SHA256, registry.Bcrypt, registry.Argon2id} {
		if n := kinds[kind]; n > 0 {
			rows = append(rows, row{"secrets kept as " + string(kind), fmt.Sprint(n)})
		}
	}
	return e.table(nil, rows)
}

// importFault is what is wrong at one place of the file. It never quotes the file.
type importFault struct {
	place   importPlace
	problem string
}

// importPlace is where a row is: a line of CSV, or an index of JSON.
type importPlace struct {
	unit string
	n    int
}

func (p importPlace) String() string { return fmt.Sprintf("%s %d", p.unit, p.n) }

// faultsOf joins what is wrong with the file and what the registry says about its rows, in
// the order of the file. An error of another kind is returned as it is.
func faultsOf(rows []importRow, bad []importFault, err error) error {
	for _, one := range faults(err) {
		f, ok := errors.AsType[*registry.ImportFault](one)
		if !ok {
			return err
		}
		bad = append(bad, importFault{rows[f.Row].place, f.Problem})
	}
	slices.SortStableFunc(bad, func(a, b importFault) int { return a.place.n - b.place.n })
	lines := make([]string, len(bad))
	for i, f := range bad {
		lines[i] = f.place.String() + ": " + f.problem
	}
	return refuse("nothing was imported; mend the file and import it again", "the file has %s:\n%s", counted(len(bad), "fault"), strings.Join(lines, "\n"))
}

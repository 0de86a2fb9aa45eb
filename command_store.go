package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"postern/config"
	"postern/registry"
	"postern/secret"
)

// StoreCommand groups what can be done with a store as a whole.
type StoreCommand struct {
	Backup  StoreBackupCommand  `cmd:"" help:"Write all of the store into one file, while it is served."`
	Restore StoreRestoreCommand `cmd:"" help:"Fill an empty store from a backup."`
	Copy    StoreCopyCommand    `cmd:"" help:"Copy a store into an empty one, of another kind too."`
	Check   StoreCheckCommand   `cmd:"" help:"Read all of the store and report what is not whole."`
	Migrate StoreMigrateCommand `cmd:"" help:"Make or upgrade the tables, as serve does when it starts."`
}

const (
	emptyHint = "name a file that is not there yet, or a new database; what is in a store is never overwritten"
	// keyNote is what the help says about keys.
	keyNote = "The signing keys are copied as they are, encrypted by the master key (keys.master_key_file): keep that key elsewhere, and as safe. Without it " +
		"nothing can be issued or verified with them, and every token that they signed is refused."
)

// StoreBackupCommand backs a store up.
type StoreBackupCommand struct {
	where
	File  string `arg:"" placeholder:"FILE" help:"The file to make, readable for its owner alone. It is an SQLite store, whatever the store is."`
	Force bool   `help:"Replace FILE if it is there already."`
}

// Help says what is in it and gives an example.
func (StoreBackupCommand) Help() string {
	return "The file is one moment of the store: all that was acknowledged before the command began is in it. It is read again and compared before it gets its name. " +
		keyNote + "\n\n" + example("postern store backup /var/backups/postern.db --config postern.yaml")
}

// Run makes the file and answers with what is in it.
func (c *StoreBackupCommand) Run(ctx context.Context, e *environment) error {
	settings, err := c.existing(e)
	if err == nil {
		o := e.copyOptions(settings.Keys.MasterKey, c.JSON)
		o.From = settings.Store
		var report registry.CopyReport
		if report, err = registry.Backup(ctx, o, c.File, c.Force); err == nil {
			return e.copied(c.JSON, report, o)
		}
	}
	hint := next{other: masterHint}
	if !c.Force && errors.Is(err, registry.ErrConflict) {
		err = &failure{err, "take another name, or add --force"}
	}
	return cannot("back the store up", err, hint)
}

// StoreRestoreCommand fills a store from a backup.
type StoreRestoreCommand struct {
	where
	File         string `arg:"" placeholder:"FILE" help:"The backup."`
	RevokeTokens bool   `help:"Refuse every access token issued before now; clients ask for new ones."`
}

// Help says what comes back and gives an example.
func (StoreRestoreCommand) Help() string {
	return "The store must be empty, or not there yet. It becomes what it was when the backup was made: a token that was revoked, a client that was disabled and a " +
		"secret that was changed since then is good again. Unless you know that there was none, use --revoke-tokens and look through the clients. " +
		keyNote + "\n\n" + example("postern store restore /var/backups/postern.db --config postern.yaml --revoke-tokens")
}

// Run fills the store and answers with what came into it.
func (c *StoreRestoreCommand) Run(ctx context.Context, e *environment) error {
	settings, err := c.settings(e)
	if err == nil {
		if _, err = os.Stat(c.File); err != nil {
			err = refuse("name a backup, which is what postern store backup made", "%s: %w", c.File, errors.Unwrap(err))
		}
	}
	if err == nil {
		o := e.copyOptions(settings.Keys.MasterKey, c.JSON)
		o.To, o.RevokeTokens = settings.Store, c.RevokeTokens
		var report registry.CopyReport
		if report, err = registry.Restore(ctx, o, c.File); err == nil {
			if !c.RevokeTokens {
				e.note("warning: what was revoked, disabled or rotated after the backup was made is good again, until you do it again; " +
					"postern token revoke --organization ID refuses the tokens of one organization")
			}
			return e.copied(c.JSON, report, o)
		}
	}
	return cannot("restore the store", conflictHint(err, emptyHint), next{other: masterHint})
}

// StoreCopyCommand copies a store.
type StoreCopyCommand struct {
	From        string `arg:"" placeholder:"FROM" help:"The store to read, as store: has it; @FILE reads it from a file, which keeps a password out of the process list."`
	To          string `arg:"" placeholder:"TO" help:"The store to fill, likewise. It must be empty, or not there yet."`
	WithoutKeys bool   `help:"Leave the keys behind, after the master key was lost: clients keep their secrets, every access token is refused, and serve makes a new signing key."`
	Config      string `group:"Store and answer:" placeholder:"FILE" help:"The configuration, for its master key; by default $$POSTERN_CONFIG."`
	JSON        bool   `group:"Store and answer:" name:"json" help:"Answer with JSON, for machines, and show no progress."`
}

// Help says how to move and gives examples.
func (StoreCopyCommand) Help() string {
	return "To move a store: stop every postern, copy, change store: in the configuration, start again. What is written to FROM after the copy began is not in TO, and " +
		"the command says so. Both stores have the same master key; where FROM has none, the one of the configuration encrypts the signing keys in TO. " +
		"TO is written as a whole or not at all, and compared before that.\n\n" +
		example("postern store copy sqlite:postern.db sqlite:/srv/postern/postern.db", "postern store copy sqlite:postern.db @/etc/postern/dsn --config postern.yaml")
}

// Run copies and answers with what was copied.
func (c *StoreCopyCommand) Run(ctx context.Context, e *environment) error {
	from, err := dsnArgument(c.From)
	if err != nil {
		return cannot("copy the store", err, next{})
	}
	to, err := dsnArgument(c.To)
	if err != nil {
		return cannot("copy the store", err, next{})
	}
	settings, err := where{Config: c.Config}.settings(e)
	if err == nil {
		o := e.copyOptions(settings.Keys.MasterKey, c.JSON)
		o.From, o.To, o.WithoutKeys = from, to, c.WithoutKeys
		var report registry.CopyReport
		if report, err = registry.Copy(ctx, o); err == nil {
			if report.Behind {
				e.note("warning: somebody wrote to FROM meanwhile, and TO has nothing of that: stop every postern and copy once more into an empty store")
			}
			return e.copied(c.JSON, report, o)
		}
	}
	return cannot("copy the store", conflictHint(err, emptyHint), next{other: masterHint})
}

// StoreCheckCommand checks a store.
type StoreCheckCommand struct{ where }

// Help says what is looked at and gives examples.
func (StoreCheckCommand) Help() string {
	return "Reads every row: pages and references of an SQLite file, gaps in the change feed and the audit trail, and, with the master key, that every signing key opens. " +
		"Nothing is written, and the store may be served meanwhile. Equal digests mean equal rows, on whatever kind of store. Exit code 1 when something is not whole.\n\n" +
		example("postern store check --config postern.yaml", "postern store check --store sqlite:/var/backups/postern.db")
}

// Run answers with what each table has, and what is wrong.
func (c *StoreCheckCommand) Run(ctx context.Context, e *environment) error {
	err := func() error {
		settings, err := c.existing(e)
		if err != nil {
			return err
		}
		report, err := registry.Check(ctx, settings.Store, settings.Keys.MasterKey, e.copyProgress(c.JSON))
		if err != nil {
			return err
		}
		if settings.Keys.MasterKey == "" && report.Keys == 0 {
			e.note("no master key is configured: no signing key was tried")
		}
		if c.JSON {
			err = e.json(report)
		} else {
			err = e.tables(report.Tables)
		}
		if err == nil && len(report.Faults) > 0 {
			err = refuse("where that is not the master key, restore a backup, or ask for help before you serve it", "the store has %s:\n%s", counted(len(report.Faults), "fault"), strings.Join(report.Faults, "\n"))
		}
		return err
	}()
	if err != nil {
		return cannot("check the store", err, next{})
	}
	return nil
}

// StoreMigrateCommand makes or upgrades the tables.
type StoreMigrateCommand struct {
	where
	Timeout time.Duration `default:"60s" placeholder:"DURATION" help:"How long to wait for a store that does not answer."`
}

// Help says when and gives an example.
func (StoreMigrateCommand) Help() string {
	return "For a step of its own before the first replica of a new version starts; any number may run at once, and beside replicas of the version before. " +
		"No key is needed, read or made: keys.master_key may be unset, and its file may be missing.\n\n" +
		example("postern store migrate --config postern.yaml", "postern store migrate --store sqlite:/var/lib/postern/postern.db")
}

// Validate refuses to wait no time.
func (c *StoreMigrateCommand) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout: use a duration above 0, for example 60s")
	}
	return nil
}

// Run migrates, and answers with the versions.
func (c *StoreMigrateCommand) Run(ctx context.Context, e *environment) error {
	settings, err := c.load(e, nil, func(key string) bool { return strings.HasPrefix(key, "keys.") })
	var m registry.Migration
	if err == nil {
		m, err = c.migrate(ctx, e, registryOptions(e, settings))
	}
	switch {
	case err != nil:
		return cannot("migrate the store", err, next{})
	case c.JSON:
		return e.json(m)
	case m.From == m.To:
		_, err = fmt.Fprintf(e.Stdout, "the tables have version %d already\n", m.To)
	case m.From == 0:
		_, err = fmt.Fprintf(e.Stdout, "made the tables, version %d\n", m.To)
	default:
		_, err = fmt.Fprintf(e.Stdout, "upgraded the tables from version %d to %d\n", m.From, m.To)
	}
	return err
}

// migrate tries again as serve does, until the time is over.
func (c *StoreMigrateCommand) migrate(ctx context.Context, e *environment, o registry.Options) (m registry.Migration, err error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	var told time.Time
	for delay := firstRetry; ; delay = min(2*delay, lastRetry) {
		var failed error
		if m, failed = registry.Migrate(ctx, o); failed == nil || !mayEnd(failed) {
			return m, failed
		}
		// What was cut short says nothing new.
		if err == nil || ctx.Err() == nil {
			err = failed
		}
		if now := e.Now(); now.Sub(told) >= pollNotice {
			told = now
			e.note("waiting: %v", failed)
		}
		select {
		case <-ctx.Done():
			return m, err
		case <-time.After(delay):
		}
	}
}

// existing is the settings that w names, with a store that is there.
func (w where) existing(e *environment) (config.Config, error) {
	c, err := w.settings(e)
	if err != nil {
		return c, err
	}
	if path, missing := missingFile(c.Store); missing {
		return c, refuse("say where the store is with --store or --config", "there is no store at %s", path)
	}
	return c, nil
}

// dsnArgument is a DSN of the command line, or of the file that it names.
func dsnArgument(text string) (secret.Secret, error) {
	path, ok := strings.CutPrefix(text, "@")
	if !ok {
		return secret.Secret(text), nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, errors.Unwrap(err))
	}
	return secret.Secret(strings.TrimSpace(string(content))), nil
}

// conflictHint adds what to do about a target that has something in it.
func conflictHint(err error, hint string) error {
	if errors.Is(err, registry.ErrConflict) {
		return &failure{err, hint}
	}
	return err
}

func (e *environment) copyOptions(master secret.Secret, quiet bool) registry.CopyOptions {
	return registry.CopyOptions{MasterKey: master, Actor: e.actor(), Now: e.Now, Random: e.Random, Progress: e.copyProgress(quiet)}
}

// copyProgress writes at most one line a second.
func (e *environment) copyProgress(quiet bool) func(registry.Progress) {
	if quiet {
		return nil
	}
	began := e.Now()
	last := began
	return func(p registry.Progress) {
		now := e.Now()
		if now.Sub(last) < time.Second {
			return
		}
		last = now
		doing := "copying"
		if p.Verifying {
			doing = "comparing"
		}
		e.note("%s %s: %d%%, %.0f rows/s", doing, p.Table, 100*p.Done/max(p.All, 1), float64(p.Done)/now.Sub(began).Seconds())
	}
}

// copied answers with what a copy has.
func (e *environment) copied(asJSON bool, r registry.CopyReport, o registry.CopyOptions) error {
	if r.Wrapped {
		e.note("the signing keys lay unencrypted in the source; in the copy the master key encrypts them")
	}
	if o.MasterKey == "" && !o.WithoutKeys {
		e.note("no master key is configured: the signing keys were copied as they are, and not tried")
	}
	if asJSON {
		return e.json(r)
	}
	return e.tables(r.Tables)
}

func (e *environment) tables(all []registry.TableReport) error {
	return list(e, false, all, row{"TABLE", "ROWS", "SHA-256"}, func(t registry.TableReport) row {
		return row{t.Name, fmt.Sprint(t.Rows), t.Digest}
	})
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"postern/config"
	"postern/registry"
	"postern/secret"
)

// where says which settings and which store a management command works on, and how it
// answers. Embed it.
type where struct {
	Store  string `group:"Store and answer:" placeholder:"DSN" help:"The store, for example sqlite:/var/lib/postern/postern.db; by default $$POSTERN_STORE, else the configuration's, else sqlite:postern.db."`
	Config string `group:"Store and answer:" placeholder:"FILE" help:"The configuration, for its store and master key; by default $$POSTERN_CONFIG."`
	JSON   bool   `group:"Store and answer:" name:"json" help:"Answer with JSON, for machines; times are Unix milliseconds."`
}

// Stand-ins for what only serve needs, and may have been told by its own flags: a command
// that works on the store does not ask for an upstream or an issuer. Both are of no machine
// (RFC 5737, RFC 2606).
const (
	nowhere = "http://192.0.2.1:1"
	nobody  = "http://postern.invalid"
)

// settings loads the configuration that the command line and the environment name. Where
// nothing says who the issuer is, its URL and audience are empty.
func (w where) settings(e *environment) (config.Config, error) { return w.load(e, nil, nil) }

// load is settings with more flags, by the settings that they are for, and without the
// faults to ignore.
func (w where) load(e *environment, flags map[string]string, ignore func(key string) bool) (config.Config, error) {
	var best config.Config
	var fault error
	for i, standIn := range []struct{ upstream, issuer string }{{"", ""}, {nowhere, ""}, {"", nobody}, {nowhere, nobody}} {
		source := config.Source{File: configFile(e, w.Config), Environ: e.Environ, Flags: map[string]string{}, Upstream: standIn.upstream, Ignore: ignore}
		maps.Copy(source.Flags, flags)
		if w.Store != "" {
			source.Flags["store"] = w.Store
		}
		if standIn.issuer != "" {
			source.Flags["issuer.url"] = standIn.issuer
		}
		c, err := loadConfig(e, source)
		// A stand-in is one fault less where it was needed, and one more or none where it was not.
		if i > 0 && len(faults(err)) >= len(faults(fault)) {
			continue
		}
		best, fault = c, err
		if best.Issuer.URL == nobody {
			best.Issuer.URL = ""
		}
		if best.Issuer.Audience == nobody { // nobody said it: it follows the URL
			best.Issuer.Audience = ""
		}
		if fault == nil {
			break
		}
	}
	return best, fault
}

// open opens the store that must exist already. The caller closes it.
func (w where) open(ctx context.Context, e *environment) (*registry.Registry, config.Config, error) {
	c, err := w.settings(e)
	if err != nil {
		return nil, c, err
	}
	if path, missing := missingFile(c.Store); missing {
		return nil, c, refuse("say where the store is with --store or --config, or make one with: postern organization create --name NAME",
			"there is no store at %s", path)
	}
	r, err := openRegistry(ctx, e, c)
	return r, c, err
}

// openOrCreate is open for the one command that may make the store.
func (w where) openOrCreate(ctx context.Context, e *environment) (*registry.Registry, error) {
	c, err := w.settings(e)
	if err != nil {
		return nil, err
	}
	path, missing := missingFile(c.Store)
	r, err := openRegistry(ctx, e, c)
	if err == nil && missing {
		e.note("made a new store at %s", path)
	}
	return r, err
}

func openRegistry(ctx context.Context, e *environment, c config.Config) (*registry.Registry, error) {
	return registry.Open(ctx, registryOptions(e, c))
}

func registryOptions(e *environment, c config.Config) registry.Options {
	return registry.Options{
		DSN: c.Store, MasterKey: c.Keys.MasterKey, Now: e.Now, Random: e.Random,
		Connections: c.StoreOptions.Connections, StatementTimeout: time.Duration(c.StoreOptions.StatementTimeout),
		Log: e.Logger("text", slog.LevelError),
	}
}

// configFile is the configuration that flag names, else the environment; "" for none.
func configFile(e *environment, flag string) string {
	if flag != "" {
		return flag
	}
	return e.Getenv("POSTERN_CONFIG")
}

// missingFile is the file of a SQLite store, and whether it is yet to be made.
func missingFile(dsn secret.Secret) (path string, missing bool) {
	path, ok := strings.CutPrefix(dsn.Reveal(), "sqlite:")
	if !ok {
		return "", false
	}
	_, err := os.Stat(path)
	return path, errors.Is(err, fs.ErrNotExist)
}

// use opens the store that w names, calls do, and closes the store again.
func (w where) use(ctx context.Context, e *environment, do func(*registry.Registry) error) (err error) {
	r, _, err := w.open(ctx, e)
	if err != nil {
		return err
	}
	defer func() {
		if closing := r.Close(); err == nil && closing != nil {
			err = fmt.Errorf("close store: %w", closing)
		}
	}()
	return do(r)
}

// loadConfig loads and validates what source names. Its error has one fault on each line.
func loadConfig(e *environment, source config.Source) (config.Config, error) {
	// The variable that names the file is ours; to config it is one that it does not know.
	source.Environ = slices.DeleteFunc(slices.Clone(source.Environ), func(entry string) bool {
		return strings.HasPrefix(entry, "POSTERN_CONFIG=")
	})
	source.Now = e.Now()
	c, err := config.Load(source)
	if err == nil {
		return c, nil
	}
	all := faults(err)
	if len(all) > 1 {
		err = fmt.Errorf("the configuration has %s:\n%w", counted(len(all), "fault"), err)
	}
	return c, &failure{cause: err, hint: "postern check --reference lists all settings"}
}

// faults takes apart the error of config.Load.
func faults(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok {
		return joined.Unwrap()
	}
	return []error{err}
}

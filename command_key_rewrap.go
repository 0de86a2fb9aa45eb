package main

import (
	"context"
	"errors"
	"strings"

	"postern/config"
	"postern/registry"
	"postern/secret"
)

// KeyRewrapCommand changes the master key.
type KeyRewrapCommand struct {
	where
	NewMasterKeyFile string `required:"" placeholder:"FILE" help:"A file with the new master key: 32 random bytes in base64 or hex (openssl rand -base64 32)."`
}

// Help says what follows from it, and gives an example.
func (KeyRewrapCommand) Help() string {
	return "The old master key is that of the configuration (keys.master_key_file), or none. Running posterns go on; whatever is started " +
		"from then on needs the new one, so put it in the configuration of all of them next. Keep the old one as long as you keep backups " +
		"of before. Losing the master key loses the signing keys, and with them every access token that is in use.\n\n" +
		example("postern key rewrap --new-master-key-file /run/secrets/postern-master-key-2")
}

// Run changes the master key and says how many keys it opens.
func (c *KeyRewrapCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		next, err := c.newMasterKey(e)
		if err != nil {
			return err
		}
		keys, damaged, err := r.Rewrap(ctx, e.actor(), next)
		if err != nil {
			return err
		}
		if damaged > 0 {
			e.note("no master key opens %s more, damaged before this: postern key remove takes them away", counted(damaged, "key"))
		}
		if c.JSON {
			return e.json(struct {
				Keys    int `json:"keys"`
				Damaged int `json:"damaged"`
			}{keys, damaged})
		}
		e.note("the new master key opens %s of this store: set keys.master_key_file to its file before anything is restarted", counted(keys, "key"))
		return nil
	})
	if err != nil {
		return cannot("change the master key", err, next{other: masterHint})
	}
	return nil
}

// newMasterKey reads the file as the configuration would.
func (c *KeyRewrapCommand) newMasterKey(e *environment) (secret.Secret, error) {
	const setting = "keys.master_key_file"
	settings, err := c.load(e, map[string]string{setting: c.NewMasterKeyFile}, nil)
	if err == nil {
		if settings.Keys.MasterKey == "" {
			return "", errors.New("--new-master-key-file: names no file")
		}
		return settings.Keys.MasterKey, nil
	}
	var all []error
	for _, fault := range faults(err) {
		if f, ok := errors.AsType[config.Fault](fault); ok && strings.HasPrefix(f.Key, "keys.master_key") {
			f.File, f.Line, f.Key = "", 0, "--new-master-key-file"
			fault = f
		}
		all = append(all, fault)
	}
	return "", errors.Join(all...)
}

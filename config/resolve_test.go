package config

import (
	"strings"
	"testing"

	"postern/secret"
)

func TestMasterKey(t *testing.T) {
	f := func(name string, s Source, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			s.Upstream = "http://127.0.0.1:3000"
			c, err := Load(s)
			got := string(c.Keys.MasterKey)
			if err != nil {
				got = strings.Join(lines(err), "\n")
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	env := func(text string) Source { return Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + text}} }
	const bad = "POSTERN_KEYS_MASTER_KEY: keys.master_key: is not 32 bytes in base64 or hex: make one with: openssl rand -base64 32"
	f("none", Source{}, "")
	f("base64", env(aKey), aKeyRaw)
	f("base64 without padding", env(strings.TrimRight(aKey, "=")), aKeyRaw)
	f("hex", env(aKeyHex), aKeyRaw)
	f("upper-case hex", env(strings.ToUpper(aKeyHex)), aKeyRaw)
	f("line's end", env(aKey+"\n"), aKeyRaw)
	f("31 bytes", env(aKeyHex[2:]), bad)
	f("text", env("hunter2"), bad)
	f("empty", env(""), "POSTERN_KEYS_MASTER_KEY: keys.master_key: is set, but empty: give it a value, or remove the setting")
	f("row 141: the default of somebody", env(strings.Repeat("0", 64)),
		"POSTERN_KEYS_MASTER_KEY: keys.master_key: is not random: make one with: openssl rand -base64 32")
	f("by a flag", Source{Flags: map[string]string{"keys.master_key": aKey}},
		"flag: keys.master_key: is given on the command line, where every user of this machine can read it: set POSTERN_KEYS_MASTER_KEY or keys.master_key_file")

	held := write(t, "key", aKey+"\n")
	f("file", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + held}}, aKeyRaw)
	f("file by a flag", Source{Flags: map[string]string{"keys.master_key_file": held}}, aKeyRaw)
	f("variable beats the file's setting", Source{
		File: write(t, "postern.yaml", "keys: {master_key_file: /nowhere}\n"), Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + aKey},
	}, aKeyRaw)
	f("file's name in a variable beats the file's setting", Source{
		File: write(t, "postern.yaml", "keys: {master_key: \""+strings.Repeat("0", 64)+"\"}\n"), Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + held},
	}, aKeyRaw)
	f("both", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + held, "POSTERN_KEYS_MASTER_KEY=" + aKey}},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: is set, and keys.master_key is too: use one of the two")
	f("the key where its file's name belongs", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + aKey}},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it")
	f("empty file", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + write(t, "key", "\n")}},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: names a file that is empty: write the secret to it")
	f("raw file", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=" + write(t, "key", aKeyRaw)}},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: names a file whose content has a line break or another control character: write it on one line")
	f("a directory", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=/"}},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: names a file that cannot be read: is a directory: check its path, and that postern's user may read it")
	f("a device without end", Source{Environ: []string{"POSTERN_KEYS_MASTER_KEY_FILE=/dev/zero"}},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: names a file that is larger than 4KiB: check its path, and that postern's user may read it")
}

func TestStoreFile(t *testing.T) {
	c, err := Load(Source{
		Upstream: "http://127.0.0.1:3000",
		File:     write(t, "postern.yaml", "store_file: "+write(t, "dsn", "sqlite:/var/lib/postern/p.db\n")+"\n"),
	})
	if err != nil || c.Store != secret.Secret("sqlite:/var/lib/postern/p.db") {
		t.Errorf("store is %q, %v", c.Store.Reveal(), err)
	}
}

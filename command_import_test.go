package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/argon2"

	"postern/registry"
	"postern/secret"
)

// TestImportTellsItsProgress: above 1,000 rows, on stderr; and a file that is too large is
// refused before anything of it is looked at.
func TestImportTellsItsProgress(t *testing.T) {
	dir := t.TempDir()
	dsn := "sqlite:" + filepath.Join(dir, "postern.db")
	var stdout, stderr bytes.Buffer
	postern := func(args ...string) int {
		stdout.Reset()
		stderr.Reset()
		return run(t.Context(), append(args, "--store", dsn), nil, &stdout, &stderr)
	}
	if code := postern("organization", "create", "--name", "Acme"); code != exitDone {
		t.Fatal(&stderr)
	}
	r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret(dsn)})
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.Organizations(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "clients.csv")
	f := func(rows int, secrets, wantStderr string) {
		t.Helper()
		var text strings.Builder
		fmt.Fprintln(&text, "client_id,application,environment,client_secret"+secrets)
		for i := range rows {
			fmt.Fprintf(&text, "%d-%d,%d-%d,prod,%064x\n", rows, i, rows, i, i+1)
		}
		if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if code := postern("client", "import", file, "--organization", all[0].ID); code != exitDone || stderr.String() != wantStderr {
			t.Errorf("%d rows: exit code %d, stderr %q, want %q", rows, code, &stderr, wantStderr)
		}
	}
	f(1000, "_sha256", "")
	f(2001, "_sha256", "postern: wrote 1000 of 2001\npostern: wrote 2000 of 2001\npostern: wrote 2001 of 2001\n")

	if err := os.Truncate(file, maxImport+1); err != nil {
		t.Fatal(err)
	}
	if code := postern("client", "import", file, "--organization", all[0].ID); code != exitFailed || !strings.Contains(stderr.String(), "the file is larger than 64 MiB") {
		t.Errorf("exit code %d, stderr %q", code, &stderr)
	}
}

// TestImportHashesEachSecret: rows keep their own secrets, whatever worker hashed them.
func TestImportHashesEachSecret(t *testing.T) {
	rows, clients := make([]importRow, 7), make([]registry.ImportedClient, 7)
	for i := range rows {
		rows[i].fields = []secret.Secret{secret.Secret(fmt.Sprint("hunter", i))}
	}
	clients[3].WellFormed = true // is not hashed
	c := &ClientImportCommand{Hash: "plain"}
	if err := c.hash(t.Context(), newEnvironment(nil, nil, nil), rows, clients); err != nil {
		t.Fatal(err)
	}
	for i, client := range clients {
		if client.WellFormed {
			if client.Hash != "" {
				t.Errorf("%d was hashed", i)
			}
			continue
		}
		want, err := secret.ParseArgon2id(client.Hash)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Key, argon2.IDKey(fmt.Append(nil, "hunter", i), want.Salt, want.Time, want.Memory, want.Threads, uint32(len(want.Key)))) {
			t.Errorf("%d has another's hash", i)
		}
	}
}

func TestDigestFrom(t *testing.T) {
	want := secret.DigestOf([]byte("hunter2"))
	f := func(text string, wantOK bool) {
		t.Helper()
		if got, ok := digestFrom(text); ok != wantOK || ok && got != want {
			t.Errorf("%q: %v", text, ok)
		}
	}
	f(fmt.Sprintf("%x", want), true)
	f(fmt.Sprintf("%X", want), true)
	f("9S+9MrKzuG/4jvbEkGKChfSCrxXdyylUH5S89Saj9sc=", true)
	f("9S+9MrKzuG/4jvbEkGKChfSCrxXdyylUH5S89Saj9sc", true)
	f("9S-9MrKzuG_4jvbEkGKChfSCrxXdyylUH5S89Saj9sc=", true)
	f("9S+9MrKzuG/4jvbEkGKChfSCrxXdyylUH5S89Saj9sc==", false)
	f("", false)
	f(fmt.Sprintf("%x", want)[2:], false)
	f(fmt.Sprintf("%x", want)+"00", false)
}

package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"postern/registry"
	"postern/secret"
)

// TestBackupWhileIssuing: postern serves as ever while its store is backed up, and each token
// that a client had before the backup began is in it.
func TestBackupWhileIssuing(t *testing.T) {
	up := startUpstream(t)
	s := serve(t, up, "")
	c := s.client("")
	var mu sync.Mutex
	var answered []string
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				_, r := s.token(c)
				var got struct{ Data struct{ ID string } }
				if err := json.Unmarshal([]byte(r.body), &got); err != nil || r.status != 201 || got.Data.ID == "" {
					t.Errorf("issuing: %d %s %v", r.status, r.body, err)
					return
				}
				mu.Lock()
				answered = append(answered, got.Data.ID)
				mu.Unlock()
			}
		})
	}
	end := sync.OnceFunc(func() {
		close(stop)
		clients.Wait()
	})
	defer end()
	for _, name := range []string{"first.db", "second.db"} {
		time.Sleep(100 * time.Millisecond)
		mu.Lock()
		before := slices.Clone(answered)
		mu.Unlock()
		path := filepath.Join(t.TempDir(), name)
		s.command("store", "backup", path)
		r, err := registry.Open(t.Context(), registry.Options{DSN: secret.Secret("sqlite:" + path)})
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range before {
			if _, err := r.Token(t.Context(), id); err != nil {
				t.Errorf("%s: a token that was answered before: %v", name, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if name == "second.db" && len(before) == 0 {
			t.Error("nothing was issued")
		}
	}
	end()
}

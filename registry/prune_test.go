package registry

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestPrune(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		c, _ := newClient(t, r) // changes 1 and 2
		start := At(clk.now())
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)
		token := issued(t, r, c) // to 2 h
		for _, err := range []error{
			second(r.RotateClientSecret(ctx, operator, c.ID, time.Hour)),                        // 3
			second(r.RotateKey(ctx, operator, newKey(t, "a", "ES256"), 0, 0)),                   // 4
			second(r.RotateKey(ctx, operator, newKey(t, "b", "ES256"), time.Hour, 2*time.Hour)), // 5: a verifies to 3 h
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		prune := func(what string, after time.Duration, want int) {
			t.Helper()
			if n, err := r.Prune(ctx, start.later(after)); n != want || err != nil {
				t.Errorf("%s: %d rows, %v, want %d", what, n, err, want)
			}
		}
		const ms = time.Millisecond
		prune("nothing yet", time.Hour-ms, 0)
		prune("secret and changes at an hour", time.Hour, 1+4) // the last change stays
		prune("once is enough", time.Hour, 0)
		prune("before a minute after the token's end", 2*time.Hour+time.Minute-ms, 0)
		if _, err := r.Token(ctx, token.ID); err != nil {
			t.Error(err)
		}
		prune("a minute after the token's end", 2*time.Hour+time.Minute, 1)
		_, err := r.Token(ctx, token.ID)
		wants(t, "the token", err, ErrNotFound, "no such token")
		prune("before a minute after the key's end", 3*time.Hour+time.Minute-ms, 0)
		prune("a minute after the key's end", 3*time.Hour+time.Minute, 1)
		var left int
		if err := r.engine.read.QueryRow(`SELECT count(*) FROM signing_key WHERE private = ''`).Scan(&left); err != nil || left != 1 {
			t.Errorf("%d private parts are wiped (%v), want 1", left, err)
		}
		if all := must(r.Client(ctx, c.ID))(t); len(all.Secrets) != 1 {
			t.Errorf("%d secrets, want 1", len(all.Secrets))
		}
		if got := poll(t, feed); got != "reset" {
			t.Errorf("who missed what was pruned: %q", got)
		}
		prune("pruning is no change", 3*time.Hour+time.Minute, 0)
		if events := must(r.Events(ctx, 0))(t); len(events) != 5 {
			t.Errorf("%d events, want 5: pruning is none, and keeps all", len(events))
		}
	})
}

func second[T any](_ T, err error) error { return err }

// A clock that jumps leaves no gap in the middle of the feed.
func TestPruneFromTheFrontOnly(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)
		start := At(clk.now())
		for _, jump := range []time.Duration{0, 24 * time.Hour, -24 * time.Hour} {
			clk.add(jump)
			if _, err := r.CreateOrganization(ctx, operator, "x", Terms{}); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := r.Prune(ctx, start.later(2*time.Hour)); n != 1 || err != nil {
			t.Errorf("%d rows, %v, want 1", n, err)
		}
		var seqs string
		if err := r.engine.read.QueryRow(`SELECT min(seq) || ',' || max(seq) FROM change`).Scan(&seqs); err != nil || seqs != "2,3" {
			t.Errorf("left are %s (%v), want 2,3", seqs, err)
		}
	})
}

func TestPruneManyTokens(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		token := issued(t, r, c)
		_, err := r.engine.write.Exec(`WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < $1)
		INSERT INTO token (id, subject_type, subject_id, organization_id, scope, key_id, issued_at, expires_at)
		SELECT 'old-' || n, 'Client', $2, $3, '', '', 1, 2 FROM s`, 2*pruneBatch+1, c.ID, c.OrganizationID)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.Prune(ctx, r.now()); n != 2*pruneBatch+1 || err != nil {
			t.Errorf("%d rows, %v, want %d", n, err, 2*pruneBatch+1)
		}
		if _, err := r.Token(ctx, token.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestPruneOfLockedStore(t *testing.T) {
	r := open(t, file(t))
	shortPatience(t, r)
	defer lockStore(t, r)()
	if _, err := r.Prune(context.Background(), r.now()); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
}

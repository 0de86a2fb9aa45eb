package registry

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// poll is Poll for tests: the changes as "seq kind", or "reset".
func poll(t *testing.T, f *Feed) string {
	t.Helper()
	changes, reset, err := f.Poll(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	if reset {
		text = "reset"
		if len(changes) != 0 {
			t.Errorf("reset, and yet %v", changes)
		}
	}
	for _, c := range changes {
		text += fmt.Sprintf("[%d %s]", c.Seq, c.Kind)
	}
	return text
}

func TestFeed(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		path := file(t)
		server, cli := open(t, path), open(t, path) // two processes would not differ: the connections do
		c, _ := newClient(t, server)                // 1, 2
		feed := must(server.Feed(ctx))(t)
		defer feed.Close()
		check := func(what, want string) {
			t.Helper()
			if got := poll(t, feed); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		check("the first look", "reset")
		check("nothing new", "")
		token := issued(t, cli, c)
		check("a token was issued", "")
		if err := cli.DisableClient(ctx, operator, c.ID); err != nil {
			t.Fatal(err)
		}
		check("by the other", "[3 client]")
		if _, err := server.RevokeToken(ctx, operator, token.ID); err != nil {
			t.Fatal(err)
		}
		if err := cli.RevokeOrganizationTokens(ctx, operator, c.OrganizationID); err != nil {
			t.Fatal(err)
		}
		if _, err := cli.RotateKey(ctx, operator, newKey(t, "a", "ES256"), 0, 0); err != nil {
			t.Fatal(err)
		}
		check("by both", "[4 token][5 organization][6 key]")
		if err := cli.DisableClient(ctx, operator, c.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := server.RevokeToken(ctx, operator, token.ID); err != nil {
			t.Fatal(err)
		}
		if err := server.DisableClient(ctx, operator, "none"); err == nil {
			t.Fatal("there is no such client")
		}
		check("what changes nothing is no change", "")
		a := must(cli.CreateAgreement(ctx, operator, NewAgreement{OrganizationID: c.OrganizationID, Name: "x"}))(t)
		g := must(cli.CreateCatalog(ctx, operator, NewCatalog{ExternalID: "x", Public: true, Name: "x"}))(t)
		changes, _, err := feed.Poll(ctx)
		same(t, "with their ids and times", changes, err, []Change{{7, KindAgreement, a.ID, a.CreatedAt}, {8, KindCatalog, g.ID, g.CreatedAt}})

		second := must(cli.Feed(ctx))(t)
		defer second.Close()
		if got := poll(t, second); got != "reset" {
			t.Errorf("the first look of another: %q", got)
		}
		check("each follower has its own position", "")
	})
}

// While nobody writes, a look reads the version and nothing else.
func TestFeedReadsNothingWhenUnchanged(t *testing.T) {
	ctx := context.Background()
	r := open(t, file(t))
	feed := must(r.Feed(ctx))(t)
	defer feed.Close()
	poll(t, feed)
	feed.position = 99 // a read would see that this is not so
	if got := poll(t, feed); got != "" {
		t.Errorf("it read: %q", got)
	}
	newClient(t, r)
	if got := poll(t, feed); got != "reset" {
		t.Errorf("a position ahead of the log: %q", got)
	}
}

func TestFeedResets(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		f := func(name, damage, want string) {
			t.Helper()
			t.Run(name, func(t *testing.T) {
				t.Helper()
				path := file(t)
				r := open(t, path)
				c, _ := newClient(t, r) // changes 1 and 2
				feed := must(r.Feed(ctx))(t)
				defer feed.Close()
				poll(t, feed)
				for range 2 { // 3 to 6
					if err := errors.Join(r.DisableClient(ctx, operator, c.ID), r.EnableClient(ctx, operator, c.ID)); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := r.engine.write.Exec(damage); err != nil {
					t.Fatal(err)
				}
				if got := poll(t, feed); got != want {
					t.Errorf("%q, want %q", got, want)
				}
				if err := r.DisableClient(ctx, operator, c.ID); err != nil {
					t.Fatal(err)
				}
				if got := poll(t, feed); got == "reset" || got == "" {
					t.Errorf("the next look: %q", got)
				}
			})
		}
		f("nothing is wrong", `DELETE FROM change WHERE seq < 2`, "[3 client][4 client][5 client][6 client]")
		f("pruned from the front", `DELETE FROM change WHERE seq < 3`, "reset")
		f("pruned altogether", `DELETE FROM change`, "reset")
		f("a gap", `DELETE FROM change WHERE seq = 4`, "reset")
		f("the end is missing", `DELETE FROM change WHERE seq = 6`, "reset")
		f("another epoch", `UPDATE counter SET epoch = 'x'`, "reset")
		f("an older store", `UPDATE counter SET seq = 1; DELETE FROM change WHERE seq > 1`, "reset")
	})
}

func TestFeedFarBehind(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)
		fill := func(n int) {
			t.Helper()
			_, err := r.engine.write.Exec(`WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < $1)
			INSERT INTO change (seq, kind, id, at) SELECT (SELECT seq FROM counter) + n, 'client', 'x', 1 FROM s`, n)
			if err == nil {
				_, err = r.engine.write.Exec(`UPDATE counter SET seq = seq + $1`, n)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		fill(maxBehind)
		if changes, reset, err := feed.Poll(ctx); len(changes) != maxBehind || reset || err != nil {
			t.Errorf("as far behind as can be: %d, %v, %v", len(changes), reset, err)
		}
		fill(maxBehind + 1)
		if changes, reset, err := feed.Poll(ctx); len(changes) != 0 || !reset || err != nil {
			t.Errorf("further: %d, %v, %v", len(changes), reset, err)
		}
		if err := r.DisableClient(ctx, operator, c.ID); err != nil {
			t.Fatal(err)
		}
		if got := poll(t, feed); got != fmt.Sprintf("[%d client]", 2+2*maxBehind+1+1) {
			t.Errorf("afterwards: %q", got)
		}
	})
}

// Writers in two registries, a follower all the while: each change once, in order.
func TestFeedIsInOrder(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		path := file(t)
		writers := []*Registry{open(t, path), open(t, path)}
		reader := open(t, path)
		feed := must(reader.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)
		var wait sync.WaitGroup
		var mu sync.Mutex
		made := make(map[string]bool)
		const each = 250
		for n := range 8 {
			wait.Go(func() {
				for range each {
					o, err := writers[n%2].CreateOrganization(ctx, operator, "x", Terms{})
					for errors.Is(err, ErrUnavailable) { // on a busy machine the other may have had the lock for too long
						o, err = writers[n%2].CreateOrganization(ctx, operator, "x", Terms{})
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					made[o.ID] = true
					mu.Unlock()
				}
			})
		}
		done := make(chan struct{})
		go func() { wait.Wait(); close(done) }()
		var got []Change
		for running := true; running; {
			select {
			case <-done:
				running = false
			case <-time.After(time.Millisecond):
			}
			changes, reset, err := feed.Poll(ctx)
			if reset || err != nil {
				t.Fatalf("%v, %v", reset, err)
			}
			got = append(got, changes...)
		}
		if len(got) != 8*each || len(made) != 8*each {
			t.Fatalf("%d changes of %d organizations, want %d", len(got), len(made), 8*each)
		}
		for i, c := range got {
			if c.Seq != int64(i+1) || !made[c.ID] {
				t.Fatalf("change %d is %+v", i, c)
			}
			delete(made, c.ID)
		}
		// The audit trail has the same order.
		events := must(reader.Events(ctx, 10*each))(t)
		for i, e := range events {
			if want := got[len(got)-1-i].ID; e.ID != want {
				t.Fatalf("event %d is about %s, want %s", i, e.ID, want)
			}
		}
	})
}

// A look that fails loses nothing: the next one goes on where the last good one was.
func TestFeedGoesOnAfterAnError(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		r := open(t, file(t))
		c, _ := newClient(t, r)
		feed := must(r.Feed(context.Background()))(t)
		defer feed.Close()
		poll(t, feed)
		if err := r.DisableClient(context.Background(), operator, c.ID); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, _, err := feed.Poll(ctx); !errors.Is(err, ErrUnavailable) {
			t.Errorf("error is %v", err)
		}
		if got := poll(t, feed); got != "[3 client]" {
			t.Errorf("the next look: %q", got)
		}

		// The connection breaks.
		if feed.conn == nil { // it had none between two looks: there is nothing to break
			return
		}
		_ = feed.conn.Raw(func(any) error { return driver.ErrBadConn })
		if err := r.EnableClient(context.Background(), operator, c.ID); err != nil {
			t.Fatal(err)
		}
		if _, _, err := feed.Poll(context.Background()); !errors.Is(err, ErrUnavailable) {
			t.Errorf("error is %v", err)
		}
		if got := poll(t, feed); got != "[4 client]" {
			t.Errorf("on another connection: %q", got)
		}
		if got := poll(t, feed); got != "" {
			t.Errorf("nothing new: %q", got)
		}
	})
}

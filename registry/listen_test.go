package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/registry/pgtest"
)

// heard reports whether news comes within patience. Ten times the promise is the caller's.
func heard(f *Feed, patience time.Duration) bool {
	news, _ := f.News()
	select {
	case <-news:
		return true
	case <-time.After(patience):
		return false
	}
}

// quiet takes the news that a connection begins with.
func quiet(t *testing.T, f *Feed) {
	t.Helper()
	if !heard(f, 20*time.Second) {
		t.Fatal("it does not listen")
	}
}

func TestFeedIntervals(t *testing.T) {
	f := func(path string, announced bool, want time.Duration) {
		t.Helper()
		feed := must(open(t, path).Feed(context.Background()))(t)
		defer feed.Close()
		if news, every := feed.News(); (news != nil) != announced || every != want {
			t.Errorf("announced %v, every %s", news != nil, every)
		}
	}
	f(file(t), false, 100*time.Millisecond)
	f(shared.Fresh(t), true, 500*time.Millisecond)
}

// What is committed is announced to every follower, and nothing else is.
func TestNews(t *testing.T) {
	ctx := context.Background()
	dsn := shared.Fresh(t)
	a, b := open(t, dsn), open(t, dsn)
	c, _ := newClient(t, a)
	mine, other := must(a.Feed(ctx))(t), must(b.Feed(ctx))(t)
	defer mine.Close()
	defer other.Close()
	quiet(t, mine)
	quiet(t, other)
	poll(t, other)
	check := func(name string, want bool) {
		t.Helper()
		patience := 5 * time.Second
		if !want {
			patience = 200 * time.Millisecond
		}
		if got := heard(other, patience); got != want {
			t.Errorf("%s: news %v, want %v", name, got, want)
		}
		if got := heard(mine, patience); got != want {
			t.Errorf("%s: news %v of one's own, want %v", name, got, want)
		}
	}
	token := issued(t, a, c)
	check("issuing", false)
	if _, err := a.RevokeToken(ctx, operator, token.ID); err != nil {
		t.Fatal(err)
	}
	check("revoking", true)
	if _, err := a.RevokeToken(ctx, operator, token.ID); err != nil {
		t.Fatal(err)
	}
	check("revoking again", false)
	if err := a.DisableClient(ctx, operator, "none"); err == nil {
		t.Error("there is no such client")
	}
	check("what failed", false)
	if got := poll(t, other); got != "[3 token]" {
		t.Errorf("the look: %q", got)
	}
}

// A server that ends every connection, and one that is killed: what was committed before
// listening worked again is news, and so is what comes after it.
func TestListeningGoesOn(t *testing.T) {
	ctx := context.Background()
	server := pgtest.Start(t)
	dsn := server.Fresh(t)
	var log bytes.Buffer
	r := open(t, dsn, logTo(&log))
	newClient(t, r)
	feed := must(r.Feed(ctx))(t)
	closed := false
	defer func() {
		if !closed {
			feed.Close()
		}
	}()
	quiet(t, feed)
	poll(t, feed)
	f := func(name string, fault func()) {
		t.Helper()
		fault()
		quiet(t, feed)
		var err error
		for range 50 { // connections of before are bad ones
			if _, err = r.CreateOrganization(ctx, operator, "x", Terms{}); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil || !heard(feed, 5*time.Second) {
			t.Fatalf("%s: no news of a change (%v)", name, err)
		}
		changes, _, err := feed.Poll(ctx)
		if err != nil {
			changes, _, err = feed.Poll(ctx)
		}
		if err != nil || len(changes) != 1 {
			t.Errorf("%s: %v, %v", name, changes, err)
		}
	}
	f("connections ended", func() {
		server.Exec(t, "postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'postern'`)
	})
	f("killed", func() {
		server.Kill(t)
		server.Restart(t)
	})

	// Nothing that the server does keeps the follower from ending.
	server.Freeze(t)
	began := time.Now()
	closed = true
	if err := feed.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("closing took %s", took)
	}
	server.Thaw(t)
	if text := log.String(); !strings.Contains(text, "changes are not announced") || !strings.Contains(text, "announced again") {
		t.Errorf("log is %q", text)
	}
}

// A pooler that lends connections by the transaction takes the LISTEN and passes no
// notification on: all changes are seen nevertheless.
func TestPoolerThatSwallowsListen(t *testing.T) {
	ctx := context.Background()
	dsn := shared.Fresh(t)
	writer := open(t, dsn)
	newClient(t, writer)
	reader := open(t, swallow(t, dsn))
	feed := must(reader.Feed(ctx))(t)
	defer feed.Close()
	quiet(t, feed)
	poll(t, feed)
	must(writer.CreateOrganization(ctx, operator, "x", Terms{}))(t)
	if heard(feed, 500*time.Millisecond) {
		t.Error("the pooler swallows nothing: this test shows nothing")
	}
	if got := poll(t, feed); got != "[3 organization]" {
		t.Errorf("the look: %q", got)
	}
}

// swallow forwards connections to the server of dsn and returns the DSN of itself. What
// listens there listens on another channel.
func swallow(t *testing.T, dsn string) string {
	t.Helper()
	l := must(net.Listen("tcp", "127.0.0.1:0"))(t)
	host := dsn[strings.Index(dsn, "@")+1:]
	host = host[:strings.Index(host, "/")]
	var copies sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		copies.Wait()
	})
	copies.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", host)
			if err != nil {
				t.Error(err)
				down.Close()
				return
			}
			copies.Go(func() {
				defer up.Close()
				buffer := make([]byte, 64<<10)
				for {
					n, err := down.Read(buffer) // a statement as short as this one comes in one piece
					if err != nil {
						return
					}
					if _, err := up.Write(bytes.ReplaceAll(buffer[:n], []byte("LISTEN "+channel), []byte("LISTEN "+strings.Repeat("x", len(channel))))); err != nil {
						return
					}
				}
			})
			copies.Go(func() {
				defer down.Close()
				_, _ = io.Copy(down, up)
			})
		}
	})
	return strings.Replace(dsn, host, l.Addr().String(), 1)
}

// One hundred thousand changes by concurrent writers: each of several followers sees each
// of them once and in order, with no reload.
func TestFeedOfManyChanges(t *testing.T) {
	ctx := context.Background()
	dsn := shared.Fresh(t)
	const total, writers, followers, most = 100_000, 8, 3, 200
	r := open(t, dsn)
	feeds := make([]*Feed, followers)
	for i := range feeds {
		feeds[i] = must(open(t, dsn).Feed(ctx))(t)
		defer feeds[i].Close()
		poll(t, feeds[i])
	}
	var left sync.Mutex
	todo := total
	read := make([]atomic.Int64, followers)
	// No follower is left further behind than one that follows is: it would reload.
	slow := func() bool {
		for i := range read {
			if int64(total-todo)-read[i].Load() > maxBehind/2 {
				return true
			}
		}
		return false
	}
	take := func() int {
		left.Lock()
		defer left.Unlock()
		for slow() {
			time.Sleep(time.Millisecond)
		}
		n := min(todo, 1+rand.IntN(most))
		todo -= n
		return n
	}
	var writing, following sync.WaitGroup
	for w := range writers {
		writing.Go(func() {
			for n := take(); n > 0; n = take() {
				if err := changeMany(ctx, r, n, fmt.Sprintf("writer %d", w)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i, f := range feeds {
		following.Go(func() {
			next := int64(1)
			defer read[i].Store(total) // whatever it has seen, nobody waits for it any more
			for deadline := time.Now().Add(2 * time.Minute); next <= total; {
				read[i].Store(next - 1)
				heard(f, 500*time.Millisecond)
				changes, reset, err := f.Poll(ctx)
				if reset || err != nil || time.Now().After(deadline) {
					t.Errorf("follower %d: at %d: reset %v, %v", i, next, reset, err)
					return
				}
				for _, c := range changes {
					if c.Seq != next {
						t.Errorf("follower %d: %d in the place of %d", i, c.Seq, next)
						return
					}
					next++
				}
			}
		})
	}
	writing.Wait()
	following.Wait()
	for i, f := range feeds {
		if got := poll(t, f); got != "" {
			t.Errorf("follower %d: more than there is: %.100q", i, got)
		}
	}
}

// changeMany commits n changes in one transaction, with the statements of record, each for
// n at once.
func changeMany(ctx context.Context, r *Registry, n int, id string) error {
	tx, err := r.engine.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var last int64
	if err := tx.QueryRowContext(ctx, `UPDATE counter SET seq = seq + $1 WHERE id = 1 RETURNING seq`, n).Scan(&last); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO change (seq, kind, id, at) SELECT s, 'client', $1, 1 FROM generate_series($2::bigint, $3::bigint) s`, id, last-int64(n)+1, last); err != nil {
		return err
	}
	if err := r.engine.announce(ctx, tx); err != nil {
		return err
	}
	return tx.Commit()
}

// Why the numbers come from a row and not from a sequence: a sequence hands out a number at
// once, and the transaction that has it may commit after one with a later number; whoever
// read that one never sees the earlier.
func TestNumbersAreInTheOrderOfCommits(t *testing.T) {
	f := func(name, number string, wantMissed int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			r := open(t, shared.Fresh(t))
			db := r.engine.write.DB
			for _, s := range []string{`CREATE SEQUENCE numbers`, `CREATE TABLE log (seq BIGINT PRIMARY KEY)`} {
				if _, err := db.Exec(s); err != nil {
					t.Fatal(err)
				}
			}
			begin := func() *sql.Tx { t.Helper(); return must(db.Begin())(t) }
			insert := func(tx *sql.Tx) error {
				var seq int64
				if err := tx.QueryRow(number).Scan(&seq); err != nil {
					return err
				}
				_, err := tx.Exec(`INSERT INTO log (seq) VALUES ($1)`, seq)
				return err
			}
			seen, position := 0, int64(0)
			look := func() {
				t.Helper()
				rows := must(db.Query(`SELECT seq FROM log WHERE seq > $1 ORDER BY seq`, position))(t)
				for rows.Next() {
					if err := rows.Scan(&position); err != nil {
						t.Fatal(err)
					}
					seen++
				}
				if err := rows.Close(); err != nil {
					t.Fatal(err)
				}
			}
			early, late := begin(), begin()
			if err := insert(early); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- errors.Join(insert(late), late.Commit()) }()
			select { // the late one waits for the early one, or overtakes it
			case err := <-done:
				done <- err
			case <-time.After(300 * time.Millisecond):
			}
			look()
			if err := errors.Join(early.Commit(), <-done); err != nil {
				t.Fatal(err)
			}
			look()
			if missed := 2 - seen; missed != wantMissed {
				t.Errorf("it missed %d changes, want %d", missed, wantMissed)
			}
		})
	}
	f("the counter", `UPDATE counter SET seq = seq + 1 WHERE id = 1 RETURNING seq`, 0)
	f("a sequence", `SELECT nextval('numbers')`, 1)
}

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestToken(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		c, _ := newClient(t, r)
		want := newToken(t, clk.now(), c)
		want.IssuerType, want.IssuerID = "User", "someone"
		if err := r.IssueToken(ctx, want, c.Secrets[0].ID); err != nil {
			t.Fatal(err)
		}
		got, err := r.Token(ctx, want.ID)
		same(t, "read", got, err, want)
		_, err = r.Revocation(ctx, want.ID)
		wants(t, "not revoked", err, ErrNotFound, "not revoked")

		clk.add(time.Second)
		want.RevokedAt = At(clk.now())
		got, err = r.RevokeToken(ctx, operator, want.ID)
		same(t, "revoked", got, err, want)
		clk.add(time.Second)
		got, err = r.RevokeToken(ctx, operator, want.ID)
		same(t, "revoked again", got, err, want)
		got, err = r.Token(ctx, want.ID)
		same(t, "revoked, read", got, err, want)
		revocation := Revocation{TokenID: want.ID, Until: want.ExpiresAt + 60_000}
		one, err := r.Revocation(ctx, want.ID)
		same(t, "revocation", one, err, revocation)
		issued(t, r, c) // not revoked
		all, err := r.Revocations(ctx)
		same(t, "revocations", all, err, []Revocation{revocation})
		if events := must(r.Events(ctx, 1))(t); events[0].Action != "revoke" || events[0].Kind != KindToken || events[0].ID != want.ID {
			t.Errorf("event %+v", events[0])
		}
		// To the millisecond.
		clk.add(time.Duration(revocation.Until-At(clk.now())-1) * time.Millisecond)
		all, err = r.Revocations(ctx)
		same(t, "revocations before the end", all, err, []Revocation{revocation})
		clk.add(time.Millisecond)
		all, err = r.Revocations(ctx)
		same(t, "revocations at the end", all, err, nil)
	})
}

func TestTokens(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		a, _ := newClient(t, r)
		b, _ := newClient(t, r)
		names := make(map[string]string)
		make1 := func(name string, c Client) string {
			clk.add(time.Second)
			id := issued(t, r, c).ID
			names[id] = name
			return id
		}
		make1("expired", a)
		clk.add(2 * time.Hour)
		make1("a1", a)
		revoked := make1("revoked", a)
		make1("b1", b)
		make1("a2", a)
		if _, err := r.RevokeToken(ctx, operator, revoked); err != nil {
			t.Fatal(err)
		}
		f := func(what string, filter TokenFilter, want ...string) {
			t.Helper()
			found, err := r.Tokens(ctx, filter)
			var got []string
			for _, token := range found {
				got = append(got, names[token.ID])
			}
			same(t, what, got, err, want)
		}
		f("live", TokenFilter{}, "a2", "b1", "a1")
		f("all", TokenFilter{All: true}, "a2", "b1", "revoked", "a1", "expired")
		f("client", TokenFilter{ClientID: a.ID}, "a2", "a1")
		f("client, all", TokenFilter{ClientID: a.ID, All: true}, "a2", "revoked", "a1", "expired")
		f("organization", TokenFilter{OrganizationID: b.OrganizationID}, "b1")
		f("client of another organization", TokenFilter{OrganizationID: b.OrganizationID, ClientID: a.ID, All: true})
		f("limit", TokenFilter{All: true, Limit: 2}, "a2", "b1")
		f("wildcard", TokenFilter{ClientID: "%", All: true})
		f("NUL", TokenFilter{ClientID: "\x00", All: true})
		if err := r.RevokeClientTokens(ctx, operator, a.ID); err != nil {
			t.Fatal(err)
		}
		f("live without those of a client", TokenFilter{}, "b1")
		clk.add(time.Millisecond)
		make1("a3", a)
		f("live with a later one", TokenFilter{}, "a3", "b1")
		if err := r.RevokeOrganizationTokens(ctx, operator, b.OrganizationID); err != nil {
			t.Fatal(err)
		}
		f("live without those of an organization", TokenFilter{}, "a3")
	})
}

func TestIssueRefuses(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		good := issued(t, r, c)
		f := func(name string, kind error, words string, change func(*Token)) {
			t.Helper()
			token := newToken(t, time.Now(), c)
			change(&token)
			wants(t, name, r.IssueToken(ctx, token, ""), kind, words)
		}
		f("no id", ErrInvalid, "UUID", func(t *Token) { t.ID = "" })
		f("id in upper case", ErrInvalid, "UUID", func(t *Token) { t.ID = "01A20C62-34BE-7BC0-9B49-79BD272767D3" })
		f("no time", ErrInvalid, "expires after", func(t *Token) { t.IssuedAt = 0 })
		f("expires as it is issued", ErrInvalid, "expires after", func(t *Token) { t.ExpiresAt = t.IssuedAt })
		f("no subject type", ErrInvalid, "subject_type", func(t *Token) { t.SubjectType = "" })
		f("the same id", ErrConflict, "a token with this id is there already", func(t *Token) { t.ID = good.ID })
		f("unknown client", ErrNotFound, "not there", func(t *Token) { t.SubjectID = "none" })
		f("unknown organization", ErrNotFound, "not there", func(t *Token) { t.OrganizationID = "none" })
		if all := must(r.Tokens(ctx, TokenFilter{All: true}))(t); len(all) != 1 {
			t.Errorf("%d tokens are stored, want 1", len(all))
		}
	})
}

// A batch is stored but for its bad rows. The batch is put together by hand: it is one.
func TestBadRowsDoNotFailTheirBatch(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		var batch []*issue
		for n := range 12 {
			i := &issue{ctx, newToken(t, time.Now(), c), c.Secrets[0].ID, make(chan error, 1)}
			switch n {
			case 3:
				i.token.ID = batch[0].token.ID
			case 7:
				i.token.SubjectID = "none"
			}
			batch = append(batch, i)
		}
		all := append([]*issue{}, batch...)
		w := writer{r: r, marked: make(map[string]Time)}
		w.commit(batch)
		for n, i := range all {
			err := <-i.result
			want := map[int]error{3: ErrConflict, 7: ErrNotFound}[n]
			if !errors.Is(err, want) {
				t.Errorf("row %d: error is %v, want %v", n, err, want)
			}
			if _, err := r.Token(ctx, i.token.ID); n != 7 && err != nil {
				t.Errorf("row %d: %v", n, err)
			}
		}
		if all := must(r.Tokens(ctx, TokenFilter{All: true}))(t); len(all) != 10 {
			t.Errorf("%d tokens are stored, want 10", len(all))
		}
	})
}

func TestManyIssueAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		var wait sync.WaitGroup
		for n := range 500 {
			wait.Go(func() {
				token := newToken(t, time.Now(), c)
				if n%10 == 0 {
					token.SubjectID = "none"
				}
				err := r.IssueToken(ctx, token, c.Secrets[0].ID)
				if n%10 == 0 != errors.Is(err, ErrNotFound) || n%10 != 0 && err != nil {
					t.Errorf("token %d: error is %v", n, err)
				}
				if n%10 != 0 {
					if _, err := r.Token(ctx, token.ID); err != nil {
						t.Errorf("token %d right after it was acknowledged: %v", n, err)
					}
				}
			})
		}
		wait.Wait()
		if all := must(r.Tokens(ctx, TokenFilter{All: true, Limit: 1000}))(t); len(all) != 450 {
			t.Errorf("%d tokens are stored, want 450", len(all))
		}
	})
}

// Issuing writes neither a change nor an event.
func TestIssuingIsItsOwnRecord(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		if _, _, err := feed.Poll(ctx); err != nil {
			t.Fatal(err)
		}
		before := must(r.Events(ctx, 0))(t)
		if err := r.IssueToken(ctx, newToken(t, time.Now(), c), c.Secrets[0].ID); err != nil {
			t.Fatal(err)
		}
		changes, reset, err := feed.Poll(ctx)
		if len(changes) != 0 || reset || err != nil {
			t.Errorf("the feed says %v, %v, %v", changes, reset, err)
		}
		same(t, "events", must(r.Events(ctx, 0))(t), nil, before)
	})
}

func TestLastUseIsRecordedOnceAMinute(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		path := file(t)
		r := open(t, path, at(clk))
		other := open(t, path, at(clk)) // another process, which remembers other uses
		c, _ := newClient(t, r)
		start := At(clk.now())
		use := func(r *Registry, want Time) {
			t.Helper()
			if err := r.IssueToken(ctx, newToken(t, clk.now(), c), c.Secrets[0].ID); err != nil {
				t.Fatal(err)
			}
			if got := must(r.Client(ctx, c.ID))(t).Secrets[0].LastUsedAt; got != want {
				t.Errorf("last used at %d, want %d", got-start, want-start)
			}
		}
		use(r, start)
		clk.add(time.Minute - time.Millisecond)
		use(r, start)
		use(other, start)
		clk.add(time.Millisecond)
		use(r, start.later(time.Minute))
		clk.add(time.Minute - time.Millisecond)
		use(other, start.later(time.Minute))
		use(r, start.later(time.Minute))
		clk.add(time.Millisecond)
		use(r, start.later(2*time.Minute))
	})
}

// shortPatience makes the writer wait for a lock for 200 ms only.
func shortPatience(t *testing.T, r *Registry) {
	t.Helper()
	if _, err := r.engine.write.Exec("PRAGMA busy_timeout = 200"); err != nil {
		t.Fatal(err)
	}
}

func TestRow163LockedStore(t *testing.T) {
	ctx := context.Background()
	r := open(t, file(t))
	c, _ := newClient(t, r)
	before := issued(t, r, c)
	shortPatience(t, r)
	unlock := lockStore(t, r)
	started := time.Now()
	var wait sync.WaitGroup
	for range 8 * maxBatch {
		wait.Go(func() {
			if err := r.IssueToken(ctx, newToken(t, time.Now(), c), ""); !errors.Is(err, ErrUnavailable) {
				t.Errorf("error is %v, want ErrUnavailable", err)
			}
		})
	}
	// Reads go on.
	if _, err := r.Grant(ctx, c.ID); err != nil {
		t.Errorf("Grant: %v", err)
	}
	if _, err := r.Token(ctx, before.ID); err != nil {
		t.Errorf("Token: %v", err)
	}
	wait.Wait()
	if took := time.Since(started); took > 4*time.Second {
		t.Errorf("the last one was told after %v", took)
	}
	// Who waits behind a batch that failed is told with it, and does not try the lock again.
	if n := samples(t, r)["issue_batch unavailable"]; n > 4 {
		t.Errorf("%d transactions waited for the lock, want 1 or 2", n)
	}
	if err := r.DisableClient(ctx, operator, c.ID); !errors.Is(err, ErrUnavailable) {
		t.Errorf("DisableClient: error is %v", err)
	}
	unlock()
	if err := r.IssueToken(ctx, newToken(t, time.Now(), c), ""); err != nil {
		t.Errorf("after the lock was gone: %v", err)
	}
	if all := must(r.Tokens(ctx, TokenFilter{All: true, Limit: 1000}))(t); len(all) != 2 {
		t.Errorf("%d tokens are stored, want 2", len(all))
	}
}

// One caller goes away: the others get their tokens, and its own is not stored later on.
func TestCancelledCaller(t *testing.T) {
	r := open(t, file(t))
	c, _ := newClient(t, r)
	unlock := lockStore(t, r)
	defer unlock()
	results := make(chan error, 2)
	start := func(ctx context.Context, token Token) {
		go func() { results <- r.IssueToken(ctx, token, "") }()
	}
	first, gone, last := newToken(t, time.Now(), c), newToken(t, time.Now(), c), newToken(t, time.Now(), c)
	start(context.Background(), first)
	for r.engine.write.Stats().InUse == 0 { // the writer has taken it, and waits for the lock
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := r.IssueToken(ctx, gone, ""); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
	start(context.Background(), last)
	unlock()
	for range 2 {
		if err := <-results; err != nil {
			t.Errorf("another caller: %v", err)
		}
	}
	for id, want := range map[string]error{first.ID: nil, last.ID: nil, gone.ID: ErrNotFound} {
		if _, err := r.Token(context.Background(), id); !errors.Is(err, want) {
			t.Errorf("error is %v, want %v", err, want)
		}
	}
}

func TestQueueIsBounded(t *testing.T) {
	r := open(t, file(t))
	c, _ := newClient(t, r)
	unlock := lockStore(t, r)
	defer unlock()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var refused, asked atomic.Int64
	var wait sync.WaitGroup
	for range maxQueue + maxBatch + 100 {
		token := newToken(t, time.Now(), c)
		wait.Go(func() {
			asked.Add(1)
			err := r.IssueToken(ctx, token, "")
			if err != nil && err.Error() == "issue token: too many are waiting: store unavailable" {
				refused.Add(1)
			}
		})
	}
	for start := time.Now(); refused.Load() < 100 && time.Since(start) < 4*time.Second; {
		time.Sleep(time.Millisecond)
	}
	if n := refused.Load(); n < 100 {
		t.Errorf("%d were refused at once, want 100 or more", n)
	}
	cancel()
	wait.Wait()
}

// What Close finds in the queue is stored, and everyone gets an answer that is true.
func TestCloseWhileIssuing(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		path := file(t)
		r := open(t, path)
		c, _ := newClient(t, r)
		var mu sync.Mutex
		var acknowledged []string
		var wait sync.WaitGroup
		for range 32 {
			wait.Go(func() {
				for {
					token := newToken(t, time.Now(), c)
					err := r.IssueToken(context.Background(), token, "")
					if errors.Is(err, ErrUnavailable) {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					acknowledged = append(acknowledged, token.ID)
					mu.Unlock()
				}
			})
		}
		time.Sleep(50 * time.Millisecond)
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wait.Wait()
		again := open(t, path)
		if len(acknowledged) == 0 {
			t.Error("nothing was issued")
		}
		for _, id := range acknowledged {
			if _, err := again.Token(context.Background(), id); err != nil {
				t.Errorf("acknowledged token %s: %v", id, err)
			}
		}
	})
}

// What waits in the queue when Close is called is stored, not dropped.
func TestCloseStoresWhatWaits(t *testing.T) {
	r := open(t, file(t))
	c, _ := newClient(t, r)
	unlock := lockStore(t, r)
	defer unlock()
	const many = 4 * maxBatch
	results := make(chan error, many)
	for n := range many {
		go func() { results <- r.IssueToken(context.Background(), newToken(t, time.Now(), c), "") }()
		for n == 0 && r.engine.write.Stats().InUse == 0 { // the writer has taken the first, alone
			time.Sleep(time.Millisecond)
		}
	}
	for len(r.queue) < many-1 {
		time.Sleep(time.Millisecond)
	}
	closed := make(chan error)
	go func() { closed <- r.Close() }()
	<-r.closing
	unlock()
	for range many {
		if err := <-results; err != nil {
			t.Errorf("one that waited: %v", err)
		}
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

// A token that comes into the queue when the writer has just returned is answered.
func TestTooLateForTheWriter(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		r := open(t, file(t))
		c, _ := newClient(t, r)
		late := &Registry{options: r.options, engine: r.engine, metrics: NewMetrics(), queue: make(chan *issue, 1), stopped: make(chan struct{})}
		close(late.stopped)
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err := late.IssueToken(ctx, newToken(t, time.Now(), c), "")
		wants(t, "late", err, ErrUnavailable, "the store is closed")
	})
}

func TestRow162DiskFull(t *testing.T) {
	ctx := context.Background()
	r := open(t, file(t))
	c, _ := newClient(t, r)
	// SQLite gives the same error for its own bound as for a full disk.
	if _, err := r.engine.write.Exec("PRAGMA max_page_count = 60"); err != nil {
		t.Fatal(err)
	}
	var stored []string
	var err error
	for n := 0; err == nil && n < 10_000; n++ {
		token := newToken(t, time.Now(), c)
		if err = r.IssueToken(ctx, token, ""); err == nil {
			stored = append(stored, token.ID)
		}
	}
	if !errors.Is(err, ErrUnavailable) {
		t.Fatalf("error is %v after %d tokens, want ErrUnavailable", err, len(stored))
	}
	var failed error
	for n := 0; failed == nil && n < 10_000; n++ {
		_, failed = r.RotateKey(ctx, operator, newKey(t, fmt.Sprintf("key-%d", n), "ES256"), 0, time.Hour)
	}
	if !errors.Is(failed, ErrUnavailable) {
		t.Errorf("RotateKey: error is %v", failed)
	}
	for _, k := range must(r.Keys(ctx))(t) {
		if len(k.Private.Reveal()) != 138 {
			t.Error("there is half a key")
		}
	}
	if _, err := r.engine.write.Exec("PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	stored = append(stored, issued(t, r, c).ID)
	for _, id := range stored {
		if _, err := r.Token(ctx, id); err != nil {
			t.Errorf("acknowledged token: %v", err)
		}
	}
	var verdict string
	if err := r.engine.read.QueryRow("PRAGMA integrity_check").Scan(&verdict); err != nil || verdict != "ok" {
		t.Errorf("integrity_check: %q, %v", verdict, err)
	}
}

func TestRow163ReadOnlyStore(t *testing.T) {
	r := open(t, file(t))
	c, _ := newClient(t, r)
	if _, err := r.engine.write.Exec("PRAGMA query_only = 1"); err != nil {
		t.Fatal(err)
	}
	if err := r.IssueToken(context.Background(), newToken(t, time.Now(), c), ""); !errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
}

func TestRow163ReplacedStore(t *testing.T) {
	ctx := context.Background()
	path := file(t)
	r := open(t, path)
	c, _ := newClient(t, r)
	feed := must(r.Feed(ctx))(t)
	defer feed.Close()
	poll(t, feed)
	f := func(name string) {
		t.Helper()
		err := r.IssueToken(ctx, newToken(t, time.Now(), c), "")
		wants(t, name+": IssueToken", err, ErrUnavailable, "put it back, or restart postern")
		wants(t, name+": DisableClient", r.DisableClient(ctx, operator, c.ID), ErrUnavailable, "put it back")
		_, _, err = feed.Poll(ctx)
		wants(t, name+": Poll", err, ErrUnavailable, "put it back")
	}
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	f("removed")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f("replaced")
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	if err := r.DisableClient(ctx, operator, c.ID); err != nil {
		t.Errorf("put back: %v", err)
	}
	if got := poll(t, feed); got != "[3 client]" {
		t.Errorf("put back: %q", got)
	}
	if all := must(r.Tokens(ctx, TokenFilter{All: true}))(t); len(all) != 0 {
		t.Errorf("%d tokens are stored, want none", len(all))
	}
}

func TestNewID(t *testing.T) {
	now := time.UnixMilli(1_605_548_750_779)
	id, err := NewID(now, zeros{})
	if err != nil || id.String() != "0175d229-b7bb-7000-8000-000000000000" {
		t.Errorf("id is %v, %v", id, err)
	}
	if s, ns := id.Time().UnixTime(); s*1000+ns/1_000_000 != now.UnixMilli() {
		t.Errorf("its time is %d.%d", s, ns)
	}
	if _, err := NewID(now, io.LimitReader(zeros{}, 9)); err == nil {
		t.Error("too little randomness is enough")
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

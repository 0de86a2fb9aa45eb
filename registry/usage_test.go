package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const hourMillis = 3_600_000

// usageOf is one hour's, for a batch.
func usageOf(client string, hour, requests int64, refused ...string) Usage {
	u := Usage{ClientID: client, Hour: Time(hour * hourMillis), Counts: Counts{Requests: requests, Tokens: 1, BytesIn: 10, BytesOut: 100}}
	for _, reason := range refused {
		u.Add(Counts{Refused: map[string]int64{reason: 1}})
	}
	return u
}

// figures writes usage in a line: hour, requests, tokens, bytes in and out, refusals.
func figures(all []Usage) string {
	var text []string
	for _, u := range all {
		line := fmt.Sprint(int64(u.Hour)/hourMillis, ": ", u.Requests, " ", u.Tokens, " ", u.BytesIn, " ", u.BytesOut)
		for _, reason := range slices.Sorted(maps.Keys(u.Refused)) {
			line += fmt.Sprint(" ", reason, " ", u.Refused[reason])
		}
		text = append(text, line)
	}
	return strings.Join(text, "; ")
}

func TestUsage(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		other, _, err := r.CreateClient(ctx, operator, NewClient{OrganizationID: c.OrganizationID, Application: "radio", Environment: "prod"})
		if err != nil {
			t.Fatal(err)
		}
		stranger, _ := newClient(t, r)
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		poll(t, feed)
		events := len(must(r.Events(ctx, 0))(t))
		add := func(writer string, number int64, all ...Usage) {
			t.Helper()
			if err := r.AddUsage(ctx, UsageBatch{writer, number, all}); err != nil {
				t.Fatal(err)
			}
		}
		is := func(what string, f UsageFilter, want string) {
			t.Helper()
			if got, err := r.Usage(ctx, f); figures(got) != want || err != nil {
				t.Errorf("%s: %s, %v; want %s", what, figures(got), err, want)
			}
		}
		add("a", 1, usageOf(c.ID, 7, 5), usageOf(c.ID, 6, 2, "rate_limited", "rate_limited", "quota_exceeded"), usageOf(other.ID, 7, 1), usageOf("nobody", 7, 1))
		add("b", 1, usageOf(c.ID, 7, 3, "rate_limited"))
		add("a", 1, usageOf(c.ID, 7, 5), usageOf(c.ID, 6, 2)) // the same again: its answer was lost
		add("a", 2, usageOf(c.ID, 8, 0, "insufficient_scope"))
		is("a client", UsageFilter{ClientID: c.ID}, "6: 2 1 10 100 quota_exceeded 1 rate_limited 2; 7: 8 2 20 200 rate_limited 1; 8: 0 1 10 100 insufficient_scope 1")
		is("from included", UsageFilter{ClientID: c.ID, From: 7 * hourMillis}, "7: 8 2 20 200 rate_limited 1; 8: 0 1 10 100 insufficient_scope 1")
		is("to excluded", UsageFilter{ClientID: c.ID, To: 7 * hourMillis}, "6: 2 1 10 100 quota_exceeded 1 rate_limited 2")
		is("no such client", UsageFilter{ClientID: "\x00"}, "")
		is("nothing", UsageFilter{ClientID: stranger.ID}, "")
		if err := r.RemoveClient(ctx, operator, other.ID); err != nil {
			t.Fatal(err)
		}
		is("an organization, with a client that was removed", UsageFilter{OrganizationID: c.OrganizationID, From: 7 * hourMillis, To: 8 * hourMillis}, "7: 9 3 30 300 rate_limited 1")
		is("another organization", UsageFilter{OrganizationID: stranger.OrganizationID}, "")
		if got := poll(t, feed); got != "[6 client]" {
			t.Errorf("the feed says %q", got)
		}
		if now := len(must(r.Events(ctx, 0))(t)); now != events+1 {
			t.Errorf("%d events, want %d: usage is none", now, events+1)
		}
	})
}

// TestUsageWriters: three processes add at once, in different orders, and try again what may
// have been stored; everything counts once.
func TestUsageWriters(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, path := context.Background(), file(t)
		clients := make([]string, 150) // more than one statement takes
		for i := range clients {
			clients[i] = fmt.Sprintf("client-%03d", i)
		}
		const batches = 5
		var writers sync.WaitGroup
		for w := range 3 {
			r := open(t, path)
			for range 2 { // the second one is a retry while the first is not over
				writers.Go(func() {
					for n := range int64(batches) {
						var all []Usage
						for i := range clients {
							all = append(all, usageOf(clients[i*[]int{1, 7, 11}[w]%len(clients)], int64(i%3), 1, "rate_limited"))
						}
						err := errors.New("not yet")
						for tries := 0; err != nil && tries < 20; tries++ {
							err = r.AddUsage(ctx, UsageBatch{fmt.Sprint("writer-", w), n + 1, all})
						}
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		writers.Wait()
		r := open(t, path)
		var requests, refused int64
		for _, query := range []struct {
			text string
			into *int64
		}{{`SELECT CAST(sum(requests) AS BIGINT) FROM usage`, &requests}, {`SELECT CAST(sum(requests) AS BIGINT) FROM usage_refusal`, &refused}} {
			if err := r.engine.read.QueryRow(query.text).Scan(query.into); err != nil {
				t.Fatal(err)
			}
		}
		if want := int64(3 * batches * len(clients)); requests != want || refused != want {
			t.Errorf("%d requests and %d refusals, want %d of each", requests, refused, want)
		}
	})
}

// TestSpent: both sides of the day's and of the month's beginning.
func TestSpent(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r)
		idle, _ := newClient(t, r)
		day, month := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC), time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		hours := func(at time.Time) int64 { return at.Unix() / 3600 }
		err := r.AddUsage(ctx, UsageBatch{"a", 1, []Usage{
			usageOf(c.ID, hours(month)-1, 1), usageOf(c.ID, hours(month), 2), usageOf(c.ID, hours(day)-1, 4), usageOf(c.ID, hours(day), 8),
			usageOf(c.ID, hours(day)+23, 16, "quota_exceeded"), usageOf(idle.ID, hours(month)-1, 32), usageOf("nobody", hours(day), 1),
		}})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		err = r.Spent(ctx, At(day), At(month), func(clientID, organizationID string, inDay, inMonth int64) {
			got = append(got, fmt.Sprint(clientID == c.ID, organizationID == c.OrganizationID, inDay, inMonth))
		})
		if strings.Join(got, "; ") != "true true 24 30" || err != nil {
			t.Errorf("spent: %q, %v", got, err)
		}
	})
}

func TestPruneUsage(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx, clk := context.Background(), newClock()
		r := open(t, file(t), at(clk))
		var all []Usage
		for i := range int64(pruneBatch + 10) {
			all = append(all, usageOf("c", i, 1, "rate_limited"))
		}
		if err := r.AddUsage(ctx, UsageBatch{"a", 1, all}); err != nil {
			t.Fatal(err)
		}
		prune := func(before Time, want int) {
			t.Helper()
			if n, err := r.PruneUsage(ctx, before); n != want || err != nil {
				t.Errorf("before %d: %d rows, %v; want %d", before, n, err, want)
			}
		}
		prune(0, 0)
		prune((pruneBatch+5)*hourMillis, 2*(pruneBatch+5))
		if left := must(r.Usage(ctx, UsageFilter{ClientID: "c"}))(t); len(left) != 5 || left[0].Hour != (pruneBatch+5)*hourMillis {
			t.Errorf("left: %s", figures(left))
		}
		prune(At(clk.now()), 10)                 // the rest, and the writer of this moment stays
		prune(At(clk.now().Add(time.Second)), 1) // that writer
		prune(At(clk.now().Add(1000*time.Hour)), 0)
	})
}

func TestAddUsageToLockedStore(t *testing.T) {
	r := open(t, file(t))
	shortPatience(t, r)
	release := lockStore(t, r)
	b := UsageBatch{"a", 1, []Usage{usageOf("c", 1, 1)}}
	err := r.AddUsage(context.Background(), b)
	release()
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("error is %v, want ErrUnavailable", err)
	}
	if err := r.AddUsage(context.Background(), b); err != nil {
		t.Error(err)
	}
	if got := figures(must(r.Usage(context.Background(), UsageFilter{ClientID: "c"}))(t)); got != "1: 1 1 10 100" {
		t.Errorf("stored: %s", got)
	}
}

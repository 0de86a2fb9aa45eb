package registry

import (
	"context"
	"testing"
	"time"
)

// TestFeedSeesAnotherHistory: the store was put back to an older state, and more happened
// there than the follower had seen of the other history. The numbers that it asks for go on
// without a gap, and still it must reload.
func TestFeedSeesAnotherHistory(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		c, _ := newClient(t, r) // 1, 2
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		toggle := func(n int) {
			t.Helper()
			for range n {
				time.Sleep(2 * time.Millisecond) // each at a time of its own, as another history has
				f := r.DisableClient
				if must(r.Client(ctx, c.ID))(t).DisabledAt != 0 {
					f = r.EnableClient
				}
				if err := f(ctx, operator, c.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		back := func(to int) {
			t.Helper()
			for _, text := range []string{`DELETE FROM change WHERE seq > $1`, `UPDATE counter SET seq = $1`} {
				if _, err := r.engine.write.ExecContext(ctx, text, to); err != nil {
					t.Fatal(err)
				}
			}
		}
		check := func(what, want string) {
			t.Helper()
			if got := poll(t, feed); got != want {
				t.Errorf("%s: %q, want %q", what, got, want)
			}
		}
		check("the first look", "reset")
		check("nothing new", "")
		back(1)
		check("behind", "reset")
		check("nothing new there", "")
		toggle(4) // 2 to 5
		check("four more", "[2 client][3 client][4 client][5 client]")
		back(3)
		toggle(2)
		check("as far as it was", "reset")
		check("nothing new there", "")
		back(3)
		toggle(5)
		check("beyond", "reset")
		toggle(1)
		check("one more", "[9 client]")

		// A log that is pruned because nothing happens makes nobody reload.
		later := At(time.Now().Add(2 * keepChanges))
		must(r.Prune(ctx, later))(t)
		check("pruned", "")
		toggle(1)
		check("one more after that", "[10 client]")
		back(0)
		check("all is gone", "reset")
		check("nothing new in an empty log", "")
		toggle(1)
		check("the first change of all", "[1 client]")
	})
}

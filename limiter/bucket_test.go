package limiter

import (
	"testing"
	"time"

	"postern/registry"
)

func TestNumbersOfAnySize(t *testing.T) {
	for _, r := range []int64{1, 2, 3, 7, 999, 1e6, 1e9, 1e12, 1 << 62} {
		for _, burst := range []int64{1, 2, 1000, 1e9, 1e12, 1 << 62} {
			w := newWorld(t)
			c := client("a", "o", registry.Terms{RequestRate: value(r), RequestBurst: value(burst), IssueRate: value(r)}, registry.Terms{})
			for range 3 {
				for range min(burst, 1000) {
					if _, ok := w.Take(c, w.now); !ok {
						t.Fatalf("rate %d, burst %d: refused", r, burst)
					}
				}
				if burst <= 1000 {
					if g, ok := w.Take(c, w.now); ok {
						t.Fatalf("rate %d, burst %d: one too many", r, burst)
					} else if wait := g.Refusal().RetryAfter; wait != time.Second {
						t.Fatalf("rate %d, burst %d: wait for %s", r, burst, wait)
					}
				}
				if _, ok := w.Issue(c, w.now); !ok {
					t.Fatalf("rate %d: issuing refused", r)
				}
				w.now = w.now.AddDate(100, 0, 0)
			}
			w.Close()
		}
	}
}

// However often a bucket is looked at, it leaks the same.
func TestLeakOfAnyStep(t *testing.T) {
	for _, share := range []uint32{whole, uint32(equal(3)), 1, 12345} {
		f := newFlow(10, 1000, 1e9)
		often := bucket{level: 500e9}
		once := often
		for now := int64(0); now <= 7_000_000; now += 7 {
			often.leak(now, &f, share)
		}
		once.leak(7_000_000, &f, share)
		if often != once {
			t.Errorf("share %d: %+v in many steps, %+v in one", share, often, once)
		}
	}
}

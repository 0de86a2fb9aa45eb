package registry

import (
	"context"
	"testing"
	"time"
)

// BenchmarkIssueToken stores tokens durably for 64 callers at once on each core.
// tokens/s is what counts; run it with -cpu 1.
func BenchmarkIssueToken(b *testing.B) {
	r := open(b, file(b))
	c, _ := newClient(b, r)
	b.SetParallelism(64)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := r.IssueToken(context.Background(), newToken(b, time.Now(), c), c.Secrets[0].ID); err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkGrant(b *testing.B) {
	r := open(b, file(b))
	c, _ := newClient(b, r)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Grant(context.Background(), c.ID); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkPollUnchanged is what a follower pays ten times a second while nothing happens.
func BenchmarkPollUnchanged(b *testing.B) {
	r := open(b, file(b))
	f, err := r.Feed(context.Background())
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := f.Poll(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}

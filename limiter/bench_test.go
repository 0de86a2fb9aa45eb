package limiter

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"postern/directory"
	"postern/registry"
)

// everyLimit is more than a benchmark can spend.
func everyLimit() registry.Terms {
	return registry.Terms{RequestRate: value(1e9), RequestBurst: value(1e9), Concurrent: value(1e9), QuotaDay: value(1e15), QuotaMonth: value(1e15), IssueRate: value(1e9)}
}

func benchmarkTake(b *testing.B, clients, perOrganization, replicas int, terms registry.Terms) {
	l, err := Open(b.Context(), Options{Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler), Replicas: replicas})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	all := make([]*directory.Client, clients)
	for i := range all {
		all[i] = client(fmt.Sprint(i), fmt.Sprint(i/perOrganization), terms, terms)
	}
	now := time.Now()
	for _, c := range all {
		g, _ := l.Take(c, now)
		g.Release()
	}
	b.ReportAllocs()
	b.ResetTimer()
	var turn atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		i := int(turn.Add(1)) * 7919
		for pb.Next() {
			g, ok := l.Take(all[i%clients], now)
			if !ok {
				b.Error("refused by", g.Policy())
				return
			}
			g.Release()
			i++
		}
	})
}

func BenchmarkTake(b *testing.B) {
	for _, one := range []struct {
		name                               string
		clients, perOrganization, replicas int
		terms                              registry.Terms
	}{
		{"no limit, one client", 1, 1, 1, registry.Terms{}},
		{"all limits, one client", 1, 1, 1, everyLimit()},
		{"all limits, ten clients of one organization", 10, 10, 1, everyLimit()},
		{"all limits, 10000 clients of 1000 organizations", 10_000, 10, 1, everyLimit()},
		{"all limits, one client, one of three replicas", 1, 1, 3, everyLimit()},
	} {
		b.Run(one.name, func(b *testing.B) { benchmarkTake(b, one.clients, one.perOrganization, one.replicas, one.terms) })
	}
}

func BenchmarkFields(b *testing.B) {
	l, err := Open(b.Context(), Options{Now: time.Now, Random: rand.Reader, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	g, _ := l.Take(client("a", "o", everyLimit(), everyLimit()), time.Now())
	buffer := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buffer = g.AppendState(g.AppendPolicy(buffer[:0]))
	}
}

// A request allocates nothing, granted or refused, nor do its fields.
func TestNoAllocations(t *testing.T) {
	w := newWorld(t)
	granted, refused := client("a", "o", everyLimit(), everyLimit()), client("b", "o", registry.Terms{RequestRate: value(0)}, everyLimit())
	buffer := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(1000, func() {
		for _, c := range []*directory.Client{granted, refused} {
			g, ok := w.Take(c, w.now)
			if !ok {
				_ = g.Refusal()
			}
			buffer = g.AppendState(g.AppendPolicy(buffer[:0]))
			g.Release()
			g, _ = w.Issue(c, w.now)
			buffer = g.AppendState(buffer[:0])
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

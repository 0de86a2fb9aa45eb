package proxy

import (
	"log/slog"
	"testing"
	"time"
)

// BenchmarkPoolTakePut is what one request costs on a warm pool: choosing, the look at the
// kept connection, health and budget.
func BenchmarkPoolTakePut(b *testing.B) {
	run := func(name string, endpoints int) {
		b.Run(name, func(b *testing.B) {
			u := Upstream{ConnectTimeout: patience, Failures: 5, Open: time.Second, RetryBudget: 20}
			for range endpoints {
				u.Endpoints = append(u.Endpoints, tcp(answering(b, ok)))
			}
			p, err := newPool(u, poolOptions{now: time.Now, random: newRandom(1), log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer p.close()
			one := func() {
				p.request()
				t, err := p.take(nil, false)
				if err != nil {
					b.Fatal(err)
				}
				t.endpoint.succeeded()
				p.put(t)
			}
			for range 100 * endpoints {
				one()
			}
			b.ReportAllocs()
			begun := cpu(b)
			for b.Loop() {
				one()
			}
			b.ReportMetric(float64(cpu(b)-begun)/float64(b.N), "cpu-ns/op")
		})
	}
	run("one", 1)
	run("three", 3)
	run("ten", 10)
}

//go:build unix

package issuer

import (
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/registry"
	"postern/secret"
)

// BenchmarkIssue is one token request from its parsed head to its answer, durable in a
// real store, 64 at a time for each core.
func BenchmarkIssue(b *testing.B) {
	w := start(b, registry.Terms{Products: products("search", "tracks")})
	body := []byte(w.good())
	b.ReportAllocs()
	b.SetParallelism(64)
	spent := cpuTime(b)
	b.RunParallel(func(p *testing.PB) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI(testPath)
		ctx.Request.Header.SetContentType("application/json")
		ctx.Request.SetBody(body)
		for p.Next() {
			ctx.Response.Reset()
			if reason := w.issuer.Serve(&ctx, testID); reason != answer.OK {
				b.Error(reason)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(float64((cpuTime(b)-spent).Microseconds())/float64(b.N), "cpu-us/token")
}

// cpuTime is what this process has used: on a busy machine a better measure than time.
func cpuTime(b *testing.B) time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// BenchmarkSecretCheck is the client's authentication while it is held in memory.
func BenchmarkSecretCheck(b *testing.B) {
	w := start(b, registry.Terms{})
	c := credentials{clientID: w.client.ID, clientSecret: secret.Secret(w.secret.Reveal())}
	now := registry.At(w.now())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.issuer.authenticate(c, now); err != nil {
			b.Fatal(err)
		}
	}
}

package issuer

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of the issuer. Refusals are counted by the front, by their reason.
type metrics struct {
	issued   prometheus.Counter
	shadowed *prometheus.CounterVec
	duration prometheus.Histogram
	backoff  prometheus.GaugeFunc
}

func newMetrics(b *backoff) *metrics {
	return &metrics{
		issued: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_tokens_issued_total",
			Help: "Access tokens handed out.",
		}),
		shadowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_issue_shadowed_total",
			Help: "Access tokens that an agreement in shadow did not refuse, by the reason to refuse them.",
		}, []string{"reason"}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "postern_issue_duration_seconds",
			Help:    "Time from the request's head to the answer of each access token that was handed out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5},
		}),
		backoff: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_issue_backoff_entries",
			Help: "Pairs of client and source address that failed to authenticate lately.",
		}, func() float64 { return float64(b.held.Load()) }),
	}
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.issued, m.shadowed, m.duration, m.backoff}
}

// handedOut counts an access token of who, by what was granted.
func (i *Issuer) handedOut(who caller, g grant, started, answered time.Time) {
	if g.shadowed != "" {
		i.metrics.shadowed.WithLabelValues(string(g.shadowed)).Inc()
	}
	i.metrics.issued.Inc()
	i.metrics.duration.Observe(answered.Sub(started).Seconds())
	if i.options.Meter != nil {
		i.options.Meter.Issued(who.Client, answered)
	}
}

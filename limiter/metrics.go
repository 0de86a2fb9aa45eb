package limiter

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what is counted as it happens, each child resolved once.
type metrics struct {
	refusals *prometheus.CounterVec
	refused  [policies]prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_limits_refused_total",
		Help: "Requests and access tokens over a limit, by the limit that names the refusal; also where it is only noted.",
	}, []string{"limit"})}
	for p := range policies {
		m.refused[p] = m.refusals.WithLabelValues(names[p])
	}
	return m
}

// Collectors returns the limiter's metrics for main to register.
func (l *Limiter) Collectors() []prometheus.Collector {
	all := []prometheus.Collector{
		l.metrics.refusals,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_limits_shared", Help: "1 while replicas share the limits through Redis, 0 while this one has its equal part for itself.",
		}, func() float64 {
			if l.share != nil && l.share.fresh() {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_limits_replicas", Help: "Replicas that share the limits, this one too, as they were counted last.",
		}, func() float64 { return float64(l.replicas.Load()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_limits_loaded", Help: "1 when it is known what was spent of the quotas before this process.",
		}, func() float64 {
			if l.loaded.Load() {
				return 1
			}
			return 0
		}),
	}
	if l.share == nil {
		return all
	}
	return append(all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_limits_age_seconds", Help: "Time since Redis last told what other replicas spent; +Inf before the first time; none without Redis.",
	}, func() float64 {
		heard := l.share.heard.Load()
		if heard == 0 {
			return math.Inf(1)
		}
		return (time.Duration(l.clock()) - time.Duration(heard)).Seconds()
	}))
}

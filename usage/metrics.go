package usage

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	unwritten prometheus.Gauge
	age       prometheus.GaugeFunc
	lost      prometheus.Counter

	now   func() time.Time
	since atomic.Pointer[time.Time] // when the oldest that is not written was collected; nil: there is none
}

func newMetrics(now func() time.Time) *metrics {
	m := &metrics{
		now: now,
		unwritten: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_usage_unwritten", Help: "Hours of clients whose usage was counted and is not in the store yet.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_usage_lost_total", Help: "Requests and access tokens that are in nobody's usage, because the store was away too long.",
		}),
	}
	m.age = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "postern_usage_unwritten_age_seconds", Help: "Time since usage should have been written that is not in the store yet.",
	}, func() float64 {
		if since := m.since.Load(); since != nil {
			return max(0, m.now().Sub(*since).Seconds())
		}
		return 0
	})
	return m
}

// left says how many client-hours are not written.
func (m *metrics) left(n int) {
	m.unwritten.Set(float64(n))
	switch {
	case n == 0:
		m.since.Store(nil)
	case m.since.Load() == nil:
		now := m.now()
		m.since.Store(&now)
	}
}

// Collectors are the meter's metrics.
func (m *Meter) Collectors() []prometheus.Collector {
	return []prometheus.Collector{m.metrics.unwritten, m.metrics.age, m.metrics.lost}
}

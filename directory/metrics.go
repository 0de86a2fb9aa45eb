package directory

import (
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/registry"
)

// metrics is what is counted as it happens; what is known at any time is read from the
// directory.
type metrics struct{ delay prometheus.Histogram }

func newMetrics() *metrics {
	return &metrics{delay: prometheus.NewHistogram(prometheus.HistogramOpts{
		Name:    "postern_change_delay_seconds",
		Help:    "Time from a change in the store, by the clock of who made it, until it was in effect here.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 60},
	})}
}

// applied counts changes that are in effect at now. A clock that is behind the writer's
// makes no negative delay. What a reload brings is not counted: nobody says when it changed.
func (m *metrics) applied(changes []registry.Change, now time.Time) {
	for _, c := range changes {
		m.delay.Observe(max(0, float64(registry.At(now)-c.At)/1000))
	}
}

// Collectors returns the directory's metrics for main to register.
func (d *Directory) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		d.metrics.delay,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_feed_age_seconds", Help: "Time since the change feed was last read completely; +Inf before the first time.",
		}, func() float64 {
			if !d.Loaded() {
				return math.Inf(1)
			}
			return d.Age(d.options.Now()).Seconds()
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_directory_clients", Help: "Clients held in memory.",
		}, func() float64 { return float64(d.Held()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_directory_catalogs", Help: "Catalogs held in memory, which are all there are.",
		}, func() float64 { return float64(d.HeldCatalogs()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_directory_revocations", Help: "Revoked tokens held in memory until they expire.",
		}, func() float64 { return float64(d.revocations.count.Load()) }),
	}
}

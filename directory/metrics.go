package directory

import "github.com/prometheus/client_golang/prometheus"

// Collectors returns the directory's metrics for main to register.
func (d *Directory) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_feed_age_seconds", Help: "Time since the change feed was last read completely.",
		}, func() float64 { return d.Age(d.options.Now()).Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_directory_clients", Help: "Clients held in memory.",
		}, func() float64 { return float64(d.Held()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_directory_revocations", Help: "Revoked tokens held in memory until they expire.",
		}, func() float64 { return float64(d.revocations.count.Load()) }),
	}
}

package proxy

import "github.com/prometheus/client_golang/prometheus"

// poolMetrics are the gauges of all pools, read when they are asked for. An endpoint that
// several pools have is one: its connections are summed, and it is healthy where all say so.
type poolMetrics struct {
	pools       func() []*pool
	connections *prometheus.Desc
	healthy     *prometheus.Desc
}

// newPoolMetrics makes the collector of what pools returns, which may change.
func newPoolMetrics(pools func() []*pool) *poolMetrics {
	describe := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"upstream"}, nil)
	}
	return &poolMetrics{
		pools:       pools,
		connections: describe("postern_upstream_connections", "Connections to the upstream that are open, idle or not."),
		healthy:     describe("postern_upstream_healthy", "1 while the upstream gets requests, 0 while it gets none because they, or its check, failed."),
	}
}

// Describe implements prometheus.Collector.
func (m *poolMetrics) Describe(to chan<- *prometheus.Desc) {
	to <- m.connections
	to <- m.healthy
}

// Collect implements prometheus.Collector.
func (m *poolMetrics) Collect(to chan<- prometheus.Metric) {
	type sample struct{ connections, healthy float64 }
	samples := map[string]sample{}
	for _, p := range m.pools() {
		for _, e := range p.endpoints {
			s, ok := samples[e.label]
			if !ok {
				s.healthy = 1
			}
			s.connections += float64(e.connections.Load())
			if !e.well() {
				s.healthy = 0
			}
			samples[e.label] = s
		}
	}
	for label, s := range samples {
		to <- prometheus.MustNewConstMetric(m.connections, prometheus.GaugeValue, s.connections, label)
		to <- prometheus.MustNewConstMetric(m.healthy, prometheus.GaugeValue, s.healthy, label)
	}
}

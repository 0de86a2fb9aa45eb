package proxy

import (
	"crypto/tls"

	"github.com/prometheus/client_golang/prometheus"
)

// certificateMetrics tell, when they are asked for, how long the certificate lasts that the
// front presents. A front without TLS has none to tell of.
type certificateMetrics struct {
	current  func() *tls.Config // nil: no TLS
	notAfter *prometheus.Desc
}

func newCertificateMetrics(current func() *tls.Config) *certificateMetrics {
	return &certificateMetrics{current, prometheus.NewDesc("postern_tls_certificate_not_after_timestamp_seconds",
		"When the certificate that the front presents expires, in Unix seconds; none without TLS.", nil, nil)}
}

// Describe implements prometheus.Collector.
func (m *certificateMetrics) Describe(to chan<- *prometheus.Desc) { to <- m.notAfter }

// Collect implements prometheus.Collector. What comes behind the first certificate is not
// looked at: chains often end in one that has expired and that no client needs.
func (m *certificateMetrics) Collect(to chan<- prometheus.Metric) {
	c := m.current()
	if c == nil || len(c.Certificates) == 0 || c.Certificates[0].Leaf == nil {
		return
	}
	to <- prometheus.MustNewConstMetric(m.notAfter, prometheus.GaugeValue, float64(c.Certificates[0].Leaf.NotAfter.Unix()))
}

package verifier

import (
	"github.com/prometheus/client_golang/prometheus"

	"postern/token"
)

// metrics holds every child that the hot path needs, resolved once.
type metrics struct {
	verifications *prometheus.CounterVec
	ok            prometheus.Counter
	unavailable   prometheus.Counter
	invalid       map[token.Invalid]prometheus.Counter
	hits          prometheus.Counter
	misses        prometheus.Counter
	bytes         prometheus.GaugeFunc
}

func newMetrics(bytes func() float64) *metrics {
	m := &metrics{
		verifications: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_verifications_total",
			Help: "Access tokens verified, by outcome.",
		}, []string{"outcome"}),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_cache_hits_total",
			Help: "Verifications that the cache had proof for.",
		}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "postern_cache_misses_total",
			Help: "Verifications that the cache had no proof for.",
		}),
		bytes: prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "postern_cache_bytes",
			Help: "Memory that cached verifications take, estimated.",
		}, bytes),
		invalid: map[token.Invalid]prometheus.Counter{},
	}
	m.ok = m.verifications.WithLabelValues("ok")
	m.unavailable = m.verifications.WithLabelValues("unavailable")
	for reason, label := range map[token.Invalid]string{
		token.Malformed:     "malformed",
		token.BadSignature:  "bad_signature",
		token.UnknownKey:    "unknown_key",
		token.Expired:       "expired",
		token.NotYetValid:   "not_yet_valid",
		token.WrongIssuer:   "wrong_issuer",
		token.WrongAudience: "wrong_audience",
		token.Revoked:       "revoked",
		token.ClientRefused: "client_refused",
	} {
		m.invalid[reason] = m.verifications.WithLabelValues(label)
	}
	return m
}

// count records the outcome of one verification.
func (m *metrics) count(err error) {
	if err == nil {
		m.ok.Inc()
		return
	}
	if reason, ok := err.(token.Invalid); ok {
		m.invalid[reason].Inc()
		return
	}
	m.unavailable.Inc()
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.verifications, m.hits, m.misses, m.bytes}
}

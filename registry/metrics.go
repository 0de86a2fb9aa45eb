package registry

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// operation is what the store was asked for, a metric label.
type operation int

const (
	opGrant operation = iota
	opKeys
	opRevocations
	opRevocation
	opPoll
	opRefresh
	opRead   // any other read
	opMutate // any mutation by an actor
	opIssue  // one token, from asked to durable
	opBatch  // one transaction of tokens
	opPrune
	opUsage // one batch of usage
	operations
)

var operationNames = [operations]string{"grant", "keys", "revocations", "revocation", "poll", "refresh", "read", "mutate", "issue", "issue_batch", "prune", "usage"}

// outcome is how it went, a metric label.
type outcome int

const (
	outcomeOK outcome = iota
	outcomeNotFound
	outcomeRefused // a conflict, or input that is not valid
	outcomeUnavailable
	outcomeFailed
	outcomes
)

var outcomeNames = [outcomes]string{"ok", "not_found", "refused", "unavailable", "failed"}

// Metrics is what a registry counts. Its children are resolved once.
type Metrics struct {
	duration *prometheus.HistogramVec
	children [operations][outcomes]prometheus.Observer
}

// NewMetrics makes metrics at zero, for one registry, or for one and those opened after it.
func NewMetrics() *Metrics {
	m := &Metrics{duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "postern_store_duration_seconds",
		Help:    "Time that the store took, by operation and outcome.",
		Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 5},
	}, []string{"operation", "outcome"})}
	for op, name := range operationNames {
		for out, text := range outcomeNames {
			m.children[op][out] = m.duration.WithLabelValues(name, text)
		}
	}
	return m
}

func outcomeOf(err error) outcome {
	switch {
	case err == nil:
		return outcomeOK
	case errors.Is(err, ErrNotFound):
		return outcomeNotFound
	case errors.Is(err, ErrConflict), errors.Is(err, ErrInvalid):
		return outcomeRefused
	case errors.Is(err, ErrUnavailable):
		return outcomeUnavailable
	}
	return outcomeFailed
}

// observe records one operation that began at started: defer it with the address of the
// result.
func (r *Registry) observe(op operation, started time.Time, err *error) {
	r.metrics.children[op][outcomeOf(*err)].Observe(r.options.Now().Sub(started).Seconds())
}

// Collectors returns them: postern_store_duration_seconds{operation,outcome}.
func (m *Metrics) Collectors() []prometheus.Collector { return []prometheus.Collector{m.duration} }

// Collectors returns the registry's metrics.
func (r *Registry) Collectors() []prometheus.Collector { return r.metrics.Collectors() }

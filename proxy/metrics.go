package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/valyala/fasthttp"

	"postern/answer"
)

// noRoute is the route label of what was answered before a route was found.
const noRoute = "none"

// metrics of the front. Every label is from a closed set: the configured routes, the
// reasons, and the status class.
type metrics struct {
	requests *prometheus.CounterVec
	refusals *prometheus.CounterVec
	shadowed *prometheus.CounterVec
	duration *prometheus.HistogramVec
	upstream *prometheus.HistogramVec
	retries  *prometheus.CounterVec
	pools    *poolMetrics

	certificate *certificateMetrics

	sockets       *prometheus.GaugeVec
	socketsClosed *prometheus.CounterVec

	// Children that were resolved already, so that a request takes no label look-up.
	none      *routeMetrics
	perReason [answer.Count]prometheus.Counter
}

type routeMetrics struct {
	name     string
	requests [answer.Count * 6]atomic.Pointer[prometheus.Counter]
	duration prometheus.Observer
	upstream prometheus.Observer
	retries  prometheus.Counter
}

var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_requests_total", Help: "Requests to the front, by route, reason and class of status code.",
		}, []string{"route", "reason", "class"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_refusals_total", Help: "Requests that postern itself refused, by reason.",
		}, []string{"reason"}),
		shadowed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_shadowed_total", Help: "Requests that were let through by a route or an agreement in shadow, by the reason to refuse them.",
		}, []string{"route", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_request_duration_seconds", Help: "Time from the head of a request to its answer (streamed: to its end).", Buckets: buckets,
		}, []string{"route"}),
		upstream: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "postern_upstream_duration_seconds", Help: "Time from sending a request to the head of the upstream's answer and its buffered content.", Buckets: buckets,
		}, []string{"route"}),
		sockets: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "postern_websockets", Help: "WebSockets that are open.",
		}, []string{"route"}),
		socketsClosed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "postern_websockets_closed_total", Help: "WebSockets that ended, by who or what ended them.",
		}, []string{"route", "reason"}),
	}
	m.retries = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "postern_upstream_retries_total", Help: "Requests that were sent to an upstream once more, within the budget.",
	}, []string{"route"})
	m.none = m.route(noRoute)
	for i, reason := range answer.Reasons() {
		if reason != answer.OK {
			m.perReason[i] = m.refusals.WithLabelValues(string(reason))
		}
	}
	return m
}

// route resolves the children of a route, which are the same ones after a reload.
func (m *metrics) route(name string) *routeMetrics {
	r := &routeMetrics{name: name, duration: m.duration.WithLabelValues(name)}
	if name != noRoute {
		r.upstream = m.upstream.WithLabelValues(name)
		r.retries = m.retries.WithLabelValues(name)
	}
	return r
}

// Collectors returns the front's metrics for main to register.
func (f *Front) Collectors() []prometheus.Collector {
	return []prometheus.Collector{f.metrics.requests, f.metrics.refusals, f.metrics.shadowed, f.metrics.duration, f.metrics.upstream,
		f.metrics.retries, f.metrics.pools, f.metrics.sockets, f.metrics.socketsClosed, f.metrics.certificate,
		f.doorMetrics.connections, f.doorMetrics.refused}
}

// count adds one request and returns the counter's route.
func (m *metrics) count(rt *route, reason answer.Reason, status int) *routeMetrics {
	r := m.none
	if rt != nil {
		r = rt.metrics
	}
	index, class := reason.Index(), status/100
	if class < 1 || class > 5 {
		class = 0
	}
	slot := &r.requests[index*6+class]
	counter := slot.Load()
	if counter == nil {
		c := m.requests.WithLabelValues(r.name, string(reason), [...]string{"other", "1xx", "2xx", "3xx", "4xx", "5xx"}[class])
		counter = &c
		slot.Store(counter)
	}
	(*counter).Inc()
	if refused := m.perReason[index]; refused != nil {
		refused.Inc()
	}
	return r
}

// record writes one set of metrics and, where asked for, one access line.
func (f *Front) record(ctx *fasthttp.RequestCtx, x *exchange, reason answer.Reason) {
	status := ctx.Response.StatusCode()
	took := max(0, f.now().Sub(x.started))
	r := f.metrics.count(x.route, reason, status)
	r.duration.Observe(took.Seconds())
	if x.upstreamStatus != 0 {
		r.upstream.Observe(x.upstreamTook.Seconds())
	}
	if x.shadow != "" {
		f.metrics.shadowed.WithLabelValues(r.name, string(x.shadow)).Inc()
		f.remember(x, x.shadow, x.noted, r.name, status)
	}
	if reason != answer.OK {
		f.remember(x, reason, x.why, r.name, status)
	}
	f.meterOutcome(x, reason)
	if f.options.Access != nil {
		if x.upstreamStatus == 0 && !ctx.Response.IsBodyStream() && string(x.head.method) != fasthttp.MethodHead {
			x.bytesOut = int64(len(ctx.Response.Body())) // of our own answer
		}
		f.options.Access.write(x, r.name, reason, status, took, x.started.Add(took))
	}
}

// milliseconds for a log line, to the microsecond.
func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// admin is the private door: metrics and health, and for this machine alone what
// admin_local.go says. None of it is reachable through the front.
type admin struct {
	server  *http.Server
	p       *postern
	now     func() time.Time
	started time.Time
}

func newAdmin(p *postern, now func() time.Time) *admin {
	a := &admin{p: p, now: now, started: now()}
	metrics := a.metrics()
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{Registry: metrics}))
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { a.answer(w, a.unready()) })
	a.mountLocal(mux)
	a.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	return a
}

// metrics registers what every room counts.
func (a *admin) metrics() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo())
	for _, room := range a.rooms() {
		r.MustRegister(room.Collectors()...)
	}
	return r
}

// rooms are those that count something.
func (a *admin) rooms() []interface{ Collectors() []prometheus.Collector } {
	rooms := []interface{ Collectors() []prometheus.Collector }{a.p.store, a.p.directory, a.p.verifier, a.p.limiter, a.p.front, a.p.usage, a.p.reloader}
	if a.p.issuer != nil {
		rooms = append(rooms, a.p.issuer)
	}
	if a.p.access != nil {
		rooms = append(rooms, a.p.access)
	}
	return rooms
}

func buildInfo() prometheus.Collector {
	b := builtFrom(debug.ReadBuildInfo())
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "postern_build_info", Help: "Always 1; the labels say what is running.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "go_version": b.Go},
	})
	g.Set(1)
	return g
}

// unready lists why requests should not be sent here now.
func (a *admin) unready() []string {
	now := a.now()
	var reasons []string
	if a.p.draining.Load() {
		reasons = append(reasons, "draining: this process is about to end")
	}
	if !a.p.directory.Loaded() {
		return append(reasons, "starting: keys, revocations and the position of the change feed were not loaded from the store yet; the log says why")
	}
	if !a.p.directory.Fresh(now) {
		reasons = append(reasons, "stale: the store was last read "+a.p.directory.Age(now).Round(time.Second).String()+
			" ago, longer than verify.max_staleness")
	}
	if a.p.issuer != nil {
		if _, err := a.p.directory.SigningKey(now); err != nil {
			reasons = append(reasons, "no signing key: see postern key list")
		}
	}
	return reasons
}

// answer writes 200, or 503 with the reasons.
func (a *admin) answer(w http.ResponseWriter, reasons []string) {
	status := http.StatusOK
	if len(reasons) > 0 {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, struct {
		OK      bool     `json:"ok"`
		Reasons []string `json:"reasons"`
	}{len(reasons) == 0, append([]string{}, reasons...)})
}

func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // an error: the peer has gone
}

func (a *admin) serve(l net.Listener) error {
	if err := a.server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// adminDrain is how long the admin door waits for its own last answers: a scrape ends in
// time, and a profile or a connection that says nothing does not hold the process.
const adminDrain = time.Second

// shutdown closes the door. Answers in flight are cut after adminDrain, or when ctx ends.
func (a *admin) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, adminDrain)
	defer cancel()
	if err := a.server.Shutdown(ctx); err == nil {
		return nil
	}
	return a.server.Close()
}

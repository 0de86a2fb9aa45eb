package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/config"
)

// errDraining: a postern that is about to end stays as it is.
var errDraining = errors.New("draining: this process is about to end")

// reloader brings a changed configuration into a running postern: all of it that can be
// applied, or, where anything is wrong, nothing.
type reloader struct {
	p    *postern
	load func() (config.Config, error)
	now  func() time.Time

	hangup  chan os.Signal // SIGHUP
	changed chan struct{}  // a watched file changed
	news    chan struct{}  // a reload found something new

	running atomic.Pointer[config.Config] // what is applied

	mu     sync.Mutex    // one reload at a time; it guards what follows
	loaded config.Config // what the files said at the last good reload, with what needs a restart
	digest string        // of the TLS files that are in use
	fault  string        // why the last reload failed; "": it did not

	failed   prometheus.Gauge
	reloaded prometheus.Gauge
}

// newReloader makes a reloader for what p runs with. From now on SIGHUP does not end the
// process; close gives it back its meaning.
func newReloader(p *postern, digest string, load func() (config.Config, error), now func() time.Time) *reloader {
	r := &reloader{
		p: p, load: load, now: now, loaded: p.config, digest: digest,
		hangup: make(chan os.Signal, 1), changed: make(chan struct{}, 1), news: make(chan struct{}, 1),
		failed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_config_reload_failed", Help: "1 while the configuration's files cannot be used and an older configuration is in force; else 0.",
		}),
		reloaded: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "postern_config_reloaded_timestamp_seconds", Help: "When the configuration was last read and found good, in Unix seconds.",
		}),
	}
	r.running.Store(&p.config)
	r.reloaded.Set(float64(now().Unix()))
	signal.Notify(r.hangup, syscall.SIGHUP)
	return r
}

// Collectors returns the metrics of reloading.
func (r *reloader) Collectors() []prometheus.Collector {
	return []prometheus.Collector{r.failed, r.reloaded}
}

func (r *reloader) close() { signal.Stop(r.hangup) }

// config returns what is applied. It waits for no reload.
func (r *reloader) config() config.Config { return *r.running.Load() }

// run reloads at each SIGHUP and whenever a file that the configuration was read from
// changes, until ctx ends.
func (r *reloader) run(ctx context.Context) {
	var watchers sync.WaitGroup
	defer watchers.Wait()
	for ctx.Err() == nil {
		r.watch(ctx, &watchers)
	}
}

// lookAgain is after how long the files are read once more when watching began, and when a
// reload found something new: what changes while they are read, and is changed back, is
// nothing new to the watch. It is longer than the watch ever waits.
const lookAgain = 3 * time.Second

// anotherLook is the reason of a reload after lookAgain, which says nothing of what is known.
const anotherLook = "another look"

// watch watches the files of today's configuration until they are others, or ctx ends.
func (r *reloader) watch(ctx context.Context, watchers *sync.WaitGroup) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	files := r.config().Files()
	watchers.Go(func() {
		err := config.Watch(ctx, files, func() {
			select {
			case r.changed <- struct{}{}:
			default: // one reload is due already
			}
		})
		if err != nil && ctx.Err() == nil {
			r.p.log.Warn("cannot watch the configuration's files: reload with SIGHUP", "error", err)
		}
	})
	look := time.NewTimer(lookAgain)
	defer look.Stop()
	for slices.Equal(files, r.config().Files()) {
		select {
		case <-ctx.Done():
			return
		case <-r.hangup:
			_, _ = r.reload("SIGHUP") // it logs
		case <-r.changed:
			_, _ = r.reload("a changed file")
		case <-look.C:
			_, _ = r.reload(anotherLook)
		case <-r.news:
			look.Reset(lookAgain)
		}
	}
}

// reload reads the configuration again, judges all of it, and applies what can be
// applied. It returns how what the files say differs from what ran before, what needs a
// restart included. After an error, whose parts faults tells, nothing has changed.
func (r *reloader) reload(why string) ([]config.Change, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.p.draining.Load() {
		return nil, errDraining
	}
	changes, applied, err := r.apply(why)
	fault := ""
	if err != nil {
		fault = err.Error()
	}
	r.note(why, err, fault == r.fault)
	if applied || fault != r.fault {
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
	r.fault = fault
	return changes, err
}

// note tells in the metrics and the log how a reload went. again: as the one before.
func (r *reloader) note(why string, err error, again bool) {
	if err == nil {
		r.failed.Set(0)
		r.reloaded.Set(float64(r.now().Unix()))
		if !again {
			r.p.log.Info("the configuration's files are good again", "by", why)
		}
		return
	}
	r.failed.Set(1)
	if again && why == anotherLook {
		return
	}
	for _, fault := range faults(err) {
		r.p.log.Error("cannot reload: the old configuration stays", "by", why, "fault", fault.Error())
	}
}

// apply is a reload without what is told of it. applied: the front has new settings.
func (r *reloader) apply(why string) (changes []config.Change, applied bool, err error) {
	loaded, err := r.load()
	if err != nil {
		return nil, false, err
	}
	changes = config.Diff(r.config(), loaded)
	next := keepFixed(r.config(), loaded)
	settings, digest, err := frontSettings(next)
	if err != nil {
		return nil, false, err
	}
	if len(config.Diff(r.loaded, loaded)) == 0 && digest == r.digest {
		return changes, false, nil
	}
	if err := r.p.front.Reload(settings); err != nil {
		return nil, false, err
	}
	r.p.verifier.ExpectAssertions(audiences(settings))
	if r.p.access != nil {
		if err := r.p.access.Choose(accessChoice(next)); err != nil {
			return nil, false, err
		}
	}
	r.running.Store(&next)
	r.loaded, r.digest = loaded, digest
	count := 0
	for _, change := range changes {
		if change.Restart {
			r.p.log.Warn("needs a restart: "+change.Key, "by", why)
			continue
		}
		count++
	}
	for _, warning := range loaded.Warnings() {
		r.p.log.Warn(warning)
	}
	r.p.log.Info("reloaded", "by", why, "applied", count)
	return changes, true, nil
}

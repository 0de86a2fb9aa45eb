package registry

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetricsCountQueries(t *testing.T) {
	onBoth(t, func(t *testing.T, file store) {
		ctx := context.Background()
		r := open(t, file(t))
		series := len(samples(t, r))
		f := func(operation, outcome string, want uint64, do func()) {
			t.Helper()
			before := samples(t, r)[operation+" "+outcome]
			do()
			after := samples(t, r)
			if got := after[operation+" "+outcome] - before; got != want {
				t.Errorf("%s, %s: counted %d, want %d", operation, outcome, got, want)
			}
			if len(after) != series {
				t.Errorf("%d series, before %d", len(after), series)
			}
		}
		var c Client
		f("mutate", "ok", 2, func() { c, _ = newClient(t, r) })
		f("mutate", "refused", 1, func() {
			_, _, _ = r.CreateClient(ctx, operator, NewClient{OrganizationID: c.OrganizationID, Application: "player", Environment: "prod"})
		})
		f("grant", "ok", 1, func() { _, _ = r.Grant(ctx, c.ID) })
		f("grant", "not_found", 2, func() { _, _ = r.Grant(ctx, "none"); _, _ = r.Grant(ctx, "\x00") })
		f("issue", "ok", 1, func() { issued(t, r, c) })
		f("issue_batch", "ok", 1, func() { issued(t, r, c) })
		f("keys", "ok", 1, func() { _, _ = r.Keys(ctx) })
		f("revocations", "ok", 1, func() { _, _ = r.Revocations(ctx) })
		f("revocation", "not_found", 1, func() { _, _ = r.Revocation(ctx, "none") })
		f("prune", "ok", 1, func() { _, _ = r.Prune(ctx, r.now()) })
		f("usage", "ok", 1, func() { _ = r.AddUsage(ctx, UsageBatch{"a", 1, nil}) })
		f("read", "ok", 1, func() { _, _ = r.Client(ctx, c.ID) })
		ended, cancel := context.WithCancel(ctx)
		cancel()
		f("grant", "unavailable", 1, func() { _, _ = r.Grant(ended, c.ID) })
		feed := must(r.Feed(ctx))(t)
		defer feed.Close()
		f("poll", "ok", 2, func() { poll(t, feed); poll(t, feed) })
	})
}

// samples counts what postern_store_duration_seconds has seen, by "operation outcome".
func samples(t *testing.T, r *Registry) map[string]uint64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(r.Collectors()...)
	families, err := reg.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "postern_store_duration_seconds" {
		t.Fatalf("gathered %v, %v", families, err)
	}
	all := make(map[string]uint64)
	for _, m := range families[0].Metric {
		labels := make(map[string]string)
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		all[labels["operation"]+" "+labels["outcome"]] = m.Histogram.GetSampleCount()
	}
	return all
}

package issuer

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"postern/answer"
	"postern/registry"
)

func TestMetrics(t *testing.T) {
	w := start(t, registry.Terms{})
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(w.issuer.Collectors()...)
	f := func(issued, timed, failing float64) {
		t.Helper()
		families, err := r.Gather()
		w.check(err)
		got := make(map[string]float64)
		for _, family := range families {
			for _, m := range family.Metric {
				got[family.GetName()] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
				if len(m.Label) != 0 {
					t.Errorf("%s has labels", family.GetName())
				}
			}
		}
		want := map[string]float64{"postern_tokens_issued_total": issued, "postern_issue_duration_seconds": timed, "postern_issue_backoff_entries": failing}
		for name, n := range want {
			if got[name] != n {
				t.Errorf("%s is %v, want %v", name, got[name], n)
			}
		}
		if len(got) != len(want) {
			t.Errorf("families %v", got)
		}
	}
	f(0, 0, 0)
	w.wantIssued(w.ask(w.good()))
	w.wantIssued(w.ask(w.good()))
	w.want(w.ask(credentialsOf(w.client.ID, strange(t))), 401, answer.InvalidClient)
	f(2, 2, 1)
}

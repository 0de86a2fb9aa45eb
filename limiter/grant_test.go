package limiter

import (
	"testing"

	"postern/registry"
)

func TestFields(t *testing.T) {
	f := func(name string, own, all registry.Terms, take int, policy, state string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			w := newWorld(t)
			c := client("a", "o", own, all)
			w.take(c, take-1)
			g, _ := w.Take(c, w.now)
			if got := string(g.AppendPolicy([]byte("x"))); got != "x"+policy {
				t.Errorf("policy %s, want %s", got, policy)
			}
			if got := string(g.AppendState([]byte("x"))); got != "x"+state {
				t.Errorf("state %s, want %s", got, state)
			}
		})
	}
	everything := registry.Terms{RequestRate: value(100), Concurrent: value(20), QuotaDay: value(10_000), QuotaMonth: value(50_000)}
	policies := `"client-rate";q=100;w=1, "client-concurrent";q=20;qu="concurrent-requests", "client-day";q=10000;w=86400, "client-month";q=50000, ` +
		`"org-rate";q=100;w=1, "org-concurrent";q=20;qu="concurrent-requests", "org-day";q=10000;w=86400, "org-month";q=50000`
	f("all", everything, everything, 1, policies, `"client-concurrent";r=19`)
	f("rate is tightest", everything, everything, 90, policies, `"client-rate";r=10;t=1`)
	f("refused", everything, everything, 101, policies, `"client-rate";r=0;t=1`)
	f("organization's", registry.Terms{QuotaDay: value(7)}, registry.Terms{QuotaMonth: value(3)}, 1, `"client-day";q=7;w=86400, "org-month";q=3`, `"org-month";r=2;t=50400`)
	f("quota used up", registry.Terms{QuotaDay: value(7)}, registry.Terms{}, 8, `"client-day";q=7;w=86400`, `"client-day";r=0;t=50400`)
	f("burst", registry.Terms{RequestRate: value(100), RequestBurst: value(250)}, registry.Terms{}, 101, `"client-rate";q=250;w=3`, `"client-rate";r=149;t=2`)
	f("small burst", registry.Terms{RequestRate: value(100), RequestBurst: value(10)}, registry.Terms{}, 1, `"client-rate";q=100;w=1`, `"client-rate";r=9;t=1`)
	f("nothing", registry.Terms{RequestRate: value(0)}, registry.Terms{}, 1, `"client-rate";q=0;w=1`, `"client-rate";r=0;t=3600`)
	f("largest", registry.Terms{QuotaDay: value(1 << 62)}, registry.Terms{}, 1, `"client-day";q=999999999999999;w=86400`, `"client-day";r=999999999999999;t=50400`)
}

package config

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDiffLines: what Flat tells is as good as the configuration itself, but for secrets.
func TestDiffLines(t *testing.T) {
	texts := []string{
		"routes:\n  - {name: api, upstream: [\"http://a:1\"]}\n",
		"front: {listen: \"127.0.0.1:1\", idle_timeout: 1m, trusted_proxies: [\"::1\"]}\nverify: {leeway: 1s}\nroutes:\n" +
			"  - {name: api, timeout: 1m, upstream: [\"http://a:1\", {url: \"http://b:1\", weight: 2}], request_headers: [{name: X-A, value: a}]}\n" +
			"  - {name: status, path: /status, access: public, upstream: [\"http://a:1\"]}\n",
		"routes:\n  - {name: api, path: /v1, methods: [GET], upstream: [\"http://b:1\"], request_headers: [{name: X-B, remove: true}]}\n" +
			"  - {name: api-status, path: /status, upstream: [\"http://a:1\"]}\n",
	}
	for i, older := range texts {
		for j, newer := range texts {
			a, b := load(t, older), load(t, newer)
			if diff := cmp.Diff(Diff(a, b), DiffLines(a.Flat(), b)); diff != "" {
				t.Errorf("from %d to %d: %s", i, j, diff)
			}
		}
	}
}

// TestDiffLinesSecret: a secret that changed is not seen, one that came is.
func TestDiffLinesSecret(t *testing.T) {
	f := func(older, newer string, want ...Change) {
		t.Helper()
		with := func(field string) Config {
			return load(t, "routes:\n  - {name: api, upstream: [\"http://a:1\"], request_headers: ["+field+"]}\n")
		}
		if diff := cmp.Diff(want, DiffLines(with(older).Flat(), with(newer))); diff != "" {
			t.Error(diff)
		}
	}
	f("{name: X-A, value: one}", "{name: X-A, value: two}")
	f("", "{name: X-A, value: two}", Change{"routes[api].request_headers[X-A].value", "", "[redacted]", false})
	f("{name: X-A, value: one}", "{name: X-A, remove: true}",
		Change{"routes[api].request_headers[X-A].value", "[redacted]", "", false}, Change{"routes[api].request_headers[X-A].remove", "false", "true", false})
}

// TestDiffLinesTLS: TLS as such needs a restart, another certificate does not.
func TestDiffLinesTLS(t *testing.T) {
	c := Default()
	c.Front.TLS.Certificate = "a.pem"
	f := func(older []Line, restart bool) {
		t.Helper()
		got := DiffLines(older, c)
		if len(got) != 1 || got[0].Key != "front.tls.certificate" || got[0].Restart != restart {
			t.Errorf("%+v", got)
		}
	}
	f(nil, true)
	f([]Line{{"front.tls.certificate", "b.pem"}}, false)
}

package config

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// load makes a configuration of the text of a file, which is minimal but for it.
func load(t *testing.T, text string) Config {
	t.Helper()
	c, err := Load(Source{File: write(t, "postern.yaml", text)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestFlat(t *testing.T) {
	token := write(t, "token", "Bearer hunter2\n")
	c := load(t, `
issuer: {url: "https://api.example.com"}
keys: {master_key: "`+aKey+`"}
front: {max_body: 1MiB, drain_delay: 3s, trusted_proxies: [10.0.0.0/8, "::1"], min_body_rate: 0B}
routes:
  - name: api
    upstream: ["http://a:1", {url: "http://b:1", weight: 2}]
    request_headers: [{name: Authorization, value_file: `+token+`}, {name: Cookie, remove: true}]
    stall_timeout: 3m
  - {path: /status, access: public, upstream: ["unix:/run/s.sock"], methods: [GET, HEAD]}
`)
	want := []Line{
		{"front.trusted_proxies", "10.0.0.0/8, ::1"},
		{"front.max_body", "1MiB"},
		{"front.min_body_rate", "0B"},
		{"front.drain_delay", "3s"},
		{"keys.master_key", "[redacted]"},
		{"issuer.url", "https://api.example.com"},
		{"issuer.audience", "https://api.example.com"},
		{"routes[api].request_headers[Authorization].value", "[redacted]"},
		{"routes[api].request_headers[Authorization].value_file", token},
		{"routes[api].request_headers[Cookie].remove", "true"},
		{"routes[api].upstream[0]", "http://a:1"},
		{"routes[api].upstream[1]", "http://b:1"},
		{"routes[api].upstream[1].weight", "2"},
		{"routes[api].stall_timeout", "3m"},
		{"routes[/status].path", "/status"},
		{"routes[/status].methods", "GET, HEAD"},
		{"routes[/status].access", "public"},
		{"routes[/status].upstream[0]", "unix:/run/s.sock"},
	}
	if diff := cmp.Diff(want, c.Flat()); diff != "" {
		t.Error(diff)
	}
	if len(Default().Flat()) != 0 {
		t.Errorf("the defaults are %v", Default().Flat())
	}
}

func TestFiles(t *testing.T) {
	certificate, key := certificates(t)
	held, token := write(t, "master-key", aKey), write(t, "token", "x")
	file := write(t, "postern.yaml", `
keys: {master_key_file: `+held+`}
front: {tls: {certificate: `+certificate+`, key: `+key+`}}
routes: [{upstream: ["https://a"], upstream_tls: {ca: `+certificate+`}, request_headers: [{name: X-Token, value_file: `+token+`}]}]
`)
	c, err := Load(Source{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{file, certificate, key, held, token}, c.Files()); diff != "" {
		t.Error(diff)
	}
	if got := Default().Files(); got != nil {
		t.Errorf("nothing is read from %v", got)
	}
}

func TestDiff(t *testing.T) {
	const issuer = "issuer: {url: \"https://i.example\"}\n"
	f := func(name, older, newer string, want ...Change) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			changes := Diff(load(t, issuer+older), load(t, issuer+newer))
			if diff := cmp.Diff(want, changes); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(fmt.Sprintf("%#v", changes), "hunter2") {
				t.Error("a secret is shown")
			}
		})
	}
	certificate, key := certificates(t)
	renewed, renewedKey := certificates(t)
	secure := func(certificate, key string) string {
		return minimal + "front: {tls: {certificate: " + certificate + ", key: " + key + "}}\n"
	}
	one := func(more string) string { return "routes: [{name: api, upstream: [\"http://a:1\"]" + more + "}]\n" }

	f("nothing", minimal, minimal)
	f("what a reload applies", minimal, minimal+"front: {max_connections: 7, trusted_proxies: [\"::1\"]}\nlog: {access_sample: 10}\n",
		Change{"front.trusted_proxies", "", "::1", false}, Change{"front.max_connections", "10000", "7", false}, Change{"log.access_sample", "1", "10", false})
	f("what needs a restart", minimal+"log: {access: true}\n", minimal+"front: {listen: \":1\"}\nadmin: {listen: \":2\"}\nstore: sqlite:x.db\nassertion: {lifetime: 1m}\n",
		Change{"front.listen", "127.0.0.1:8080", ":1", true}, Change{"admin.listen", "127.0.0.1:9090", ":2", true},
		Change{"store", "[redacted]", "[redacted, changed]", true}, Change{"assertion.lifetime", "5m", "1m", true}, Change{"log.access", "true", "false", true})
	f("TLS begins", minimal, secure(certificate, key),
		Change{"front.tls.certificate", "", certificate, true}, Change{"front.tls.key", "", key, true})
	f("TLS renewed", secure(certificate, key), secure(renewed, renewedKey),
		Change{"front.tls.certificate", certificate, renewed, false}, Change{"front.tls.key", key, renewedKey, false})
	f("a key begins", minimal, minimal+"keys: {master_key: "+aKey+"}\n", Change{"keys.master_key", "", "[redacted]", true})
	f("a route comes", one(""), "routes: [{name: other, path: /o, upstream: [\"http://b:1\"]}, {name: api, upstream: [\"http://a:1\"]}]\n",
		Change{"routes[other].path", "", "/o", false}, Change{"routes[other].upstream[0]", "", "http://b:1", false})
	f("a route goes", "routes: [{name: other, path: /o, upstream: [\"http://b:1\"]}, {name: api, upstream: [\"http://a:1\"]}]\n", one(""),
		Change{"routes[other].path", "/o", "", false}, Change{"routes[other].upstream[0]", "http://b:1", "", false})
	f("an upstream comes", one(""), "routes: [{name: api, upstream: [\"http://a:1\", \"http://b:1\"]}]\n",
		Change{"routes[api].upstream[1]", "", "http://b:1", false})
	f("a field changes", one(", request_headers: [{name: X-A, value: hunter2}]"), one(", request_headers: [{name: X-A, value: hunter22}]"),
		Change{"routes[api].request_headers[X-A].value", "[redacted]", "[redacted, changed]", false})
}

// Each setting says whether it needs a restart, by its section or by itself.
func TestRestartIsSaidInTheReference(t *testing.T) {
	reference := Reference()
	for _, l := range Default().leaves() {
		_, line, _ := strings.Cut(reference, "\n| `"+l.key+"` |")
		line, _, _ = strings.Cut(line, "\n")
		if said := strings.HasSuffix(line, "needs a restart |"); said != l.restart && l.key != "front.tls.certificate" {
			t.Errorf("%s needs a restart: %v, and the reference says %v", l.key, l.restart, said)
		}
	}
}

package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWarnings(t *testing.T) {
	file := write(t, "postern.yaml", `front: {listen: ":8080", trusted_proxies: [10.0.0.1, "::/0"]}
issuer: {url: "http://api.example.com"}
decision: {path: /ask}
routes:
  - {path: /, access: public, upstream: ["http://127.0.0.1:3000"]}
  - {path: /oauth/token/x, upstream: ["http://127.0.0.1:3000"]}
  - {path: /oauth/tokens, upstream: ["http://127.0.0.1:3000"]}
  - {path: /ask, upstream: ["http://127.0.0.1:3000"]}
  - {path: /, match: exact, name: home, access: public, upstream: ["http://127.0.0.1:3000"]}
  - {path: /ws, access: public, websocket: {enabled: true, query: token}, upstream: ["http://127.0.0.1:3000"]}
  - {path: /idle, websocket: {idle: 1m, query: ""}, cors: {headers: [X-A]}, upstream: ["http://127.0.0.1:3000"]}
  - {path: /new, enforce: shadow, catalog: {required: true}, upstream: ["http://127.0.0.1:3000"]}
  - {path: /open, enforce: shadow, access: public, upstream: ["http://127.0.0.1:3000"]}
`)
	c, err := Load(Source{File: file, Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + aKey}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range c.Warnings() {
		got = append(got, strings.Replace(w, file, "postern.yaml", 1))
	}
	want := []string{
		`postern.yaml:1: front.trusted_proxies[1]: trusts everybody: any client can say where it comes from: list the addresses of your proxies alone`,
		`postern.yaml:2: issuer.url: is plain http, and the front does not listen on loopback: secrets and tokens cross the network in clear: give the front a certificate (front.tls) or put TLS in front of it, and use https`,
		`postern.yaml:5: routes[0]: is public at /: whatever no longer path covers needs no access token: use access: client, or a longer path`,
		`postern.yaml:6: routes[1]: is never reached: issuer.token_path and all below it is answered by postern: move the route or issuer.token_path`,
		`postern.yaml:8: routes[3]: is never reached at its path: decision.path is answered by postern: move the route or decision.path`,
		`postern.yaml:10: routes[5].websocket.query: is without effect, because the route is public: remove it, or use access: client`,
		`postern.yaml:11: routes[6].websocket.idle: is without effect, because enabled is false: set it to true`,
		`postern.yaml:11: routes[6].cors.headers: is without effect, because origins is empty: list the origins`,
		`postern.yaml:12: routes[7].catalog.required: is without effect, because it says no place: say path, query or header`,
		`postern.yaml:12: routes[7].enforce: is shadow: what would be refused on this route is forwarded, and only counted: look at postern_shadowed_total, then use enforce: enforce`,
		`postern.yaml:13: routes[8].enforce: is without effect, because the route is public: remove it, or use access: client`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestProxies(t *testing.T) {
	c := load(t, minimal+"front: {trusted_proxies: [10.0.0.1, 10.0.0.0/8, \"::ffff:192.0.2.1\", \"fd00::/8\"]}\n")
	var got []string
	for _, p := range c.Front.Proxies() {
		got = append(got, p.String())
	}
	if diff := cmp.Diff([]string{"10.0.0.1/32", "10.0.0.0/8", "192.0.2.1/32", "fd00::/8"}, got); diff != "" {
		t.Error(diff)
	}
}

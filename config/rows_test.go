package config

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Unknown key, duplicate key, tab and wrong type each name file and line, and a secret
// in the same file, or in the very place that is wrong, is not printed. (That the exit
// status is not 0 is for main's tests.)
func TestRow139FaultsNameFileAndLineAndNoSecret(t *testing.T) {
	const planted = "hunter2-correct-horse"
	f := func(name, text, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			_, err := Load(Source{File: write(t, "postern.yaml", text), Environ: []string{"PLANTED=" + planted}})
			if err == nil {
				t.Fatal("loaded")
			}
			if strings.Contains(err.Error(), planted) {
				t.Errorf("the secret is in %q", err)
			}
			if want != "" && !slices.Contains(lines(err), want) {
				t.Errorf("%q is not among %q", want, lines(err))
			}
		})
	}
	const top = "keys:\n  master_key: " + planted + "\nstore: postgres://u:" + planted + "@db/p\n"
	f("unknown key", top+"log:\n  levl: info\n", "postern.yaml:5: log.levl: is an unknown key: did you mean level? the keys here are access, access_fields, access_sample, format, level")
	f("duplicate key", top+"log: {}\nlog: {}\n", "postern.yaml:5: log: is set twice, first on line 4: remove one of the two")
	f("tab", top+"log:\n\tlevel: info\n", "postern.yaml:5: is not YAML: found character that cannot start any token: indent with spaces, not with tabs")
	f("wrong type", top+"log: info\n", "postern.yaml:4: log: is text, not a mapping: write its settings below it, each as key: value, indented alike")

	// The secret itself is what is in the wrong place or of the wrong form.
	for i, text := range []string{
		"keys: " + planted,
		"keys: [" + planted + "]",
		"keys: {master_key: [" + planted + "]}",
		"keys: {master_key: {" + planted + ": 1}}",
		"keys: {master_key:" + planted + "}",
		"keys: {master_key: '" + planted + "', master_key: '" + planted + "'}",
		"keys: {master_keyy: " + planted + "}",
		"keys: {master_key: *" + planted + "}",
		"keys: {master_key: &" + planted + " x}",
		"keys: {master_key: !" + planted + " x}",
		"keys: {master_key: !!binary " + planted + "}",
		"keys: {master_key: \"" + planted,
		"keys: {master_key: \"" + planted + "\\q\"}",
		"keys: {master_key: \"" + planted + "\\n\"}",
		"keys: {master_key: \"${" + planted + "}\"}",
		"keys: {master_key: \"$" + planted + "\"}",
		"keys: {master_key: \"a${" + strings.ReplaceAll(planted, "-", "_") + "}\"}",
		"keys: {master_key: \"${PLANTED}\"}",
		"keys: {master_key_file: " + planted + "}",
		"keys: {master_key_file: \"" + planted + "\\0\"}",
		"keys:\n\tmaster_key: " + planted,
		"keys:\n  master_key:" + planted + "\n  master_key_file: x",
		"keys:\n  master_key: " + planted + ": x",
		"store: " + planted,
		"store: postgres://u:" + planted + "@db/p",
		"store: sqlite:p.db?key=" + planted,
		"store: \"sqlite:${PLANTED}?\"",
		"store:postgres://u:" + planted + "@db/p",
		"store: [postgres://u:" + planted + "@db/p]",
		"store: sqlite:p.db\nstore_file: " + planted,
		"store: %" + planted,
		"store: @" + planted,
		"store=" + planted,
		"? {store: " + planted + "}\n: x",
		"issuer: {url: \"https://u:" + planted + "@api.example.com\"}",
		"issuer: {realm: \"${PLANTED}\\\\\"}",
		"issuer: {lifetime: \"${PLANTED}\"}",
		"issuer: {algorithm: \"${PLANTED}\"}",
		"headers: {client: \"${PLANTED}:\"}",
		"front: {listen: \"${PLANTED}\", max_connections: \"${PLANTED}\"}",
		"routes: [{name: \"${PLANTED}?\", host: \"${PLANTED}:1\", path: \"${PLANTED}\", methods: [\"${PLANTED}\"], upstream: [\"${PLANTED}\"]}]",
		"routes: [{upstream: [\"http://u:" + planted + "@127.0.0.1:3000\"]}]",
		"routes: [{upstream: [{url: \"http://u:" + planted + "@127.0.0.1:3000\"}]}]",
		"routes: [{upstream: [\"http://a\"], request_headers: [" + planted + "]}]",
		"routes: [{upstream: [\"http://a\"], request_headers: [{name: A, value: [" + planted + "]}]}]",
		"routes: [{upstream: [\"http://a\"], request_headers: [{name: A, value: \"${PLANTED}\\tx\"}]}]",
		"routes: [{upstream: [\"http://a\"], request_headers: [{name: Host, value: \"${PLANTED}/\"}]}]",
		"routes: [{upstream: [\"http://a\"], request_headers: [{name: A, value: " + planted + ", remove: true}]}]",
		"routes: [{upstream: [\"http://a\"], request_headers: [{name: A, value_file: " + planted + "}]}]",
		"front: {tls: {certificate: x, key: " + planted + "}}",
		"front: {tls: {certificate: " + planted + ", key: \"${PLANTED}\"}}",
		"routes: [{upstream: [\"http://127.0.0.1:3000/?token=" + planted + "\"]}]",
	} {
		f(fmt.Sprintf("secret in a wrong place %d", i), text+"\n", "")
	}
}

// A file that is made to be expensive is refused for little.
func TestRow140BombsAreCheap(t *testing.T) {
	f := func(name, path string, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := Load(Source{File: path})
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if got := lines(err); len(got) == 0 || got[0] != want {
				t.Errorf("got %q, want %q first", got, want)
			}
			if took > 10*time.Second { // ten times the promise
				t.Errorf("took %v", took)
			}
			if all := after.TotalAlloc - before.TotalAlloc; all > 100<<20 {
				t.Errorf("took %d MiB, counted without any collection", all>>20)
			}
		})
	}
	text := func(s string) string { return write(t, "postern.yaml", s) }
	fill := func(s string) string { return strings.Repeat(s, maxFile/len(s)-1) }
	const tooMany = "postern.yaml: holds too many values: split the routes over several instances"
	const tooDeep = "postern.yaml:1: is not YAML: exceeded max depth of 10000: look for wrong indentation, quotes or brackets from this line on"

	f("aliases", filepath.Join("testdata", "invalid-alias-bomb.yaml"), "invalid-alias-bomb.yaml:1: "+anchorProblem+": "+anchorFix)
	f("alias to itself", text("log: &a [*a]\n"), "postern.yaml:1: "+anchorProblem+": "+anchorFix)

	big := text("")
	if err := os.Truncate(big, 100<<20); err != nil {
		t.Fatal(err)
	}
	f("100 MB", big, "postern.yaml: is larger than 1MiB")
	f("no end and no size", "/dev/zero", "zero: is larger than 1MiB")
	f("one byte too many", text(strings.Repeat("#", maxFile+1)), "postern.yaml: is larger than 1MiB")

	f("21 levels", text("log: "+strings.Repeat("[", 20)+strings.Repeat("]", 20)+"\n"), "postern.yaml:1: is nested deeper than 20 levels: no setting lies that deep")
	f("9,000 levels", text("log: "+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+"\n"), "postern.yaml:1: is nested deeper than 20 levels: no setting lies that deep")
	f("90,000 levels", text(strings.Repeat("[", 90000)), tooDeep)
	f("1 MiB of [", text(fill("[")), tooMany)
	f("1 MiB of {", text(fill("{")), tooMany)
	f("1 MiB of - ", text(fill("- ")), tooMany)
	f("1 MiB of ? ", text(fill("? ")), tooMany)
	f("1 MiB of a,", text("{"+fill("a,")+"}"), tooMany)
	f("1 MiB of a: b", text(fill("a: b\n")), tooMany)
	f("as many values as pass", text("{"+strings.Repeat("a,", maxMarks-10)+"}"), "postern.yaml:1: "+
		"a: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes")
	numbered := func(form string, count int) string {
		var b strings.Builder
		for i := range count {
			fmt.Fprintf(&b, form, i)
		}
		return b.String()
	}
	f("as many routes as pass", text("routes:\n"+numbered("- {path: /%d, upstream: [\"http://a\"]}\n", 13500)+"- {}\n"),
		"postern.yaml:13502: routes[13500].upstream: is required: write one or more, such as [\"http://127.0.0.1:3000\"]")
	f("as many upstreams as pass", text("routes: [{upstream: ["+numbered("\"http://a%d\",", 60000)+"\"http://a0\"]}]\n"),
		"postern.yaml:1: routes[0].upstream[60000]: \"http://a0\" is listed twice: remove one of the two; a weight gives it more requests")
	f("as many scopes as pass", text("routes: [{upstream: [\"http://a\"], scopes: ["+numbered("s%06d,", 95000)+"s000000]}]\n"),
		"postern.yaml:1: routes[0].scopes[95000]: \"s000000\" is listed twice: remove one of the two")
	f("as many fields as pass", text("routes: [{upstream: [\"http://a\"], request_headers: ["+numbered("{name: a%d, value: b},", 19000)+"{}]}]\n"),
		"postern.yaml:1: routes[0].request_headers[19000].name: is required: name the field")
	f("as many comments as pass", text("log:\n"+strings.Repeat("- #a\n", maxMarks/2-10)), "postern.yaml:1: "+
		"log: is a list, not a mapping: write its settings below it, each as key: value, indented alike")
}

// Of many faults the first hundred are named, and the others counted.
func TestFaultsAreCounted(t *testing.T) {
	var b strings.Builder
	for i := range 250 {
		fmt.Fprintf(&b, "k%d: 1\n", i)
	}
	_, err := Load(Source{File: write(t, "postern.yaml", b.String()+minimal)})
	got := lines(err)
	if len(got) != 101 || got[100] != "and 150 more faults" || !strings.HasPrefix(got[99], "postern.yaml:100: k99: ") {
		t.Errorf("%d lines, the last are %q", len(got), got[max(0, len(got)-2):])
	}
}

// The parts of the row that a configuration can show: files that others can read, secrets
// that are none, and an upstream that is postern itself.
func TestRow141UnsafeSecretsAndLoops(t *testing.T) {
	f := func(name string, s Source, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			c, err := Load(s)
			got := lines(err)
			for _, w := range c.Warnings() {
				got = append(got, strings.ReplaceAll(w, filepath.Dir(s.File)+"/", ""))
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	open := func(path string) string {
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	withKey := minimal + "keys: {master_key: " + aKey + "}\n"
	env := []string{"KEY=" + aKey, "POSTERN_KEYS_MASTER_KEY_FILE=" + open(write(t, "key", aKey))}

	f("key in a file of one's own", Source{File: write(t, "postern.yaml", withKey)})
	f("key in a file that all can read", Source{File: open(write(t, "postern.yaml", withKey))},
		"postern.yaml:2: keys.master_key: is written in a file that every user of this machine can read: chmod 0600 it, or use ${NAME} or master_key_file")
	f("file that all can read, without the key", Source{
		File: open(write(t, "postern.yaml", minimal+"keys: {master_key: \"${KEY}\"}\n")), Environ: env[:1],
	})
	f("key file that all can read", Source{File: write(t, "postern.yaml", minimal), Environ: env},
		"POSTERN_KEYS_MASTER_KEY_FILE: keys.master_key_file: names a file that every user of this machine can read: chmod 0600 it, or mount it with mode 0400")
	f("no key", Source{Upstream: "http://127.0.0.1:3000"},
		"keys.master_key: is not set: the store holds the signing keys in clear: make one with: openssl rand -base64 32")
	f("a key of text", Source{Upstream: "http://127.0.0.1:3000", Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + base64.StdEncoding.EncodeToString([]byte("changeme-changeme-changeme-12345"))}},
		"POSTERN_KEYS_MASTER_KEY: keys.master_key: is text and no random bytes, as if somebody had made it up: make one with: openssl rand -base64 32")
	f("a key of one byte", Source{Upstream: "http://127.0.0.1:3000", Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + strings.Repeat("ab", 32)}},
		"POSTERN_KEYS_MASTER_KEY: keys.master_key: is not random: make one with: openssl rand -base64 32")
	f("empty variable in a secret", Source{File: write(t, "postern.yaml", minimal+"keys: {master_key: \"${KEY}\"}\n"), Environ: []string{"KEY="}},
		"postern.yaml:2: keys.master_key: is set, but empty: give it a value, or remove the setting")

	self := func(listen, upstream string) Source {
		return Source{Upstream: upstream, Environ: []string{"POSTERN_KEYS_MASTER_KEY=" + aKey, "POSTERN_FRONT_LISTEN=" + listen, "POSTERN_ISSUER_URL=https://i.example"}}
	}
	loop := func(upstream string) string {
		return `--upstream: "` + upstream + `" is front.listen, so requests would go round for ever: name the service that stands behind postern`
	}
	f("upstream is self", self("127.0.0.1:8080", "http://127.0.0.1:8080"), loop("http://127.0.0.1:8080"))
	f("upstream is self by name", self("127.0.0.1:8080", "http://localhost:8080"), loop("http://localhost:8080"))
	f("upstream is self, everywhere", self(":80", "http://localhost"), loop("http://localhost"))
	f("upstream is self, IPv6", self("[::1]:8080", "http://[::1]:8080"), loop("http://[::1]:8080"))
	f("upstream is self, unspecified", self("127.0.0.1:8080", "http://0.0.0.0:8080"), loop("http://0.0.0.0:8080"))
	f("upstream is self, other host", self("10.0.0.1:8080", "http://10.0.0.1:8080"), loop("http://10.0.0.1:8080"))
	f("upstream is another port", self("127.0.0.1:8080", "http://127.0.0.1:8081"))
	f("upstream is another address", self("127.0.0.1:8080", "http://127.0.0.2:8080"))
	f("upstream is another machine", self(":8080", "http://api.internal:8080"))
	f("one of several upstreams is self", Source{File: write(t, "postern.yaml", "routes:\n- upstream:\n  - http://127.0.0.1:3000\n  - {url: \"https://localhost:8080\", weight: 2}\n  - http://127.0.0.1:9090\n"), Environ: env[:1]},
		`postern.yaml:4: routes[0].upstream[1].url: "https://localhost:8080" is front.listen, so requests would go round for ever: name the service that stands behind postern`,
		`postern.yaml:5: routes[0].upstream[2]: "http://127.0.0.1:9090" is admin.listen, which the front must never show: name the service that stands behind postern`)
	f("front takes a free port", self("127.0.0.1:0", "http://127.0.0.1:8080"))
}

// A time without a unit, of nothing or of less is refused, everywhere, and the fix named.
func TestRow143TimesNeedAUnitAndMoreThanNothing(t *testing.T) {
	const fix = ": use a duration such as 30s, 5m or 2h"
	times := 0
	all, keys := scalars()
	for _, key := range keys {
		if all[key].typ != durationType {
			continue
		}
		times++
		section, name, _ := strings.Cut(key, ".")
		f := func(text, problem string) {
			t.Run(key+" "+text, func(t *testing.T) {
				path := write(t, "postern.yaml", section+":\n  "+name+": "+text+"\n"+minimal)
				_, err := Load(Source{File: path})
				want := []string{`postern.yaml:2: ` + key + `: "` + text + `" ` + problem + fix}
				if diff := cmp.Diff(want, lines(err)); diff != "" {
					t.Error(diff)
				}
			})
		}
		if all[key].zero { // of which the meaning is documented
			for _, text := range []string{"0s", "0h0m", "0.0s"} {
				if c, err := Load(Source{File: write(t, "postern.yaml", section+":\n  "+name+": "+text+"\n"+minimal)}); err != nil || c.at(key).Int() != 0 {
					t.Errorf("%s for %s: %v", key, text, err)
				}
			}
			f("-1s", "is below 0")
			f("0", "has no unit")
		} else {
			for _, text := range []string{"-1s", "0", "0s", "0h0m", "-1", "-1h30m", "0.0s"} {
				f(text, "is not above 0")
			}
		}
		f("10", "has no unit")
		f("1e3", "has no unit")
		for _, text := range []string{"10x", "1d", "s", "1 s", "1s 1s", "--1s", "1h-1s", "five"} {
			f(text, "is not a duration")
		}
		f("99999999h", "is more than ten years")
		f("87601h", "is more than ten years")
	}
	if times != 15 {
		t.Errorf("%d settings are durations, want 15", times)
	}
	_, err := Load(Source{File: write(t, "postern.yaml", "routes:\n  - upstream: [\"http://127.0.0.1:3000\"]\n    timeout: 10\n")})
	if diff := cmp.Diff([]string{`postern.yaml:3: routes[0].timeout: "10" has no unit` + fix}, lines(err)); diff != "" {
		t.Error(diff)
	}
}

// Whoever has ten faults learns all ten at once, in the order of the file.
func TestTenFaultsAtOnce(t *testing.T) {
	_, err := Load(Source{
		File: write(t, "postern.yaml", `front:
  lisen: "127.0.0.1:8080"
  drain: 10
issuer:
  lifetime: 2h
  max_lifetime: 1h
  realm: 'a"b'
log:
  access: yes
headers:
  client: Host
routes:
  - path: /api/
    upstream: ["ftp://127.0.0.1:3000"]
    methods: [get]
  - path: /
`),
		Environ: []string{"POSTERN_LOG_LEVL=info", "POSTERN_LOG_FORMAT=xml"},
		Flags:   map[string]string{"admin.listen": "9090", "admin.port": "1"},
	})
	want := []string{
		`postern.yaml:2: front.lisen: is an unknown key: did you mean listen? the keys here are listen, tls, trusted_proxies, proxy_protocol, max_header, max_target, max_fields, max_body, min_body_rate, buffer, read_timeout, idle_timeout, write_timeout, max_connections, max_connections_per_address, drain_delay, drain`,
		`postern.yaml:3: front.drain: "10" has no unit: use a duration such as 30s, 5m or 2h`,
		`postern.yaml:5: issuer.lifetime: 2h is too much for issuer.max_lifetime, which is 1h: lower it, or raise issuer.max_lifetime`,
		`postern.yaml:7: issuer.realm: "a\"b" is not 1 to 128 printable ASCII characters without quotes and backslashes: use a name such as postern`,
		`postern.yaml:9: log.access: "yes" is neither true nor false: write true or false`,
		`postern.yaml:11: headers.client: "Host" has a meaning of its own in HTTP: use another name, such as X-Client-Id`,
		`postern.yaml:13: routes[0].path: "/api/" ends with a slash: remove it: a path covers all below it, by whole segments`,
		`postern.yaml:14: routes[0].upstream[0]: "ftp://127.0.0.1:3000" is not an http, https or unix URL: write it as http://host:port, https://host:port or unix:/path, such as http://127.0.0.1:3000`,
		`postern.yaml:15: routes[0].methods[0]: "get" is not a method in upper case: use one such as GET or POST`,
		`postern.yaml:16: routes[1].upstream: is required: write one or more, such as ["http://127.0.0.1:3000"]`,
		`POSTERN_LOG_FORMAT: log.format: "xml" is not known: use json or text`,
		`POSTERN_LOG_LEVL: is an unknown variable: did you mean POSTERN_LOG_LEVEL?`,
		`flag: admin.listen: "9090" is not an address and a port: use one such as 127.0.0.1:8080, [::1]:8080 or :8080`,
		`flag: admin.port: is an unknown key: the nearest known one is admin.listen`,
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Error(diff)
	}
}

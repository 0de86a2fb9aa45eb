package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Each file testdata/invalid-NAME.yaml and what an operator sees of it, after the
// name of the file: nothing more and nothing less.
func TestInvalidFiles(t *testing.T) {
	said := map[string]bool{}
	f := func(name string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			file := "invalid-" + name + ".yaml"
			said[filepath.Join("testdata", file)] = true
			for i := range want {
				want[i] = file + want[i]
			}
			_, err := Load(Source{File: filepath.Join("testdata", file)})
			if diff := cmp.Diff(want, lines(err)); diff != "" {
				t.Error(diff)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Error("a secret is shown")
			}
		})
	}
	f("algorithm-hs256",
		`:1: issuer.algorithm: "HS256" is not known: use ES256, RS256 or EdDSA`)
	f("alias-bomb",
		`:1: has an anchor or an alias (& or *): write the value out, or put it in quotes`,
		`:1: a0: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:2: a1: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:3: a2: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:4: a3: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:5: a4: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:6: a5: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:7: a6: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:8: a7: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:9: a8: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`,
		`:10: a9: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`)
	f("alias-unknown",
		`:3: has an anchor or an alias (& or *): write the value out, or put it in quotes`)
	f("anchor",
		`:1: has an anchor or an alias (& or *): write the value out, or put it in quotes`)
	f("audience",
		`:1: issuer.audience: "my api" is not at most 255 visible ASCII characters: use a URL such as https://api.example.com`)
	f("boolean-quoted",
		`:1: log.access: "true" is text: write it without quotes`)
	f("boolean-yes",
		`:1: log.access: "yes" is neither true nor false: write true or false`)
	f("brackets",
		`:2: is not YAML: did not find expected ',' or ']': look for wrong indentation, quotes or brackets from this line on`)
	f("choice",
		`:1: verify.on_stale: "ignore" is not known: use refuse or serve`)
	f("control-character",
		`:1: has a control character: remove it, or write it as "\xNN" in double quotes`)
	f("deep",
		`:1: is nested deeper than 20 levels: no setting lies that deep`,
		`:1: log: is a list, not a mapping: write its settings below it, each as key: value, indented alike`)
	f("dollar",
		`:1: issuer.realm: has a $ that begins no ${NAME}: write $$ for a $`)
	f("duplicate-key",
		`:4: log.level: is set twice, first on line 2: remove one of the two`)
	f("duplicate-section",
		`:3: log: is set twice, first on line 1: remove one of the two`)
	f("duration-days",
		`:1: issuer.max_lifetime: "30d" is not a duration: use a duration such as 30s, 5m or 2h`)
	f("duration-negative",
		`:1: issuer.lifetime: "-1s" is not above 0: use a duration such as 30s, 5m or 2h`)
	f("duration-no-unit",
		`:1: verify.leeway: "10" has no unit: use a duration such as 30s, 5m or 2h`)
	f("duration-too-short",
		`:1: issuer.lifetime: "10ms" is below 1s: use at least 1s`)
	f("duration-zero-seconds",
		`:3: routes[0].timeout: "0s" is not above 0: use a duration such as 30s, 5m or 2h`)
	f("duration-zero",
		`:1: front.drain: "0" is not above 0: use a duration such as 30s, 5m or 2h`)
	f("header-content",
		`:1: headers.client: "Content_Length" has a meaning of its own in HTTP: use another name, such as X-Client-Id`)
	f("header-default",
		`:2: headers.client: "x.scopes" is also headers.scopes: case and punctuation do not tell fields apart everywhere: use names that differ in letters or digits`)
	f("header-empty",
		`:1: headers.scopes: "" is not a field name: use letters, digits and hyphens, such as X-Client-Id`)
	f("header-name",
		`:1: headers.client: "X Client" is not a field name: use letters, digits and hyphens, such as X-Client-Id`)
	f("header-taken",
		`:1: headers.client: "Authorization" has a meaning of its own in HTTP: use another name, such as X-Client-Id`)
	f("header-twice",
		`:1: headers.token: "x_id" is also headers.client: case and punctuation do not tell fields apart everywhere: use names that differ in letters or digits`)
	f("host-unquoted",
		`:3: is not YAML: did not find expected alphabetic or numeric character: put a value that begins with * or & in quotes`)
	f("issuer-url-case",
		`:1: issuer.url: "https://API.example.com" has a host with upper-case letters: use scheme and host alone, such as https://api.example.com`)
	f("issuer-url-missing",
		`:2: issuer.url: is required, because the front does not listen on loopback: set it to the address that clients use, such as https://api.example.com`)
	f("issuer-url-password",
		`:1: issuer.url: the value holds a user name or a password: use scheme and host alone, such as https://api.example.com`)
	f("issuer-url-path",
		`:1: issuer.url: "https://api.example.com/auth" has a path, a query or a fragment: use scheme and host alone, such as https://api.example.com`)
	f("issuer-url-scheme",
		`:1: issuer.url: "api.example.com" is not an http or https URL: use scheme and host alone, such as https://api.example.com`)
	f("issuer-url-slash",
		`:1: issuer.url: "https://api.example.com/" ends with a slash: use scheme and host alone, such as https://api.example.com`)
	f("lifetime-above-max",
		`:1: issuer.lifetime: 25h is too much for issuer.max_lifetime, which is 24h: lower it, or raise issuer.max_lifetime`)
	f("publish-above-rotate",
		`:1: keys.rotate: 2h is too little for keys.publish, which is 2h: raise it, or lower keys.publish`)
	f("line-break",
		`:2: issuer.realm: "postern\n" has a line break or another control character: write it on one line`)
	f("list-for-all",
		`:1: is a list, not a mapping: write each setting as key: value, as in example.yaml`)
	f("list-for-text",
		`:1: front.listen: is a list, not a single value: write one value`)
	f("listen-everywhere",
		`:2: admin.listen: front.listen and admin.listen are one address: give them different ports`)
	f("listen-everywhere-admin",
		`:2: admin.listen: front.listen and admin.listen are one address: give them different ports`)
	f("listen-port",
		`:1: admin.listen: "127.0.0.1:http" is not an address and a port: use one such as 127.0.0.1:8080, [::1]:8080 or :8080`)
	f("listen-twice",
		`:1: front.listen: front.listen and admin.listen are one address: give them different ports`)
	f("listen",
		`:1: front.listen: "localhost" is not an address and a port: use one such as 127.0.0.1:8080, [::1]:8080 or :8080`)
	f("key-for-name",
		`:2: keys: has an unknown key: the keys here are master_key, master_key_file, rotate, publish; a colon needs a space after it`)
	f("master-key-file",
		`:1: keys.master_key_file: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it`)
	f("master-key-list",
		`:1: keys.master_key: is a list, not a single value: write one value`)
	f("master-key",
		`:1: keys.master_key: is not 32 bytes in base64 or hex: make one with: openssl rand -base64 32`)
	f("max-below-lifetime",
		`:2: issuer.max_lifetime: 1h is too little for issuer.lifetime, which is 2h: raise it, or lower issuer.lifetime`)
	f("merge",
		`:1: has an anchor or an alias (& or *): write the value out, or put it in quotes`,
		`:3: has a merge key (<<): write the settings out`)
	f("no-space-after-colon",
		`:3: is not YAML: could not find expected ':': write key: value, with a space after the colon`)
	f("no-value",
		`:2: issuer.url: has no value: give it one, or remove the key`)
	f("not-utf8",
		`:2: is not UTF-8: save the file in UTF-8`)
	f("number-for-text",
		`:1: issuer.audience: "2026" is a number, not text: put it in quotes`)
	f("number-with-unit",
		`:1: front.max_connections: "10k" is not a whole number: use digits alone, such as 10000`)
	f("number-zero",
		`:1: front.max_connections: "0" is below 1: use at least 1`)
	f("quote-inside",
		`:3: is not YAML: did not find expected key: look for wrong indentation, quotes or brackets from this line on`)
	f("realm",
		`:1: issuer.realm: "a\"b" is not 1 to 128 printable ASCII characters without quotes and backslashes: use a name such as postern`)
	f("route-host-case",
		`:1: routes[0].host: "API.example.com" has a host with upper-case letters: use a host in lower case, without a port, such as api.example.com or *.example.com`)
	f("route-host-port",
		`:1: routes[0].host: "api.example.com:443" is more than a host name: use a host in lower case, without a port, such as api.example.com or *.example.com`)
	f("route-host-star",
		`:1: routes[0].host: "api.*.com" has a * that is not its whole first label: use a host in lower case, without a port, such as api.example.com or *.example.com`)
	f("route-method-case",
		`:1: routes[0].methods[1]: "post" is not a method in upper case: use one such as GET or POST`)
	f("route-method-connect",
		`:1: routes[0].methods[0]: "CONNECT" is never forwarded: remove it`)
	f("route-method-empty",
		`:1: routes[0].methods: is nothing, not a list: write it in brackets: [...], or each element on a line of its own after a dash`)
	f("route-method-trace",
		`:1: routes[0].methods[1]: "TRACE" is never forwarded: remove it`,
		`:1: routes[0].methods[2]: "GET" is listed twice: remove one of the two`)
	f("route-name-needed",
		`:2: routes[0].name: is required here, because host and path make no name: give it one of 1 to 64 letters, digits, spaces and ._/*:-`)
	f("route-name-twice",
		`:3: routes[1].name: is that of routes[0] (line 2): give each route a name of its own`)
	f("route-name",
		`:1: routes[0].name: "a\"b" is not a name: give it one of 1 to 64 letters, digits, spaces and ._/*:-`)
	f("route-path-double",
		`:1: routes[0].path: "/a//b" has an empty segment (//): remove the extra slash`)
	f("route-path-percent",
		`:1: routes[0].path: "/a%20b" has a character that a path here may not have: write it as /segment/segment, of letters, digits and -._~!$&'()*+,=:@`)
	f("route-path-relative",
		`:1: routes[0].path: "api" does not begin with a slash: write it as /segment/segment, of letters, digits and -._~!$&'()*+,=:@`)
	f("route-path-slash",
		`:1: routes[0].path: "/api/" ends with a slash: remove it: a path covers all below it, by whole segments`)
	f("route-same-any",
		`:3: routes[1]: has the host and the path of routes[0] (line 2), and a method in common with it: remove one of the two, or give each methods of its own`)
	f("route-same",
		`:4: routes[2]: has the host and the path of routes[0] (line 2), and a method in common with it: remove one of the two, or give each methods of its own`)
	f("route-text",
		`:2: routes[0]: is text, not a mapping: write its settings below it, each as key: value, indented alike`)
	f("routes-empty",
		`:1: routes: there is none, so nothing is forwarded: write one, such as {path: /, upstream: ["http://127.0.0.1:3000"]}, or start with --upstream http://127.0.0.1:3000`)
	f("routes-none",
		`: routes: there is none, so nothing is forwarded: write one, such as {path: /, upstream: ["http://127.0.0.1:3000"]}, or start with --upstream http://127.0.0.1:3000`)
	f("size-decimal-unit",
		`:1: front.buffer: "64KB" is not a size: use a size such as 16KiB or 32MiB (units: B, KiB, MiB, GiB)`)
	f("size-no-unit",
		`:1: front.max_header: "16384" has no unit: use a size such as 16KiB or 32MiB (units: B, KiB, MiB, GiB)`)
	f("size-too-small",
		`:1: verify.cache: "512KiB" is below 1MiB: use at least 1MiB`)
	f("store-empty",
		`:1: store: is empty: use sqlite:PATH, such as sqlite:postern.db, or postgres://USER:PASSWORD@HOST/DATABASE`)
	f("store-memory",
		`:1: store: is in memory, where clients and tokens are lost at each start: use sqlite:PATH, such as sqlite:postern.db`)
	f("store-options",
		`:1: store: has options, or a character that would begin them: use sqlite:PATH, such as sqlite:postern.db; postern sets SQLite's options itself`)
	f("store-options-range",
		`:2: store_options.connections: "1" is below 2: use at least 2`,
		`:2: store_options.statement_timeout: "0s" is not above 0: use a duration such as 30s, 5m or 2h`,
		`: keys.master_key: is not set, and PostgreSQL holds no signing keys in clear: make one with: openssl rand -base64 32, and set master_key_file`)
	f("store-postgres",
		`:1: store: is not the DSN of a PostgreSQL database: use postgres://USER:PASSWORD@HOST/DATABASE`,
		`: keys.master_key: is not set, and PostgreSQL holds no signing keys in clear: make one with: openssl rand -base64 32, and set master_key_file`)
	f("store-twice",
		`:2: store_file: is set, and store is too: use one of the two`)
	f("store-unknown",
		`:1: store: names no store that is supported: use sqlite:PATH, such as sqlite:postern.db, or postgres://USER:PASSWORD@HOST/DATABASE`)
	f("tab-inside",
		`:4: is not YAML: found a tab character that violates indentation: indent with spaces, not with tabs`)
	f("tab",
		`:2: is not YAML: found character that cannot start any token: indent with spaces, not with tabs`)
	f("tag-on-routes",
		`:1: has a tag (!): remove it, or put the value in quotes`)
	f("tag",
		`:1: has a tag (!): remove it, or put the value in quotes`)
	f("target-above-header",
		`:2: front.max_target: 16KiB is too much for front.max_header, which is 16KiB: lower it, or raise front.max_header`)
	f("text-after-end",
		`:3: has text after its end: keep one document in the file, with no ... or --- in between`)
	f("text-for-list",
		`:1: routes[0].upstream: is text, not a list: write it in brackets: [...], or each element on a line of its own after a dash`)
	f("text-for-mapping",
		`:1: front: is text, not a mapping: write its settings below it, each as key: value, indented alike`)
	f("text-for-number",
		`:1: front.max_connections: "10000" is text: write it without quotes`)
	f("token-path-dots",
		`:1: issuer.token_path: "/oauth/../token" has a dot segment: write the path that it leads to`)
	f("token-path-root",
		`:1: issuer.token_path: "/" covers every path: use one such as /oauth/token`)
	f("token-path-slash",
		`:1: issuer.token_path: "/oauth/token/" ends with a slash: remove it: a path covers all below it, by whole segments`)
	f("token-path-well-known",
		`:1: issuer.token_path: "/.well-known/token" lies where the well-known documents are: use one such as /oauth/token`)
	f("two-documents",
		`:2: is a second document: keep one document in the file, with no --- in between`)
	f("unknown-key-no-space",
		`:1: keys: has an unknown key: the keys here are master_key, master_key_file, rotate, publish; a colon needs a space after it`)
	f("unknown-key",
		`:2: front.lisen: is an unknown key: did you mean listen? the keys here are listen, tls, trusted_proxies, proxy_protocol, max_header, max_target, max_fields, max_body, min_body_rate, buffer, read_timeout, idle_timeout, write_timeout, max_connections, max_connections_per_address, drain_delay, drain`)
	f("unknown-section",
		`:1: portal: is an unknown key: the keys here are front, decision, admin, store, store_file, store_options, redis, redis_file, limits, keys, issuer, assertion, verify, usage, headers, log, routes`)
	f("upstream-admin",
		`:1: routes[0].upstream[0]: "http://127.0.0.1:9090" is admin.listen, which the front must never show: name the service that stands behind postern`)
	f("upstream-missing",
		`:2: routes[0].upstream: is required: write one or more, such as ["http://127.0.0.1:3000"]`)
	f("upstream-password",
		`:1: routes[0].upstream[0]: the value holds a user name or a password: remove it; to send an upstream credentials, set Authorization in request_headers`)
	f("upstream-path",
		`:1: routes[0].upstream[0]: "http://127.0.0.1:3000/v1" has a path, a query or a fragment: end it after the host or port; strip_prefix and add_prefix change the path`)
	f("upstream-port",
		`:1: routes[0].upstream[0]: "http://127.0.0.1:70000" has no valid port: write it as http://host:port, https://host:port or unix:/path, such as http://127.0.0.1:3000`)
	f("upstream-scheme",
		`:1: routes[0].upstream[0]: "127.0.0.1:3000" is not an http, https or unix URL: write it as http://host:port, https://host:port or unix:/path, such as http://127.0.0.1:3000`)
	f("upstream-self",
		`:1: routes[0].upstream[0]: "http://localhost:8080" is front.listen, so requests would go round for ever: name the service that stands behind postern`)
	f("upstream-slash",
		`:1: routes[0].upstream[0]: "http://127.0.0.1:3000/" ends with a slash: end it after the host or port; strip_prefix and add_prefix change the path`)
	f("value-unquoted",
		`:3: is not YAML: found character that cannot start any token: put the value in quotes`)
	f("variable-unset-secret",
		`:1: store: names a variable that is not set: set it, or write $$ for a $`)
	f("variable-unset",
		`:1: issuer.realm: ${NOBODY_SETS_THIS} is not set: set the variable, or write $$ for a $`)

	invalidFronts(f)
	invalidRoutes(f)

	files, err := filepath.Glob("testdata/invalid-*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if !said[file] {
			t.Errorf("%s has no expectation here", file)
		}
	}
}

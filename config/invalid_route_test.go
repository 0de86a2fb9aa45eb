package config

// invalidFronts and invalidRoutes go on with what TestInvalidFiles expects.
func invalidFronts(f func(name string, want ...string)) {
	f("access-field",
		`:1: log.access_fields[2]: "token" is not known: use time, request_id, method, host, path, route, status, reason, upstream_status, upstream_ms, duration_ms, peer, user_agent, organization_id, client_id, token_id, bytes_in, bytes_out, upstream, attempts or shadow`,
		`:1: log.access_fields[3]: "time" is listed twice: remove one of the two`)
	f("assertion-lifetime",
		`:1: assertion.lifetime: "30s" is below 1m: use at least 1m`)
	f("certificate-alone",
		`:1: front.tls.certificate: is set, and front.tls.key is not: set both, or none`)
	f("certificate-file",
		`:1: front.tls.certificate: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it`,
		`:1: front.tls.key: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it`)
	f("certificate-text",
		`:1: front.tls.certificate: names a file that holds no certificate: name a PEM file of certificates`)
	f("client-ca-alone",
		`:1: front.tls.client_certificate: needs front.tls.certificate, which is empty: set certificate and key, or remove it`,
		`:1: front.tls.client_ca: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it`)
	f("decision-path",
		`:1: decision.path: "decision" does not begin with a slash: write it as /segment/segment, of letters, digits and -._~!$&'()*+,=:@`)
	f("decision-proxies",
		`:1: decision.path: needs front.trusted_proxies, which is empty: list the addresses of the proxies that may ask`)
	f("decision-root",
		`:1: decision.path: "/" covers every path: use one such as /decision`)
	f("decision-token-path",
		`:1: decision.path: "/oauth/token/decision" lies at or below issuer.token_path: use one such as /decision`)
	f("decision-above-token-path",
		`:1: decision.path: "/oauth" covers issuer.token_path: use one such as /decision`)
	f("decision-well-known",
		`:1: decision.path: "/.well-known/decision" lies where the well-known documents are: use one such as /decision`)
	f("limits",
		`:1: front.max_fields: "9" is below 10: use at least 10`,
		`:1: front.max_connections_per_address: "-1" is not a whole number: use digits alone, such as 10000`,
		`:1: front.max_body: "0B" is not above 0: use a size such as 16KiB or 32MiB (units: B, KiB, MiB, GiB)`,
		`:1: front.min_body_rate: "100" has no unit: use a size such as 16KiB or 32MiB (units: B, KiB, MiB, GiB)`,
		`:1: front.drain_delay: "-1s" is below 0: use a duration such as 30s, 5m or 2h`)
	f("redis",
		`:1: redis: is not the address of a Redis: use redis://HOST:6379, or rediss://USER:PASSWORD@HOST:6379 for TLS`,
		`:2: limits.replicas: "0" is below 1: use at least 1`)
	f("proxy-protocol",
		`:1: front.proxy_protocol: needs front.trusted_proxies, which is empty: list the addresses of the proxies that send the header`)
	f("trusted-proxy",
		`:1: front.trusted_proxies[0]: "10.0.0.1/8" has bits beyond its length: did you mean 10.0.0.0/8?`,
		`:1: front.trusted_proxies[1]: "proxy.internal" is no address and no network: use an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8`,
		`:1: front.trusted_proxies[2]: "fe80::1%eth0" is no address and no network: use an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8`,
		`:1: front.trusted_proxies[3]: "::ffff:10.0.0.0/104" is no address and no network: use an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8`,
		`:1: front.trusted_proxies[4]: "10.0.0.1:80" is no address and no network: use an address or a network such as 10.0.0.1, 10.0.0.0/8 or fd00::/8`)
}

func invalidRoutes(f func(name string, want ...string)) {
	f("assertion-audience",
		`:1: routes[0].assertion.audience: "my reports" is not at most 255 visible ASCII characters: use a name such as reports`)
	f("assertion-issuer",
		`:2: routes[0].assertion.enabled: needs issuer.enabled, which is false: enable the issuer, whose keys sign it, or remove the assertion`)
	f("assertion-public",
		`:1: routes[0].assertion.enabled: is true, and the route is public, where nobody's identity is known: use access: client or optional`)
	f("catalog-names",
		`:1: routes[4].catalog.path: "-1" is not a whole number: use digits alone, such as 10000`,
		`:1: routes[4].enforce: "log" is not known: use enforce or shadow`,
		`:1: routes[0].catalog.query: "catalog[]" is not 1 to 64 letters, digits and ._-: use one such as catalog`,
		`:1: routes[1].catalog.header: "X_Catalog.Id" is an identity field, which postern alone sets: use another name`,
		`:1: routes[2].catalog.header: "Cookie" has a meaning of its own in HTTP: use another name, such as X-Catalog`,
		`:1: routes[3].catalog.header: "X-Catalog" is changed by request_headers, and the upstream would read another catalog than was checked: change it in one of the two`,
		`:1: routes[5].catalog.header: "X-Catalog" is passed on from trailers too, where nothing is checked: take it out of trailers`,
		`:1: routes[6].catalog.header: "X Y" is not a field name: use letters, digits and hyphens, such as X-Environment`)
	f("catalog-places",
		`:1: routes[0].catalog.query: is set, and routes[0].catalog.path is too: use one place`,
		`:1: routes[1].catalog: is set, and the route is public, where nobody's identity is known: use access: client or optional`)
	f("cors-credentials",
		`:1: routes[0].cors.origins[0]: "*" goes with no credentials: list each one, or set credentials to false`,
		`:1: routes[0].cors.headers[0]: "*" goes with no credentials: list each one, or set credentials to false`)
	f("cors-header",
		`:1: routes[0].cors.headers[0]: "X Y" is not a field name: use letters, digits and hyphens, such as X-Requested-With`,
		`:1: routes[0].cors.expose[0]: "a:b" is not a field name: use letters, digits and hyphens, such as X-Requested-With`,
		`:1: routes[0].cors.methods[0]: "put" is not a method in upper case: use one such as GET or POST`)
	f("cors-origin",
		`:1: routes[0].cors.origins[0]: "https://app.example.com/" ends with a slash: use scheme, host and port alone, such as https://app.example.com`,
		`:1: routes[0].cors.origins[1]: "app.example.com" is not an http or https URL: use scheme, host and port alone, such as https://app.example.com`,
		`:1: routes[0].cors.origins[2]: "https://App.example.com" has a host with upper-case letters: use scheme, host and port alone, such as https://app.example.com`,
		`:1: routes[0].cors.origins[3]: "https://app.example.com:443" names the port that its scheme has anyway, which browsers leave out: use scheme, host and port alone, such as https://app.example.com`,
		`:1: routes[0].cors.origins[4]: "null" is not an http or https URL: use scheme, host and port alone, such as https://app.example.com`)
	f("cors-origin-twice",
		`:1: routes[0].cors.origins[1]: "https://app.example.com" is listed twice: remove one of the two`)
	f("cors-max-age",
		`:1: routes[0].cors.max_age: "25h" is above 24h: use at most 24h`)
	f("field-authorization",
		`:1: routes[0].request_headers[0].name: "Authorization" is changed here, and authorization: pass hands on the client's: use authorization: strip`)
	f("field-connection",
		`:1: routes[0].request_headers[0].name: "Connection" is a field that postern sets or removes itself: remove it`,
		`:1: routes[0].request_headers[1].name: "content_length" is a field that postern sets or removes itself: remove it`,
		`:1: routes[0].request_headers[2].name: "X-Forwarded-For" is a field that postern sets or removes itself: remove it`,
		`:1: routes[0].request_headers[3].name: "Proxy-Authorization" is a field that postern sets or removes itself: remove it`)
	f("field-cors",
		`:1: routes[0].response_headers[0].name: "Access-Control-Allow-Origin" is a field that cors sets: remove it, or cors`)
	f("field-date",
		`:1: routes[0].response_headers[0].name: "Date" is a field that postern sets or removes itself: remove it`)
	f("field-file",
		`:1: routes[0].request_headers[0].value_file: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it`)
	f("field-host",
		`:1: routes[0].request_headers[0].name: "Host" cannot be removed: set it to a value, or leave it as it is`)
	f("field-host-value",
		`:1: routes[0].request_headers[0].value: is not a host, with or without a port: use one in lower case, such as api.internal:8080`)
	f("field-identity",
		`:2: routes[0].request_headers[0].name: "x_who" is an identity field, which postern alone sets: use another name`,
		`:2: routes[0].response_headers[0].name: "X-Client-Id" is an identity field, which postern alone sets: use another name`)
	f("field-name",
		`:1: routes[0].request_headers[0].name: "X A" is not a field name: use letters, digits and hyphens, such as X-Environment`,
		`:1: routes[0].request_headers[1].name: is required: name the field`)
	f("field-nothing",
		`:1: routes[0].request_headers[0]: sets nothing and removes nothing: give it one of value, value_file and remove: true`,
		`:1: routes[0].request_headers[1]: sets nothing and removes nothing: give it one of value, value_file and remove: true`)
	f("field-twice",
		`:1: routes[0].request_headers[1].name: "x_a" is listed twice: remove one of the two`)
	f("field-two-ways",
		`:1: routes[0].request_headers[1].value_file: is set, and routes[0].request_headers[1].value is too: use one of the two`,
		`:1: routes[0].request_headers[0]: has a value and is to be removed: keep one of value, value_file and remove: true`)
	f("health-path",
		`:1: routes[0].health.path: "healthz" does not begin with a slash: write it as /segment/segment, of letters, digits and -._~!$&'()*+,=:@`)
	f("health-timeout",
		`:1: routes[0].health.timeout: 2s is too much for routes[0].health.interval, which is 1s: lower it, or raise routes[0].health.interval`)
	f("match",
		`:1: routes[0].match: "regexp" is not known: use prefix or exact`)
	f("retry-budget",
		`:1: routes[0].retry_budget: "101" is above 100: use at most 100`)
	f("route-same-exact",
		`:4: routes[2]: has the host and the path of routes[0] (line 2), and a method in common with it: remove one of the two, or give each methods of its own`)
	f("scope",
		`:1: routes[0].scopes[0]: "a b" is not a scope: use visible ASCII characters without quotes and backslashes, such as catalog:read`,
		`:1: routes[0].scopes[1]: "a\"b" is not a scope: use visible ASCII characters without quotes and backslashes, such as catalog:read`,
		`:1: routes[0].scopes[3]: "x" is listed twice: remove one of the two`,
		`:1: routes[0].scopes_any[0]: "" is not a scope: use visible ASCII characters without quotes and backslashes, such as catalog:read`)
	f("scope-public",
		`:1: routes[0].scopes: is set, and the route is public, where no token is looked at: use access: client or optional`,
		`:1: routes[0].scopes_any: is set, and the route is public, where no token is looked at: use access: client or optional`)
	f("strip-prefix",
		`:1: routes[0].strip_prefix: "/ap" is not what the route's path, "/api", begins with: use the path, or its first segments`,
		`:1: routes[0].add_prefix: "/v1/" ends with a slash: remove it: a path covers all below it, by whole segments`)
	f("strip-prefix-root",
		`:1: routes[0].strip_prefix: "/" changes nothing: remove it`,
		`:1: routes[0].add_prefix: "v1" does not begin with a slash: write it as /segment/segment, of letters, digits and -._~!$&'()*+,=:@`)
	f("trailer",
		`:1: routes[0].trailers[1]: "Content-Type" may not be a trailer field: remove it`,
		`:1: routes[0].trailers[2]: "Authorization" may not be a trailer field: remove it`,
		`:1: routes[0].trailers[3]: "Transfer-Encoding" is a field that postern sets or removes itself: remove it`,
		`:1: routes[0].trailers[4]: "X-Client-Id" is an identity field, which postern alone sets: use another name`,
		`:1: routes[0].trailers[5]: "Digest" is listed twice: remove one of the two`)
	f("upstream-empty",
		`:1: routes[0].upstream: is required: write one or more, such as ["http://127.0.0.1:3000"]`)
	f("upstream-mapping",
		`:1: routes[0].upstream[0].weight: "0" is below 1: use at least 1`,
		`:1: routes[0].upstream[2]: is a list, not a mapping: write its settings below it, each as key: value, indented alike`,
		`:1: routes[0].upstream[3].ulr: is an unknown key: the keys here are url, weight`,
		`:1: routes[0].upstream[0].url: "http://a/" ends with a slash: end it after the host or port; strip_prefix and add_prefix change the path`,
		`:1: routes[0].upstream[1].url: is required: write one such as http://127.0.0.1:3000`,
		`:1: routes[0].upstream[3].url: is required: write one such as http://127.0.0.1:3000`)
	f("upstream-socket",
		`:1: routes[0].upstream[0]: "unix:api.sock" has no absolute path: write it as unix:/path, such as unix:/run/api.sock`,
		`:1: routes[0].upstream[1]: "unix:///run/api.sock" has a path that is not in its short form: write it as unix:/path, such as unix:/run/api.sock`,
		`:1: routes[0].upstream[2]: "unix:/run/../api.sock" has a path that is not in its short form: write it as unix:/path, such as unix:/run/api.sock`)
	f("upstream-tls",
		`:1: routes[0].upstream_tls: is set, and no upstream has an https URL: use https in upstream, or remove it`)
	f("upstream-tls-files",
		`:1: routes[0].upstream_tls.server_name: "a b" has no valid host name: use a host name in lower case, such as api.internal`,
		`:1: routes[0].upstream_tls.ca: names a file that cannot be read: no such file or directory: check its path, which is relative to the working directory, and that postern's user may read it`,
		`:1: routes[0].upstream_tls.key: is set, and routes[0].upstream_tls.certificate is not: set both, or none`)
	f("upstream-twice",
		`:1: routes[0].upstream[1]: "http://a:80" is listed twice: remove one of the two; a weight gives it more requests`,
		`:1: routes[0].upstream[2].url: "http://a" is listed twice: remove one of the two; a weight gives it more requests`)
	f("websocket-name",
		`:1: routes[0].websocket.query: "a=b" is not 1 to 64 letters, digits and ._-: use one such as access_token`,
		`:1: routes[0].websocket.subprotocol: "a, b" is not 1 to 64 letters, digits and ._-: use one such as access_token`)
	f("websocket-origin",
		`:1: routes[0].websocket.origins[0]: "*" is not an origin: leave the list empty to allow any`,
		`:1: routes[0].websocket.origins[1]: "https://app.example.com/x" has a path, a query or a fragment: use scheme, host and port alone, such as https://app.example.com`)
}

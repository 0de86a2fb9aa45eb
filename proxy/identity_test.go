package proxy

import (
	"log/slog"
	"net"
	"strings"
	"testing"
)

// reserved are the seven names.
var reserved = []string{"X-Organization-Id", "X-Client-Id", "X-Client-Environment", "X-Token-Id", "X-Agreement-Id", "X-Catalog-Id", "X-Scopes"}

// spellings are field names that some upstream reads as name.
func spellings(name string) []string {
	upper := []byte(name)
	for i, c := range upper {
		if i%2 == 0 && 'a' <= c && c <= 'z' {
			upper[i] = c - 'a' + 'A'
		}
	}
	return []string{
		name, strings.ToLower(name), strings.ToUpper(name), string(upper),
		strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", "."), strings.ReplaceAll(name, "-", ""),
		strings.Replace(name, "-", "_", 1), strings.ReplaceAll(strings.ToLower(name), "-", "--"),
		"_" + name, name + "_", "!" + name, name + "'", strings.ReplaceAll(name, "-", "^") + "~",
		strings.ReplaceAll(name, "-", strings.Repeat("-", 100)),
	}
}

func TestRow081IdentityFieldsOfTheClient(t *testing.T) {
	f := start(t)
	for _, name := range reserved {
		forged := name + ": evil"
		f.forwards(get("/a", as(callerA), forged), wire("GET /a", "api.test", &callerA, ""))
		f.forwards(get("/a", forged, as(callerA), forged, "X-Kept: 1", forged, name+":", strings.ToLower(forged)),
			wire("GET /a", "api.test", &callerA, "", "X-Kept: 1"))
		// b has neither an agreement nor a scope: an absent value is an absent field.
		f.forwards(get("/a", as(callerB), forged), wire("GET /a", "api.test", &callerB, ""))
	}
}

func TestRow082IdentityFieldsInOtherSpellings(t *testing.T) {
	f := start(t)
	for _, name := range reserved {
		for _, twin := range spellings(name) {
			f.forwards(get("/a", twin+": evil", as(callerA), twin+": evil"), wire("GET /a", "api.test", &callerA, ""))
		}
	}
	alike := []string{"X-Organization-Ids: 1", "X-Organization: 2", "Organization-Id: 3", "X-Client-Id2: 4", "XX-Scopes: 5"}
	f.forwards(get("/a", append(alike, as(callerA))...), wire("GET /a", "api.test", &callerA, "", alike...))
}

func TestConfiguredIdentityFields(t *testing.T) {
	f := start(t, func(o *Options) {
		o.Headers = Headers{"Org", "Caller", "Stage", "Jti", "Contract", "Catalog", "Granted"}
	})
	configured := strings.NewReplacer("X-Organization-Id", "Org", "X-Client-Id", "Caller", "X-Client-Environment", "Stage",
		"X-Token-Id", "Jti", "X-Agreement-Id", "Contract", "X-Scopes", "Granted")
	want := configured.Replace(wire("GET /a", "api.test", &callerA, ""))
	for _, name := range append([]string{"Org", "Caller", "Stage", "Jti", "Contract", "Catalog", "Granted"}, reserved...) {
		for _, twin := range spellings(name) {
			f.forwards(get("/a", twin+": evil", as(callerA)), want)
		}
	}
}

func TestRow083IdentityFieldsOnAPublicRoute(t *testing.T) {
	f := start(t)
	for _, name := range reserved {
		for _, twin := range spellings(name) {
			f.forwards(get("/public/a", twin+": evil"), wire("GET /public/a", "api.test", nil, ""))
		}
	}
	// A token is not looked at there: neither a good nor a bad one says who asks.
	for _, authorization := range []string{as(callerA), "Authorization: Bearer bad", "Authorization: Basic dTpw"} {
		f.forwards(get("/public/a", authorization), wire("GET /public/a", "api.test", nil, ""))
	}
}

func TestRow084TrailerAnnouncesIdentityFields(t *testing.T) {
	f := start(t)
	for _, name := range reserved {
		trailer := "Trailer: " + name
		f.forwards(get("/a", trailer, as(callerA)), wire("GET /a", "api.test", &callerA, ""))
		f.forwards(request("POST", "/a", trailer, as(callerA), "Content-Length: 4")+"body",
			wire("POST /a", "api.test", &callerA, "Content-Length: 4")+"body")
		f.forwards(request("POST", "/a", as(callerA), trailer, "Transfer-Encoding: chunked")+"4\r\nbody\r\n0\r\n"+name+": evil\r\n\r\n",
			wire("POST /a", "api.test", &callerA, "Transfer-Encoding: chunked")+"4\r\nbody\r\n0\r\n\r\n")
		f.forwards(get("/public", trailer), wire("GET /public", "api.test", nil, ""))
	}
	all := "trailer: " + strings.Join(reserved, ", ")
	f.forwards(get("/a", all, as(callerA)), wire("GET /a", "api.test", &callerA, ""))
}

func TestRow085TrailerFields(t *testing.T) {
	f := start(t)
	head := request("POST", "/a", as(callerA), "Transfer-Encoding: chunked")
	want := wire("POST /a", "api.test", &callerA, "Transfer-Encoding: chunked") + "4\r\nbody\r\n0\r\n\r\n"
	for _, name := range append([]string{"X-Anything", "ETag"}, reserved...) {
		f.forwards(head+"4\r\nbody\r\n0\r\n"+name+": evil\r\n\r\n", want)
		f.forwards(head+"4\r\nbody\r\n0\r\n"+strings.ToLower(name)+": evil\r\n"+name+": evil\r\n\r\n", want)
	}
	f.forwards(request("POST", "/public", "Transfer-Encoding: chunked")+"0\r\nX-Organization-Id: evil\r\n\r\n",
		wire("POST /public", "api.test", nil, "Transfer-Encoding: chunked")+"0\r\n\r\n")
	// Those that may never be in a trailer (RFC 9110 §6.5.1), too.
	for _, name := range []string{"Authorization", "Cookie", "Host", "Content-Length", "Transfer-Encoding", "Trailer"} {
		f.forwards(head+"4\r\nbody\r\n0\r\n"+name+": evil\r\n\r\n", want)
	}
}

func TestRow086ConnectionNominatesIdentityFields(t *testing.T) {
	f := start(t)
	want := wire("GET /a", "api.test", &callerA, "")
	for _, name := range reserved {
		f.forwards(get("/a", "Connection: "+name, as(callerA)), want)
		f.forwards(get("/a", as(callerA), "connection: keep-alive, "+strings.ToLower(name)), want)
		f.forwards(get("/a", "CONNECTION: keep-alive", as(callerA), "Connection:\t"+strings.ToUpper(name)+" ,,", name+": evil"), want)
	}
	var split []string
	for _, name := range reserved {
		split = append(split, "Connection: "+name)
	}
	f.forwards(get("/a", append(split, as(callerA))...), want)
	f.forwards(get("/a", "Connection: Via, X-Forwarded-For, X-Request-Id, Host, Forwarded", as(callerA)), want)
	// What the client may nominate of its own goes no further.
	f.forwards(get("/a", "X-Mine: 1", "Connection: x-mine, Cookie", as(callerA), "X-Kept: 2", "Cookie: a=b", "X-MINE: 3"),
		wire("GET /a", "api.test", &callerA, "", "X-Kept: 2"))
	// Content must not lose its framing.
	f.forwards(request("POST", "/a", "Connection: content-length, transfer-encoding", as(callerA), "Content-Length: 2")+"hi",
		wire("POST /a", "api.test", &callerA, "Content-Length: 2")+"hi")
	many := "Connection: " + strings.TrimSuffix(strings.Repeat("a,", maxNominated), ",")
	f.forwards(get("/a", many, as(callerA)), want)
	f.refuses("too many", get("/a", many, "Connection: a", as(callerA)), shortB)
}

func TestRow087HopByHopFields(t *testing.T) {
	f := start(t)
	dropped := []string{
		"Keep-Alive: timeout=5", "TE: trailers", "TE: gzip", "te: trailers", "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic dTpw",
		"Proxy-Authenticate: x", "Proxy: http://evil", "proxy_connection: x", "Upgrade: h2c", "Upgrade: websocket", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
		"Trailer: X-Anything", "keep_alive: 1", "Connection: upgrade, http2-settings",
		"Content_Length: 3", "Content.Length: 3", "Transfer_Encoding: chunked", "Transfer-Encoding_: chunked", "Ho_st: evil", "Ex-pect: 100-continue", "Con-nection: close",
	}
	for _, l := range dropped {
		f.forwards(get("/a", "X-Before: 1", l, as(callerA), "X-After: 2"), wire("GET /a", "api.test", &callerA, "", "X-Before: 1", "X-After: 2"))
	}
	f.forwards(get("/a", append(dropped, as(callerA))...), wire("GET /a", "api.test", &callerA, ""))
}

func TestRow088AuthorizationUpstream(t *testing.T) {
	f := start(t)
	for _, name := range []string{"Authorization", "authorization", "AUTHORIZATION", "aUTHORIZATION"} {
		l := name + ": Bearer " + callerA.token
		f.forwards(get("/a", l), wire("GET /a", "api.test", &callerA, ""))
		f.forwards(get("/public", l), wire("GET /public", "api.test", nil, ""))
		// Passed under its usual name, once, and before what is ours.
		f.forwards(get("/pass", l, "X-Kept: 1"), wire("GET /pass", "api.test", &callerA, "", "X-Kept: 1", as(callerA)))
		f.forwards(get("/public/pass", l), wire("GET /public/pass", "api.test", nil, "", as(callerA)))
	}
	basic := "Authorization: Basic dTpw"
	f.forwards(get("/public/pass", basic), wire("GET /public/pass", "api.test", nil, "", basic))
	f.forwards(get("/public/pass", basic, as(callerA)), wire("GET /public/pass", "api.test", nil, "")) // two have no meaning
	f.forwards(get("/public", basic, as(callerA)), wire("GET /public", "api.test", nil, ""))
	for _, twin := range spellings("Authorization")[4:] {
		if strings.EqualFold(twin, "Authorization") { // it has no dash to replace
			continue
		}
		f.forwards(get("/pass", as(callerA), twin+": evil"), wire("GET /pass", "api.test", &callerA, "", as(callerA)))
	}
}

func TestRow089UserInformationInHost(t *testing.T) {
	f := start(t)
	for _, host := range []string{"u:p@a", "u@a", "@a", "admin:pw@api.test:80", "u:p@[::1]", "u%3Ap@a"} {
		head := "GET /public HTTP/1.1\r\nHost: " + host + "\r\n\r\n"
		f.refuses(host, head, shortB)
		f.refuses(host+" with a token", strings.Replace(head, "\r\n\r\n", "\r\n"+as(callerA)+"\r\n\r\n", 1), shortB)
		f.refuses(host+" in the target", "GET http://"+host+"/public HTTP/1.1\r\nHost: api.test\r\n\r\n", shortB)
	}
}

func TestRow090ForwardingFieldsOfAnUntrustedPeer(t *testing.T) {
	f := start(t)
	for _, name := range []string{
		"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "X-Forwarded-Uri", "X-Forwarded-Prefix", "X-Forwarded-Port",
		"X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Ssl", "X-Forwarded-User", "X-Forwarded-Method", "X-Forwarded-Client-Cert",
		"X-Forwarded", "Forwarded", "X-Real-IP", "Via", "X-Original-URL", "X-Rewrite-URL",
	} {
		for _, twin := range []string{name, strings.ToLower(name), strings.ReplaceAll(name, "-", "_"), strings.ReplaceAll(name, "-", ".")} {
			for _, value := range []string{"/admin", "10.0.0.1", "for=10.0.0.1;host=evil", ""} {
				f.forwards(get("/a", twin+": "+value, as(callerA), twin+": "+value), wire("GET /a", "api.test", &callerA, ""))
			}
		}
	}
	// Never used for a decision.
	f.refuses("Uri", get("/a", "X-Forwarded-Uri: /public", "X-Forwarded-Prefix: /public", "X-Forwarded-Path: /public"), shortN)
	f.refuses("Host", get("/a", "X-Forwarded-Host: other", "Forwarded: host=other"), shortN)
	// A sane request id is kept from anyone, one that is not is replaced, and twins are dropped.
	m := f.ask(get("/a", "X_Request_Id: evil", as(callerA)))
	if got := f.upstream.received()[0]; m.status() != 200 || got.raw != wire("GET /a", "api.test", &callerA, "") {
		t.Errorf("the upstream received %q", got.raw)
	}
}

func TestRequestID(t *testing.T) {
	f := start(t)
	ids := map[string]bool{}
	g := func(name, given, want string) {
		t.Helper()
		head := "GET /public HTTP/1.1\r\nHost: api.test\r\n" + given + "\r\n"
		f.ask(head)
		got := f.upstream.received()[0].get("X-Request-Id")
		if want == "" && (len(got) != 29 || ids[got]) || want != "" && got != want {
			t.Errorf("%s: X-Request-Id: %q, want %q", name, got, want)
		}
		ids[got] = true
	}
	g("none", "", "")
	g("none again", "", "")
	g("sane", "X-Request-Id: 0af7651916cd43dd8448eb211c80319c\r\n", "0af7651916cd43dd8448eb211c80319c")
	g("another case", "x-request-id: a.b-c_d~E\r\n", "a.b-c_d~E")
	g("128 bytes", "X-Request-Id: "+strings.Repeat("a", 128)+"\r\n", strings.Repeat("a", 128))
	g("129 bytes", "X-Request-Id: "+strings.Repeat("a", 129)+"\r\n", "")
	g("empty", "X-Request-Id:\r\n", "")
	g("quote", "X-Request-Id: a\"b\r\n", "")
	g("space", "X-Request-Id: a b\r\n", "")
	g("obs-text", "X-Request-Id: a\xe9\r\n", "")
	g("two", "X-Request-Id: one\r\nX-Request-Id: two\r\n", "one")
	g("twin", "XRequestId: one\r\n", "")
	if m := f.ask(get("/a")); m.get("X-Request-Id") != "test" {
		t.Errorf("a refusal says %q", m.get("X-Request-Id"))
	}
}

func TestRow091HealthCheckUserAgent(t *testing.T) {
	f := start(t)
	for _, agent := range []string{"kube-probe/1.30", "GoogleHC/1.0", "ELB-HealthChecker/2.0", "Mozilla/5.0", ""} {
		f.refuses(agent, get("/a", "User-Agent: "+agent), shortN)
	}
}

// TestPeerIPv6 asserts on the bytes that name an IPv6 client (RFC 7239 §6).
func TestPeerIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("SKIPPED: there is no IPv6 loopback: ", err)
	}
	f := start(t)
	_ = f.stop()
	o := f.front.options
	o.Access = nil
	front, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- front.Serve(l) }()
	defer func() {
		if err := front.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-served
	}()
	f.address = l.Addr().String()
	c := f.dial().send(get("/public"))
	c.read("GET")
	_ = c.Close()
	got := f.upstream.received()[0]
	if got.get("X-Forwarded-For") != "::1" || got.get("Forwarded") != `for="[::1]";host="api.test";proto=http` {
		t.Errorf("the upstream received %q", got.raw)
	}
}

func TestNamesThatCannotBeReserved(t *testing.T) {
	g := func(name, want string) {
		t.Helper()
		h := DefaultHeaders()
		h.Token = name
		_, err := New(Options{Settings: Settings{Headers: h}, Random: strings.NewReader("1234567812345678"), Log: slog.New(slog.DiscardHandler)})
		if got := errorText(err); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	g("X-Jti", "")
	g("Host", `field name "Host": belongs to HTTP or to postern`)
	g("authorization", `field name "authorization": belongs to HTTP or to postern`)
	g("Content_Length", `field name "Content_Length": belongs to HTTP or to postern`)
	g("--", `field name "--": fold to 1 to 64 letters and digits`)
	g(strings.Repeat("a", 65), `field name "`+strings.Repeat("a", 65)+`": fold to 1 to 64 letters and digits`)
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestNewNeedsAVerifierForAClientRoute(t *testing.T) {
	o := Options{Settings: Settings{Headers: DefaultHeaders(), Routes: []Route{{Name: "a", Path: "/", Access: Client, Upstream: to("a:1")}}}, Random: strings.NewReader("1234567812345678")}
	if _, err := New(o); errorText(err) != `route "a" needs a verifier` {
		t.Errorf("got %v", err)
	}
}

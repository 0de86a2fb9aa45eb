package proxy

import (
	"strings"
	"testing"

	"postern/answer"
)

// guarded has one protected path in a public tree, the case in which a second reading of
// a path would open it.
func guarded(o *Options) {
	upstream := o.Routes[0].Upstream
	o.Routes = []Route{
		{Name: "site", Path: "/", Upstream: upstream, Access: Public, Timeout: patience, Stall: patience},
		{Name: "admin", Path: "/admin", Upstream: upstream, Access: Client, Timeout: patience, Stall: patience},
		{Name: "inner", Path: "/pub/inner", Upstream: upstream, Access: Client, Timeout: patience, Stall: patience},
	}
}

// passes asserts that a target is public and reaches the upstream byte for byte.
func (f *fixture) passes(targets ...string) {
	f.t.Helper()
	for _, target := range targets {
		f.forwards(get(target), wire("GET "+target, "api.test", nil, ""))
	}
}

// guards asserts that a target needs a token, and reaches the upstream byte for byte with one.
func (f *fixture) guards(targets ...string) {
	f.t.Helper()
	for _, target := range targets {
		f.refuses(target, get(target), shortN)
		f.forwards(get(target, as(callerA)), wire("GET "+target, "api.test", &callerA, ""))
	}
}

// denies asserts that a target is refused as malformed, whoever asks.
func (f *fixture) denies(targets ...string) {
	f.t.Helper()
	for _, target := range targets {
		f.refuses(target, get(target), shortB)
		f.refuses(target+" with a token", get(target, as(callerA)), shortB)
	}
}

func TestRow098QueryDecidesNothing(t *testing.T) {
	f := start(t)
	f.passes("/public?x=/admin", "/public?/../admin", "/public?//", "/public?%00%zz%2e%2e\\", "/public?", "/public??a?b", "/public?a=%c3%a9&&;=")
	f.guards("/admin?x=/public", "/?/public", "/a?/../public")
}

func TestRow099DotSegments(t *testing.T) {
	f := start(t)
	for _, up := range []string{"..", "%2e%2e", "%2E%2E", ".%2e", "%2e."} {
		f.denies("/public/"+up+"/admin", "/public/"+up, "/"+up+"/public", "/public/"+up+"%2fadmin", "/public%2f"+up+"/admin",
			"/public%2F"+up+"%2Fadmin", "/public/a/"+up+"/"+up+"/admin", "/public/"+up+"?x", "/public/"+up+"%2f")
	}
}

func TestRow100DotSegmentsInDisguise(t *testing.T) {
	f := start(t)
	f.denies("/public/..;/admin", "/public/..;a=b/admin", "/public/..%3b/admin", "/public/%2e%2e;/admin", "/public/.;/admin", "/public/..;", "/public/;/../admin",
		`/public/..\admin`, `/public\..\admin`, `\public`, `/public\`, "/public/..%5cadmin", "/public%5c..%5cadmin", "/public%5C", "/public/..%5c..%5cadmin", "/public/..;%2fadmin")
	f.passes("/public/...", "/public/..a", "/public/a..", "/public/.a", "/public/a.", "/public/%2e%2e%2e", "/public/..%20", "/public/;..", "/public/a;..", "/public/%2ea")
}

func TestRow101EmptyAndDotSegments(t *testing.T) {
	f := start(t)
	f.denies("//admin", "/./admin", "/admin/.", "/admin/./", "/admin//", "//", "/public//a", "/public///", "/%2e/admin", "/admin/%2E", "/.", "/..", "//public", "/public/%2e/a")
}

func TestRow102DecodedOnce(t *testing.T) {
	f := start(t, guarded)
	// Decoded twice they would be /admin; no upstream that decodes once reads them so.
	f.passes("/%2561dmin", "/%25%36%31dmin", "/pub/%252e%252e/admin", "/%252e%252e/admin", "/pub%252f..%252fadmin", "/%25", "/%2525")
	f.guards("/%61dmin", "/%61%64%6d%69%6e", "/%61%64%6D%69%6E/", "/adm%69n/users", "/admin/%2e%2e%2e")
}

func TestRow103BytesThatAreRefused(t *testing.T) {
	f := start(t)
	for c := range 256 {
		raw, hexed := "/public/a"+string([]byte{byte(c)})+"b", "/public/a%"+string("0123456789abcdef"[c>>4])+string("0123456789ABCDEF"[c&15])+"b"
		switch {
		case c == '#' || c == '\\' || c == '%' || c < ' ' || c >= 0x7f:
			f.refuses("raw "+hexed, get(raw), shortB)
		case c == ' ':
			f.refuses("raw space", get(raw), shortB)
		default:
			f.passes(raw)
		}
		if c < ' ' || c == 0x7f || c == '\\' {
			f.denies(hexed)
		} else {
			f.passes(hexed)
		}
		if c <= ' ' || c >= 0x7f || c == '#' {
			f.refuses("raw in the query "+hexed, get("/public?"+string([]byte{byte(c)})), shortB)
		}
	}
	f.denies("/public/%zz", "/public/%", "/public/%4", "/public/%g1", "/public/%1g", "/public/%%41", "/public/%u0041", "/%", "/%0")
}

func TestRow104CaseAndSlash(t *testing.T) {
	f := start(t)
	// The rule: paths are compared byte for byte, and a route has what is below it with or
	// without a slash at its end. What no public route matches needs a token.
	f.guards("/ADMIN", "/admin/", "/Public", "/PUBLIC", "/publi", "/publicx", "/public-admin", "/public.", "/public;", "/public%20", "/public~", "/public%3f")
	f.passes("/public", "/public/", "/public/a/", "/%70ublic/a")
	f.refuses("ambiguous", get("/public%2fa"), shortN) // as one segment it is below "/", which needs a token
}

func TestRow105Fragment(t *testing.T) {
	f := start(t)
	f.denies("/public#frag", "/public#", "/#/public", "/public?a#b", "/admin#/../public")
	f.refuses("absolute-form", get("http://api.test#/public"), shortB)
}

func TestRow106AbsoluteForm(t *testing.T) {
	f := start(t, func(o *Options) {
		upstream := o.Routes[0].Upstream
		o.Routes = append(o.Routes, Route{Name: "other", Host: "other.test", Path: "/", Upstream: upstream, Access: Public, Timeout: patience, Stall: patience})
	})
	// The host of the target wins, and it is what goes upstream, in origin-form.
	f.forwards(get("http://other.test/admin?x"), wire("GET /admin?x", "other.test", nil, ""))
	f.forwards(get("HTTPS://Other.Test:443"), wire("GET /", "Other.Test:443", nil, ""))
	f.forwards("GET http://other.test/ HTTP/1.0\r\nX-Request-Id: test\r\n\r\n", wire("GET /", "other.test", nil, ""))
	f.refuses("the other way round", "GET http://api.test/admin HTTP/1.1\r\nHost: other.test\r\n\r\n", shortN)
	f.refuses("a bad Host beside it", "GET http://other.test/ HTTP/1.1\r\nHost: a b\r\n\r\n", shortB)
	for _, target := range []string{
		"http://", "http:///admin", "http://?x", "http://a b/", "http://u:p@other.test/", "http://other.test@evil/", "ftp://other.test/", "http:/other.test/", "http:other.test",
		"://other.test/", "//other.test/", "http://other.test/../admin", "http://other.test//", "http://other.test\\/", "http://other.test?x", "http://other.test#", "http://a..b/",
		"http://other.test:x/", "http://[::1/", "xhttp://other.test/", "http://other.test/%zz",
	} {
		f.refuses(target, get(target), shortB)
	}
}

func TestRow107AsteriskAndAuthorityForm(t *testing.T) {
	f := start(t)
	f.refuses("GET *", get("*"), shortB)
	f.refuses("GET authority", get("api.test:80"), shortB)
	f.refuses("GET name", get("public"), shortB)
	f.refuses("OPTIONS authority", request("OPTIONS", "api.test:80"), shortB)
	f.refuses("OPTIONS *", request("OPTIONS", "*"), shortB) // of no use to an upstream behind us
	f.refuses("nothing", "GET  HTTP/1.1\r\nHost: a\r\n\r\n", shortB)
	f.forwards(request("OPTIONS", "/public"), wire("OPTIONS /public", "api.test", nil, ""))
}

func TestRow108LongTarget(t *testing.T) {
	f := start(t)
	long := refusal{414, answer.InvalidRequest, "", true}
	exactly := "/public?" + strings.Repeat("a", 8<<10-len("/public?"))
	f.passes(exactly)
	f.refuses("one byte more", get(exactly+"a"), long)
	f.refuses("a long path", get("/"+strings.Repeat("a/", 5<<10)), long)
	f.refuses("16 KiB", get("/"+strings.Repeat("a", 16<<10)), long)
	f.refuses("32 KiB", get("/"+strings.Repeat("a", 32<<10)), long)
	f.refuses("1 MiB", get("/"+strings.Repeat("a", 1<<20)), long)
}

func TestRow109BytesOfThePath(t *testing.T) {
	f := start(t)
	f.passes("/public/'()*!$&+,;=:@-._~", "/public/%C3%A9", "/public/%c3%a9", "/public/%27%28%29%2a%2A", "/public/a%20b+c", "/public/%7Euser/~user", "/public/{}|^`\"<>[]",
		"/public/a%2Fb", "/public/a%2fb", "/public/%2F", "/public/a;v=1/b;c", "/public/a%3Bb", "/public/%25", "/public/%3F%23", "/public/%41%5A", "/public/a?q=%2F..%2f&r=a+b", "/public/?")
	f.guards("/a%2Fb", "/a;b", "/%2fa", "/a%2f")
}

func TestRow110TokenRouteLookAlikes(t *testing.T) {
	f := start(t)
	g := func(target string, status int) {
		t.Helper()
		for _, authorization := range []string{"X: 1", as(callerA), "Authorization: Basic dTpw"} {
			if m := f.ask(request("POST", target, authorization, "Content-Length: 2") + "{}"); m.status() != status {
				t.Errorf("%s: answered %q, want %d", target, m.raw, status)
			}
		}
		if f.upstream.opens() != 0 {
			t.Errorf("%s: the upstream saw it", target)
		}
	}
	g("/oauth/token", 201)
	g("/oauth/token?x=1", 404)
	g("/oauth/token/", 404)
	g("/oauth/Token", 404)
	g("/oauth/%74oken", 404)
	g("/oauth//token", 400)
	g("/oauth/./token", 400)
	g("/oauth/token/..", 400)
	g("//oauth/token", 400)
	g("http://api.test/oauth/token/x", 404)
	// What the issuer owns is its own whatever the route says, and what it does not is routed.
	f.refuses("none of its", request("POST", "/oauth"), shortN)
}

func TestCheckPath(t *testing.T) {
	g := func(path string, want bool) {
		t.Helper()
		if got := checkPath([]byte(path)); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	g("/", true)
	g("/a/", true)
	g("/..a/...", true)
	g("/a%2f", true)
	g("/a%2f%2fb", true) // an upstream that takes them for slashes merges them at worst
	g("/a/%2e", false)
	g("/a;/..", false)
	g("/..;x", false)
	g("/.;x%2fa", false)
	g("/a%2f.;x", false)
	g("/a%", false)
}

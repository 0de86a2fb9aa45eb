package proxy

import (
	"strings"
	"testing"

	"github.com/valyala/fasthttp"

	"postern/secret"
)

func testClassifier(t testing.TB) *classifier {
	t.Helper()
	c, err := newClassifier(append(DefaultHeaders().all(), "Caller-Org"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func set(name, value string) Field { return Field{Name: name, Value: secret.Secret(value)} }
func remove(name string) Field     { return Field{Name: name, Remove: true} }

func TestRequestFields(t *testing.T) {
	s, err := newRequestFields([]Field{set("X-Api-Key", "k1"), remove("Cookie"), set("Authorization", "Basic dTpw"), set("Host", "Legacy:8080"),
		set("X-Many", "1"), set("X-Many", "2"), set("X-Empty", "")}, testClassifier(t))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(s.lines), "X-Api-Key: k1\r\nAuthorization: Basic dTpw\r\nX-Many: 1\r\nX-Many: 2\r\nX-Empty: \r\n"; got != want {
		t.Errorf("lines are %q, want %q", got, want)
	}
	if string(s.host) != "Legacy:8080" || !s.authorization {
		t.Errorf("host %q, authorization %v", s.host, s.authorization)
	}
	for name, want := range map[string]bool{"X-Api-Key": true, "x_api.key": true, "XAPIKEY": true, "Cookie": true, "cookie_": true, "x-many": true, "X-Empty": true,
		"X-Api-Keys": false, "Accept": false, "X-Other": false, "X-Api-Key" + strings.Repeat("x", 100): false} {
		if got := s.drops([]byte(name)); got != want {
			t.Errorf("%s: dropped is %v", name, got)
		}
	}
	if n := testing.AllocsPerRun(100, func() { s.drops([]byte("X_Api_Key")) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFieldsThatNoRouteMaySet(t *testing.T) {
	c := testClassifier(t)
	request := func(f Field) {
		t.Helper()
		if _, err := newRequestFields([]Field{f}, c); err == nil {
			t.Errorf("request: %s is taken", f.Name)
		} else if strings.Contains(err.Error(), "value-of-a-field") {
			t.Errorf("the error tells the value: %v", err)
		}
	}
	response := func(f Field) {
		t.Helper()
		if _, err := newResponseFields([]Field{f}, c); err == nil {
			t.Errorf("response: %s is taken", f.Name)
		}
	}
	for _, name := range append(DefaultHeaders().all(), "x_organization.id", "Caller-Org", "Connection", "Transfer-Encoding", "Content-Length", "TE", "Trailer", "Upgrade",
		"Keep-Alive", "Proxy-Authorization", "Proxy-Connection", "X-Forwarded-For", "X-Forwarded-Anything", "Forwarded", "Via", "X-Request-Id", "Expect",
		"", "_", "a b", "a:", "a\r\n", strings.Repeat("a", foldSize+1)) {
		request(set(name, "value-of-a-field"))
		request(remove(name))
		response(set(name, "value-of-a-field"))
		response(remove(name))
	}
	for _, value := range []string{"value-of-a-field\r\nX: y", "value-of-a-field\n", "\x00value-of-a-field", "value-of-a-field\x7f"} {
		request(set("X-A", value))
		response(set("X-A", value))
	}
	request(remove("Host"))
	request(set("Host", "u@h"))
	response(set("Date", "x"))
	response(set("Host", "x"))
	response(set("Authorization", "x"))
	if _, err := newRequestFields([]Field{set("Host", "a"), set("Host", "b")}, c); err == nil {
		t.Error("two hosts are taken")
	}
}

func TestResponseFields(t *testing.T) {
	s, err := newResponseFields([]Field{set("Strict-Transport-Security", "max-age=1"), remove("Server"), remove("x-powered-by"),
		set("X-Many", "1"), set("X-Many", "2"), set("Set-Cookie", "a=b; Path=/"), set("Content-Type", "text/x")}, testClassifier(t))
	if err != nil {
		t.Fatal(err)
	}
	var h fasthttp.ResponseHeader
	h.SetNoDefaultContentType(true)
	for _, f := range [][2]string{{"Server", "s"}, {"X-Powered-By", "p"}, {"X-Many", "theirs"}, {"Set-Cookie", "theirs=1"}, {"Set-Cookie", "a=theirs"},
		{"Content-Type", "text/html"}, {"strict-transport-security", "no"}, {"X-Kept", "1"}} {
		h.Add(f[0], f[1])
	}
	s.apply(&h)
	want := "HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nX-Kept: 1\r\nStrict-Transport-Security: max-age=1\r\nX-Many: 1\r\nX-Many: 2\r\nSet-Cookie: a=b; Path=/\r\n\r\n"
	var got []string
	for _, l := range strings.SplitAfter(h.String(), "\r\n") {
		if !strings.HasPrefix(l, "Date:") {
			got = append(got, l)
		}
	}
	if text := strings.Join(got, ""); text != want {
		t.Errorf("got  %q\nwant %q", text, want)
	}
}

package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// headOf is a head with these field lines.
func headOf(method string, lines ...string) *head {
	h := &head{method: []byte(method)}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ": ")
		h.fields = append(h.fields, field{[]byte(name), []byte(value)})
	}
	return h
}

const (
	ourApp   = "Origin: https://app.example.com"
	otherApp = "Origin: https://evil.example.com"
)

func policy(t testing.TB, given CORS) *cors {
	t.Helper()
	c, err := newCORS(&given)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// corsFields are the fields of the protocol and Vary, in the answer's order.
func corsFields(h *fasthttp.ResponseHeader) string {
	var b strings.Builder
	for name, value := range h.All() {
		if text := string(name); strings.HasPrefix(text, "Access-Control-") || text == "Vary" {
			b.WriteString(text + ": " + string(value) + "\n")
		}
	}
	return b.String()
}

func TestPreflight(t *testing.T) {
	exact := policy(t, CORS{Origins: []string{"https://app.example.com", "http://localhost:3000", "null"}, Methods: []string{"PUT", "GET"},
		Headers: []string{"Authorization", "X-A"}, Expose: []string{"X-Request-Id"}, MaxAge: 10 * time.Minute})
	f := func(c *cors, want string, lines ...string) {
		t.Helper()
		h := headOf("OPTIONS", lines...)
		method, ok := preflightOf(h)
		if !ok {
			t.Fatalf("%v: is no preflight", lines)
		}
		var res fasthttp.Response
		refusal, ok := c.preflight(&res, h, method)
		if want == "" {
			if ok || refusal.Status != 403 || corsFields(&res.Header) != "" {
				t.Errorf("%v: %v %v", lines, ok, refusal)
			}
			return
		}
		want += "Vary: Origin, Access-Control-Request-Method, Access-Control-Request-Headers\n"
		if got := corsFields(&res.Header); !ok || res.StatusCode() != 204 || got != want {
			t.Errorf("%v: %v, got\n%swant\n%s", lines, ok, got, want)
		}
	}
	const put, names = "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: "
	allowed := "Access-Control-Allow-Origin: https://app.example.com\nAccess-Control-Allow-Methods: GET, HEAD, POST, PUT\n" +
		"Access-Control-Allow-Headers: Authorization, X-A\nAccess-Control-Max-Age: 600\n"
	f(exact, allowed, ourApp, put)
	f(exact, allowed, ourApp, put, names+"authorization,x-a")
	f(exact, allowed, ourApp, put, names+"X-A ,\tAUTHORIZATION, ")
	f(exact, strings.Replace(allowed, "https://app.example.com", "http://localhost:3000", 1), "origin: http://localhost:3000", put)
	f(exact, "", ourApp, put, names+"x-b")
	f(exact, "", ourApp, put, names+"x-a", names+"x-b")
	f(exact, "", ourApp, put, names+"x_a")
	f(exact, "", ourApp, "Access-Control-Request-Method: DELETE")
	f(exact, "", ourApp, "Access-Control-Request-Method: put")
	f(exact, "", ourApp, "Access-Control-Request-Method: GET, PUT")
	for _, origin := range []string{"https://evil.example.com", "http://app.example.com", "https://app.example.com:444", "https://app.example.com.evil", "https://APP.example.com",
		"https://app.example.com/", "null", "", "*", "https://app.example.com https://evil.example.com"} {
		f(exact, "", "Origin: "+origin, put)
	}
	f(exact, "", ourApp, otherApp, put)
	f(exact, "", ourApp, ourApp, put)

	open := policy(t, CORS{Origins: []string{"*"}, Headers: []string{"*", "Authorization"}})
	allowed = "Access-Control-Allow-Origin: *\nAccess-Control-Allow-Methods: GET, HEAD, POST\nAccess-Control-Allow-Headers: *, Authorization\nAccess-Control-Max-Age: 0\n"
	f(open, allowed, otherApp, "Access-Control-Request-Method: GET", names+"x-any,authorization")
	f(open, allowed, "Origin: null", "Access-Control-Request-Method: GET") // anybody is
	f(open, "", ourApp, put)
	f(open, "", ourApp, "Access-Control-Request-Method: GET", names+"x any")

	starred := policy(t, CORS{Origins: []string{"*"}, Headers: []string{"*"}})
	f(starred, "", ourApp, "Access-Control-Request-Method: GET", names+"authorization")

	cookies := policy(t, CORS{Origins: []string{"https://app.example.com"}, Headers: []string{"*"}, Credentials: true, MaxAge: time.Second})
	allowed = "Access-Control-Allow-Origin: https://app.example.com\nAccess-Control-Allow-Credentials: true\nAccess-Control-Allow-Methods: GET, HEAD, POST\n"
	f(cookies, allowed+"Access-Control-Max-Age: 1\n", ourApp, "Access-Control-Request-Method: GET")
	f(cookies, allowed+"Access-Control-Allow-Headers: x-a,x-b\nAccess-Control-Max-Age: 1\n", ourApp, "Access-Control-Request-Method: GET", names+"x-a,x-b")
	f(cookies, "", ourApp, "Access-Control-Request-Method: GET", names+`x-a,"<b>"`)

	bare := policy(t, CORS{Origins: []string{"https://app.example.com"}})
	f(bare, "", ourApp, "Access-Control-Request-Method: GET", names+"authorization")
}

func TestWhatIsAPreflight(t *testing.T) {
	f := func(want string, h *head) {
		t.Helper()
		method, ok := preflightOf(h)
		if string(method) != want && ok || ok != (want != "") {
			t.Errorf("got %q %v, want %q", method, ok, want)
		}
	}
	const get = "access-control-request-method: GET"
	f("GET", headOf("OPTIONS", ourApp, get))
	f("", headOf("OPTIONS", ourApp))
	f("", headOf("OPTIONS", get))
	f("", headOf("OPTIONS", ourApp, get, get))
	f("", headOf("OPTIONS", ourApp, "Access-Control-Request-Method: "))
	f("", headOf("GET", ourApp, get))
	f("", headOf("options", ourApp, get))
	f("", headOf("OPTIONS"))
}

func TestCORSOfAnAnswer(t *testing.T) {
	exact := policy(t, CORS{Origins: []string{"https://app.example.com"}, Expose: []string{"X-Request-Id", "Retry-After"}, Credentials: true})
	open := policy(t, CORS{Origins: []string{"*"}})
	f := func(c *cors, h *head, want string, answered ...string) {
		t.Helper()
		var res fasthttp.ResponseHeader
		for _, l := range answered {
			name, value, _ := strings.Cut(l, ": ")
			res.Add(name, value)
		}
		c.apply(&res, h)
		if got := corsFields(&res); got != want {
			t.Errorf("%s %v: got\n%swant\n%s", h.fields, answered, got, want)
		}
	}
	own := []string{"access-control-allow-origin: *", "Access-Control-Allow-Origin: https://evil.example.com", "Access-Control-Allow-Credentials: true",
		"Access-Control-Expose-Headers: Secret", "Access-Control-Allow-Methods: X", "Access-Control-Allow-Headers: X", "Access-Control-Max-Age: 1", "Access-Control-Allow-Private-Network: true"}
	readable := "Access-Control-Allow-Origin: https://app.example.com\nAccess-Control-Allow-Credentials: true\nAccess-Control-Expose-Headers: X-Request-Id, Retry-After\n"
	f(exact, headOf("GET", ourApp), "Vary: Origin\n"+readable)
	f(exact, headOf("GET", ourApp), "Vary: Origin\n"+readable, own...)
	f(exact, headOf("GET", otherApp), "Vary: Origin\n", own...)
	f(exact, headOf("GET"), "Vary: Origin\n", own...)
	f(open, headOf("GET", otherApp), "Vary: Origin\nAccess-Control-Allow-Origin: *\n")
	f(open, headOf("GET"), "Vary: Origin\n")

	f(open, headOf("GET"), "Vary: Accept-Encoding, Origin\n", "Vary: Accept-Encoding")
	f(open, headOf("GET"), "Vary: Accept, Cookie, X-A, Origin\n", "Vary: Accept, Cookie", "vary: X-A")
	f(open, headOf("GET"), "Vary: Accept, origin\n", "Vary: Accept, origin")
	f(open, headOf("GET"), "Vary: Accept\nVary: ORIGIN\n", "Vary: Accept", "Vary: ORIGIN")
	f(open, headOf("GET"), "Vary: *\n", "Vary: *")
	f(open, headOf("GET"), "Vary: X-Origin, Origin\n", "Vary: X-Origin")
}

func TestCORSRefusesSettings(t *testing.T) {
	for _, given := range []CORS{{}, {Methods: []string{"GET"}}, {Origins: []string{"*"}, Credentials: true}, {Origins: []string{"https://a"}, Methods: []string{"A B"}},
		{Origins: []string{"https://a"}, Headers: []string{"a\r\nb"}}, {Origins: []string{"https://a"}, Expose: []string{""}}, {Origins: []string{"https://a"}, Expose: []string{"Ľ"}}} {
		if _, err := newCORS(&given); err == nil {
			t.Errorf("%+v is taken", given)
		}
	}
	if c, err := newCORS(nil); c != nil || err != nil {
		t.Error(c, err)
	}
}

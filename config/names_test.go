package config

import (
	"strings"
	"testing"
	"time"
)

func TestDuration(t *testing.T) {
	f := func(text string, want time.Duration, written string) {
		t.Helper()
		d, w := parseDuration(text)
		if w != (wrong{}) || time.Duration(d) != want || d.String() != written {
			t.Errorf("%s is %v, written %s, %v", text, time.Duration(d), d, w)
		}
	}
	f("500ms", 500*time.Millisecond, "500ms")
	f("1.5s", 1500*time.Millisecond, "1.5s")
	f("90s", 90*time.Second, "1m30s")
	f("60m", time.Hour, "1h")
	f("1h30m", 90*time.Minute, "1h30m")
	f("1h1s", time.Hour+time.Second, "1h0m1s")
	f("87600h", 87600*time.Hour, "87600h")
}

func TestSize(t *testing.T) {
	f := func(text string, want Size, written string) {
		t.Helper()
		s, w := parseSize(text)
		if w != (wrong{}) || s != want || s.String() != written {
			t.Errorf("%s is %d, written %s, %v", text, int64(s), s, w)
		}
	}
	f("512B", 512, "512B")
	f("1024B", 1024, "1KiB")
	f("16KiB", 16<<10, "16KiB")
	f("1536KiB", 1536<<10, "1536KiB")
	f("2GiB", 2<<30, "2GiB")
	bad := func(text, want string) {
		t.Helper()
		if _, w := parseSize(text); w.problem != want {
			t.Errorf("%s %s, want %s", text, w.problem, want)
		}
	}
	bad("10", "has no unit")
	bad("0", "is not above 0")
	bad("0KiB", "is not above 0")
	bad("-1KiB", "is not a size")
	bad("1.5MiB", "is not a size")
	bad("1MB", "is not a size")
	bad("1 MiB", "is not a size")
	bad("9223372036854775807KiB", "is too large")
	bad("99999999999999999999B", "is too large")
}

func TestHosts(t *testing.T) {
	f := func(host, want string) {
		t.Helper()
		if got := checkHost(host); got != want {
			t.Errorf("%q %q, want %q", host, got, want)
		}
	}
	for _, host := range []string{"localhost", "api.example.com", "my_service", "xn--caf-dma.example", "127.0.0.1", "1a.2b", "[::1]", "[2001:db8::1]", strings.Repeat("a", 63)} {
		f(host, "")
	}
	f("", "has no host")
	f("API", "has a host with upper-case letters")
	for _, host := range []string{"a..b", ".a", "a.", "-a", "a-", "a b", "a/b", "café", "a:80", strings.Repeat("a", 64)} {
		f(host, "has no valid host name")
	}
	for _, host := range []string{"1.2.3", "256.0.0.1", "01.2.3.4", "a.1"} {
		f(host, "has no valid IPv4 address")
	}
	for _, host := range []string{"[::1", "[0:0::1]", "[::1%eth0]", "[127.0.0.1]", "[]", "[::A]"} {
		f(host, "is not an IPv6 address in its short form")
	}
	f(strings.Repeat("a.", 127)+"a", "has a host of more than 253 characters")
}

func TestOrigins(t *testing.T) {
	f := func(origin, want string) {
		t.Helper()
		if got := checkOrigin(origin); got != want {
			t.Errorf("%q %q, want %q", origin, got, want)
		}
	}
	f("https://app.example.com", "")
	f("http://localhost:3000", "")
	f("http://a:443", "")
	f("http://a:80", "names the port that its scheme has anyway, which browsers leave out")
	f("https://a/", "ends with a slash")
	f("null", "is not an http or https URL")
}

func TestSockets(t *testing.T) {
	f := func(path, want string) {
		t.Helper()
		if got := checkSocket(path); got != want {
			t.Errorf("%q %q, want %q", path, got, want)
		}
	}
	f("/run/a.sock", "")
	f("", "has no absolute path")
	f("/", "has no absolute path")
	f("a", "has no absolute path")
	f("/run//a", "has a path that is not in its short form")
	f("/run/a/", "has a path that is not in its short form")
	f("/"+strings.Repeat("a", 106), "")
	f("/"+strings.Repeat("a", 107), "has a path of more than 107 bytes")
}

func TestListen(t *testing.T) {
	f := func(text string, want bool) {
		t.Helper()
		if _, got := parseListen(text); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{":8080", ":0", "127.0.0.1:1", "localhost:65535", "[::1]:80", "[::]:80", "0.0.0.0:80"} {
		f(text, true)
	}
	for _, text := range []string{"", "8080", "localhost", "localhost:", ":http", ":-1", ":65536", ":+1", ":08", "::1:80", "[::1]", "a b:80", "http://a:80"} {
		f(text, false)
	}
}

func TestDoorsMeet(t *testing.T) {
	f := func(listen, connect door, want bool) {
		t.Helper()
		if got := listen.meets(connect); got != want {
			t.Errorf("%v meets %v is %v", listen, connect, got)
		}
	}
	f(door{"127.0.0.1", 80}, door{"127.0.0.1", 80}, true)
	f(door{"127.0.0.1", 80}, door{"127.0.0.1", 81}, false)
	f(door{"127.0.0.1", 80}, door{"127.0.0.2", 80}, false)
	f(door{"127.0.0.1", 80}, door{"localhost", 80}, true)
	f(door{"localhost", 80}, door{"::1", 80}, true)
	f(door{"localhost", 80}, door{"api", 80}, false)
	f(door{"", 80}, door{"localhost", 80}, true)
	f(door{"::", 80}, door{"127.0.0.3", 80}, true)
	f(door{"", 80}, door{"10.0.0.1", 80}, false)
	f(door{"10.0.0.1", 80}, door{"0.0.0.0", 80}, false)
	f(door{"127.0.0.1", 80}, door{"0.0.0.0", 80}, true)
	f(door{"", 0}, door{"localhost", 0}, false)
}

func TestPaths(t *testing.T) {
	f := func(path, want string) {
		t.Helper()
		if got := checkPath(path).problem; got != want {
			t.Errorf("%q %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"/", "/a", "/a/b", "/v1.0/a-b_c~d", "/a/...", "/@me", "/.well-known/x"} {
		f(path, "")
	}
	f("", "does not begin with a slash")
	f("a", "does not begin with a slash")
	f("/a/", "ends with a slash")
	f("//", "ends with a slash")
	f("//a", "has an empty segment (//)")
	f("/a//b", "has an empty segment (//)")
	f("/.", "has a dot segment")
	f("/a/../b", "has a dot segment")
	for _, c := range []string{"%41", "?", "#", ";", "\\", " ", "\"", "é", "\x7f", "{", "|"} {
		f("/a"+c+"b", "has a character that a path here may not have")
	}
	f("/"+strings.Repeat("a", 1024), "is longer than 1024 characters")
}

// What reads as a field of HTTP's own, in any spelling, is no name for identity.
func TestTakenFields(t *testing.T) {
	f := func(name string, want bool) {
		t.Helper()
		if got := isTaken(name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{
		"Host", "AUTHORIZATION", "Cookie", "set_cookie", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer_Encoding", "Upgrade",
		"Content-Length", "ContentLength", "content.type", "Content-Anything", "Proxy-Authorization", "Proxy_Connection", "Expect",
		"X-Forwarded-For", "x_forwarded_anything", "Forwarded", "Via", "X-Request-Id", "Sec-WebSocket-Key", "If-Match", "Traceparent",
	} {
		f(name, true)
	}
	for _, name := range []string{"X-Client-Id", "X-Hostname", "Contents", "Proxied-For", "Teapot", "X-Forwarder"} {
		f(name, false)
	}
}

func TestReference(t *testing.T) {
	text := Reference()
	for _, line := range []string{
		"| setting | default | variable | meaning |\n|---|---|---|---|\n| `front.listen` | `127.0.0.1:8080` | `POSTERN_FRONT_LISTEN` | address and port; port 0 takes a free one; needs a restart |\n",
		"| `store_file` | empty | `POSTERN_STORE_FILE` | a file that holds the value of store; needs a restart |\n",
		"| `log.format` | `json` | `POSTERN_LOG_FORMAT` | form of the ordinary log; `json`, `text`; needs a restart |\n",
		"| `front.max_connections` | `10000` | `POSTERN_FRONT_MAX_CONNECTIONS` | connections that are open at once; from 1 to 1000000 |\n",
		"| `routes[].methods` | `[]` |  | the methods it forwards; empty: any |\n",
		"| `routes[].upstream` | required |  | where it forwards to, one or more; a plain string is its url |\n",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("the table has no line %q", line)
		}
	}
	all, _ := scalars()
	if got, want := strings.Count(text, "\n"), 2+len(all)+2+56; got != want { // two lists, and what a route has
		t.Errorf("the table has %d lines, want %d", got, want)
	}
}

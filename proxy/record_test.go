package proxy

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"postern/answer"
	"postern/directory"
)

// TestMetrics counts a mix of outcomes exactly.
func TestMetrics(t *testing.T) {
	f := start(t)
	before := f.metrics()
	ask := func(times int, request string) {
		for range times {
			f.ask(request)
		}
	}
	ask(3, get("/a", as(callerA)))
	ask(2, get("/a"))
	ask(1, get("/read", "Authorization: Bearer bad"))
	ask(2, request("POST", "/read", as(callerA)))
	ask(4, get("/public"))
	ask(1, get("//"))
	ask(1, "GET / HTTP/9.9\r\nHost: a\r\n\r\n")
	ask(1, "GET / bad\r\n\r\n")
	ask(1, request("POST", "/oauth/token"))
	ask(1, request("POST", "/oauth/token/x"))
	ask(1, get("/a", as(callerLapsed)))
	f.upstream.says("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	ask(2, get("/a", as(callerB)))
	f.upstream.says("HTTP/1.1 503 Away\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	ask(1, get("/a", as(callerB)))
	f.upstream.says("HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n")
	ask(1, get("/public"))
	f.upstream.hangsUpAfter("HTTP")
	ask(1, get("/public"))

	want := map[string]float64{
		"postern_requests_total{class=2xx,reason=ok,route=api}":                  3,
		"postern_requests_total{class=4xx,reason=missing_token,route=api}":       2,
		"postern_requests_total{class=4xx,reason=invalid_token,route=read}":      1,
		"postern_requests_total{class=4xx,reason=method_not_allowed,route=read}": 2,
		"postern_requests_total{class=2xx,reason=ok,route=public}":               4,
		"postern_requests_total{class=4xx,reason=invalid_request,route=none}":    2,
		"postern_requests_total{class=5xx,reason=invalid_request,route=none}":    1, // 505
		"postern_requests_total{class=2xx,reason=ok,route=none}":                 1,
		"postern_requests_total{class=4xx,reason=not_found,route=none}":          1,
		"postern_requests_total{class=4xx,reason=forbidden_agreement,route=api}": 1,
		"postern_requests_total{class=4xx,reason=ok,route=api}":                  2,
		"postern_requests_total{class=5xx,reason=ok,route=api}":                  1,
		"postern_requests_total{class=3xx,reason=ok,route=public}":               1,
		"postern_requests_total{class=5xx,reason=upstream_failed,route=public}":  1,
		"postern_refusals_total{reason=missing_token}":                           2,
		"postern_refusals_total{reason=invalid_token}":                           1,
		"postern_refusals_total{reason=method_not_allowed}":                      2,
		"postern_refusals_total{reason=invalid_request}":                         3,
		"postern_refusals_total{reason=not_found}":                               1,
		"postern_refusals_total{reason=forbidden_agreement}":                     1,
		"postern_refusals_total{reason=upstream_failed}":                         1,
		"postern_request_duration_seconds{route=api}":                            9,
		"postern_request_duration_seconds{route=read}":                           3,
		"postern_request_duration_seconds{route=public}":                         6,
		"postern_request_duration_seconds{route=none}":                           5,
		"postern_upstream_duration_seconds{route=api}":                           6,
		"postern_upstream_duration_seconds{route=public}":                        5,
	}
	got := f.metrics()
	settled := func() bool { // a streamed answer is counted behind its end
		for name, value := range want {
			if got[name]-before[name] != value {
				return false
			}
		}
		return true
	}
	for deadline := time.Now().Add(patience); !settled() && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		got = f.metrics()
	}
	for name := range got { // connections that were closed may still be counted
		if strings.HasPrefix(name, "postern_connections{") || strings.HasPrefix(name, "postern_upstream_connections{") {
			delete(got, name)
		}
	}
	for name, value := range got {
		if value -= before[name]; value != want[name] {
			t.Errorf("%s is %v, want %v", name, value, want[name])
		}
		delete(want, name)
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
}

func TestAccessLine(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 123_456_789, time.UTC)
	f := start(t, func(o *Options) { o.Now = func() time.Time { return at } })
	f.ask(get("/a/b?secret=1", as(callerA), "User-Agent: curl/8", "User-Agent: second"))
	f.ask(get("/a"))
	f.ask(request("HEAD", "/public"))
	f.upstream.says("HTTP/1.1 206 Part\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
	f.ask(get("http://Other.test:80/public?x"))
	lines := f.lines()
	if len(lines) != 4 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	g := func(line, want string) {
		t.Helper()
		var members map[string]any
		if err := json.Unmarshal([]byte(line), &members); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if ms, ok := members["upstream_ms"].(float64); ok && (ms < 0 || ms > 5000) {
			t.Errorf("upstream_ms: %v", ms)
		}
		if _, ok := members["upstream_ms"]; ok {
			members["upstream_ms"] = 1.0
		}
		var wanted map[string]any
		if err := json.Unmarshal([]byte(want), &wanted); err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(members, wanted) {
			t.Errorf("got  %s\nwant %s", line, want)
		}
	}
	g(lines[0], `{"time":"2026-11-24T12:00:00.123Z","request_id":"test","method":"GET","host":"api.test","path":"/a/b","route":"api","status":200,"reason":"ok",
		"upstream_status":200,"upstream_ms":1,"duration_ms":0,"peer":"127.0.0.1","user_agent":"curl/8",
		"organization_id":"`+callerA.organization+`","client_id":"`+callerA.client+`","token_id":"`+callerA.record.String()+`","bytes_in":0,"bytes_out":2,"upstream":"http://`+f.upstream.address+`","attempts":1}`)
	g(lines[1], `{"time":"2026-11-24T12:00:00.123Z","request_id":"test","method":"GET","host":"api.test","path":"/a","route":"api","status":401,"reason":"missing_token",
		"duration_ms":0,"peer":"127.0.0.1","bytes_in":0,"bytes_out":157}`)
	g(lines[2], `{"time":"2026-11-24T12:00:00.123Z","request_id":"test","method":"HEAD","host":"api.test","path":"/public","route":"public","status":200,"reason":"ok",
		"upstream_status":200,"upstream_ms":1,"duration_ms":0,"peer":"127.0.0.1","bytes_in":0,"bytes_out":0,"upstream":"http://`+f.upstream.address+`","attempts":1}`)
	g(lines[3], `{"time":"2026-11-24T12:00:00.123Z","request_id":"test","method":"GET","host":"Other.test:80","path":"/public","route":"public","status":206,"reason":"ok",
		"upstream_status":206,"upstream_ms":1,"duration_ms":0,"peer":"127.0.0.1","bytes_in":0,"bytes_out":2,"upstream":"http://`+f.upstream.address+`","attempts":1}`)
}

// stuck is a log that cannot be written for a while.
type stuck struct {
	entered chan struct{}
	release chan struct{}
	b       strings.Builder
	writes  int
}

func (s *stuck) Write(p []byte) (int, error) {
	if s.writes++; s.writes == 1 {
		close(s.entered)
		<-s.release
	}
	return s.b.Write(p)
}

// TestAccessLogNeverBlocks: lines beyond what memory may hold are dropped and counted,
// and Close writes the rest.
func TestAccessLogNeverBlocks(t *testing.T) {
	out := &stuck{entered: make(chan struct{}), release: make(chan struct{})}
	a := NewAccessLog(out)
	x := &exchange{requestID: []byte(strings.Repeat("i", 1000)), client: &clientConn{}}
	written := 0
	write := func() { written++; a.write(x, "api", answer.OK, 200, time.Millisecond, time.Unix(0, 0)) }
	for range accessPending / 8 / 1000 { // enough to be written before the second is over
		write()
	}
	select {
	case <-out.entered:
	case <-time.After(patience):
		t.Fatal("nothing is written")
	}
	for range 2 * accessPending / 1000 {
		write()
	}
	lost := int(a.lost())
	if lost < written/4 || lost > written*3/4 {
		t.Errorf("%d of %d lines are counted as lost", lost, written)
	}
	close(out.release)
	a.Close()
	lines := strings.Split(strings.TrimSuffix(out.b.String(), "\n"), "\n")
	if len(lines) != written-lost {
		t.Errorf("%d lines were written, want %d", len(lines), written-lost)
	}
	for _, line := range lines {
		if !json.Valid([]byte(line)) {
			t.Fatalf("%q", line)
		}
	}
}

func TestAccessLinesComeWithinASecond(t *testing.T) {
	f := start(t)
	f.ask(get("/public"))
	deadline := time.Now().Add(10 * accessEvery)
	for f.access.String() == "" && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if !strings.HasSuffix(f.access.String(), "}\n") {
		t.Error("no line was written")
	}
}

func TestRow172Panics(t *testing.T) {
	f := start(t)
	internal := refusal{500, answer.Internal, "", true}
	other := f.dial()
	f.refuses("verifier", get("/a", "Authorization: Bearer "+tokenPanics), internal)
	f.refuses("verifier, content", request("POST", "/a", "Authorization: Bearer "+tokenPanics, "Content-Length: 5")+"12345", internal)
	f.refuses("verifier, expectation", request("POST", "/a", "Authorization: Bearer "+tokenPanics, "Expect: 100-continue", "Content-Length: 5"), internal)
	f.refuses("issuer", request("POST", "/oauth/token/panic", "Content-Length: 2")+"{}", internal)
	if m := other.send(get("/a", as(callerA))).read("GET"); m.content != "ok" {
		t.Errorf("another connection: %q", m.raw)
	}
	_ = other.Close()
	f.received(wire("GET /a", "api.test", &callerA, ""))
	if got := f.metrics()["postern_requests_total{class=5xx,reason=internal,route=api}"]; got != 3 {
		t.Errorf("counted %v", got)
	}
	if log := f.log.String(); strings.Count(log, `panic="the verifier broke"`) != 3 || !strings.Contains(log, "request_id=test") || strings.Contains(log, tokenPanics) {
		t.Errorf("the log holds %s", log)
	}
}

// TestPanicsWithinOthers: a panic among many requests at once harms only its own.
func TestPanicsWithinOthers(t *testing.T) {
	known := newTokens(t)
	f := start(t, func(o *Options) {
		o.Verifier = verify(func(raw []byte, now time.Time) (directory.Principal, error) { return known.Verify(raw, now) })
	})
	var all sync.WaitGroup
	for i := range 8 {
		c := f.dial()
		all.Go(func() {
			for range 20 {
				if i%4 == 3 {
					c, err := net.Dial("tcp", f.address)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.WriteString(c, get("/a", "Authorization: Bearer "+tokenPanics))
					if m, err := newRecorder(c).answer("GET"); err != nil || m.status() != 500 {
						t.Errorf("answered %q, %v", m.raw, err)
					}
					_ = c.Close()
					continue
				}
				_, _ = io.WriteString(c, get("/a", as(callerA)))
				if m, err := c.r.answer("GET"); err != nil || m.content != "ok" {
					t.Errorf("answered %q, %v", m.raw, err)
				}
			}
		})
	}
	all.Wait()
	if got := f.metrics()["postern_requests_total{class=2xx,reason=ok,route=api}"]; got != 120 || f.refusals(answer.Internal) != 40 {
		t.Errorf("counted %v and %v", got, f.refusals(answer.Internal))
	}
}

func TestRow174SeriesAreBounded(t *testing.T) {
	f := start(t)
	// Each outcome that random requests can have, once.
	for _, r := range []string{get("/public"), request("X", "/public"), get("/a"), get("/a", "Authorization: Bearer x"), get("/read"), get("/pass"), get("/pass", "Authorization: Bearer x"),
		get("/read", "Authorization: Bearer x"), request("X", "/read"), get("//"), request("TRACE", "/"), get("/public/pass"), get("/a", "Authorization: Bearer \t"), "X /a HTTP/7.7\r\nHost: a\r\n\r\n", get("/a", as(callerA))} {
		f.ask(r)
	}
	before := slices.Sorted(maps.Keys(f.metrics()))
	r := rand.New(rand.NewPCG(1, 2))
	letters := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[r.IntN(62)]
		}
		return string(b)
	}
	c := f.dial()
	for i := range 10_000 {
		path := []string{"/", "/public/", "/a/", "//", "/public/pass/", "/pass/"}[r.IntN(6)] + letters(1+r.IntN(20))
		head := request("M"+letters(1+r.IntN(10)), path, "Authorization: Bearer "+letters(10), "X-Client-Id: "+letters(20), "X-Organization-Id: "+letters(20))
		if m := c.send(head).read("GET"); m.get("Connection") == "close" {
			_ = c.Close()
			c = f.dial()
		}
		_ = c.SetDeadline(time.Now().Add(patience))
		if i%1000 == 0 {
			f.upstream.received()
		}
	}
	_ = c.Close()
	if after := slices.Sorted(maps.Keys(f.metrics())); !slices.Equal(before, after) {
		t.Errorf("%d series became %d: %q", len(before), len(after), after)
	}
}

func TestRow175HostileLogInput(t *testing.T) {
	f := start(t)
	f.ask(get("/a%0d%0ab"))
	f.ask(get("/a\x1b[31mb"))
	f.ask(get("/public/\"quoted\"<a>&'"))
	f.ask(get("/public", "User-Agent: \x1b[31mred\x1b[0m")) // refused: a control character
	f.ask(get("/public", "User-Agent: \x9b31mred"))         // the 8-bit way to begin such a sequence
	f.ask(get("/public", "User-Agent: a\"b\\c\td\xc3\xa9\xff"))
	f.ask(get("/public", "User-Agent: "+strings.Repeat("u", 15_000)))
	f.ask(get("/public/" + strings.Repeat("p", 8_000)))
	f.ask(get("/public", "User-Agent: "+strings.Repeat("\xff", 15_000)))
	f.ask(get("/" + strings.Repeat("p", 1<<20)))
	f.ask(get("/public", "User-Agent: "+strings.Repeat("u", 1<<20)))
	f.ask(get("/public", "X-Request-Id: "+strings.Repeat("i", 1<<20)))
	f.ask("GET /public HTTP/1.1\r\nHost: a\r\nX-Request-Id: a\x1b[31m\r\n\r\n")
	f.ask("GET /public HTTP/1.1\r\nHost: a\r\nX-Request-Id: " + strings.Repeat("i", 15_000) + "\r\n\r\n")
	f.ask(request(strings.Repeat("M", 9_000), "/public"))
	f.ask("G\x1bT / HTTP/1.1\r\nHost: a\r\n\r\n")
	const asked = 16
	lines := f.lines()
	if len(lines) != asked {
		t.Errorf("%d lines for %d requests", len(lines), asked)
	}
	agents := map[string]bool{}
	for _, line := range lines {
		if len(line) > 10_000 {
			t.Errorf("a line of %d bytes", len(line))
		}
		for _, c := range []byte(line) {
			if c < ' ' || c > '~' {
				t.Fatalf("%q has the byte %#x", line, c)
			}
		}
		var members map[string]any
		if err := json.Unmarshal([]byte(line), &members); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		agents[fmt.Sprint(members["user_agent"])] = true
		for _, name := range []string{"user_agent", "path", "method", "request_id"} {
			if value, _ := members[name].(string); len([]rune(value)) > accessCut+len("...") {
				t.Errorf("%s has %d characters", name, len(value))
			}
		}
	}
	for _, want := range []string{"\u009b31mred", "a\"b\\c\td\u00c3\u00a9\u00ff", strings.Repeat("u", accessCut) + "...", strings.Repeat("\u00ff", accessCut) + "..."} {
		if !agents[want] {
			t.Errorf("no line has the user agent %q", want)
		}
	}
	if log := f.log.String(); strings.Contains(log, "\x1b") || strings.IndexByte(log, 0x9b) >= 0 || len(log) > 100_000 {
		t.Errorf("the log holds %d bytes: %q", len(log), log)
	}
}

func (a *AccessLog) lost() float64 {
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(a.Collectors()...)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		return -1
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

package proxy

import (
	"encoding/json"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"postern/answer"
)

// usualExchange is a forwarded request of callerA.
func usualExchange(t testing.TB) *exchange {
	x := &exchange{requestID: []byte("id-1"), peer: netip.MustParseAddr("192.0.2.1"), who: newTokens(t)[callerA.token], upstreamStatus: 200, upstreamTook: 1500 * time.Microsecond,
		client: &clientConn{content: content{got: 3}}, bytesOut: 2, endpoint: "http://origin:80", attempts: 1}
	x.head = head{method: []byte("GET"), host: []byte("api.test"), path: []byte("/a/b"),
		fields: []field{{[]byte("Accept"), []byte("*/*")}, {[]byte("user-agent"), []byte("curl/8")}}}
	return x
}

func TestAccessFieldsChosen(t *testing.T) {
	x, now := usualExchange(t), time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	f := func(want string, names ...string) {
		t.Helper()
		var out buffer
		a := NewAccessLog(&out)
		if err := a.Choose(AccessLogOptions{Fields: names}); err != nil {
			t.Fatal(err)
		}
		a.write(x, "api", answer.OK, 200, 2*time.Millisecond, now)
		a.Close()
		if got := out.String(); got != want+"\n" {
			t.Errorf("%v: got\n%s want\n%s", names, got, want)
		}
	}
	f(`{"status":200}`, "status")
	f(`{"token_id":"`+callerA.record.String()+`","time":"2026-11-24T12:00:00.000Z","upstream_ms":1.500,"method":"GET"}`,
		"token_id", "time", "upstream_ms", "method")
	f(`{"organization_id":"`+callerA.organization+`","client_id":"`+callerA.client+`","user_agent":"curl/8","peer":"192.0.2.1"}`,
		"organization_id", "client_id", "user_agent", "peer")
	whole := `{"time":"2026-11-24T12:00:00.000Z","request_id":"id-1","method":"GET","host":"api.test","path":"/a/b","route":"api","status":200,"reason":"ok",` +
		`"upstream_status":200,"upstream_ms":1.500,"duration_ms":2.000,"peer":"192.0.2.1","user_agent":"curl/8","organization_id":"` + callerA.organization +
		`","client_id":"` + callerA.client + `","token_id":"` + callerA.record.String() + `","bytes_in":3,"bytes_out":2,"upstream":"http://origin:80","attempts":1}`
	f(whole)
	f(whole, AccessFields()...)
	x.who.Client, x.upstreamStatus, x.endpoint, x.attempts = nil, 0, "", 0
	f(`{}`, "client_id", "upstream_status", "upstream", "attempts")
	f(`{"reason":"ok"}`, "upstream_ms", "reason", "token_id")
}

func TestAccessFieldsUnknown(t *testing.T) {
	a := NewAccessLog(io.Discard)
	defer a.Close()
	for _, names := range [][]string{{"query"}, {""}, {"status", "status"}, {"Status"}} {
		if err := a.Choose(AccessLogOptions{Fields: names}); err == nil {
			t.Errorf("%v is taken", names)
		}
	}
}

// TestAccessBytes: content, both ways, without framing.
func TestAccessBytes(t *testing.T) {
	f := start(t)
	f.ask(request("POST", "/public", "Content-Length: 5") + "12345")
	f.ask(request("POST", "/public", "Transfer-Encoding: chunked") + "4;x=y\r\nbody\r\n3\r\nand\r\n0\r\n\r\n")
	refused := f.ask(get("/a"))
	f.upstream.says("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n1\r\n!\r\n0\r\n\r\n")
	f.ask(get("/public"))
	f.upstream.says("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
	f.ask(request("HEAD", "/public"))
	want := [][3]int{{5, 2, 1}, {7, 2, 1}, {0, len(refused.content), 0}, {0, 3, 1}, {0, 0, 1}}
	lines := f.lines()
	if len(lines) != len(want) {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	for _, line := range lines { // a streamed answer's may come after the next request's
		var got struct {
			In       int `json:"bytes_in"`
			Out      int `json:"bytes_out"`
			Attempts int
		}
		err := json.Unmarshal([]byte(line), &got)
		i := slices.Index(want, [3]int{got.In, got.Out, got.Attempts})
		if err != nil || i < 0 {
			t.Errorf("%v in %s, want one of %v", err, line, want)
			continue
		}
		want = slices.Delete(want, i, i+1)
	}
}

// TestAccessSampling: one of so many successes, each refusal and each failure.
func TestAccessSampling(t *testing.T) {
	x, out := usualExchange(t), &buffer{}
	a := NewAccessLog(out)
	if err := a.Choose(AccessLogOptions{Fields: []string{"request_id", "status", "reason"}, Sample: 5}); err != nil {
		t.Fatal(err)
	}
	n := 0
	write := func(reason answer.Reason, status int) {
		n++
		x.requestID = []byte(strconv.Itoa(n))
		a.write(x, "api", reason, status, 0, time.Time{})
	}
	for range 11 {
		write(answer.OK, 404) // the upstream's word, not a failure
	}
	write(answer.InvalidToken, 401)
	write(answer.OK, 503)
	write(answer.UpstreamFailed, 502)
	write(answer.OK, 200)
	write(answer.InvalidToken, 401)
	if err := a.Choose(AccessLogOptions{Fields: []string{"request_id"}}); err != nil {
		t.Fatal(err)
	}
	write(answer.OK, 200)
	write(answer.OK, 200)
	a.Close()
	want := `{"request_id":"1","status":404,"reason":"ok"}
{"request_id":"6","status":404,"reason":"ok"}
{"request_id":"11","status":404,"reason":"ok"}
{"request_id":"12","status":401,"reason":"invalid_token"}
{"request_id":"13","status":503,"reason":"ok"}
{"request_id":"14","status":502,"reason":"upstream_failed"}
{"request_id":"16","status":401,"reason":"invalid_token"}
{"request_id":"17"}
{"request_id":"18"}
`
	if got := out.String(); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestAccessTextIsOneLine(t *testing.T) {
	var line strings.Builder
	for c := range 256 {
		line.WriteByte(byte(c))
	}
	got := string(appendText(nil, accessPath, line.String()+strings.Repeat("x", accessCut)))
	for i := range len(got) {
		if got[i] < ' ' || got[i] > '~' {
			t.Fatalf("byte %q in %s", got[i], got)
		}
	}
	if !strings.HasPrefix(got, `"path":"\u0000\u0001`) || !strings.HasSuffix(got, `xxx...",`) || !strings.Contains(got, `!\"#`) || !strings.Contains(got, `[\\]`) {
		t.Error(got)
	}
}

// BenchmarkAccessLine is the cost of a line to the request that it is about.
func BenchmarkAccessLine(b *testing.B) {
	run := func(name string, o AccessLogOptions) {
		b.Run(name, func(b *testing.B) {
			x, a := usualExchange(b), NewAccessLog(io.Discard)
			defer a.Close()
			if err := a.Choose(o); err != nil {
				b.Fatal(err)
			}
			now := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				a.write(x, "api", answer.OK, 200, time.Millisecond, now)
			}
		})
	}
	run("all", AccessLogOptions{})
	run("five", AccessLogOptions{Fields: []string{"time", "status", "reason", "path", "client_id"}})
	run("sampled", AccessLogOptions{Sample: 100})
}

package proxy

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"postern/answer"
)

// get is a GET request for target with these field lines.
func get(target string, fields ...string) string { return request("GET", target, fields...) }

func request(method, target string, fields ...string) string {
	head := method + " " + target + " HTTP/1.1\r\nHost: api.test\r\nX-Request-Id: test\r\n"
	for _, l := range fields {
		head += l + "\r\n"
	}
	return head + "\r\n"
}

// as is the Authorization field line of a caller.
func as(c caller) string { return "Authorization: Bearer " + c.token }

// wire is the head that the upstream must have received, byte for byte: the client's
// fields that pass, then ours. who is nil on a public route; framing is a line or "".
func wire(start, host string, who *caller, framing string, passed ...string) string {
	lines := append([]string{start + " HTTP/1.1", "Host: " + host}, passed...)
	lines = append(lines,
		"X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: http", "X-Forwarded-Host: "+host,
		`Forwarded: for=127.0.0.1;host="`+host+`";proto=http`, "Via: 1.1 postern", "X-Request-Id: test")
	if who != nil {
		lines = append(lines, identity(*who)...)
	}
	if framing != "" {
		lines = append(lines, framing)
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// identity is what the upstream reads about a caller: no field for what is absent.
func identity(c caller) (lines []string) {
	for _, l := range []struct{ name, value string }{
		{"X-Organization-Id", c.organization}, {"X-Client-Id", c.client}, {"X-Client-Environment", c.environment},
		{"X-Token-Id", c.record.String()}, {"X-Agreement-Id", c.agreement}, {"X-Scopes", c.scope},
	} {
		if l.value != "" {
			lines = append(lines, l.name+": "+l.value)
		}
	}
	return lines
}

// forwards sends a request, asserts that the upstream's 200 comes back, and that the
// upstream received exactly want: nothing of it more than once.
func (f *fixture) forwards(request, want string) {
	f.t.Helper()
	if got := f.ask(request); got.status() != 200 || got.content != "ok" {
		f.t.Errorf("answered %q", got.raw)
	}
	f.received(want)
}

// received asserts what the upstream received since it was asked last: one message
// for each of want.
func (f *fixture) received(want ...string) {
	f.t.Helper()
	got := f.upstream.received()
	if len(got) != len(want) {
		f.t.Errorf("the upstream received %d requests, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if got[i].raw != want[i] {
			f.t.Errorf("the upstream received\n%q\nwant\n%q", got[i].raw, want[i])
		}
	}
}

// refusal is what a client must be told.
type refusal struct {
	status    int
	reason    answer.Reason
	challenge string // beginning of WWW-Authenticate; "": none
	closes    bool
}

// The shorthand of the acceptance list.
var (
	shortN = refusal{401, answer.MissingToken, `Bearer realm="R"`, false}
	shortI = refusal{401, answer.InvalidToken, `Bearer realm="R", error="invalid_token", error_description="`, false}
	shortQ = refusal{400, answer.InvalidRequest, `Bearer realm="R", error="invalid_request", error_description="`, false}
	shortB = refusal{400, answer.InvalidRequest, "", true}
)

// refuses asserts that a request is refused as want says: the envelope, one count of
// the reason, and nothing of it at the upstream, not even a connection.
func (f *fixture) refuses(name, request string, want refusal) {
	f.t.Helper()
	t := f.t.(*testing.T)
	t.Run(name, func(t *testing.T) {
		t.Helper()
		opens, counted := f.upstream.opens(), f.refusals(want.reason)
		method, _, _ := strings.Cut(request, " ")
		c := f.dial().send(request)
		defer c.Close()
		assertRefusal(t, c.read(method), method, want)
		if want.closes && !c.closed() {
			t.Error("the connection stays open")
		}
		if !want.closes {
			if got := c.send(get("/public")).read("GET"); got.status() != 200 {
				t.Errorf("the next request on the connection: %q", got.start)
			}
			f.upstream.received()
			opens = f.upstream.opens()
		}
		if f.upstream.opens() != opens || len(f.upstream.received()) != 0 {
			t.Error("the upstream saw it")
		}
		if got := f.refusals(want.reason); got != counted+1 {
			t.Errorf("%s was counted %v times", want.reason, got-counted)
		}
	})
}

func assertRefusal(t *testing.T, m *message, method string, want refusal) {
	t.Helper()
	if m.status() != want.status {
		t.Fatalf("answered %q, want %d", m.raw, want.status)
	}
	challenge := m.get("WWW-Authenticate")
	if want.challenge == "" && challenge != "" || !strings.HasPrefix(challenge, want.challenge) {
		t.Errorf("WWW-Authenticate %q, want %q", challenge, want.challenge)
	}
	if want.reason == answer.MissingToken && challenge != want.challenge {
		t.Errorf("WWW-Authenticate %q has more than %q", challenge, want.challenge)
	}
	if closes := m.get("Connection") == "close"; closes != want.closes {
		t.Errorf("Connection: %q", m.get("Connection"))
	}
	if m.get("Cache-Control") != "no-store" || m.get("Content-Type") != "application/json" || m.get("Date") == "" {
		t.Errorf("the head is %q", m.head())
	}
	if method == "HEAD" {
		return
	}
	var envelope struct {
		Status    int   `json:"status"`
		Timestamp int64 `json:"timestamp"`
		Error     struct {
			Code      answer.Reason `json:"code"`
			Message   string        `json:"message"`
			RequestID string        `json:"request_id"`
		} `json:"error"`
	}
	d := json.NewDecoder(strings.NewReader(m.content))
	d.DisallowUnknownFields()
	if err := d.Decode(&envelope); err != nil {
		t.Fatalf("envelope %q: %v", m.content, err)
	}
	if e := envelope.Error; envelope.Status != want.status || e.Code != want.reason || e.Message == "" || e.RequestID != m.get("X-Request-Id") || e.RequestID == "" {
		t.Errorf("envelope %q, want %d %s", m.content, want.status, want.reason)
	}
	if age := time.Since(time.UnixMilli(envelope.Timestamp)); age < -time.Second || age > time.Minute {
		t.Errorf("timestamp is %v old", age)
	}
}

package proxy

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/answer"
)

// flood adds n refusals of client, with the request ids client-from, client-from+1, …
func flood(r *Refusals, client string, from, n int) {
	for i := range n {
		r.Add(Refused{ClientID: client, RequestID: fmt.Sprint(client, "-", from+i)})
	}
}

// sound checks that the count and the levels agree with what is kept.
func (r *Refusals) sound(t *testing.T) {
	t.Helper()
	kept, placed := 0, 0
	for id, c := range r.clients {
		kept += len(c.kept)
		if c.id != id || len(c.kept) == 0 || len(c.kept) > maxClientRefusals || c.place.Value != c {
			t.Fatalf("%s: %+v", id, c)
		}
	}
	for n, level := range r.levels {
		placed += level.Len()
		for e := level.Front(); e != nil; e = e.Next() {
			if c := e.Value.(*refusedClient); len(c.kept) != n || c.place != e || r.clients[c.id] != c {
				t.Fatalf("level %d holds %+v", n, c)
			}
		}
	}
	if kept != r.kept || kept > maxRefusals || placed != len(r.clients) {
		t.Fatalf("%d kept, counted %d; %d clients, placed %d", kept, r.kept, len(r.clients), placed)
	}
}

func TestRefusalsNewestFirst(t *testing.T) {
	r := NewRefusals()
	f := func(client string, want int, newest string) {
		t.Helper()
		r.sound(t)
		all := r.Client(client)
		if len(all) != want || want > 0 && (all[0].RequestID != newest || all[0].ClientID != client) {
			t.Fatalf("%s: %d kept, the newest %+v", client, len(all), all[:min(1, len(all))])
		}
	}
	f("a", 0, "")
	flood(r, "a", 0, 1)
	f("a", 1, "a-0")
	flood(r, "a", 1, maxClientRefusals-1)
	f("a", maxClientRefusals, "a-63")
	flood(r, "a", 64, 1000)
	f("a", maxClientRefusals, "a-1063")
	if all := r.Client("a"); all[len(all)-1].RequestID != "a-1000" {
		t.Errorf("the oldest is %s", all[len(all)-1].RequestID)
	}
	f("b", 0, "")
	if all := r.Request("a-1063"); len(all) != 1 || all[0].ClientID != "a" {
		t.Errorf("found %+v", all)
	}
	if all := r.Request("a-999"); all != nil {
		t.Errorf("found %+v", all)
	}
}

// A flood of many clients, more than fit with their full share, takes nothing from who has little.
func TestRefusalsFloodsHideNobody(t *testing.T) {
	r := NewRefusals()
	flood(r, "quiet", 0, 3)
	for round := range 5 {
		for i := range 100 {
			flood(r, fmt.Sprint("loud", i), round*100, 100)
		}
	}
	r.sound(t)
	if r.kept != maxRefusals {
		t.Errorf("%d are kept of many", r.kept)
	}
	if all := r.Client("quiet"); len(all) != 3 {
		t.Errorf("%d are left of the quiet client's", len(all))
	}
	for i := range 100 {
		if all := r.Client(fmt.Sprint("loud", i)); len(all) < 30 || all[0].RequestID != fmt.Sprintf("loud%d-499", i) {
			t.Errorf("loud%d has %d", i, len(all))
		}
	}
	// More clients than there are places: those of before go, one place is enough for each.
	for i := range 2 * maxRefusals {
		flood(r, fmt.Sprint("c", i), 0, 1)
	}
	r.sound(t)
	if all := r.Client(fmt.Sprint("c", 2*maxRefusals-1)); len(all) != 1 {
		t.Error("the last is not kept")
	}
}

// The memory is bounded by what it keeps, however long the texts that come are.
func TestRefusalsMemory(t *testing.T) {
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	long := strings.Repeat("p", 8<<10)
	before, r := heap(), NewRefusals()
	for i := range 4 * maxRefusals {
		r.Add(Refused{
			ClientID: fmt.Sprintf("%0128d", i%(maxRefusals-1)), RequestID: fmt.Sprintf("%0128d", i),
			Method: string([]byte(long)), Path: string([]byte(long)), Reason: answer.RateLimited,
		})
	}
	if got := r.Client(fmt.Sprintf("%0128d", 0))[0]; got.Path != long[:refusedPathCut]+"..." || got.Method != long[:refusedMethodCut]+"..." {
		t.Errorf("kept %q %q", got.Method, got.Path)
	}
	if took := heap() - before; took > 8<<20 || took < 1<<20 {
		t.Errorf("%d clients with one each take %d bytes", len(r.clients), took)
	}
	runtime.KeepAlive(r)
}

func TestRefusalsAtOnce(t *testing.T) {
	r := NewRefusals()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			flood(r, fmt.Sprint("c", i%4), 0, 2000)
			r.Client("c0")
			r.Request("c1-5")
		})
	}
	all.Wait()
	r.sound(t)
}

// What the front refuses is remembered where the client is known, with the answer's own words.
func TestRefusalsOfTheFront(t *testing.T) {
	r := NewRefusals()
	f := start(t, func(o *Options) {
		o.Refusals = r
		o.Whose = func(raw []byte) string {
			if string(raw) == tokenExpired {
				return callerA.client
			}
			return ""
		}
		o.Routes[0].Scopes = []string{"tag"}
	})
	ask := func(method, target, token, id string) *message {
		authorization := ""
		if token != "" {
			authorization = "Authorization: Bearer " + token + "\r\n"
		}
		return f.ask(method + " " + target + " HTTP/1.1\r\nHost: api.test\r\nX-Request-Id: " + id + "\r\n" + authorization + "\r\n")
	}
	want := func(client string, want ...string) {
		t.Helper()
		var got []string
		for _, one := range r.Client(client) {
			if took := time.Since(one.Time); took < 0 || took > time.Minute || one.Shadowed {
				t.Errorf("%+v", one)
			}
			got = append(got, fmt.Sprintf("%s %d %s %s %s %s: %s", one.RequestID, one.Status, one.Reason, one.Method, one.Path, one.Route, one.Message))
		}
		if !slices.Equal(got, want) {
			t.Errorf("of %s:\n%s\nwant\n%s", client, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	ask("GET", "/a", callerA.token, "good")
	ask("GET", "/a", "", "no-token")
	ask("GET", "/a", "never.issued.here", "unknown")
	want(callerA.client)
	want("")
	ask("GET", "/a/b?secret=x", tokenExpired, "expired")
	ask("POST", "/read/x", callerA.token, "early") // 405: nobody was asked for yet
	ask("GET", "/a", callerB.token, "scope")
	want(callerA.client, "expired 401 invalid_token GET /a/b api: the access token expired")
	want(callerB.client, "scope 403 insufficient_scope GET /a api: "+answer.InsufficientScope.Message())
	f.upstream.close()
	ask("GET", "/a", callerA.token, "away")
	if all := r.Client(callerA.client); len(all) != 2 || all[0].Reason != answer.UpstreamFailed || all[0].Status != 502 {
		t.Errorf("%+v", all)
	}
}

// Whose a bad token is costs a signature: a flood of them is not looked into.
func TestRefusalsBlameFew(t *testing.T) {
	r, now := NewRefusals(), time.Now()
	count := func(at time.Time) (n int) {
		for range 10 * maxBlamed {
			if r.mayBlame(at) {
				n++
			}
		}
		return n
	}
	for _, at := range []time.Time{now, now.Add(time.Second), now.Add(-time.Hour)} {
		if n := count(at); n != maxBlamed {
			t.Errorf("%d in a second", n)
		}
	}
}

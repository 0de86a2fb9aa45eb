package issuer

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"postern/answer"
	"postern/registry"
	"postern/secret"
)

func TestRow069OwnRoute(t *testing.T) {
	w := start(t, registry.Terms{Products: products("search", "tracks")})
	before := w.now().UnixMilli()
	r := w.ask(w.good())
	after := w.now().UnixMilli()

	// Field for field the guide's answer: names, order, nulls, units.
	shape := regexp.MustCompile(`^\{"status":201,"timestamp":(\d{13}),"data":\{"id":"([0-9a-f-]{36})","removed_at":null,"refreshed_at":null,` +
		`"revoked_at":null,"subject_type":"Client","subject_id":"` + w.client.ID + `","issued_at":(\d{13}),` +
		`"expires_at":(\d{13}),"issuer_type":null,"issuer_id":null,"organization_id":"` + w.organization.ID +
		`","token":"([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86})"\}\}$`)
	if !shape.MatchString(r.body) {
		t.Fatalf("not the guide's envelope: %s", r.body)
	}
	for field, want := range map[string]string{
		"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache", "X-Request-Id": testID,
		"Access-Control-Allow-Origin": "", "Server": "", "Connection": "",
	} {
		if got := r.Header.Get(field); got != want {
			t.Errorf("%s: %q, want %q", field, got, want)
		}
	}
	if _, err := http.ParseTime(r.Header.Get("Date")); err != nil {
		t.Errorf("Date: %v", err)
	}

	got, claims := w.wantIssued(r)
	if got.Status != 201 || got.Timestamp < got.Data.IssuedAt || got.Timestamp > after || got.Data.IssuedAt < before {
		t.Errorf("times are off: %d <= %d <= %d <= %d", before, got.Data.IssuedAt, got.Timestamp, after)
	}
	if d := got.Data.ExpiresAt - got.Data.IssuedAt; d != 7_200_000 {
		t.Errorf("lives %d ms, want 7,200,000", d)
	}
	id := uuid.MustParse(got.Data.ID)
	seconds, nanoseconds := id.Time().UnixTime()
	if ms := seconds*1000 + nanoseconds/1e6; id.Version() != 7 || ms != got.Data.IssuedAt {
		t.Errorf("id is version %d of %d, want 7 of issued_at %d", id.Version(), ms, got.Data.IssuedAt)
	}

	// The parts as any JWT library sees them.
	parts := strings.Split(got.Data.Token, ".")
	key, err := w.directory.SigningKey(w.now())
	w.check(err)
	f := func(part, want string) {
		t.Helper()
		text, err := base64.RawURLEncoding.DecodeString(part)
		w.check(err)
		if string(text) != want {
			t.Errorf("got  %s\nwant %s", text, want)
		}
	}
	f(parts[0], `{"alg":"ES256","kid":"`+key.ID()+`","typ":"at+jwt"}`)
	f(parts[1], fmt.Sprintf(`{"jti":%q,"oid":%q,"sub":"Client::%s","iat":%d,"exp":%d,"iss":%q,"aud":%q,"client_id":%q,"scope":"search tracks"}`,
		got.Data.ID, w.organization.ID, w.client.ID, got.Data.IssuedAt/1000, got.Data.ExpiresAt/1000, testIssuer, testIssuer, w.client.ID))
	if claims.Scope != "search tracks" {
		t.Errorf("scope %q", claims.Scope)
	}

	// And the record behind it.
	record, err := w.store.Token(t.Context(), got.Data.ID)
	w.check(err)
	want := registry.Token{
		ID: got.Data.ID, SubjectType: "Client", SubjectID: w.client.ID, IssuedAt: registry.Time(got.Data.IssuedAt),
		ExpiresAt: registry.Time(got.Data.ExpiresAt), OrganizationID: w.organization.ID, Scope: "search tracks", KeyID: key.ID(),
	}
	if record != want {
		t.Errorf("record\ngot  %+v\nwant %+v", record, want)
	}
	client, err := w.store.Client(t.Context(), w.client.ID)
	w.check(err)
	if used := client.Secrets[0].LastUsedAt; used < registry.Time(before) {
		t.Errorf("the secret was last used at %d, want %d or later", used, before)
	}
}

func TestRow052MethodNotAllowed(t *testing.T) {
	w := start(t, registry.Terms{})
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "post"} {
		t.Run(method, func(t *testing.T) {
			r := w.send(method + " " + testPath + " HTTP/1.1\r\nHost: a\r\n\r\n")
			if method == "HEAD" {
				if r.StatusCode != 405 || r.body != "" {
					t.Fatalf("got %d %q", r.StatusCode, r.body)
				}
				<-w.served
			} else {
				w.want(r, 405, answer.MethodNotAllowed)
			}
			if allow := r.Header.Get("Allow"); allow != "POST" {
				t.Errorf("Allow: %q", allow)
			}
		})
	}
}

func TestRow073Preflight(t *testing.T) {
	w := start(t, registry.Terms{})
	r := w.send("OPTIONS " + testPath + " HTTP/1.1\r\nHost: a\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n\r\n")
	w.want(r, 405, answer.MethodNotAllowed)
	for field := range r.Header {
		if strings.HasPrefix(field, "Access-Control-") {
			t.Errorf("%s is answered", field)
		}
	}
}

func TestRow053MediaType(t *testing.T) {
	w := start(t, registry.Terms{})
	f := func(field string, ok bool) {
		t.Helper()
		t.Run(field, func(t *testing.T) {
			fields := []string{"Content-Type: " + field}
			if field == "" {
				fields = nil
			}
			r := w.send(postTo(testPath, w.good(), fields...))
			if ok {
				w.wantIssued(r)
				return
			}
			w.want(r, 415, answer.UnsupportedMediaType)
			if accept := r.Header.Get("Accept-Post"); accept != "application/json, application/x-www-form-urlencoded" {
				t.Errorf("Accept-Post: %q", accept)
			}
			if !r.closed {
				t.Error("the body was not read and the connection stays open")
			}
		})
	}
	f("application/json", true)
	f("application/json; charset=utf-8", true)
	f("Application/JSON;charset=UTF-8", true)
	f("application/json ; x=y", true)
	f("", false)
	f("text/plain", false)
	f("text/json", false)
	f("application/jsonp", false)
	f("application/json, application/json", false)
	f("application/problem+json", false)
	f("application/x-www-form-urlencoded+json", false)
	f("multipart/form-data; boundary=application/json", false)

	r := w.send("POST " + testPath + " HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
	w.want(r, 415, answer.UnsupportedMediaType)
	if !r.closed {
		t.Error("the chunks were not read and the connection stays open")
	}
}

func TestRow054TooLarge(t *testing.T) {
	w := start(t, registry.Terms{})
	pad := func(size int) string {
		body := w.good()
		return body[:len(body)-1] + strings.Repeat(" ", size-len(body)) + "}"
	}
	chunked := func(body string) string {
		head := "POST " + testPath + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
		var b strings.Builder
		b.WriteString(head)
		for len(body) > 0 {
			n := min(len(body), 5000)
			fmt.Fprintf(&b, "%x\r\n%s\r\n", n, body[:n])
			body = body[n:]
		}
		return b.String() + "0\r\n\r\n"
	}
	w.wantIssued(w.ask(pad(maxBody)))
	w.wantIssued(w.send(chunked(pad(maxBody))))
	for name, text := range map[string]string{
		"one byte more":             post(pad(maxBody + 1)),
		"one byte more, in chunks":  chunked(pad(maxBody + 1)),
		"a megabyte":                post(pad(1 << 20)),
		"a megabyte, in chunks":     chunked(pad(1 << 20)),
		"announced, never sent":     strings.Replace(post(pad(8<<10)), "Content-Length: 8192", "Content-Length: 65537", 1),
		"a secret of a megabyte":    post(credentialsOf(w.client.ID, secret.Secret(strings.Repeat("a", 1<<20)))),
		"a million members of JSON": post("{" + strings.Repeat(`"a":1,`, 1e6) + `"b":1}`),
	} {
		t.Run(name, func(t *testing.T) {
			r := w.send(text)
			w.want(r, 413, answer.TooLarge)
			if !r.closed {
				t.Error("the connection stays open")
			}
		})
	}
}

func TestRow055NoObject(t *testing.T) {
	w := start(t, registry.Terms{})
	for _, body := range []string{
		"", " ", "null", "[]", "{", "{}", `"x"`, "1", "true", w.good() + "x", w.good() + w.good(), w.good()[1:],
		"[" + w.good() + "]", "\xef\xbb\xbf" + w.good(), strings.Replace(w.good(), `"`, `'`, -1), w.good() + "\x00",
		strings.Replace(w.good(), "}", ",}", 1), `{"client_id": "` + w.client.ID + "\xff\"}",
		`{"client_id": "` + w.client.ID + `"}`, `{"client_secret": "` + w.secret.Reveal() + `"}`,
		`{"Client_ID": "` + w.client.ID + `", "client_secret": "` + w.secret.Reveal() + `"}`, // names are matched exactly
		`{"data": ` + w.good() + `}`,
	} {
		t.Run(fmt.Sprintf("%.24s", body), func(t *testing.T) {
			w.want(w.ask(body), 400, answer.InvalidRequest)
		})
	}
	// The guide's own layout, unknown members and escapes are fine.
	for _, body := range []string{
		"{\n  \"client_id\": \"" + w.client.ID + "\",\n  \"client_secret\": \"" + w.secret.Reveal() + "\"\n}\n",
		w.good()[:len(w.good())-1] + `, "grant_type": "client_credentials", "x": [1, {"y": null}]}`,
		strings.Replace(w.good(), "-", `\u002d`, 1), strings.Replace(w.good(), "client_id", `client\u005fid`, 1),
	} {
		w.wantIssued(w.ask(body))
	}
}

func TestRow055IncompleteBody(t *testing.T) {
	w := start(t, registry.Terms{})
	const head = "POST " + testPath + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
	for _, text := range []string{
		head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
		head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n",
		head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nContent-Length: 5\r\n\r\n",
	} {
		r := w.send(text)
		w.want(r, 400, answer.InvalidRequest)
		if !r.closed {
			t.Error("the connection stays open")
		}
	}
}

// The content ends, or stops coming, before what was announced has arrived.
func TestRow055ShortBody(t *testing.T) {
	w := start(t, registry.Terms{})
	w.address = serve(t, w.handle, 300*time.Millisecond)
	f := func(name string, hangUp bool, status int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", w.address)
			w.check(err)
			defer conn.Close()
			short := w.good() + strings.Repeat(" ", 9000) // complete for a reader that does not count
			_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 20000\r\n\r\n%s", testPath, short)
			w.check(err)
			if hangUp {
				w.check(conn.(*net.TCPConn).CloseWrite())
			}
			w.check(conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			w.check(err)
			body, err := io.ReadAll(res.Body)
			w.check(err)
			w.want(reply{Response: res, body: string(body)}, status, answer.InvalidRequest)
			if !res.Close {
				t.Error("the connection stays open")
			}
		})
	}
	f("ends", true, 400)
	f("stalls", false, 408)
	if n := w.store.issues.Load(); n != 0 {
		t.Errorf("%d tokens were issued", n)
	}
}

// A trailer is not a header: credentials there count for nothing.
func TestRow055TrailerIsNoHeader(t *testing.T) {
	w := start(t, registry.Terms{})
	basic := "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(w.client.ID+":"+w.secret.Reveal()))
	r := w.send("POST " + testPath + " HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"2\r\n{}\r\n0\r\n" + basic + "\r\n\r\n")
	w.want(r, 400, answer.InvalidRequest)
}

func TestRow056RepeatedMember(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	open := w.good()[:len(w.good())-1]
	for _, body := range []string{
		open + `, "client_id": "` + w.client.ID + `"}`,
		open + `, "client_secret": "` + w.secret.Reveal() + `"}`,
		open + `, "client\u005fid": "` + w.client.ID + `"}`,
		open + `, "scope": "a", "scope": "b"}`,
		open + `, "x": {"y": 1, "y": 1}}`,
	} {
		w.want(w.ask(body), 400, answer.InvalidRequest)
	}
}

func TestRow058DeepAndMany(t *testing.T) {
	w := start(t, registry.Terms{})
	open := w.good()[:len(w.good())-1]
	var many strings.Builder
	many.WriteString(open)
	for n := 0; many.Len() < maxBody-20; n++ {
		fmt.Fprintf(&many, `,"%x":0`, n)
	}
	many.WriteString("}")
	for name, body := range map[string]string{
		"10,000 levels":         strings.Repeat(`{"a":`, 10_000) + "1" + strings.Repeat("}", 10_000),
		"10,000 levels, inside": open + `,"x":` + strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000) + "}",
		"all members that fit":  many.String(),
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			w.want(w.ask(body), 400, answer.InvalidRequest)
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("took %s, ten times the promise", took)
			}
		})
	}
}

func TestRow059WrongTypes(t *testing.T) {
	w := start(t, registry.Terms{})
	for _, wrong := range []string{"1", "[]", "{}", "null", "true", `["` + w.secret.Reveal() + `"]`} {
		t.Run(wrong[:1], func(t *testing.T) {
			w.want(w.ask(`{"client_id":"`+w.client.ID+`","client_secret":`+wrong+`}`), 400, answer.InvalidRequest)
			w.want(w.ask(`{"client_id":`+wrong+`,"client_secret":"`+w.secret.Reveal()+`"}`), 400, answer.InvalidRequest)
			w.want(w.ask(w.good()[:len(w.good())-1]+`,"scope":`+wrong+`}`), 400, answer.InvalidRequest)
		})
	}
}

func TestRow064CredentialsInQuery(t *testing.T) {
	w := start(t, registry.Terms{})
	query := "client_id=" + w.client.ID + "&client_secret=" + w.secret.Reveal()
	for _, target := range []string{
		"?" + query, "?client_id=x", "?a=b&client_secret=", "?client%5Fsecret=x", "?client_id",
	} {
		for _, body := range []string{w.good(), "{}"} {
			w.want(w.send(postTo(testPath+target, body, "Content-Type: application/json")), 400, answer.InvalidRequest)
		}
	}
	w.wantIssued(w.send(postTo(testPath+"?trace=1", w.good(), "Content-Type: application/json")))
}

func TestRow066AgreementNotInForce(t *testing.T) {
	w := start(t, registry.Terms{})
	now := registry.At(w.now())
	f := func(name string, starts, ends registry.Time, status int) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			agreement, err := w.store.CreateAgreement(t.Context(), operator, registry.NewAgreement{
				OrganizationID: w.organization.ID, Name: name, StartsAt: starts, EndsAt: ends})
			w.check(err)
			client, password := w.newClient(agreement.ID)
			r := w.ask(credentialsOf(client.ID, password))
			if status == 201 {
				w.wantIssued(r)
				return
			}
			w.want(r, 400, answer.UnauthorizedClient)
		})
	}
	const hour = 3_600_000
	f("in force", now-hour, now+hour, 201)
	f("open", now-hour, 0, 201)
	f("not yet", now+hour, now+2*hour, 400)
	f("over", now-2*hour, now-hour, 400)
	f("over within this second", now-hour, now+1, 400)

	t.Run("in shadow", func(t *testing.T) {
		agreement, err := w.store.CreateAgreement(t.Context(), operator, registry.NewAgreement{
			OrganizationID: w.organization.ID, Name: "in shadow", StartsAt: now - 2*hour, EndsAt: now - hour, Enforce: registry.Shadow,
			Terms: registry.Terms{TokenLifetime: registry.Limit{State: registry.Value}, Products: products("tracks")}})
		w.check(err)
		client, password := w.newClient(agreement.ID)
		body := credentialsOf(client.ID, password)
		first, _ := w.wantIssued(w.ask(body[:len(body)-1] + `,"scope":"search"}`))
		if got := first.Data.ExpiresAt - first.Data.IssuedAt; got != w.issuer.options.Lifetime.Milliseconds() {
			t.Errorf("a lifetime of 0 became %d ms", got)
		}
		w.wantIssued(w.send(postTo(testPath+"/refresh", withToken(client.ID, password, first.Data.Token), "Content-Type: application/json")))
		w.want(w.ask(body[:len(body)-1]+`,"scope":"a\"b"}`), 400, answer.InvalidScope)
	})
	t.Run("removed", func(t *testing.T) {
		agreement, err := w.store.CreateAgreement(t.Context(), operator, registry.NewAgreement{
			OrganizationID: w.organization.ID, Name: "removed", StartsAt: now - hour})
		w.check(err)
		client, password := w.newClient(agreement.ID)
		w.wantIssued(w.ask(credentialsOf(client.ID, password)))
		w.check(w.store.RemoveAgreement(t.Context(), operator, agreement.ID))
		w.catchUp()
		w.want(w.ask(credentialsOf(client.ID, password)), 400, answer.UnauthorizedClient)
	})
}

func TestRow067Scope(t *testing.T) {
	w := start(t, registry.Terms{})
	f := func(name string, licensed registry.Set, asked, want string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			_, err := w.store.ChangeOrganization(t.Context(), operator, w.organization.ID,
				registry.OrganizationChange{Terms: func(t *registry.Terms) { t.Products = licensed }})
			w.check(err)
			w.catchUp()
			body := w.good()
			if asked != "" {
				text, err := json.Marshal(asked)
				w.check(err)
				body = body[:len(body)-1] + `,"scope":` + string(text) + `}`
			}
			r := w.ask(body)
			if want == "refused" {
				w.want(r, 400, answer.InvalidScope)
				return
			}
			got, claims := w.wantIssued(r)
			record, err := w.store.Token(t.Context(), got.Data.ID)
			w.check(err)
			if claims.Scope != want || record.Scope != want {
				t.Errorf("scope %q, record %q, want %q", claims.Scope, record.Scope, want)
			}
		})
	}
	all, unset, unlimited := products("tracks", "search", "moods"), registry.Set{}, registry.Set{State: registry.Unlimited}
	f("none asked: all, in order", all, "", "tracks search moods")
	f("one", all, "search", "search")
	f("two, in the order asked", all, "moods tracks", "moods tracks")
	f("asked twice", all, "search search", "search")
	f("one is not licensed", all, "search billing", "refused")
	f("another case", all, "Search", "refused")
	f("two spaces", all, "search  moods", "refused")
	f("a space at the end", all, "search ", "refused")
	f("a tab", all, "search\tmoods", "refused")
	f("none licensed, none asked", unset, "", "")
	f("none licensed, one asked", unset, "search", "refused")
	f("an empty list, none asked", products(), "", "")
	f("an empty list, one asked", products(), "search", "refused")
	f("unlimited, none asked", unlimited, "", "")
	f("unlimited, any", unlimited, "any:thing else", "any:thing else")
	f("unlimited, no scope-token", unlimited, `a"b`, "refused")
	f("unlimited, a line break", unlimited, "a\r\nX-Evil:1", "refused")
	f("unlimited, not ASCII", unlimited, "é", "refused")
	f("unlimited, the longest", unlimited, strings.Repeat("a", maxScope), strings.Repeat("a", maxScope))
	f("unlimited, too long", unlimited, strings.Repeat("a", maxScope+1), "refused")
}

func TestRow072ParallelIssues(t *testing.T) {
	w := start(t, registry.Terms{})
	const n = 100
	replies := make([]reply, n)
	var done sync.WaitGroup
	for k := range n {
		done.Go(func() {
			var err error
			if replies[k], err = exchange(w.address, post(w.good())); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	seen := make(map[string]bool, n)
	for _, r := range replies {
		got, _ := w.wantIssued(r)
		seen[got.Data.ID] = true
	}
	if len(seen) != n {
		t.Errorf("%d distinct jti, want %d", len(seen), n)
	}
	records, err := w.store.Tokens(t.Context(), registry.TokenFilter{ClientID: w.client.ID, Limit: n + 1})
	w.check(err)
	if len(records) != n {
		t.Errorf("%d records, want %d", len(records), n)
	}
}

func TestLifetime(t *testing.T) {
	w := start(t, registry.Terms{})
	f := func(name string, lifetime registry.Limit, endsIn time.Duration, want time.Duration) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			agreement := registry.NewAgreement{OrganizationID: w.organization.ID, Name: name,
				StartsAt: 1, Terms: registry.Terms{TokenLifetime: lifetime}}
			if endsIn != 0 {
				agreement.EndsAt = registry.At(w.now().Add(endsIn))
			}
			a, err := w.store.CreateAgreement(t.Context(), operator, agreement)
			w.check(err)
			client, password := w.newClient(a.ID)
			r := w.ask(credentialsOf(client.ID, password))
			if want == 0 {
				w.want(r, 400, answer.UnauthorizedClient)
				return
			}
			got, claims := w.wantIssued(r)
			end := got.Data.IssuedAt + want.Milliseconds()
			if endsIn != 0 && agreement.EndsAt < registry.Time(end) {
				end = int64(agreement.EndsAt)
			}
			if got.Data.ExpiresAt != end || claims.Expires != end/1000 {
				t.Errorf("expires_at %d, exp %d, want %d", got.Data.ExpiresAt, claims.Expires, end)
			}
		})
	}
	f("default", registry.Limit{}, 0, 2*time.Hour)
	f("shorter", value(600), 0, 10*time.Minute)
	f("zero allows nothing", value(0), 0, 0)
	f("unlimited", registry.Limit{State: registry.Unlimited}, 0, 24*time.Hour)
	f("longer than the default", value(3*60*60), 0, 3*time.Hour)
	f("longer than allowed", value(1<<60), 0, 24*time.Hour)
	f("the agreement ends before", registry.Limit{}, time.Hour, 2*time.Hour)
	f("the agreement ends after", value(600), time.Hour, 10*time.Minute)

	w.issuer.options.MaxLifetime = time.Minute
	f("never over the longest", registry.Limit{}, 0, time.Minute)
}

// A token that is issued right after all tokens were revoked must not be born revoked.
func TestIssuedAfterRevoked(t *testing.T) {
	w := start(t, registry.Terms{})
	w.skew.Store(int64(time.Minute))
	w.check(w.store.RevokeClientTokens(t.Context(), operator, w.client.ID))
	w.catchUp()
	w.skew.Store(int64(50 * time.Second)) // this replica's clock is behind that of the one that revoked
	r := w.ask(w.good())
	w.skew.Store(int64(time.Minute))
	got, _ := w.wantIssued(r)
	client, err := w.directory.Client(t.Context(), w.client.ID)
	w.check(err)
	if issued := registry.Time(got.Data.IssuedAt); issued != client.ValidFrom()+1 || !client.Accepts(issued) {
		t.Errorf("issued at %d, want %d", issued, client.ValidFrom()+1)
	}
}

func TestKeepAlive(t *testing.T) {
	w := start(t, registry.Terms{})
	client := &http.Client{}
	defer client.CloseIdleConnections()
	for _, body := range []string{w.good(), "{", w.good()} {
		res, err := client.Post("http://"+w.address+testPath, "application/json", strings.NewReader(body))
		w.check(err)
		res.Body.Close()
		if res.Close {
			t.Errorf("%d closes although the body was read", res.StatusCode)
		}
	}
}

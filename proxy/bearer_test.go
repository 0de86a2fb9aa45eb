package proxy

import (
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"postern/answer"
	"postern/directory"
)

func TestRow001NoAuthorization(t *testing.T) {
	f := start(t)
	f.refuses("GET", get("/a"), shortN)
	f.refuses("HEAD", request("HEAD", "/a"), shortN)
	f.refuses("POST with content", request("POST", "/a", "Content-Length: 5")+"12345", shortN)
	f.refuses("another field with the token", get("/a", "X-Authorization: Bearer "+callerA.token), shortN)
	f.refuses("a twin of the name", get("/a", "Author_ization: Bearer "+callerA.token), shortN)
}

func TestRow002EmptyAuthorization(t *testing.T) {
	f := start(t)
	f.refuses("nothing", get("/a", "Authorization:"), shortN)
	f.refuses("blanks", get("/a", "Authorization:   "), shortN)
}

func TestRow003OtherScheme(t *testing.T) {
	f := start(t)
	f.refuses("Basic", get("/a", "Authorization: Basic dTpw"), shortN)
	f.refuses("the token without a scheme", get("/a", "Authorization: "+callerA.token), shortN)
	f.refuses("a longer scheme", get("/a", "Authorization: Bearers "+callerA.token), shortN)
	f.refuses("a shorter scheme", get("/a", "Authorization: Beare "+callerA.token), shortN)
}

func TestRow004BearerWithoutToken(t *testing.T) {
	f := start(t)
	f.refuses("alone", get("/a", "Authorization: Bearer"), shortQ)
	f.refuses("blanks", get("/a", "Authorization: Bearer   "), shortQ)
	f.refuses("no space", get("/a", "Authorization: Bearer="+callerA.token), shortQ)
	f.refuses("two words", get("/a", "Authorization: Bearer "+callerA.token+" x"), shortQ)
	f.refuses("quoted", get("/a", `Authorization: Bearer "`+callerA.token+`"`), shortQ)
	f.refuses("obs-text", get("/a", "Authorization: Bearer \xe9"), shortQ)
}

func TestRow005SchemeInAnyCase(t *testing.T) {
	f := start(t)
	for _, scheme := range []string{"Bearer", "bearer", "BEARER", "bEaReR"} {
		f.forwards(get("/a", "Authorization: "+scheme+" "+callerA.token), wire("GET /a", "api.test", &callerA, ""))
	}
}

func TestRow006BlanksBeforeTheToken(t *testing.T) {
	f := start(t)
	f.forwards(get("/a", "Authorization: Bearer  "+callerA.token), wire("GET /a", "api.test", &callerA, ""))
	f.forwards(get("/a", "Authorization:  \t Bearer      "+callerA.token+" \t"), wire("GET /a", "api.test", &callerA, ""))
	f.refuses("tab", get("/a", "Authorization: Bearer\t"+callerA.token), shortQ)
	f.refuses("space and tab", get("/a", "Authorization: Bearer \t"+callerA.token), shortQ)
}

func TestRow007TwoAuthorizations(t *testing.T) {
	f := start(t)
	f.refuses("equal", get("/a", as(callerA), as(callerA)), shortQ)
	f.refuses("different", get("/a", as(callerA), "X: y", as(callerB)), shortQ)
	f.refuses("Basic first", get("/a", "Authorization: Basic dTpw", as(callerA)), shortQ)
	f.refuses("Basic last, another case", get("/a", as(callerA), "authorization: Basic dTpw"), shortQ)
	f.refuses("empty", get("/a", as(callerA), "AUTHORIZATION:"), shortQ)
}

func TestRow008TwoTokensInOneField(t *testing.T) {
	f := start(t)
	f.refuses("list", get("/a", "Authorization: Bearer "+callerA.token+", Bearer "+callerB.token), shortQ)
	f.refuses("comma", get("/a", "Authorization: Bearer "+callerA.token+","+callerB.token), shortQ)
}

func TestRow009TokenInTheQuery(t *testing.T) {
	f := start(t)
	f.refuses("query", get("/a?access_token="+callerA.token), shortN)
	f.refuses("encoded", get("/a?x=1&access%5Ftoken="+callerA.token), shortN)
	f.forwards(get("/public?access_token="+callerA.token), wire("GET /public?access_token="+callerA.token, "api.test", nil, ""))
	f.refuses("not found in the log either", get("/a?secret=planted-"+callerA.token+"#x"), shortB)
	if log := f.log.String(); strings.Contains(log, callerA.token) {
		t.Errorf("the log holds the query: %s", log)
	}
	for _, line := range f.lines() {
		if strings.Contains(line, callerA.token) || strings.Contains(line, "access") || strings.Contains(line, "planted") {
			t.Errorf("the access line holds the query: %s", line)
		}
	}
}

func TestRow010TokenInTheContent(t *testing.T) {
	f := start(t)
	form := "access_token=" + callerA.token
	head := request("POST", "/a", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 23")
	if len(form) != 23 {
		t.Fatal("the length of the form is wrong")
	}
	f.refuses("form", head+form, shortN)
}

func TestRow011TokenInTwoPlaces(t *testing.T) {
	f := start(t)
	f.refuses("different", get("/a?access_token="+callerB.token, as(callerA)), shortQ)
	f.refuses("equal", get("/a?access_token="+callerA.token, as(callerA)), shortQ)
	f.refuses("empty", get("/a?x&access_token", as(callerA)), shortQ)
	f.refuses("encoded", get("/a?x=1&%61ccess%5ftoke%6E="+callerB.token, as(callerA)), shortQ)
	f.refuses("behind a semicolon", get("/a?x=1;access_token="+callerB.token, as(callerA)), shortQ)
	for _, target := range []string{"/a?access_tokens=x", "/a?xaccess_token=x", "/a?x=access_token", "/a?access_toke%"} {
		f.forwards(get(target, as(callerA)), wire("GET "+target, "api.test", &callerA, ""))
	}
}

func TestRow027MebibyteOfDots(t *testing.T) {
	f := start(t)
	want := refusal{431, answer.InvalidRequest, "", true}
	f.refuses("1 MiB", get("/a", "Authorization: Bearer "+strings.Repeat(".", 1<<20)), want)
	f.refuses("just too much", get("/a", "Authorization: Bearer "+strings.Repeat(".", 16<<10)), want)
	// 1 ms of CPU each is the promise, and no burst of allocations: what is measured here
	// is the whole process, the client's work too.
	dots := []byte(get("/a", "Authorization: Bearer "+strings.Repeat(".", 1<<20)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	begun := cpu(t)
	for range 10 {
		c := f.dial()
		_, _ = c.Write(dots)
		c.read("GET")
		_ = c.Close()
	}
	took := cpu(t) - begun
	runtime.ReadMemStats(&after)
	if took > 100*time.Millisecond {
		t.Errorf("10 of them took %v of CPU", took)
	}
	if each := (after.TotalAlloc - before.TotalAlloc) / 10; each > 100<<10 {
		t.Errorf("each allocated %d bytes", each)
	}
}

// cpu is what the process has used so far, user and system.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func TestRow028LongTokens(t *testing.T) {
	known := newTokens(t)
	f := start(t, func(o *Options) { o.Verifier = known })
	for _, size := range []int{4 << 10, 8 << 10, 15 << 10} {
		token := strings.Repeat("a", size)
		known[token] = known[callerA.token]
		f.forwards(get("/a", "Authorization: Bearer "+token), wire("GET /a", "api.test", &callerA, ""))
	}
	// The limit itself: request line, fields and empty line together.
	rest := len(get("/a", "Authorization: Bearer "))
	token := strings.Repeat("a", 16<<10-rest)
	known[token] = known[callerA.token]
	f.forwards(get("/a", "Authorization: Bearer "+token), wire("GET /a", "api.test", &callerA, ""))
	f.refuses("one byte more", get("/a", "Authorization: Bearer a"+token), refusal{431, answer.InvalidRequest, "", true})
}

func TestVerifierErrors(t *testing.T) {
	f := start(t)
	f.refuses("unknown", get("/a", "Authorization: Bearer x"), shortI)
	f.refuses("expired", get("/a", "Authorization: Bearer "+tokenExpired), refusal{401, answer.InvalidToken,
		`Bearer realm="R", error="invalid_token", error_description="the access token expired"`, false})
	f.refuses("JSON serialization", get("/a", `Authorization: Bearer {"payload": "x"}`), shortI)
	f.refuses("store away", get("/a", "Authorization: Bearer "+tokenStore), refusal{503, answer.Unavailable, "", false})
	if got := f.ask(get("/a", "Authorization: Bearer "+tokenStore)).get("Retry-After"); got != "1" {
		t.Errorf("Retry-After: %q", got)
	}
	f.refuses("agreement over", get("/a", as(callerLapsed)), refusal{403, answer.ForbiddenAgreement, "", false})
	if log := f.log.String(); strings.Contains(log, tokenStore) || strings.Contains(log, callerLapsed.token) {
		t.Errorf("the log holds a token: %s", log)
	}
}

// keeper keeps what it must not: the slice that aliases fasthttp's buffer.
type keeper struct{ seen []string }

func (k *keeper) Verify(raw []byte, _ time.Time) (directory.Principal, error) {
	k.seen = append(k.seen, string(raw))
	return directory.Principal{}, nil
}

func TestVerifierSeesTheTokenAlone(t *testing.T) {
	known, seen := newTokens(t), &keeper{}
	f := start(t, func(o *Options) {
		o.Verifier = verify(func(raw []byte, now time.Time) (directory.Principal, error) {
			_, _ = seen.Verify(raw, now)
			return known.Verify(raw, now)
		})
	})
	f.ask(get("/a", "Authorization:   beARer   "+callerA.token+"  "))
	if len(seen.seen) != 1 || seen.seen[0] != callerA.token {
		t.Errorf("the verifier was given %q", seen.seen)
	}
}

// verify is a Verifier made of a function.
type verify func(raw []byte, now time.Time) (directory.Principal, error)

func (v verify) Verify(raw []byte, now time.Time) (directory.Principal, error) { return v(raw, now) }

package issuer

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"

	"postern/answer"
	"postern/registry"
	"postern/secret"
)

// strange is a well-formed secret that no client has.
func strange(t testing.TB) secret.Secret {
	t.Helper()
	s, err := secret.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// canonical is everything of an answer but when it was given.
func canonical(r reply) string {
	r.Header.Del("Date")
	head := fmt.Sprint(r.Status, r.ContentLength, r.TransferEncoding, r.Header)
	return head + regexp.MustCompile(`"timestamp":\d{13}`).ReplaceAllString(r.body, `"timestamp":T`)
}

func TestRow060UnknownClientLikeWrongSecret(t *testing.T) {
	w := start(t, registry.Terms{})
	w.wantIssued(w.ask(w.good())) // the client is held, as it is while it calls
	work := func(id string, s secret.Secret) (answered string, reads, compared int64) {
		reads, compared = w.store.grants.Load(), w.issuer.compared.Load()
		r := w.ask(credentialsOf(id, s))
		w.want(r, 401, answer.InvalidClient)
		return canonical(r), w.store.grants.Load() - reads, w.issuer.compared.Load() - compared
	}
	wrong, wrongReads, wrongCompared := work(w.client.ID, strange(t))
	unknown, unknownReads, unknownCompared := work(uuid.NewString(), w.secret)
	if wrong != unknown {
		t.Errorf("the answers differ\nwrong   %s\nunknown %s", wrong, unknown)
	}
	if wrongReads != unknownReads || wrongCompared != unknownCompared {
		t.Errorf("wrong secret: %d reads, %d comparisons; unknown client: %d, %d", wrongReads, wrongCompared, unknownReads, unknownCompared)
	}
	if wrongReads != 1 || wrongCompared != 2*secretSlots {
		t.Errorf("%d reads and %d comparisons, want 1 and %d", wrongReads, wrongCompared, 2*secretSlots)
	}

	// A disabled client, a disabled organization, and what is not even well formed: the same words.
	w.check(w.store.DisableClient(t.Context(), operator, w.client.ID))
	w.catchUp()
	if disabled, _, _ := work(w.client.ID, w.secret); disabled != wrong {
		t.Errorf("disabled client: %s", disabled)
	}
	w.check(w.store.EnableClient(t.Context(), operator, w.client.ID))
	w.check(w.store.DisableOrganization(t.Context(), operator, w.organization.ID))
	w.catchUp()
	if disabled, _, _ := work(w.client.ID, w.secret); disabled != wrong {
		t.Errorf("disabled organization: %s", disabled)
	}
	w.check(w.store.EnableOrganization(t.Context(), operator, w.organization.ID))
	w.catchUp()
	w.wantIssued(w.ask(w.good()))
	w.check(w.store.RemoveClient(t.Context(), operator, w.client.ID))
	w.catchUp()
	if removed, _, _ := work(w.client.ID, w.secret); removed != wrong {
		t.Errorf("removed client: %s", removed)
	}
}

func TestRow070MalformedSecret(t *testing.T) {
	w := start(t, registry.Terms{})
	w.wantIssued(w.ask(w.good())) // the client is held
	good := w.secret.Reveal()
	flipped := good[:len(good)-1] + "A" // the last character belongs to the checksum
	if flipped == good {
		flipped = good[:len(good)-1] + "B"
	}
	var first string
	for name, bad := range map[string]string{
		"empty": "", "short": "pst_", "wrong checksum": flipped, "no prefix": good[4:], "other case": strings.ToUpper(good),
		"a space after it": good + " ", "a line break after it": good + "\n", "NUL": good + "\x00", "60 KB": strings.Repeat("a", 60_000),
	} {
		t.Run(name, func(t *testing.T) {
			reads, wantReads := w.store.grants.Load(), int64(0)
			if bad != "" && len(bad) <= maxForeign && !strings.HasPrefix(bad, "pst_") {
				wantReads = 1 // it may be an imported one
			}
			text := strings.NewReplacer("\n", `\n`, "\x00", `\u0000`).Replace(bad)
			w.skew.Add(int64(10 * time.Minute)) // far from the back-off of the case before
			r := w.ask(`{"client_id":"` + w.client.ID + `","client_secret":"` + text + `"}`)
			w.want(r, 401, answer.InvalidClient)
			if n := w.store.grants.Load() - reads; n != wantReads {
				t.Errorf("the store was read %d times, want %d", n, wantReads)
			}
			if first == "" {
				first = canonical(r)
			}
			if got := canonical(r); got != first {
				t.Errorf("got  %s\nwant %s", got, first)
			}
		})
	}
	unknown := w.ask(credentialsOf(uuid.NewString(), strange(t)))
	w.want(unknown, 401, answer.InvalidClient)
	if canonical(unknown) != first {
		t.Error("a malformed secret is answered in other words than an unknown client")
	}
}

func TestRow074HostileClientID(t *testing.T) {
	w := start(t, registry.Terms{})
	// The one wildcard that an imported identifier may have is no wildcard.
	for _, id := range []string{"_", w.client.ID[:35] + "_", strings.Repeat("_", 36)} {
		w.want(w.ask(credentialsOf(id, w.secret)), 401, answer.InvalidClient)
	}
	w.store.grants.Store(0)
	for _, id := range []string{
		"", "' OR '1'='1", "%", "a%", w.client.ID[:35] + "%", strings.Repeat("a", 129), `\u0000`, w.client.ID + `\u0000`,
		`" ; drop table client; --`, strings.Repeat("a", 60_000), `\r\n`, "../../etc/passwd", `\ud83d\ude00`,
	} {
		t.Run(fmt.Sprintf("%.20s", id), func(t *testing.T) {
			text := strings.ReplaceAll(id, `" ;`, `\" ;`)
			w.want(w.ask(`{"client_id":"`+text+`","client_secret":"`+w.secret.Reveal()+`"}`), 401, answer.InvalidClient)
			if n := w.store.grants.Load(); n != 0 { // an engine may refuse a NUL, and that would be 503
				t.Errorf("the store was read %d times", n)
			}
		})
	}
}

func TestRow075ExactClientID(t *testing.T) {
	w := start(t, registry.Terms{})
	id := w.client.ID
	for name, other := range map[string]string{
		"upper case": strings.ToUpper(id), "a space after it": id + " ", "a space before it": " " + id, "braces": "{" + id + "}",
		"urn": "urn:uuid:" + id, "without dashes": strings.ReplaceAll(id, "-", ""), "a full-width digit": "０" + id[1:],
		"a combining mark": id + "\u0301", "Unicode dash": strings.Replace(id, "-", "‐", 1), "zero width": id + "\u200b",
	} {
		t.Run(name, func(t *testing.T) {
			if other == id {
				t.Skip("the same bytes")
			}
			w.want(w.ask(credentialsOf(other, w.secret)), 401, answer.InvalidClient)
		})
	}
}

// basic is the field line of HTTP Basic, its parts encoded already.
func basic(id, password string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+password))
}

func TestRow061WrongSecretByBasic(t *testing.T) {
	w := start(t, registry.Terms{})
	w.wantIssued(w.send(post("", basic(w.client.ID, w.secret.Reveal()))))
	for name, line := range map[string]string{
		"wrong secret": basic(w.client.ID, strange(t).Reveal()), "no colon": "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(w.client.ID)),
		"no base64": "Authorization: Basic !!!!", "nothing": "Authorization: Basic", "bad escape": basic(w.client.ID, "%zz"),
		"another scheme": "Authorization: Bearer " + w.secret.Reveal(), "no scheme": "Authorization: " + w.secret.Reveal(),
	} {
		t.Run(name, func(t *testing.T) {
			w.want(w.send(post("", line)), 401, answer.InvalidClient) // and with the challenge, which want asserts
		})
	}
}

func TestRow062CredentialsInTwoPlaces(t *testing.T) {
	w := start(t, registry.Terms{Products: products("a", "b")})
	good := basic(w.client.ID, w.secret.Reveal())
	f := func(name, content string, lines ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { w.want(w.send(post(content, lines...)), 400, answer.InvalidRequest) })
	}
	f("both", w.good(), good)
	f("an identifier in the content", `{"client_id":"`+w.client.ID+`"}`, good)
	f("a secret in the content", `{"client_secret":""}`, good)
	f("another scheme beside the content", w.good(), "Authorization: Bearer x")
	f("two header lines", "", good, good)
	f("two header lines and content", w.good(), good, good)

	// Content that names no credentials goes with Basic; an empty field is none.
	w.wantIssued(w.send(post("{}", good)))
	_, claims := w.wantIssued(w.send(post(`{"scope":"b"}`, good)))
	if claims.Scope != "b" {
		t.Errorf("scope %q, want b", claims.Scope)
	}
	w.wantIssued(w.send(post(w.good(), "Authorization:")))
}

func TestRow063BasicFormEncoded(t *testing.T) {
	w := start(t, registry.Terms{})
	everyByte := func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			fmt.Fprintf(&b, "%%%02x", c)
		}
		return b.String()
	}
	w.wantIssued(w.send(post("", basic(everyByte(w.client.ID), everyByte(w.secret.Reveal())))))
	w.wantIssued(w.send(post("", strings.Replace(basic(url.QueryEscape(w.client.ID), url.QueryEscape(w.secret.Reveal())), "Basic ", "bAsIc  ", 1))))

	// The parts are cut before they are decoded: an escaped colon belongs to its part.
	f := func(line, id, password string) {
		t.Helper()
		var head fasthttp.RequestHeader
		head.Set("Authorization", strings.TrimPrefix(line, "Authorization: "))
		got, presented, problem := basicCredentials(&head)
		if got.clientID != id || got.clientSecret.Reveal() != password || !presented || problem != "" {
			t.Errorf("%s: %q, %q, %t, %q", line, got.clientID, got.clientSecret.Reveal(), presented, problem)
		}
	}
	f(basic("a%3Ab", "c:d%2B+%C3%A9"), "a:b", "c:d+ é")
}

func TestSecretsRotate(t *testing.T) {
	w := start(t, registry.Terms{})
	w.wantIssued(w.ask(w.good())) // held from here on
	fresh, err := w.store.RotateClientSecret(t.Context(), operator, w.client.ID, 24*time.Hour)
	w.check(err)
	// Not told yet, as on another replica: the new one is good at once, the old one still is.
	w.wantIssued(w.ask(credentialsOf(w.client.ID, fresh)))
	w.wantIssued(w.ask(w.good()))
	w.catchUp()
	w.wantIssued(w.ask(credentialsOf(w.client.ID, fresh)))
	w.wantIssued(w.ask(w.good()))

	// Past the overlap only the new one is.
	w.skew.Store(int64(24*time.Hour + time.Second))
	w.want(w.ask(w.good()), 401, answer.InvalidClient)
	w.wantIssued(w.ask(credentialsOf(w.client.ID, fresh)))

	// Overlap 0 kills at once.
	last, err := w.store.RotateClientSecret(t.Context(), operator, w.client.ID, 0)
	w.check(err)
	w.catchUp()
	w.want(w.ask(credentialsOf(w.client.ID, fresh)), 401, answer.InvalidClient)
	w.wantIssued(w.ask(credentialsOf(w.client.ID, last)))

	// Which secret was used is known.
	client, err := w.store.Client(t.Context(), w.client.ID)
	w.check(err)
	digest := secret.DigestOf([]byte(last.Reveal()))
	for _, s := range client.Secrets {
		if s.Digest == digest && s.LastUsedAt == 0 {
			t.Error("the last use of the secret was not noted")
		}
	}
}

// Who may see refusals sees those of clients that exist, whether or not they proved it; the
// answers are not told apart by it.
func TestRefusedIsTold(t *testing.T) {
	w := start(t, registry.Terms{})
	var told []string
	w.issuer.options.Refused = func(ctx *fasthttp.RequestCtx, clientID string, reason answer.Reason, requestID string) {
		if requestID != testID || ctx.Response.StatusCode() != reason.Status() {
			t.Errorf("told of request %q, status %d", requestID, ctx.Response.StatusCode())
		}
		told = append(told, clientID+" "+string(reason))
	}
	f := func(r reply, want ...string) {
		t.Helper()
		if got := strings.Join(told, ", "); got != strings.Join(want, ", ") {
			t.Errorf("%s: told %q, want %q", r.Status, got, want)
		}
		told = nil
	}
	issued, _ := w.wantIssued(w.ask(w.good()))
	f(reply{Response: &http.Response{}})
	f(w.ask(credentialsOf(w.client.ID, strange(t))), w.client.ID+" invalid_client")
	f(w.ask(credentialsOf(uuid.NewString(), strange(t))))
	f(w.ask(`{"client_id": "` + w.client.ID + `"}`)) // no credentials: nobody was looked up
	f(w.below("/refresh", issued.Data.Token+"x"), w.client.ID+" invalid_token")
	f(w.submit("/introspect", "token=a&client_id="+w.client.ID+"&client_secret=wrong"), w.client.ID+" invalid_client")
	w.check(w.store.DisableClient(t.Context(), operator, w.client.ID))
	w.catchUp()
	f(w.ask(w.good()), w.client.ID+" invalid_client")
}

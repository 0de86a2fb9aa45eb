package issuer

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"postern/answer"
	"postern/registry"
)

// Nothing of the answer leaves before the record is durable.
func TestDurableBeforeAnswer(t *testing.T) {
	w := start(t, registry.Terms{})
	entered, durable := make(chan struct{}), make(chan struct{})
	before := func(context.Context) { close(entered); <-durable }
	w.store.before.Store(&before)

	conn, err := net.Dial("tcp", w.address)
	w.check(err)
	defer conn.Close()
	_, err = io.WriteString(conn, post(w.good()))
	w.check(err)
	<-entered
	w.check(conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)))
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%d bytes left before the record was durable (%v)", n, err)
	}
	close(durable)
	w.check(conn.SetReadDeadline(time.Now().Add(10 * time.Second)))
	line, err := bufio.NewReader(conn).ReadString('\n')
	w.check(err)
	if line != "HTTP/1.1 201 Created\r\n" {
		t.Fatalf("%q", line)
	}
}

func TestRow158StoreAway(t *testing.T) {
	w := start(t, registry.Terms{})
	other, otherSecret := w.newClient("")
	w.wantIssued(w.ask(w.good())) // held from here on; the other one is not
	w.store.away.Store(true)
	f := func(name, content string) {
		t.Helper()
		t.Run(name, func(t *testing.T) { w.want(w.ask(content), 503, answer.TemporarilyUnavailable) })
	}
	f("known client: its record cannot be kept", w.good())
	f("client that is not held", credentialsOf(other.ID, otherSecret))
	f("wrong secret: nobody can say that it is", credentialsOf(w.client.ID, strange(t)))
	f("unknown client: nobody can say that it is", credentialsOf(uuid.NewString(), strange(t)))
	w.want(w.ask(credentialsOf(w.client.ID, "pst_guess")), 401, answer.InvalidClient) // this needs no store
	w.store.away.Store(false)
	w.wantIssued(w.ask(w.good()))
	if n := w.issuer.backoff.held.Load(); n != 0 {
		t.Errorf("%d pairs in back-off for the store's fault", n)
	}
	log := w.log.String()
	if told, over := strings.Count(log, "cannot issue access tokens"), strings.Count(log, "issuing access tokens again"); told != 1 || over != 1 {
		t.Errorf("one outage was told %d times and its end %d times", told, over)
	}
	if strings.Contains(log, w.secret.Reveal()) || strings.Contains(log, "eyJ") {
		t.Error("a secret or a token was logged")
	}
}

func TestRow159StoreHangs(t *testing.T) {
	w := start(t, registry.Terms{})
	before := func(ctx context.Context) { <-ctx.Done() }
	w.store.before.Store(&before)
	began := time.Now()
	w.want(w.ask(w.good()), 503, answer.TemporarilyUnavailable)
	if took := time.Since(began); took < storeTimeout || took > 10*storeTimeout {
		t.Errorf("answered after %s, want %s", took, storeTimeout)
	}
}

// An organization whose id no field value can carry gets no token, and leaves no record.
func TestRow037UnfitOrganization(t *testing.T) {
	w := start(t, registry.Terms{})
	for name, id := range map[string]string{
		"line break": "a\r\nX-Organization-Id: b", "NUL": "a\x00", "8-bit": "caf\xe9", "UTF-8": "café", "quote": `a"b`, "10 KB": strings.Repeat("a", 10_000), "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			alter := func(g *registry.Grant) { g.Organization.ID, g.Client.OrganizationID = id, id }
			w.store.alter.Store(&alter)
			if _, err := w.directory.Reread(t.Context(), w.client.ID); err != nil {
				t.Fatal(err)
			}
			w.want(w.ask(w.good()), 500, answer.Internal)
			if n := w.store.issues.Load(); n != 0 {
				t.Errorf("%d records were written", n)
			}
		})
	}
}

// Without a signing key nothing is issued, and that is no fault of the client.
func TestNoSigningKey(t *testing.T) {
	w := start(t, registry.Terms{})
	w.skew.Store(-int64(time.Hour)) // no key signs yet
	w.want(w.ask(w.good()), 503, answer.TemporarilyUnavailable)
}

package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"postern/registry"
	"postern/secret"
	"postern/token"
)

// TestMain makes this test binary serve as the program postern too: it is in the PATH of
// every test here, scripts and others.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"postern": main, "hold-locks": holdLocks, "job": job})
}

// TestCommandLine runs testdata/script: the real program, on real stores. Beside what
// testscript has, a script can say
//
//	exits CODE COMMAND…     the command ends with this very exit code
//	json PATH is VALUE      the last stdout, as JSON, has this value at a.b.0 (count counts)
//	json PATH as NAME       put it in the environment
//	[!] json PATH           it is there, or is not
//	issue CLIENT NAME       store the record of an access token of this client; put its id in
//	                        the environment. The third word, if any, is its lifetime.
//	spend CLIENT TIME N…    store the usage of an hour: N requests, 10 N bytes in and 100 N out, one
//	                        token, and one refusal for each further word
//	hostile                 make a store whose one organization has a name full of control
//	                        characters, which today's registry would refuse
//	forge TOKEN NAME        put the token with another signature in the environment
//	sleep DURATION          for what only real time does
//	publish NAME            serve the JWK Set of postern.db until the script ends, at /jwks.json, beside
//	                        /huge and /elsewhere (a redirect); put the URL in the environment
//	fill FILE…              replace each @NAME@ in the files by what the environment has
//	ready CODE NAME         serve this answer for every path until the script ends; put the URL
//	                        in the environment, and its host and port in HOST
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                filepath.Join("testdata", "script"),
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   scriptExits,
			"json":    scriptJSON,
			"issue":   scriptIssue,
			"spend":   scriptSpend,
			"hostile": scriptHostile,
			"fill":    scriptFill,
			"publish": scriptPublish,
			"forge":   scriptForge,
			"sleep":   scriptSleep,
			"ready":   scriptReady,
		},
	})
}

func scriptExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	code := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	ts.Logf("[stdout]\n%s[stderr]\n%s", ts.ReadFile("stdout"), ts.ReadFile("stderr"))
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 && len(args) != 3 || neg && len(args) != 1 {
		ts.Fatalf("usage: json PATH is VALUE, json PATH as NAME, [!] json PATH")
	}
	var document any
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	decoder.UseNumber()
	if err := decoder.Decode(&document); err != nil {
		ts.Fatalf("stdout is no JSON: %v", err)
	}
	value, found := at(document, strings.Split(args[0], "."))
	switch {
	case neg && found:
		ts.Fatalf("%s is there: %s", args[0], value)
	case !neg && !found:
		ts.Fatalf("there is no %s", args[0])
	case len(args) == 3 && args[1] == "as":
		ts.Setenv(args[2], value)
	case len(args) == 3 && value != args[2]:
		ts.Fatalf("%s is %s, want %s", args[0], value, args[2])
	}
}

// at is the value at path: strings as they are, all else as JSON.
func at(v any, path []string) (string, bool) {
	for _, step := range path {
		switch parent := v.(type) {
		case map[string]any:
			child, ok := parent[step]
			if !ok {
				return "", false
			}
			v = child
		case []any:
			if step == "count" {
				v = len(parent)
				continue
			}
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(parent) {
				return "", false
			}
			v = parent[i]
		default:
			return "", false
		}
	}
	if text, ok := v.(string); ok {
		return text, true
	}
	text, err := json.Marshal(v)
	return string(text), err == nil
}

func scriptIssue(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: issue CLIENT NAME [LIFETIME]")
	}
	lifetime := time.Hour
	if len(args) == 3 {
		var err error
		lifetime, err = time.ParseDuration(args[2])
		ts.Check(err)
	}
	ctx := context.Background()
	r, err := registry.Open(ctx, registry.Options{DSN: secret.Secret("sqlite:" + ts.MkAbs("postern.db"))})
	ts.Check(err)
	client, err := r.Client(ctx, args[0])
	ts.Check(err)
	now := time.Now()
	id, err := registry.NewID(now, rand.Reader)
	ts.Check(err)
	// A token that is expired already was issued an hour before it did.
	issued := now
	if lifetime < 0 {
		issued = now.Add(lifetime - time.Hour)
	}
	ts.Check(r.IssueToken(ctx, registry.Token{
		ID: id.String(), SubjectType: "Client", SubjectID: client.ID, OrganizationID: client.OrganizationID,
		IssuedAt: registry.At(issued), ExpiresAt: registry.At(now.Add(lifetime)), Scope: "tracks playlists", KeyID: "k1",
	}, client.Secrets[0].ID))
	ts.Check(r.Close())
	ts.Setenv(args[1], id.String())
}

func scriptSpend(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: spend CLIENT TIME REQUESTS REASON…")
	}
	at, err := time.Parse(time.RFC3339, args[1])
	ts.Check(err)
	n, err := strconv.ParseInt(args[2], 10, 64)
	ts.Check(err)
	u := registry.Usage{ClientID: args[0], Hour: registry.At(at), Counts: registry.Counts{Requests: n, BytesIn: 10 * n, BytesOut: 100 * n, Tokens: 1}}
	for _, reason := range args[3:] {
		u.Add(registry.Counts{Refused: map[string]int64{reason: 1}})
	}
	ctx := context.Background()
	r, err := registry.Open(ctx, registry.Options{DSN: secret.Secret("sqlite:" + ts.MkAbs("postern.db"))})
	ts.Check(err)
	writer, err := registry.NewID(time.Now(), rand.Reader)
	ts.Check(err)
	err = r.AddUsage(ctx, registry.UsageBatch{Writer: writer.String(), Number: 1, Usage: []registry.Usage{u}})
	ts.Check(errors.Join(err, r.Close()))
}

func scriptHostile(ts *testscript.TestScript, _ bool, _ []string) {
	ctx := context.Background()
	r, err := registry.Open(ctx, registry.Options{DSN: secret.Secret("sqlite:" + ts.MkAbs("postern.db"))})
	ts.Check(err)
	_, err = r.CreateOrganization(ctx, registry.Actor{Kind: "operator"}, "name", registry.Terms{})
	ts.Check(errors.Join(err, r.Close()))
	db, err := sql.Open("sqlite", ts.MkAbs("postern.db"))
	ts.Check(err)
	_, err = db.ExecContext(ctx, "UPDATE organization SET name = $1", "a\x1b[31mb\u202ec\nd\u009be")
	ts.Check(errors.Join(err, db.Close()))
}

func scriptFill(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := regexp.MustCompile("@[A-Z]+@").ReplaceAllStringFunc(ts.ReadFile(name), func(name string) string {
			return ts.Getenv(strings.Trim(name, "@"))
		})
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

func scriptForge(ts *testscript.TestScript, _ bool, args []string) {
	dot := strings.LastIndexByte(args[0], '.') + 1
	first := "A"
	if args[0][dot] == 'A' {
		first = "B"
	}
	ts.Setenv(args[1], args[0][:dot]+first+args[0][dot+1:])
}

func scriptSleep(ts *testscript.TestScript, _ bool, args []string) {
	d, err := time.ParseDuration(args[0])
	ts.Check(err)
	time.Sleep(d)
}

func scriptPublish(ts *testscript.TestScript, _ bool, args []string) {
	r, err := registry.Open(context.Background(), registry.Options{DSN: secret.Secret("sqlite:" + ts.MkAbs("postern.db"))})
	ts.Check(err)
	all, err := r.Keys(context.Background())
	ts.Check(errors.Join(err, r.Close()))
	var public []token.PublicKey
	for _, k := range all {
		key, err := token.ParseSigningKey(token.Algorithm(k.Algorithm), []byte(k.Private.Reveal()))
		ts.Check(err)
		public = append(public, key.Public())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks.json", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(token.NewKeySet(public...).Document()) })
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20+1)) })
	mux.Handle("/elsewhere", http.RedirectHandler("/jwks.json", http.StatusFound))
	server := httptest.NewServer(mux)
	ts.Defer(server.Close)
	ts.Setenv(args[0], server.URL)
}

func scriptReady(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: ready CODE NAME")
	}
	code, err := strconv.Atoi(args[0])
	ts.Check(err)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://127.0.0.1:1/")
		w.WriteHeader(code)
		_, _ = w.Write([]byte("{\"ok\":false}\x1b[31m"))
	}))
	ts.Defer(server.Close)
	ts.Setenv(args[1], server.URL)
	ts.Setenv("HOST", server.Listener.Addr().String())
}

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/MicahParks/keyfunc/v3"
	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwk"
	jwxt "github.com/lestrrat-go/jwx/v3/jwt"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"
)

// The tests of this file run other people's clients and verifiers, unmodified, against a
// postern that serves. Each is told the issuer's URL and its credentials, and finds out
// the rest.

// interopIssuer is a configuration with one setting of the issuer, and everything behind an access token.
func interopIssuer(setting string) string {
	return "issuer: {" + setting + "}\nroutes:\n  - {name: api, path: /, upstream: [\"{upstream}\"], assertion: {enabled: true, audience: tracks}}\n"
}

// TestInteropOAuth2 is Go's own OAuth client in each of its styles: it gets a token, uses
// it while it is good, and gets another one before it expires.
func TestInteropOAuth2(t *testing.T) {
	up := startUpstream(t)
	// The library renews ten seconds before a token expires: a token of this postern is used for about two.
	s := serve(t, up, interopIssuer("lifetime: 12s"))
	styles := map[string]oauth2.AuthStyle{
		"auto": oauth2.AuthStyleAutoDetect, "Basic": oauth2.AuthStyleInHeader, "params": oauth2.AuthStyleInParams,
	}
	clients := map[string]*http.Client{}
	first := map[string]string{}
	used := func(name string) string {
		t.Helper()
		r, err := clients[name].Get(s.front + "/v1/tracks")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer r.Body.Close()
		content, err := io.ReadAll(r.Body)
		id := regexp.MustCompile(`\r\nX-Token-Id: (\S+)\r\n`).FindSubmatch(content)
		if err != nil || r.StatusCode != 200 || id == nil {
			t.Fatalf("%s: %v: %d %s", name, err, r.StatusCode, content)
		}
		return string(id[1])
	}
	for name, style := range styles {
		c := s.client("")
		clients[name] = (&clientcredentials.Config{
			ClientID: c.id, ClientSecret: c.secret, TokenURL: s.front + "/oauth/token", AuthStyle: style,
		}).Client(t.Context())
		first[name] = used(name)
		if again := used(name); again != first[name] {
			t.Errorf("%s: a new token, %s, for the second request", name, again)
		}
	}
	for name := range styles {
		eventually(t, 3*time.Second, name+" gets another token", func() bool { return used(name) != first[name] })
	}
	// The library that finds the style out by itself needed one try.
	if n := s.metric("postern_refusals_total{"); n != 0 {
		t.Errorf("%v refusals on the way", n)
	}
	for name, style := range styles {
		c := s.client("")
		wrong := clientcredentials.Config{ClientID: c.id, ClientSecret: c.secret + "x", TokenURL: s.front + "/oauth/token", AuthStyle: style}
		_, err := wrong.Token(t.Context())
		if refusal, ok := err.(*oauth2.RetrieveError); !ok || refusal.ErrorCode != "invalid_client" || refusal.Response.StatusCode != 401 {
			t.Errorf("%s with a wrong secret: %v", name, err)
		}
	}
}

// issuance is one token of a postern that signs with algorithm, and what a verifier is told.
type issuance struct {
	*served
	algorithm string
	client    credentials
	token     string
	forged    map[string]string // by what is wrong
}

// issued serves with algorithm and gets a token as any OAuth client does.
func issued(t *testing.T, algorithm string) issuance {
	t.Helper()
	s := serve(t, startUpstream(t), interopIssuer("algorithm: "+algorithm))
	c := s.client("")
	token, err := (&clientcredentials.Config{ClientID: c.id, ClientSecret: c.secret, TokenURL: s.front + "/oauth/token"}).Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r := s.get("/", token.AccessToken); r.status != 200 {
		t.Fatalf("%d %s", r.status, r.body)
	}
	return issuance{s, algorithm, c, token.AccessToken, forgeries(t, algorithm, "at+jwt", token.AccessToken)}
}

// forgeries of a token: every verifier must refuse them, and for the signature alone,
// since nothing else is wrong with them.
func forgeries(t *testing.T, algorithm, typ, good string) map[string]string {
	t.Helper()
	claims := jwt.MapClaims{}
	parsed, parts, err := jwt.NewParser().ParseUnverified(good, claims)
	if err != nil || parsed.Header["alg"] != algorithm || parsed.Header["typ"] != typ {
		t.Fatalf("%v: %v", err, parsed)
	}
	var key crypto.Signer
	switch algorithm {
	case "ES256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "RS256":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "EdDSA":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := parsed.Method.Sign(strings.Join(parts[:2], "."), key)
	if err != nil {
		t.Fatal(err)
	}
	claims["oid"] = "01a20c62-dfbd-71a7-8053-a46587407dc2"
	changed, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{
		"another key under our kid":           parts[0] + "." + parts[1] + "." + base64.RawURLEncoding.EncodeToString(foreign),
		"other claims under an old signature": parts[0] + "." + base64.RawURLEncoding.EncodeToString(changed) + "." + parts[2],
	}
}

// judge runs one verifier on a good token, which it must take for what it is, and on forged ones.
func (i issuance) judge(t *testing.T, name string, verify func(raw string) (clientID any, err error)) {
	t.Helper()
	t.Run(i.algorithm+" "+name, func(t *testing.T) {
		t.Helper()
		if id, err := verify(i.token); err != nil || id != i.client.id {
			t.Errorf("the good token: client_id %v, %v", id, err)
		}
		for what, raw := range i.forged {
			if _, err := verify(raw); err == nil {
				t.Errorf("accepted: %s", what)
			}
		}
	})
}

// TestInteropVerifiers are the libraries with which Go programs check tokens.
func TestInteropVerifiers(t *testing.T) {
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		i := issued(t, algorithm)

		// From the issuer's URL alone: the algorithms too are what the document says.
		provider, err := oidc.NewProvider(t.Context(), i.front)
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			JWKSURI string `json:"jwks_uri"`
		}
		if err := provider.Claims(&document); err != nil || provider.Endpoint().TokenURL != i.front+"/oauth/token" {
			t.Fatalf("%v: %+v", err, provider.Endpoint())
		}
		verifier := provider.Verifier(&oidc.Config{ClientID: i.front}) // its ClientID is the audience
		i.judge(t, "go-oidc", func(raw string) (any, error) {
			verified, err := verifier.Verify(t.Context(), raw)
			if err != nil {
				return nil, err
			}
			var claims map[string]any
			err = verified.Claims(&claims)
			return claims["client_id"], err
		})

		ctx, cancel := context.WithCancel(t.Context())
		keys, err := keyfunc.NewDefaultCtx(ctx, []string{document.JWKSURI})
		if err != nil {
			t.Fatal(err)
		}
		i.judge(t, "keyfunc and golang-jwt", func(raw string) (any, error) {
			claims := jwt.MapClaims{}
			_, err := jwt.ParseWithClaims(raw, claims, keys.Keyfunc, jwt.WithValidMethods([]string{algorithm}),
				jwt.WithIssuer(i.front), jwt.WithAudience(i.front), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding())
			return claims["client_id"], err
		})
		cancel()

		set, err := jwk.Fetch(t.Context(), document.JWKSURI)
		if err != nil {
			t.Fatal(err)
		}
		i.judge(t, "jwx", func(raw string) (any, error) {
			parsed, err := jwxt.Parse([]byte(raw), jwxt.WithKeySet(set), jwxt.WithIssuer(i.front), jwxt.WithAudience(i.front),
				jwxt.WithRequiredClaim("exp"), jwxt.WithRequiredClaim("jti"))
			if err != nil {
				return nil, err
			}
			var id string
			err = parsed.Get("client_id", &id)
			return id, err
		})
	}
}

// TestInteropAssertion is an upstream that checks X-Postern-Assertion with such libraries.
func TestInteropAssertion(t *testing.T) {
	for _, algorithm := range []string{"ES256", "RS256", "EdDSA"} {
		i := issued(t, algorithm)
		access := i.token
		content := i.get("/v1/tracks", access).body
		m := regexp.MustCompile(`\r\nX-Postern-Assertion: (\S+)\r\n`).FindAllStringSubmatch(content, -1)
		if len(m) != 1 {
			t.Fatalf("the upstream got %s", content)
		}
		if again := i.get("/v1/tracks", access).body; !strings.Contains(again, m[0][0]) {
			t.Errorf("%s: another assertion for the next request: %s", algorithm, again)
		}
		i.token = m[0][1]
		i.forged = forgeries(t, algorithm, "postern-assertion+jwt", i.token)
		if r := i.get("/v1/tracks", i.token); r.status != 401 {
			t.Errorf("%s: the front takes an assertion for an access token: %d", algorithm, r.status)
		}

		ctx, cancel := context.WithCancel(t.Context())
		keys, err := keyfunc.NewDefaultCtx(ctx, []string{i.front + "/.well-known/jwks.json"})
		if err != nil {
			t.Fatal(err)
		}
		i.judge(t, "keyfunc and golang-jwt", func(raw string) (any, error) {
			claims := jwt.MapClaims{}
			_, err := jwt.ParseWithClaims(raw, claims, keys.Keyfunc, jwt.WithValidMethods([]string{algorithm}),
				jwt.WithIssuer(i.front), jwt.WithAudience("tracks"), jwt.WithExpirationRequired(), jwt.WithIssuedAt(), jwt.WithStrictDecoding())
			return claims["client_id"], err
		})
		cancel()

		set, err := jwk.Fetch(t.Context(), i.front+"/.well-known/jwks.json")
		if err != nil {
			t.Fatal(err)
		}
		i.judge(t, "jwx", func(raw string) (any, error) {
			parsed, err := jwxt.Parse([]byte(raw), jwxt.WithKeySet(set), jwxt.WithIssuer(i.front), jwxt.WithAudience("tracks"),
				jwxt.WithRequiredClaim("exp"), jwxt.WithRequiredClaim("tid"))
			if err != nil {
				return nil, err
			}
			var id string
			err = parsed.Get("client_id", &id)
			return id, err
		})
	}
}

// TestInteropNode runs a script for each library of Node in testdata/node. The libraries are
// installed once, as the lock file has them, without running anything of theirs.
func TestInteropNode(t *testing.T) {
	t.Parallel() // other programs do its work
	needs(t, "node")
	dir := nodeModules(t, needs(t, "npm"))
	es256, rs256, eddsa := issued(t, "ES256"), issued(t, "RS256"), issued(t, "EdDSA")
	f := func(script string, i issuance, want ...string) {
		t.Helper()
		t.Run(script+" "+i.algorithm, func(t *testing.T) {
			t.Helper()
			forged, err := json.Marshal(i.forged)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			var errs bytes.Buffer
			cmd := exec.CommandContext(ctx, "node", script+".mjs")
			cmd.Dir, cmd.Stderr = dir, &errs
			cmd.Env = append(os.Environ(), "POSTERN_TEST_ISSUER="+i.front, "POSTERN_TEST_AUDIENCE="+i.front,
				"POSTERN_TEST_CLIENT_ID="+i.client.id, "POSTERN_TEST_CLIENT_SECRET="+i.client.secret,
				"POSTERN_TEST_ALGORITHM="+i.algorithm, "POSTERN_TEST_TOKEN="+i.token, "POSTERN_TEST_FORGED="+string(forged))
			out, err := cmd.Output()
			var said struct{ Held []string }
			if err != nil || json.Unmarshal(out, &said) != nil || !slices.Equal(said.Held, want) {
				t.Errorf("%v: held %q, want %q\n%s", err, out, want, &errs)
			}
		})
	}
	f("oauth4webapi", es256, "discovery oidc", "discovery oauth2",
		"grant client_secret_basic", "verify client_secret_basic", "introspection client_secret_basic", "revocation client_secret_basic",
		"grant client_secret_post", "verify client_secret_post", "introspection client_secret_post", "revocation client_secret_post",
		"invalid_client", "invalid_scope")
	f("openid-client", es256, "default", "client_secret_basic", "client_secret_post")
	f("simple-oauth2", es256, "token header", "revoke header", "invalid_client header", "token body", "revoke body", "invalid_client body")
	for _, i := range []issuance{es256, rs256, eddsa} {
		f("jose", i, i.algorithm)
		f("assertion", i, "assertion", i.algorithm)
		f("express-oauth2-jwt-bearer", i, i.algorithm)
	}
}

// nodeModules copies testdata/node and installs what its lock file names. Without a network
// that is a loud skip; in CI it is a failure.
func nodeModules(t *testing.T, npm string) string {
	t.Helper()
	dir := t.TempDir()
	source, err := filepath.Glob("testdata/node/*.*")
	if err != nil || len(source) < 8 {
		t.Fatalf("testdata/node: %v %v", source, err)
	}
	for _, file := range source {
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(file)), []byte(readFile(t, file)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retries=1", "--fetch-retry-mintimeout=2000") // soon done without a network; .ci/run has filled the cache
	cmd.Dir, cmd.WaitDelay = dir, 10*time.Second // npm is a script, and its children hold the output
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
		t.Skipf("SKIPPED: npm ci cannot install the libraries that this test runs: %v\n%s", err, out)
	}
	return dir
}

// TestReadmeOAuth runs the blocks of the README's OAuth section in their order, with the
// address replaced, and compares each answer with the one that is printed below it.
func TestReadmeOAuth(t *testing.T) {
	needs(t, "curl")
	needs(t, "python3")
	s := serve(t, startUpstream(t), interopIssuer("realm: postern"))
	c := s.client("")
	token, dir := s.goodToken(c), t.TempDir()
	runs := map[string]func(path string) *exec.Cmd{
		"sh":     func(path string) *exec.Cmd { return exec.CommandContext(t.Context(), "sh", "-eu", path) },
		"python": func(path string) *exec.Cmd { return exec.CommandContext(t.Context(), "python3", path) },
		"go":     func(path string) *exec.Cmd { return exec.CommandContext(t.Context(), needs(t, "go"), "run", path) },
	}
	counted := map[string]int{}
	var said []byte // by the last block that ran
	for _, block := range fencedBlocks(t, "oauth") {
		counted[block.language]++
		if block.language == "json" {
			if got, want := maskedAnswer(string(said)), maskedAnswer(block.text); got != want {
				t.Errorf("the README prints\n%s\nand the answer is\n%s\nor without masks\n%s", want, got, said)
			}
			continue
		}
		text := strings.ReplaceAll(block.text, "http://127.0.0.1:8080", s.front)
		if text == block.text {
			t.Errorf("asks nobody: %s", text)
		}
		path := filepath.Join(dir, "main."+map[string]string{"sh": "sh", "python": "py", "go": "go"}[block.language])
		text = strings.ReplaceAll(text, "curl ", "curl --silent --show-error ")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		var errs bytes.Buffer
		cmd := runs[block.language](path)
		cmd.Stderr = &errs
		cmd.Env = append(os.Environ(), "CLIENT_ID="+c.id, "CLIENT_SECRET="+c.secret, "TOKEN="+token)
		var err error
		if said, err = cmd.Output(); err != nil {
			t.Errorf("%v: %s\n%s", err, text, &errs)
		}
		if block.language != "sh" && strings.TrimSpace(string(said)) != "200" {
			t.Errorf("%s prints %q", block.language, said)
		}
		if strings.Contains(text, "/revoke") {
			if r := s.get("/", token); string(said) != "{}" || r.status != 401 {
				t.Errorf("revoking says %q, and the token gets %d", said, r.status)
			}
		}
	}
	if want := map[string]int{"sh": 5, "json": 4, "python": 1, "go": 1}; !maps.Equal(counted, want) {
		t.Errorf("blocks %v, want %v", counted, want)
	}
}

// fenced is one block of code in the README.
type fenced struct{ language, text string }

// fencedBlocks is readmeBlocks with their languages.
func fencedBlocks(t *testing.T, section string) (blocks []fenced) {
	t.Helper()
	_, rest, _ := strings.Cut(readFile(t, "README.md"), "<!-- begin "+section+" -->")
	rest, _, ok := strings.Cut(rest, "<!-- end "+section+" -->")
	if !ok {
		t.Fatalf("README.md has no section %q", section)
	}
	for _, m := range regexp.MustCompile("(?s)```([a-z]+)\n(.*?)```").FindAllStringSubmatch(rest, -1) {
		blocks = append(blocks, fenced{m[1], m[2]})
	}
	return blocks
}

// maskedAnswer is masked for answers that tell times in seconds too.
func maskedAnswer(text string) string {
	text = regexp.MustCompile(`\b1[78]\d{8}\b`).ReplaceAllString(masked(text), "SECONDS")
	return regexp.MustCompile(`"request_id":"[^"]+"`).ReplaceAllString(text, `"request_id":"ID"`)
}

// TestReadmeCommands: every command that the README spells out exists.
func TestReadmeCommands(t *testing.T) {
	commands := regexp.MustCompile("`postern ((?:organization|client|token|key) [a-z]+)\\b").FindAllStringSubmatch(readFile(t, "README.md"), -1)
	if len(commands) < 5 {
		t.Fatalf("%d commands", len(commands))
	}
	for _, m := range commands {
		var out, errs bytes.Buffer
		if code := run(t.Context(), append(strings.Fields(m[1]), "--help"), nil, &out, &errs); code != 0 {
			t.Errorf("postern %s: exit code %d: %s", m[1], code, &errs)
		}
	}
}

package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRow176PlantedSecrets sends and stores secrets in every place where one turns up,
// then looks for them in all that postern said: logs at the most talkative level, access
// lines, metrics, and every answer but the ones that hand a secret out.
func TestRow176PlantedSecrets(t *testing.T) {
	up := startUpstream(t)
	rawMaster := make([]byte, 32)
	_, _ = rand.Read(rawMaster)
	master := hex.EncodeToString(rawMaster)
	keyFile := filepath.Join(t.TempDir(), "master.key")
	if err := os.WriteFile(keyFile, []byte(master), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, up, "keys: {master_key_file: "+keyFile+"}\nlog: {access: true, level: debug}\n"+
		"routes:\n  - {name: public, path: /public, upstream: [\"{upstream}\"], access: public}\n  - {name: api, path: /, upstream: [\"{upstream}\"]}\n"+
		"  - {name: away, path: /away, upstream: [\"http://127.0.0.1:1\"]}\n")
	organization := s.configured("organization", "create", "--name", "Acme")["id"].(string)
	made := s.configured("client", "create", "--organization", organization, "--application", "Radio", "--environment", "production")
	c := credentials{organization, made["client_id"].(string), made["client_secret"].(string)}
	second := s.configured("client", "rotate", c.id)["client_secret"].(string)
	token := s.goodToken(c)
	other := s.goodToken(credentials{organization, c.id, second})

	planted := map[string]string{
		"client secret": c.secret, "second client secret": second, "token": token, "another token": other,
		"signature": token[strings.LastIndexByte(token, '.')+1:], "master key": master, "master key in base64": base64.StdEncoding.EncodeToString(rawMaster),
	}
	plant := func(what string) string {
		value := "planted-" + strings.ReplaceAll(what, " ", "-") + "-8f2a"
		planted[what] = value
		return value
	}
	basic := func(secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.id+":"+secret))
	}
	tokenRoute := func(body string, header ...string) reply {
		return s.do("POST", "/oauth/token", body, append([]string{"Content-Type", "application/json"}, header...)...)
	}
	planted["basic credentials"] = basic(plant("basic secret"))
	answers := []reply{
		tokenRoute(fmt.Sprintf(`{"client_id":%q,"client_secret":%q}`, c.id, plant("wrong secret"))),
		tokenRoute(fmt.Sprintf(`{"client_id":%q,"client_secret":%q}`, plant("unknown id"), c.secret)),
		tokenRoute(fmt.Sprintf(`{"client_id":%q,"client_secret":%q`, c.id, plant("broken body"))),
		tokenRoute(fmt.Sprintf(`{"client_secret":%q,"client_secret":%q}`, plant("repeated member"), c.secret)),
		tokenRoute(`{"client_id":"x","client_secret":["` + plant("wrong type") + `"]}`),
		tokenRoute("", "Authorization", basic(planted["basic secret"])),
		tokenRoute(`{"client_id":"x"}`, "Authorization", "Basic "+plant("broken basic")),
		s.do("POST", "/oauth/token?client_secret="+plant("secret in the query"), "{}", "Content-Type", "application/json"),
		s.do("POST", "/oauth/token", "client_secret="+plant("secret in a form"), "Content-Type", "application/x-www-form-urlencoded"),
		s.do("GET", "/x?access_token="+plant("token in the query"), ""),
		s.get("/x?access_token="+plant("second token in the query"), token),
		s.get("/x", plant("garbage token")),
		s.get("/x", token[:len(token)-8]+plant("forged")[:8]),
		s.do("GET", "/x", "", "Authorization", "Bearer "+plant("two words")+" "+token),
		s.do("GET", "/x", "", "Authorization", basic(planted["basic secret"])),
		s.get("/away", token),
		s.do("GET", "/x", "", "Cookie", "session="+plant("cookie")),
		s.do("GET", "/nowhere", "", "X-Api-Key", plant("api key"), "User-Agent", "curl"),
		s.do("POST", "/x", plant("content"), "Content-Type", "text/plain"),
	}
	// Heads that cannot be read at all.
	for _, raw := range []string{
		"GET /x?token=" + plant("broken head") + " HTTP/1.1\r\nHost: a\r\nAuthorization : Bearer " + token + "\r\n\r\n",
		"GET /x HTTP/1.1\r\nHost: " + plant("user information") + ":" + c.secret + "@a\r\n\r\n",
		"\x16\x03\x01" + plant("no http") + "\r\n\r\n",
	} {
		answers = append(answers, reply{body: exchange(t, s.front, raw)})
	}
	if len(planted) < 20 {
		t.Fatalf("%d secrets planted", len(planted))
	}
	s.configured("token", "revoke", "--client", c.id)
	eventually(t, time.Second, "revoked", func() bool { return s.get("/x", token).status == 401 })
	metrics, err := send(t.Context(), "GET", s.admin+"/metrics", "")
	if err != nil {
		t.Fatal(err)
	}
	if code := s.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	said := s.logs.String()
	if n := strings.Count(said, `"request_id"`); n < len(answers) {
		t.Fatalf("the access log has %d lines for %d requests:\n%s", n, len(answers), said)
	}
	for what, value := range planted {
		if strings.Contains(said, value) {
			t.Errorf("the logs hold the %s", what)
		}
		if strings.Contains(metrics.body, value) {
			t.Errorf("the metrics hold the %s", what)
		}
		for _, a := range answers {
			if strings.Contains(a.body, value) || strings.Contains(fmt.Sprint(a.header), value) {
				t.Errorf("an answer holds the %s: %d %s", what, a.status, a.body)
			}
		}
	}
}

// exchange sends raw bytes and returns all that comes back until the peer closes.
func exchange(t *testing.T, url, raw string) string {
	t.Helper()
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, raw); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("the connection was not closed: %v after %q", err, answer)
	}
	return string(answer)
}

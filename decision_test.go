package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// startNginx runs the README's nginx before a postern and the API, and returns its address.
func startNginx(t *testing.T, server string) string {
	t.Helper()
	nginx := needs(t, "nginx")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close() // nginx takes it
	dir := t.TempDir()
	conf := "daemon off;\nmaster_process off;\npid " + dir + "/pid;\nerror_log stderr crit;\nevents {}\nhttp {\naccess_log off;\n"
	for _, temp := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		conf += fmt.Sprintf("%s_temp_path %s/%s;\n", temp, dir, temp)
	}
	replaced := strings.ReplaceAll(server, "127.0.0.1:8081", address)
	if replaced == server {
		t.Fatalf("the README's nginx listens elsewhere:\n%s", server)
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(conf+replaced+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(nginx, "-p", dir, "-e", "stderr", "-c", file)
	errs := &buffer{}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("nginx said: %s", errs)
		}
	})
	eventually(t, time.Second, "nginx accepts", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return address
}

// TestDecisionNginx is the README's configuration of both: nginx forwards what postern lets
// pass, in the client's name, and nothing else.
func TestDecisionNginx(t *testing.T) {
	needs(t, "nginx")
	up := startUpstream(t)
	blocks := fencedBlocks(t, "decision")
	if len(blocks) != 2 || blocks[0].language != "yaml" || blocks[1].language != "nginx" {
		t.Fatalf("the README's section has other blocks: %v", blocks)
	}
	s := serve(t, up, strings.ReplaceAll(blocks[0].text, "http://127.0.0.1:3000", "{upstream}")+
		"  - {name: catalogs, path: /catalogs, upstream: [\"{upstream}\"], catalog: {path: 2}}\n")
	nginx := &served{t: t, front: "http://" + startNginx(t, strings.NewReplacer(
		"127.0.0.1:8080", strings.TrimPrefix(s.front, "http://"), "127.0.0.1:3000", up.address).Replace(blocks[1].text))}

	searching := s.client("")
	token, r := nginx.token(searching) // the token route lies behind nginx too
	if r.status != 201 {
		t.Fatalf("no token: %d %s", r.status, r.body)
	}
	licensed := s.client(s.command("organization", "create", "--name", "Licensed", "--products", "search")["id"].(string))
	licensedToken := s.goodToken(licensed)
	bearer := []string{"Authorization", "Bearer " + token}
	forged := []string{
		"X-Organization-Id", "evil", "X-Client-Id", "evil", "X-Client-Environment", "evil", "X-Token-Id", "evil",
		"X-Agreement-Id", "evil", "X-Scopes", "evil", "X-Catalog-Id", "evil", "X-Postern-Assertion", "evil",
	}
	f := func(name, method, path string, status int, header ...string) reply {
		t.Helper()
		before := len(up.requests())
		r := nginx.do(method, path, "", header...)
		if r.status != status {
			t.Errorf("%s: %d %s, want %d", name, r.status, r.body, status)
		}
		passed := up.requests()[before:]
		if (status == 200) != (len(passed) == 1) {
			t.Errorf("%s: the API got %q", name, passed)
		}
		for _, head := range passed {
			if strings.Contains(head, "evil") || strings.Contains(head, "Authorization") || !strings.HasPrefix(head, method+" "+path+" ") {
				t.Errorf("%s: the API got %q", name, head)
			}
		}
		return r
	}
	named := func(name string, r reply, want bool) {
		t.Helper()
		if strings.Contains(r.body, "X-Client-Id: "+searching.id+"\r\n") != want || strings.Contains(r.body, "X-Client-Id") != want {
			t.Errorf("%s: the API got %q", name, r.body)
		}
	}
	named("a good token", f("a good token", "GET", "/v1/tracks?a=b", 200, bearer...), true)
	named("with content", f("with content", "POST", "/v1/tracks", 200, bearer...), true)
	named("forged identity", f("forged identity", "GET", "/v1/tracks", 200, slices.Concat(bearer, forged)...), true)
	named("a public route", f("a public route", "GET", "/status", 200, forged...), false)
	r = f("no token", "GET", "/v1/tracks", 401)
	if challenge := r.header.Get("WWW-Authenticate"); challenge != `Bearer realm="postern"` {
		t.Errorf("no token: challenge %q", challenge)
	}
	f("forged identity without a token", "GET", "/v1/tracks", 401, forged...)
	r = f("a wrong token", "GET", "/v1/tracks", 401, "Authorization", "Bearer a.b.c")
	if challenge := r.header.Get("WWW-Authenticate"); !strings.HasPrefix(challenge, `Bearer realm="postern", error="invalid_token"`) {
		t.Errorf("a wrong token: challenge %q", challenge)
	}
	f("the scope", "GET", "/search?q=a", 200, "Authorization", "Bearer "+licensedToken)
	f("not the scope", "GET", "/search", 403, bearer...)
	s.command("catalog", "create", "open", "--public")
	eventually(t, time.Second, "the catalog is known", func() bool { return nginx.do("GET", "/catalogs/open", "", bearer...).status == 200 })
	if r := f("a catalog", "GET", "/catalogs/open", 200, slices.Concat(bearer, forged)...); !strings.Contains(r.body, "\r\nX-Catalog-Id: open\r\n") {
		t.Errorf("a catalog: the API got %q", r.body)
	}
	f("another catalog", "GET", "/catalogs/theirs", 403, bearer...)
	f("not the method", "DELETE", "/search", 403, bearer...)
	f("a public target in other fields", "GET", "/v1/tracks", 403, "X-Forwarded-Method", "GET", "X-Forwarded-Uri", "/status", "X-Forwarded-Host", "a")
	f("the same with nginx's own", "GET", "/v1/tracks", 401, "X-Original-Method", "GET", "X-Original-URI", "/status")
	f("an ambiguous target", "GET", "/status/..%2fv1", 403)
	f("the endpoint itself", "GET", "/_decision", 404)

	if r := s.do("GET", "/decision", ""); r.status != 400 {
		t.Errorf("a question without a request: %d %s", r.status, r.body)
	}
	id := regexp.MustCompile(`\r\nX-Token-Id: (\S+)\r\n`).FindStringSubmatch(nginx.do("GET", "/v1/tracks", "", bearer...).body)
	if id == nil {
		t.Fatal("no token id")
	}
	s.command("token", "revoke", id[1])
	eventually(t, time.Second, "a revoked token is refused", func() bool { return nginx.do("GET", "/v1/tracks", "", bearer...).status == 401 })
	s.stop()
	if r := nginx.do("GET", "/v1/tracks", "", bearer...); r.status != 500 {
		t.Errorf("without postern: %d %s, want 500", r.status, r.body)
	}
}

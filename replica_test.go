package main

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestRow039RevokedOtherReplica: what one postern's client revokes, another one on the
// same store refuses within a second, though it knew the token well.
func TestRow039RevokedOtherReplica(t *testing.T) {
	up := startUpstream(t)
	const more = "issuer: {url: \"https://api.example.com\"}\nroutes: [{path: /, upstream: [\"{upstream}\"]}]\n"
	a := serve(t, up, more)
	b := serveOn(t, up, a.store, more)
	c := a.client("")
	token := a.goodToken(c)
	eventually(t, time.Second, "the other one knows the client", func() bool { return b.get("/", token).status == 200 })

	form := url.Values{"client_id": {c.id}, "client_secret": {c.secret}, "token": {token}}.Encode()
	if r := a.do("POST", "/oauth/token/revoke", form, "Content-Type", "application/x-www-form-urlencoded"); r.status != 200 {
		t.Fatalf("revoke: %d %s", r.status, r.body)
	}
	if r := a.get("/", token); r.status != 401 {
		t.Errorf("where it was revoked, it gets %d", r.status)
	}
	eventually(t, time.Second, "the other one refuses it", func() bool { return b.get("/", token).status == 401 })
	if r := b.get("/", token); !strings.Contains(r.header.Get("WWW-Authenticate"), "revoked") {
		t.Errorf("%v", r.header)
	}
	seen := len(up.requests())
	if r := b.get("/", token); r.status != 401 || len(up.requests()) != seen {
		t.Errorf("%d, and the upstream saw it", r.status)
	}
}

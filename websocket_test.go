package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// socketRoute is the README's configuration, with an upstream of the test's.
func socketRoute(t *testing.T) string {
	t.Helper()
	for _, block := range fencedBlocks(t, "websocket") {
		if block.language == "yaml" {
			return strings.Replace(block.text, "http://127.0.0.1:3000", "{upstream}", 1)
		}
	}
	t.Fatal("the README has no configuration of a WebSocket")
	return ""
}

// met is what an upstream saw of one WebSocket.
type met struct {
	header http.Header
	target string
	closed websocket.StatusCode // set when the channel is closed
	done   chan struct{}
}

// startSocketUpstream echoes messages, and tells of each WebSocket that it had.
func startSocketUpstream(t *testing.T) (*upstream, chan *met) {
	t.Helper()
	all := make(chan *met, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m := &met{header: r.Header.Clone(), target: r.RequestURI, done: make(chan struct{})}
		select {
		case all <- m:
		default: // a test that asks again and again wants to hear of the first ones
		}
		defer close(m.done)
		c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			Subprotocols: []string{"chat.v1"}, CompressionMode: websocket.CompressionContextTakeover, InsecureSkipVerify: true,
		})
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(4 << 20)
		for {
			kind, data, err := c.Read(r.Context())
			if err != nil {
				m.closed = websocket.CloseStatus(err)
				return
			}
			if string(data) == "close me" {
				m.closed = 4002
				_ = c.Close(4002, "by the server")
				return
			}
			if err := c.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return &upstream{address: server.Listener.Addr().String()}, all
}

// connect opens a WebSocket with token by the front.
func (s *served) connect(token string, o websocket.DialOptions) (*websocket.Conn, error) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Second)
	defer cancel()
	if o.HTTPHeader == nil {
		o.HTTPHeader = http.Header{"Authorization": {"Bearer " + token}}
	}
	c, answer, err := websocket.Dial(ctx, s.front+"/chat", &o)
	if err != nil {
		if answer != nil {
			err = fmt.Errorf("%d: %w", answer.StatusCode, err)
		}
		return nil, err
	}
	s.t.Cleanup(func() { _ = c.CloseNow() })
	c.SetReadLimit(4 << 20)
	return c, nil
}

// echo sends data and expects it back.
func echo(t *testing.T, c *websocket.Conn, kind websocket.MessageType, data []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	writing := make(chan error, 1)
	go func() { writing <- c.Write(ctx, kind, data) }()
	got, back, err := c.Read(ctx)
	if err := errors.Join(err, <-writing); err != nil || got != kind || !bytes.Equal(back, data) {
		t.Fatalf("%v: %d bytes of kind %v, want %d of %v", err, len(back), got, len(data), kind)
	}
}

// closedWith waits until the other side closes, and returns its code.
func closedWith(t *testing.T, c *websocket.Conn, within time.Duration) websocket.StatusCode {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*within)
	defer cancel()
	_, _, err := c.Read(ctx)
	if ctx.Err() != nil {
		t.Fatalf("not closed within %s", 10*within)
	}
	return websocket.CloseStatus(err)
}

// TestWebSocketGo is coder/websocket on both sides of postern.
func TestWebSocketGo(t *testing.T) {
	up, all := startSocketUpstream(t)
	s := serve(t, up, socketRoute(t))
	c := s.client("")
	token := s.goodToken(c)
	for name, o := range map[string]websocket.DialOptions{
		"plain":       {},
		"compressed":  {CompressionMode: websocket.CompressionContextTakeover},
		"subprotocol": {Subprotocols: []string{"bearer." + token, "chat.v1"}, HTTPHeader: http.Header{"Origin": {"https://app.example.com"}}},
	} {
		socket, err := s.connect(token, o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		m := <-all
		if m.header.Get("X-Client-Id") != c.id || m.header.Get("X-Organization-Id") != c.organization || strings.Contains(fmt.Sprint(m.header, m.target), token) {
			t.Errorf("%s: the upstream got %v", name, m.header)
		}
		if want := map[bool]string{true: "chat.v1"}[name == "subprotocol"]; socket.Subprotocol() != want {
			t.Errorf("%s: subprotocol %q", name, socket.Subprotocol())
		}
		for _, size := range []int{0, 1, 125, 126, 65535, 65536, 65537, 1 << 20} {
			echo(t, socket, websocket.MessageBinary, bytes.Repeat([]byte{0x88}, size))
			echo(t, socket, websocket.MessageText, bytes.Repeat([]byte("a"), size))
		}
		fragmented(t, socket)
		if err := socket.Close(4001, "by the client"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if <-m.done; m.closed != 4001 {
			t.Errorf("%s: the upstream was closed with %d", name, m.closed)
		}
	}
	socket, err := s.connect(token, websocket.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := socket.Write(t.Context(), websocket.MessageText, []byte("close me")); err != nil {
		t.Fatal(err)
	}
	if code := closedWith(t, socket, time.Second); code != 4002 {
		t.Errorf("closed with %d", code)
	}
	if _, err := s.connect("nonsense", websocket.DialOptions{}); err == nil || !strings.HasPrefix(err.Error(), "401: ") {
		t.Errorf("a bad token: %v", err)
	}
}

// fragmented sends one message in pieces, with a ping between.
func fragmented(t *testing.T, c *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	w, err := c.Writer(ctx, websocket.MessageText)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, data, err := c.Read(ctx)
		if err == nil && string(data) != strings.Repeat("piece ", 5000) {
			err = fmt.Errorf("%d bytes came back", len(data))
		}
		read <- err
	}()
	for i := range 5000 {
		_, err := io.WriteString(w, "piece ")
		if i == 2500 {
			err = errors.Join(err, c.Ping(ctx))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), <-read); err != nil {
		t.Error(err)
	}
}

// TestRow136WebSocketEndsWithItsToken when that expires, and when its client is disabled.
func TestRow136WebSocketEndsWithItsToken(t *testing.T) {
	up, all := startSocketUpstream(t)
	s := serve(t, up, "issuer: {lifetime: 2s}\n"+socketRoute(t))
	open := func(token string) (*websocket.Conn, *met) {
		t.Helper()
		socket, err := s.connect(token, websocket.DialOptions{})
		if err != nil {
			t.Fatal(err)
		}
		echo(t, socket, websocket.MessageText, []byte("hello"))
		return socket, <-all
	}
	ends := func(what string, socket *websocket.Conn, m *met, within time.Duration, want websocket.StatusCode) {
		t.Helper()
		if code := closedWith(t, socket, within); code != want {
			t.Errorf("%s: the client was closed with %d", what, code)
		}
		if <-m.done; m.closed != want {
			t.Errorf("%s: the upstream was closed with %d", what, m.closed)
		}
	}
	c := s.client("")
	socket, m := open(s.goodToken(c))
	ends("expired", socket, m, 4*time.Second, websocket.StatusPolicyViolation)

	socket, m = open(s.goodToken(c))
	s.command("client", "disable", c.id)
	ends("disabled", socket, m, 2*time.Second, websocket.StatusPolicyViolation)
	eventually(t, time.Second, "both are counted", func() bool {
		return s.metric(`postern_websockets_closed_total{reason="invalid_token",route="chat"}`) == 2 && s.metric(`postern_websockets{route="chat"}`) == 0
	})
}

// TestRow136WebSocketRevoked is the token alone, revoked by the command line.
func TestRow136WebSocketRevoked(t *testing.T) {
	up, all := startSocketUpstream(t)
	s := serve(t, up, socketRoute(t))
	socket, err := s.connect(s.goodToken(s.client("")), websocket.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := <-all
	s.command("token", "revoke", m.header.Get("X-Token-Id"))
	if code := closedWith(t, socket, 3*time.Second); code != websocket.StatusPolicyViolation {
		t.Errorf("closed with %d", code)
	}
	if <-m.done; m.closed != websocket.StatusPolicyViolation {
		t.Errorf("the upstream was closed with %d", m.closed)
	}
}

// TestWebSocketEndsWithItsCatalog when what it was let through for is taken away, whoever granted it;
// one whose catalog is still granted lives on through the same change.
func TestWebSocketEndsWithItsCatalog(t *testing.T) {
	up, all := startSocketUpstream(t)
	s := serve(t, up, `
routes:
  - {name: chat, path: /chat, upstream: ["{upstream}"], access: optional, websocket: {enabled: true}, catalog: {header: X-Catalog}}
`)
	owner := s.command("organization", "create", "--name", "Label")["id"].(string)
	for _, id := range []string{"kept", "taken", "removed", "licensed"} {
		s.command("catalog", "create", id, "--organization", owner)
	}
	s.command("catalog", "create", "shown", "--organization", owner, "--public")
	c, agreement := s.contract("--catalogs", "kept taken removed")
	token := s.goodToken(c)
	lenient, trial := s.contract("--enforce", "shadow", "--catalogs", "kept taken")
	inherits, _ := s.contract()
	s.command("organization", "change", inherits.organization, "--catalogs", "kept licensed")
	open := func(token, catalog string) (socket *websocket.Conn, m *met) {
		t.Helper()
		o := websocket.DialOptions{HTTPHeader: http.Header{"X-Catalog": {catalog}}}
		if token != "" {
			o.HTTPHeader.Set("Authorization", "Bearer "+token)
		}
		eventually(t, 2*time.Second, catalog+" is granted", func() (ok bool) {
			var err error
			socket, err = s.connect(token, o)
			return err == nil
		})
		return socket, <-all
	}
	live := map[string]*websocket.Conn{}
	live["granted"], _ = open(token, "kept")
	live["granted by the organization"], _ = open(s.goodToken(inherits), "kept")
	live["in shadow"], _ = open(s.goodToken(lenient), "taken")
	live["its owner's"], _ = open(s.goodToken(s.client(owner)), "shown")
	live["naming none"], _ = open(token, "")
	ended := 0
	ends := func(token, catalog string, change ...string) {
		t.Helper()
		socket, m := open(token, catalog)
		echo(t, socket, websocket.MessageText, []byte("hello"))
		s.command(change...)
		if code := closedWith(t, socket, time.Second); code != websocket.StatusPolicyViolation {
			t.Errorf("%s: the client was closed with %d", change, code)
		}
		if <-m.done; m.closed != websocket.StatusPolicyViolation {
			t.Errorf("%s: the upstream was closed with %d", change, m.closed)
		}
		ended++
		for what, socket := range live {
			echo(t, socket, websocket.MessageText, []byte(what))
		}
	}
	s.command("agreement", "change", trial, "--catalogs", "kept")
	ends(token, "taken", "agreement", "change", agreement, "--catalogs", "kept removed")
	ends(token, "removed", "catalog", "remove", "removed")
	ends(s.goodToken(inherits), "licensed", "organization", "change", inherits.organization, "--catalogs", "kept")
	ends("", "shown", "catalog", "change", "shown", "--private")
	delete(live, "in shadow") // it is about to be enforced, too
	ends(s.goodToken(lenient), "licensed", "agreement", "change", trial, "--enforce", "enforce")
	ended++ // the one that was granted its catalog once
	eventually(t, time.Second, "each is counted", func() bool {
		return s.metric(`postern_websockets_closed_total{`) == float64(ended) &&
			s.metric(`postern_websockets_closed_total{reason="forbidden_catalog",route="chat"}`) == float64(ended) &&
			s.metric(`postern_websockets{route="chat"}`) == float64(len(live))
	})
}

// TestRow138WebSocketReloadAndTermination: a changed configuration leaves it alone, even where its route is gone; SIGTERM does not.
func TestRow138WebSocketReloadAndTermination(t *testing.T) {
	up, all := startSocketUpstream(t)
	s := serve(t, up, socketRoute(t))
	token := s.goodToken(s.client(""))
	socket, err := s.connect(token, websocket.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := <-all
	text := readFile(t, s.file)
	if err := os.WriteFile(s.file, []byte(strings.Replace(text, "path: /chat", "path: /elsewhere", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Second, "the route has moved", func() bool { return s.get("/chat", token).status == 404 })
	echo(t, socket, websocket.MessageText, []byte("still here"))
	if n := s.metric(`postern_websockets{route="chat"}`); n != 1 {
		t.Errorf("%v WebSockets are open", n)
	}
	closed := make(chan websocket.StatusCode, 1)
	go func() { closed <- closedWith(t, socket, 2*time.Second) }()
	begun := time.Now()
	if code := s.stop(); code != exitDone {
		t.Errorf("exit code %d", code)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("the drain took %s", took)
	}
	if code := <-closed; code != websocket.StatusGoingAway {
		t.Errorf("closed with %d", code)
	}
	if <-m.done; m.closed != websocket.StatusGoingAway {
		t.Errorf("the upstream was closed with %d", m.closed)
	}
}

// TestWebSocketNode is ws of Node on both sides of postern; its client begins with the README's lines.
func TestWebSocketNode(t *testing.T) {
	t.Parallel() // other programs do its work
	needs(t, "node")
	dir := nodeModules(t, needs(t, "npm"))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var errs buffer
	server := exec.CommandContext(ctx, "node", "ws.mjs", "serve")
	server.Dir, server.Stderr = dir, &errs
	until, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var listening struct{ Port int }
	if !lines.Scan() || json.Unmarshal(lines.Bytes(), &listening) != nil {
		t.Fatalf("the server said %q: %s", lines.Text(), &errs)
	}
	s := serve(t, &upstream{address: fmt.Sprintf("127.0.0.1:%d", listening.Port)}, socketRoute(t))
	c := s.client("")
	var example string
	for _, block := range fencedBlocks(t, "websocket") {
		if block.language == "js" {
			example = block.text
		}
	}
	told, err := json.Marshal(map[string]string{
		"front": strings.Replace(s.front, "http", "ws", 1), "token": s.goodToken(c), "clientId": c.id, "example": example,
	})
	if err != nil {
		t.Fatal(err)
	}
	client := exec.CommandContext(ctx, "node", "ws.mjs", "connect")
	client.Dir, client.Stderr = dir, &errs
	client.Env = append(os.Environ(), "POSTERN_TEST_WEBSOCKET="+string(told))
	said, err := client.Output()
	var result struct{ Held []string }
	want := []string{"handshake", "echo", "fragments and pings", "close", "query, and closed by the server", "refusals"}
	if err != nil || json.Unmarshal(said, &result) != nil || !slices.Equal(result.Held, want) {
		t.Errorf("%v: held %q, want %q\n%s", err, said, want, &errs)
	}
	if err := until.Close(); err != nil {
		t.Error(err)
	}
	var codes []int
	for lines.Scan() {
		var closed struct{ Closed int }
		if json.Unmarshal(lines.Bytes(), &closed) == nil {
			codes = append(codes, closed.Closed)
		}
	}
	if !slices.Equal(codes, []int{4001, 4002}) {
		t.Errorf("the server was closed with %v", codes)
	}
	if err := server.Wait(); err != nil {
		t.Errorf("the server: %v\n%s", err, &errs)
	}
}

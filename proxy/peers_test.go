package proxy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// peer is a real server that tells what it was asked.
type peer interface {
	address() string
	// requests are those that it saw until now.
	requests() []seen
}

// seen is one request as a peer read it.
type seen struct {
	Client  string // X-Forwarded-For: ours, and so the client whose request it is
	Method  string
	Target  string
	Length  int64
	Sum     string // SHA-256 of the content
	Whole   bool   // else the connection ended before the content did
	Refused string // not taken for a request; nothing else is known
}

// startPeers are the kinds of upstream. Programs that are missing skip the test, in CI
// they fail it.
func startPeers() map[string]func(*testing.T) peer {
	return map[string]func(*testing.T) peer{
		"go":      func(t *testing.T) peer { return startGo(t) },
		"node":    startNode,
		"nginx":   startNginx,
		"haproxy": startHAProxy,
		"apache2": startApache,
	}
}

// goPeer is net/http.
type goPeer struct {
	server *httptest.Server
	mu     sync.Mutex
	all    []seen
}

func startGo(t *testing.T) *goPeer {
	p := &goPeer{}
	p.server = httptest.NewUnstartedServer(http.HandlerFunc(p.serve))
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.server.Start()
	t.Cleanup(p.server.Close)
	return p
}

func (p *goPeer) serve(w http.ResponseWriter, r *http.Request) {
	sum := sha256.New()
	length, err := io.Copy(sum, r.Body)
	s := seen{Client: r.Header.Get("X-Forwarded-For"), Method: r.Method, Target: r.RequestURI, Length: length, Whole: err == nil}
	if s.Whole {
		s.Sum = hex.EncodeToString(sum.Sum(nil))
	}
	p.mu.Lock()
	p.all = append(p.all, s)
	p.mu.Unlock()
	_, _ = io.WriteString(w, "seen")
}

func (p *goPeer) address() string { return p.server.Listener.Addr().String() }

func (p *goPeer) requests() []seen {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]seen(nil), p.all...)
}

// program is a peer of its own process, which writes what it saw to out.
type program struct {
	listens string
	out     *buffer
	read    func(out string) []seen
}

func (p *program) address() string  { return p.listens }
func (p *program) requests() []seen { return p.read(p.out.String()) }

// startProgram starts it, and ends it when the test is over.
func startProgram(t *testing.T, out io.Writer, name string, args ...string) {
	t.Helper()
	var errs buffer
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = out, &errs
	c.WaitDelay = patience // where a child of it holds on to the pipes
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(os.Interrupt)
		killer := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
		_ = c.Wait()
		killer.Stop()
		if t.Failed() && errs.String() != "" {
			t.Logf("%s said:\n%.5000s", name, errs.String())
		}
	})
}

// listening waits until somebody accepts at address.
func listening(t *testing.T, address string) {
	t.Helper()
	for deadline := time.Now().Add(4 * patience); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v", err)
		}
	}
}

// freeAddress is one where nobody listens now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// needs skips loudly where a program is missing; in CI that is a failure.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing, and this is CI", program)
		}
		t.Skipf("SKIPPED: %s is missing; install it to run this test", program)
	}
	return path
}

func startNode(t *testing.T) peer {
	p := &program{out: &buffer{}, read: func(out string) (all []seen) {
		for line := range strings.Lines(out) {
			var s seen
			if strings.HasSuffix(line, "\n") && json.Unmarshal([]byte(line), &s) == nil && s != (seen{}) {
				all = append(all, s)
			}
		}
		return all
	}}
	startProgram(t, p.out, needs(t, "node"), "testdata/peer.mjs")
	var first struct{ Port int }
	for deadline := time.Now().Add(4 * patience); first.Port == 0; time.Sleep(10 * time.Millisecond) {
		line, _, _ := strings.Cut(p.out.String(), "\n")
		if _ = json.Unmarshal([]byte(line), &first); time.Now().After(deadline) {
			t.Fatal("node does not listen")
		}
	}
	p.listens = fmt.Sprint("127.0.0.1:", first.Port)
	return p
}

// relay is a peer that forwards to net/http, which reports the content. The relay's own
// log has "STATUS CLIENT METHOD" for each request, so that what it refused by itself, or
// what it did not forward as it was, is seen as well.
type relay struct {
	program
	behind *goPeer
}

func (p *relay) requests() []seen {
	all := p.behind.requests()
	forwarded := map[string]int{}
	for _, s := range all {
		forwarded[s.Client+" "+s.Method]++
	}
	for line := range strings.Lines(p.out.String()) {
		if !strings.HasSuffix(line, "\n") {
			continue
		}
		status, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		client, method, _ := strings.Cut(rest, " ")
		if forwarded[rest] > 0 {
			forwarded[rest]--
			continue
		}
		// Content that ended too early: 400 or 499 without anything behind it.
		s := seen{Client: client, Method: method}
		if status == "200" || client == "-" {
			s.Refused = line
		}
		all = append(all, s)
	}
	return all
}

// startRelay writes a configuration into a fresh directory, with DIR, LISTEN, PORT and BEHIND
// replaced in it, and runs the command; "FILE" and "DIR" in it are replaced as well.
func startRelay(t *testing.T, text string, command ...string) peer {
	t.Helper()
	command[0] = needs(t, command[0])
	p := &relay{behind: startGo(t)}
	p.listens, p.out = freeAddress(t), &buffer{}
	dir := t.TempDir()
	file := filepath.Join(dir, "peer.conf")
	_, port, _ := net.SplitHostPort(p.listens)
	text = strings.NewReplacer("DIR", dir, "LISTEN", p.listens, "PORT", port, "BEHIND", p.behind.address()).Replace(text)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range command {
		command[i] = strings.NewReplacer("FILE", file, "DIR", dir).Replace(command[i])
	}
	startProgram(t, p.out, command[0], command[1:]...)
	listening(t, p.listens)
	return p
}

func startNginx(t *testing.T) peer {
	return startRelay(t, `
daemon off; master_process off; pid DIR/pid; error_log stderr error;
events { worker_connections 1024; }
http {
	log_format seen "$status $http_x_forwarded_for $request_method";
	access_log /dev/stdout seen;
	client_max_body_size 0;
	client_body_temp_path DIR/body; proxy_temp_path DIR/proxy; fastcgi_temp_path DIR/f; uwsgi_temp_path DIR/u; scgi_temp_path DIR/s;
	keepalive_requests 100000;
	server {
		listen LISTEN;
		location / { proxy_pass http://BEHIND; proxy_http_version 1.1; proxy_set_header Connection ""; }
	}
}`, "nginx", "-c", "FILE", "-p", "DIR", "-e", "stderr")
}

func startHAProxy(t *testing.T) peer {
	return startRelay(t, `
global
	log stdout format raw local0
defaults
	mode http
	log global
	timeout client 60s
	timeout server 60s
	timeout connect 5s
	option dontlognull
frontend seen
	bind LISTEN
	http-request set-var(txn.client) req.hdr(X-Forwarded-For)
	log-format "%ST %[var(txn.client)] %HM"
	default_backend behind
backend behind
	server behind BEHIND
`, "haproxy", "-f", "FILE", "-db")
}

func startApache(t *testing.T) peer {
	return startRelay(t, `
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so
LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so
ServerRoot DIR
DefaultRuntimeDir DIR
PidFile DIR/pid
ServerName peer.test
User nobody
Group nogroup
Listen LISTEN
ThreadLimit 100
ThreadsPerChild 100
MaxRequestWorkers 100
ServerLimit 1
StartServers 1
MaxKeepAliveRequests 0
KeepAliveTimeout 60
AllowEncodedSlashes NoDecode
ErrorLog /dev/stderr
LogLevel crit
LogFormat "%>s %{X-Forwarded-For}i %m" seen
CustomLog /dev/stdout seen
ProxyAddHeaders Off
ProxyPass / http://BEHIND/ nocanon
`, "apache2", "-X", "-f", "FILE")
}

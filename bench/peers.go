package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

const bodySize = 1024 // of the upstream's answer, in bytes

// row is one line of the table: what is measured and what came out.
type row struct {
	Name   string // for --only
	Title  string
	Rounds []measurement

	fresh  bool // a new process for each round
	start  func(context.Context) (*target, error)
	target *target
	idle   int64 // RSS in bytes after the first check, before any load
}

// target is what the load is aimed at.
type target struct {
	process *process
	url     string
	tokens  string // file with the tokens, one a line; empty: none are sent
	body    string // file with the body of a POST; empty: a GET
	metrics string // URL of postern's metrics; empty for the others
	check   func(context.Context) error
}

// choose lists the rows of the mode that --only does not leave out.
func (b *bench) choose() ([]*row, error) {
	rows := map[string][]*row{
		modeWarm: {
			{Name: "nginx", Title: "nginx, no auth", start: b.startNginx},
			{Name: "haproxy", Title: "HAProxy, no auth", start: b.haproxy("")},
			{Name: "fasthttp", Title: "fasthttp, no auth", start: b.startFasthttp},
			{Name: "postern-public", Title: "postern, public route", start: b.posternPublic},
			{Name: "postern-es256", Title: "postern ES256", start: b.posternWarm("ES256")},
			{Name: "postern-limits", Title: "postern ES256, every limit", start: b.posternOne(limited + "es256")},
			{Name: "postern-rs256", Title: "postern RS256", start: b.posternWarm("RS256")},
			{Name: "haproxy-es256", Title: "HAProxy jwt_verify ES256", start: b.haproxy("ES256")},
			{Name: "haproxy-rs256", Title: "HAProxy jwt_verify RS256", start: b.haproxy("RS256")},
		},
		modeCold: {
			{Name: "nginx", Title: "nginx, no auth", start: b.startNginx},
			{Name: "postern-es256", Title: "postern ES256, cold", start: b.posternCold, fresh: true},
			{Name: "haproxy-es256", Title: "HAProxy jwt_verify ES256", start: b.haproxy("ES256")},
		},
		modeIssue: b.issueRows(),
	}[b.mode]
	if b.against != "" && b.mode == modeWarm {
		rows = append(rows, &row{Name: before + "es256", Title: "postern ES256, before", start: b.posternOne(before + "es256")})
	}
	if b.only == nil {
		return rows, nil
	}
	var chosen []*row
	for _, r := range rows {
		if slices.Contains(b.only, r.Name) {
			chosen = append(chosen, r)
		}
	}
	if len(chosen) != len(b.only) {
		var names []string
		for _, r := range rows {
			names = append(names, r.Name)
		}
		return nil, fmt.Errorf("read --only: the rows of this mode are %s", strings.Join(names, ","))
	}
	return chosen, nil
}

// nginxFrame holds what both nginx instances share. keepalive_requests is lifted because the default closes a
// connection after 1,000 requests, which no other peer does.
const nginxFrame = `daemon off;
worker_processes 1;
pid %[1]s/%[2]s.pid;
error_log stderr warn;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  keepalive_timeout 600s;
  client_body_temp_path %[1]s/%[2]s-body;
  proxy_temp_path %[1]s/%[2]s-proxy;
  fastcgi_temp_path %[1]s/%[2]s-fastcgi;
  uwsgi_temp_path %[1]s/%[2]s-uwsgi;
  scgi_temp_path %[1]s/%[2]s-scgi;
%[3]s
}
`

func (b *bench) nginx(ctx context.Context, name string, onCore int, servers string) (*process, error) {
	file, err := b.write(name+".conf", fmt.Sprintf(nginxFrame, b.temp, name, servers))
	if err != nil {
		return nil, err
	}
	return b.start(name, onCore, nil, "nginx", "-p", b.temp, "-c", file, "-e", "stderr")
}

// startUpstream answers 1 KiB to everything, and at /echo what it was told about the caller.
func (b *bench) startUpstream(ctx context.Context) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	b.upstreamProcess, err = b.nginx(ctx, "upstream", b.loadCore, fmt.Sprintf(`  server {
    listen %s;
    default_type text/plain;
    location / { return 200 "%s"; }
    location = /echo { return 200 "$http_x_organization_id $http_x_client_id $http_authorization"; }
  }`, address, strings.Repeat("x", bodySize)))
	if err != nil {
		return err
	}
	b.upstream = "http://" + address
	return b.upstreamProcess.ready(ctx, b.upstream)
}

func (b *bench) startNginx(ctx context.Context) (*target, error) {
	return b.plain(ctx, func(address string) (*process, error) {
		return b.nginx(ctx, "nginx", b.proxyCore, fmt.Sprintf(`  upstream u { server %s; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }
  server {
    listen %s;
    location / { proxy_pass http://u; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }`, hostOf(b.upstream), address))
	})
}

// startFasthttp runs this very program as a proxy with nothing in it, see serveFasthttp.
func (b *bench) startFasthttp(ctx context.Context) (*target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	return b.plain(ctx, func(address string) (*process, error) {
		return b.start("fasthttp", b.proxyCore, []string{"GOMAXPROCS=1"}, self, fasthttpProxy, address, hostOf(b.upstream))
	})
}

// plain starts a proxy without authentication and waits until it answers.
func (b *bench) plain(ctx context.Context, start func(address string) (*process, error)) (*target, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p, err := start(address)
	if err != nil {
		return nil, err
	}
	t := &target{process: p, url: "http://" + address + "/"}
	t.check = func(ctx context.Context) error { return checkOpen(ctx, t.url) }
	return t, p.ready(ctx, t.url)
}

const haproxyFrame = `global
  nbthread 1
  maxconn 8192
defaults
  mode http
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend front
  bind %s
%s  default_backend upstream
backend upstream
  server upstream %s
`

// haproxyAuth does postern's job and no more: the signature, exp, the two identity fields, no Authorization upstream.
const haproxyAuth = `  http-request set-var(txn.token) http_auth_bearer
  http-request set-var(txn.now) date()
  http-request deny deny_status 401 unless { var(txn.token),jwt_verify("%s","%s") 1 }
  http-request deny deny_status 401 unless { var(txn.token),jwt_payload_query('$.exp','int'),sub(txn.now) gt 0 }
  http-request set-header X-Organization-Id %%[var(txn.token),jwt_payload_query('$.oid')]
  http-request set-header X-Client-Id %%[var(txn.token),jwt_payload_query('$.client_id')]
  http-request del-header Authorization
`

// haproxy starts HAProxy; with an algorithm it verifies, on each request, the tokens that postern issued.
func (b *bench) haproxy(algorithm string) func(context.Context) (*target, error) {
	return func(ctx context.Context) (*target, error) {
		name, auth := "haproxy", ""
		c, err := &credentials{}, error(nil)
		if algorithm != "" {
			if c, err = b.credentials(ctx, algorithm); err != nil {
				return nil, err
			}
			name += "-" + algorithm
			auth = fmt.Sprintf(haproxyAuth, algorithm, c.publicPEM)
		}
		t, err := b.plain(ctx, func(address string) (*process, error) {
			file, err := b.write(name+".cfg", fmt.Sprintf(haproxyFrame, address, auth, hostOf(b.upstream)))
			if err != nil {
				return nil, err
			}
			return b.start(name, b.proxyCore, nil, "haproxy", "-db", "-f", file)
		})
		if err == nil && algorithm != "" {
			t.tokens = c.tokens
			t.check = func(ctx context.Context) error { return c.checkGuarded(ctx, t.url) }
		}
		return t, err
	}
}

// serveFasthttp is the bare proxy: one request in, the same request out, no authentication, nothing removed or set.
// It is what postern's data plane would cost without postern.
func serveFasthttp(ctx context.Context, listen, upstream string) error {
	client := &fasthttp.HostClient{Addr: upstream, MaxConns: 4096, NoDefaultUserAgentHeader: true}
	server := &fasthttp.Server{
		NoDefaultServerHeader: true,
		NoDefaultDate:         true,
		Handler: func(c *fasthttp.RequestCtx) {
			if err := client.Do(&c.Request, &c.Response); err != nil {
				c.Error("upstream failed", fasthttp.StatusBadGateway)
			}
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe(listen) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil // the process ends, and with it the listener: there is nothing to drain in a measurement
	}
}

// checkOpen proves that url answers the upstream's body without a token.
func checkOpen(ctx context.Context, url string) error {
	a, err := get(ctx, url, "")
	if err == nil && (a.status != http.StatusOK || len(a.body) != bodySize) {
		err = fmt.Errorf("answered %d with %d bytes, wanted 200 with %d", a.status, len(a.body), bodySize)
	}
	return err
}

type answer struct {
	status int
	body   string
}

// get fetches url on a connection of its own, within 5 s.
func get(ctx context.Context, url, token string) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return answer{}, err
	}
	request.Close = true
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	return answer{response.StatusCode, string(body)}, err
}

// write puts a file into the temporary directory and returns its path.
func (b *bench) write(name, text string) (string, error) {
	path := filepath.Join(b.temp, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}

func hostOf(url string) string { return strings.TrimPrefix(url, "http://") }

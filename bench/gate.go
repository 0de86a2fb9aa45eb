package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// gate is one postern with a store, an organization and a client of its own.
type gate struct {
	name, algorithm, dir string
	binary               string
	process              *process
	url, admin           string // of the running process
	issuer               string // constant over restarts, or old tokens would be another issuer's
	organization, client string
	secret               string
}

// gate returns the postern of that name, started on the first call with a fresh store in dir.
func (b *bench) gate(ctx context.Context, name, algorithm, dir string) (*gate, error) {
	if g := b.gates[name]; g != nil {
		return g, nil
	}
	g := &gate{name: name, algorithm: algorithm, dir: dir, binary: b.postern}
	if strings.HasPrefix(name, before) {
		g.binary = b.against
	}
	var organization struct {
		ID string `json:"id"`
	}
	create := []string{"organization", "create", "--name", "Acme"}
	if strings.HasPrefix(name, limited) {
		create = append(create, everyLimit()...)
	}
	if err := b.command(ctx, g, &organization, create...); err != nil {
		return nil, err
	}
	var client struct {
		ID     string `json:"client_id"`
		Secret string `json:"client_secret"`
	}
	err := b.command(ctx, g, &client, "client", "create", "--organization", organization.ID,
		"--application", "bench", "--environment", "production")
	if err != nil {
		return nil, err
	}
	g.organization, g.client, g.secret = organization.ID, client.ID, client.Secret
	if err := b.serve(ctx, g); err != nil {
		return nil, err
	}
	b.gates[name] = g
	return g, nil
}

func (g *gate) store() string { return "sqlite:" + filepath.Join(g.dir, "postern-"+g.name+".db") }

// command runs one of postern's subcommands on g's store and reads the JSON that it prints.
func (b *bench) command(ctx context.Context, g *gate, into any, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var text, complaint bytes.Buffer
	c := exec.CommandContext(ctx, g.binary, append(args, "--json", "--store", g.store())...)
	c.Dir, c.Stdout, c.Stderr, c.WaitDelay = b.temp, &text, &complaint, 2*time.Second
	if err := c.Run(); err != nil {
		return fmt.Errorf("run postern %s: %w\n%s", strings.Join(args[:2], " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	if err := json.Unmarshal(text.Bytes(), into); err != nil {
		return fmt.Errorf("read what postern %s printed: %w", strings.Join(args[:2], " "), err)
	}
	return nil
}

const posternConfig = `front: {listen: "%s", max_connections: 15000}
admin: {listen: "%s"}
store: "%s"
issuer: {url: "%s", algorithm: %s}
verify: {cache: 32MiB}
routes:
  - {name: api, path: /, upstream: ["%[6]s"], access: client}
  - {name: public, path: /public, upstream: ["%[6]s"], access: public}
`

// serve starts g's process and waits until it is ready.
func (b *bench) serve(ctx context.Context, g *gate) error {
	front, err := freeAddress()
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	g.url, g.admin = "http://"+front, "http://"+admin
	if g.issuer == "" {
		g.issuer = g.url
	}
	config, err := b.write("postern-"+g.name+".yaml",
		fmt.Sprintf(posternConfig, front, admin, g.store(), g.issuer, g.algorithm, b.upstream))
	if err != nil {
		return err
	}
	g.process, err = b.start("postern-"+g.name, b.proxyCore, []string{"GOMAXPROCS=1"}, g.binary, "serve", "--config", config)
	if err != nil {
		return err
	}
	return g.process.ready(ctx, g.admin+"/readyz")
}

func (g *gate) secretBody() string {
	return fmt.Sprintf(`{"client_id":%q,"client_secret":%q}`, g.client, g.secret)
}

// issue asks for one token, as the customer guide shows.
func (g *gate) issue(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, g.url+"/oauth/token", strings.NewReader(g.secretBody()))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("issue a token: %w", err)
	}
	defer response.Body.Close()
	var body struct {
		Data struct {
			Token string `json:"token"`
		} `json:"data"`
	}
	if err := json.NewDecoder(response.Body).Decode(&body); err != nil {
		return "", fmt.Errorf("issue a token: %w", err)
	}
	if response.StatusCode != http.StatusCreated || body.Data.Token == "" {
		return "", fmt.Errorf("issue a token: answered %d", response.StatusCode)
	}
	return body.Data.Token, nil
}

func (b *bench) posternPublic(ctx context.Context) (*target, error) {
	g, err := b.gate(ctx, "ES256", "ES256", b.temp)
	if err != nil {
		return nil, err
	}
	t := &target{process: g.process, url: g.url + "/public"}
	t.check = func(ctx context.Context) error { return checkOpen(ctx, t.url) }
	return t, nil
}

// limited begins the names of posterns whose organization has every limit there is.
const limited = "limits-"

// everyLimit is more than is ever asked. The organization's terms limit the client too, so
// each request asks for all of them twice.
func everyLimit() []string {
	const plenty = "1000000000"
	return []string{"--request-rate", plenty, "--request-burst", plenty, "--concurrent", plenty, "--quota-day", plenty, "--quota-month", plenty, "--issue-rate", plenty}
}

func (b *bench) posternWarm(algorithm string) func(context.Context) (*target, error) {
	return func(ctx context.Context) (*target, error) {
		g, err := b.gate(ctx, algorithm, algorithm, b.temp)
		if err != nil {
			return nil, err
		}
		c, err := b.credentials(ctx, algorithm)
		if err != nil {
			return nil, err
		}
		t := &target{process: g.process, url: g.url + "/", tokens: c.tokens, metrics: g.admin + "/metrics"}
		t.check = func(ctx context.Context) error { return c.checkGuarded(ctx, t.url) }
		return t, nil
	}
}

// before begins the names of rows that are another build of postern.
const before = "before-"

// posternOne is the whole job by a postern of this name, with one token.
func (b *bench) posternOne(name string) func(context.Context) (*target, error) {
	return func(ctx context.Context) (*target, error) {
		g, err := b.gate(ctx, name, "ES256", b.temp)
		if err != nil {
			return nil, err
		}
		token, err := g.issue(ctx)
		if err != nil {
			return nil, err
		}
		file, err := b.write(g.name+".tokens", token+"\n")
		if err != nil {
			return nil, err
		}
		t := &target{process: g.process, url: g.url + "/", tokens: file, metrics: g.admin + "/metrics"}
		t.check = func(ctx context.Context) error {
			a, err := get(ctx, t.url, token)
			if err == nil && a.status != http.StatusOK {
				err = fmt.Errorf("answered %d", a.status)
			}
			return err
		}
		return t, nil
	}
}

// posternCold starts a fresh process on the store and keys that issued the tokens, so that it has seen none of them.
// The check uses a token of its own.
func (b *bench) posternCold(ctx context.Context) (*target, error) {
	g, err := b.gate(ctx, "ES256", "ES256", b.temp)
	if err != nil {
		return nil, err
	}
	c, err := b.credentials(ctx, "ES256")
	if err != nil {
		return nil, err
	}
	g.process.stop()
	if err := b.serve(ctx, g); err != nil {
		return nil, err
	}
	t := &target{process: g.process, url: g.url + "/", tokens: c.tokens, metrics: g.admin + "/metrics"}
	t.check = func(ctx context.Context) error { return c.checkGuarded(ctx, t.url) }
	return t, nil
}

// issueRows are the stores: a durable one where --dir is, and one in memory, which shows what the disk costs.
func (b *bench) issueRows() []*row {
	issue := func(name, algorithm string, dir func() (string, error)) func(context.Context) (*target, error) {
		return func(ctx context.Context) (*target, error) {
			d, err := dir()
			if err != nil {
				return nil, err
			}
			g, err := b.gate(ctx, name, algorithm, d)
			if err != nil {
				return nil, err
			}
			body, err := b.write("issue-"+name+".json", g.secretBody())
			if err != nil {
				return nil, err
			}
			check := func(ctx context.Context) error { _, err := g.issue(ctx); return err }
			return &target{process: g.process, url: g.url + "/oauth/token", body: body, check: check}, nil
		}
	}
	disk := func() (string, error) { return b.temp, nil }
	ram := func() (_ string, err error) {
		if fileSystem("/dev/shm") != "tmpfs" {
			return "", errors.New("/dev/shm is not a tmpfs here; leave this row out with --only")
		}
		if b.ram == "" {
			b.ram, err = os.MkdirTemp("/dev/shm", "postern-bench-")
		}
		return b.ram, err
	}
	return []*row{
		{Name: "postern-es256", Title: "postern ES256, " + fileSystem(b.dir), start: issue("es256", "ES256", disk)},
		{Name: "postern-es256-memory", Title: "postern ES256, tmpfs", start: issue("es256-memory", "ES256", ram)},
		{Name: "postern-rs256", Title: "postern RS256, " + fileSystem(b.dir), start: issue("rs256", "RS256", disk)},
	}
}

// cache reads how often postern's verified-token cache was hit and missed since its start; zero for other peers.
func (t *target) cache(ctx context.Context) (hits, misses float64, err error) {
	if t.metrics == "" {
		return 0, 0, nil
	}
	a, err := get(ctx, t.metrics, "")
	if err != nil {
		return 0, 0, fmt.Errorf("read metrics: %w", err)
	}
	for line := range strings.Lines(a.body) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case "postern_cache_hits_total":
			hits, err = strconv.ParseFloat(value, 64)
		case "postern_cache_misses_total":
			misses, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("read metrics: %w", err)
		}
	}
	return hits, misses, nil
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"text/template"
	"time"

	"postern/config"
	"postern/registry"
)

// DemoCommand shows the product on loopback.
type DemoCommand struct {
	JSON bool `name:"json" help:"Print addresses and credentials as one JSON object, for machines."`
}

// Help gives an example.
func (DemoCommand) Help() string {
	return "A sample upstream, a store in a temporary directory, one organization and one client, all on loopback. " +
		"It ends with Ctrl-C and leaves nothing behind.\n\n" + example("postern demo")
}

// demonstration is what the demo tells: everything that the two curl commands need.
type demonstration struct {
	Front        string `json:"front"`
	TokenURL     string `json:"token_url"`
	Admin        string `json:"admin"`
	Upstream     string `json:"upstream"`
	Store        string `json:"store"`
	Organization string `json:"organization_id"`
	ClientID     string `json:"client_id"`
	ClientSecret string `json:"client_secret"`
	AccessToken  string `json:"access_token"`
}

// The two commands are the customer guide's own, with real values.
const demoText = `postern is running in front of a sample catalog API at {{.Upstream}}.
Everything is on loopback and in a temporary directory. Ctrl-C ends it and leaves nothing behind.

1. Generate an access token:

curl --location --request POST '{{.TokenURL}}' \
--header 'Content-Type: application/json' \
--data-raw '{
  "client_id": "{{.ClientID}}",
  "client_secret": "{{.ClientSecret}}"
}'

2. Use one. The catalog API answers with the headers that it received: look for X-Organization-Id
   and X-Client-Id, and see that the token itself is not among them:

curl --location --request GET '{{.Front}}/catalogs' \
--header 'Authorization: Bearer {{.AccessToken}}'

What to look at next:

  metrics       curl {{.Admin}}/metrics
  readiness     curl {{.Admin}}/readyz
  no token      curl -i {{.Front}}/catalogs
  the store     postern client list --store {{.Store}}    (or: go run . client list …)
  revoke all    postern token revoke --client {{.ClientID}} --store {{.Store}}
`

// Run shows until ctx ends.
func (d *DemoCommand) Run(ctx context.Context, e *environment) (err error) {
	directory, err := os.MkdirTemp("", "postern-demo-")
	if err != nil {
		return cannot("start the demo", err, next{})
	}
	defer func() { err = errors.Join(err, os.RemoveAll(directory)) }()

	upstream, stopUpstream, err := serveSample(ctx)
	if err != nil {
		return cannot("start the sample upstream", err, next{})
	}
	defer stopUpstream()

	source := config.Source{Upstream: "http://" + upstream, Flags: map[string]string{
		"front.listen": freeAddress(ctx, "127.0.0.1:8080"),
		"admin.listen": freeAddress(ctx, "127.0.0.1:9090"),
		"store":        "sqlite:" + filepath.Join(directory, "demo.db"),
		"log.level":    "error", "log.format": "text", "front.drain": "5s",
	}}
	c, err := config.Load(source)
	if err != nil {
		return cannot("start the demo", err, next{})
	}
	p, err := assemble(ctx, e, source, c)
	if err != nil {
		return cannot("start the demo", err, next{})
	}
	serving, stop := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- p.serve(serving) }()
	shown := d.show(ctx, e, p, upstream)
	if shown != nil {
		stop()
	}
	err = <-served
	stop()
	if shown != nil && ctx.Err() == nil {
		return cannot("show the demo", shown, next{})
	}
	return err
}

// show makes an organization and a client, fetches a token as a customer would, and
// prints the commands.
func (d *DemoCommand) show(ctx context.Context, e *environment, p *postern, upstream string) error {
	actor := registry.Actor{Kind: "postern", ID: "demo"}
	r, err := p.store.opened()
	if err != nil {
		return err
	}
	acme, err := r.CreateOrganization(ctx, actor, "Acme", registry.Terms{})
	if err != nil {
		return err
	}
	client, secret, err := r.CreateClient(ctx, actor, registry.NewClient{
		OrganizationID: acme.ID, Application: "demo", Environment: "development",
	})
	if err != nil {
		return err
	}
	front := "http://" + p.frontListener.Addr().String()
	shown := demonstration{
		Front: front, TokenURL: front + p.config.Issuer.TokenPath, Admin: "http://" + p.adminListener.Addr().String(),
		Upstream: "http://" + upstream, Store: p.config.Store.Reveal(),
		Organization: acme.ID, ClientID: client.ID, ClientSecret: secret.Reveal(),
	}
	if shown.AccessToken, err = fetchToken(ctx, shown); err != nil {
		return err
	}
	if d.JSON {
		return json.NewEncoder(e.Stdout).Encode(shown)
	}
	return template.Must(template.New("demo").Parse(demoText)).Execute(e.Stdout, shown)
}

// fetchToken asks the token route as the first curl command does.
func fetchToken(ctx context.Context, d demonstration) (string, error) {
	body, err := json.Marshal(map[string]string{"client_id": d.ClientID, "client_secret": d.ClientSecret})
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.TokenURL, bytes.NewReader(body))
	if err != nil {
		return "", err
	}
	request.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true}
	answer, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	var envelope struct {
		Data struct {
			Token string `json:"token"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&envelope); err != nil {
		return "", fmt.Errorf("read the token route's answer: %w", err)
	}
	if answer.StatusCode != http.StatusCreated {
		return "", fmt.Errorf("the token route answered %s", answer.Status)
	}
	return envelope.Data.Token, nil
}

// freeAddress returns preferred, or any free port of loopback where it is taken.
func freeAddress(ctx context.Context, preferred string) string {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", preferred)
	if err != nil {
		return "127.0.0.1:0"
	}
	_ = l.Close()
	return preferred
}

// serveSample serves a small catalog API that echoes what it received, until stop.
func serveSample(ctx context.Context) (address string, stop func(), err error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	server := &http.Server{Handler: http.HandlerFunc(sample), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends with Close
	}()
	return l.Addr().String(), func() {
		_ = server.Close()
		<-served
	}, nil
}

func sample(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	_ = out.Encode(map[string]any{ // the peer has gone
		"catalogs": []map[string]string{
			{"id": "blue-note", "title": "Blue Note, 1955-1970"},
			{"id": "field-recordings", "title": "Field recordings"},
		},
		"received": map[string]any{"method": r.Method, "target": r.RequestURI, "host": r.Host, "headers": r.Header},
	})
}

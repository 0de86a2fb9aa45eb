package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// HealthcheckCommand asks a running postern whether it is ready: for images that hold
// nothing but postern, where there is no curl.
type HealthcheckCommand struct {
	URL     string        `name:"url" placeholder:"URL" help:"What to ask; by default /readyz at the configuration's admin.listen, http://127.0.0.1:9090/readyz without one."`
	Config  string        `placeholder:"FILE" help:"The configuration; without it $$POSTERN_CONFIG."`
	Timeout time.Duration `default:"3s" placeholder:"DURATION" help:"How long to wait for the answer."`
}

// Help gives an example.
func (HealthcheckCommand) Help() string {
	return example("postern healthcheck --url http://127.0.0.1:9090/readyz")
}

// Validate refuses to wait no time.
func (c *HealthcheckCommand) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout: use a duration above 0, for example 3s")
	}
	return nil
}

// Run succeeds when the answer is 200.
func (c *HealthcheckCommand) Run(ctx context.Context, e *environment) error {
	if err := c.ask(ctx, e); err != nil {
		return cannot("call postern ready", err, next{})
	}
	return nil
}

func (c *HealthcheckCommand) ask(ctx context.Context, e *environment) error {
	url := c.URL
	if url == "" {
		settings, err := where{Config: c.Config}.settings(e)
		if err != nil {
			return err
		}
		if url, err = readyURL(settings.Admin.Listen); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Errorf("make request: %w", err)
	}
	// No proxy from the environment stands between postern and itself, and another
	// place's answer says nothing about this one.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return &failure{cause: err, hint: "is postern serving, and is that the address of admin.listen?"}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(response.Body, 500))
		return refuse("its log says why", "%s answered %s: %s", url, response.Status, why)
	}
	return nil
}

// readyURL is where a postern that listens at listen says whether it is ready.
func readyURL(listen string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", fmt.Errorf("read admin.listen: %w", err)
	}
	switch host {
	case "", "0.0.0.0":
		host = "127.0.0.1"
	case "::":
		host = "::1"
	}
	return "http://" + net.JoinHostPort(host, port) + "/readyz", nil
}

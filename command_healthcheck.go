package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// door is how a command finds a running postern: by its admin door. Embed it.
type door struct {
	URL    string `name:"url" placeholder:"URL" help:"The admin door, or what of it to ask; by default at the configuration's admin.listen, http://127.0.0.1:9090 without one."`
	Config string `placeholder:"FILE" help:"The configuration, for its admin.listen alone; without it $$POSTERN_CONFIG."`
}

// Validate refuses what cannot be asked.
func (d door) Validate() error {
	if d.URL == "" {
		return nil
	}
	if u, err := url.Parse(d.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return errors.New("--url: use a URL, for example http://127.0.0.1:9090")
	}
	return nil
}

// at is where path of the door is. A URL that has a path itself stays as it is.
func (d door) at(e *environment, path string) (string, error) {
	if d.URL == "" {
		// A running postern goes on with the settings of before when its configuration gets a
		// fault: that must not make a probe fail.
		settings, err := where{Config: d.Config}.load(e, nil, func(key string) bool {
			return key != "" && key != "admin" && key != "admin.listen"
		})
		if err != nil {
			return "", err
		}
		return doorURL(settings.Admin.Listen, path)
	}
	if d.whole() {
		return d.URL, nil
	}
	return url.JoinPath(d.URL, path)
}

// whole reports whether the URL says what of the door is meant.
func (d door) whole() bool {
	u, err := url.Parse(d.URL)
	return err == nil && u.Path != "" && u.Path != "/"
}

// doorURL is where path is of a door that listens at listen.
func doorURL(listen, path string) (string, error) {
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
	return "http://" + net.JoinHostPort(host, port) + path, nil
}

// ask sends a request without content, and returns nil when the answer's status is want. Its
// error is an *url.Error when there was no answer.
func ask(ctx context.Context, method, target string, want int) error {
	_, err := fetch(ctx, method, target, want)
	return err
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 4 << 20

// fetch is ask that returns the answer's content.
func fetch(ctx context.Context, method, target string, want int) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	// No proxy from the environment stands between postern and itself, and another
	// place's answer says nothing about this one.
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, &failure{cause: err, hint: "is postern serving, and is that the address of admin.listen?"}
	}
	defer response.Body.Close()
	content, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode != want {
		return nil, refuse("its log says why", "%s answered %s: %s", target, response.Status, reasons(content))
	}
	if err != nil {
		return nil, fmt.Errorf("read the answer: %w", err)
	}
	return content, nil
}

// reasons is why the admin door refused; what others said, as it is.
func reasons(content []byte) string {
	var refusal struct {
		Reasons []string `json:"reasons"`
	}
	if json.Unmarshal(content, &refusal) == nil && len(refusal.Reasons) > 0 {
		return strings.Join(refusal.Reasons, "; ")
	}
	return strings.TrimSpace(string(content[:min(len(content), 500)]))
}

// HealthcheckCommand asks a running postern whether it is ready: for images that hold
// nothing but postern, where there is no curl.
type HealthcheckCommand struct {
	door
	Live    bool          `help:"Ask /livez, whether it runs at all, and not /readyz: a store that is away is no reason to restart it."`
	Timeout time.Duration `default:"3s" placeholder:"DURATION" help:"How long to wait for the answer."`
}

// Help gives examples.
func (HealthcheckCommand) Help() string {
	return "Exit code 0 when it is, 1 with the reason when it is not. With --url nothing is read but the answer, which is what a probe needs.\n\n" +
		example("postern healthcheck --url http://127.0.0.1:9090", "postern healthcheck --live --config postern.yaml")
}

// Validate refuses to wait no time.
func (c *HealthcheckCommand) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout: use a duration above 0, for example 3s")
	}
	if c.Live && c.whole() {
		return errors.New("--live: leave the path out of --url")
	}
	return c.door.Validate()
}

// Run succeeds when the answer is 200.
func (c *HealthcheckCommand) Run(ctx context.Context, e *environment) error {
	path, state := "/readyz", "ready"
	if c.Live {
		path, state = "/livez", "alive"
	}
	target, err := c.at(e, path)
	if err == nil {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout)
		defer cancel()
		err = ask(ctx, http.MethodGet, target, http.StatusOK)
	}
	if err != nil {
		return cannot("call postern "+state, err, next{})
	}
	return nil
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"postern/config"
)

// checkedChange is one setting that differs.
type checkedChange struct {
	Key     string `json:"key"`
	Old     string `json:"old"` // "": at its default, or not there
	New     string `json:"new"`
	Restart bool   `json:"restart"` // a reload does not apply it
}

func checkedChanges(changes []config.Change) []checkedChange {
	all := []checkedChange{}
	for _, c := range changes {
		all = append(all, checkedChange(c))
	}
	return all
}

// changesFrom compares c with what, an older file or the admin door of a running postern.
func changesFrom(ctx context.Context, e *environment, what string, c config.Config) ([]checkedChange, error) {
	if strings.HasPrefix(what, "http://") || strings.HasPrefix(what, "https://") {
		running, err := askRunning(ctx, what)
		if err != nil {
			return nil, err
		}
		return checkedChanges(config.DiffLines(running, c)), nil
	}
	old, err := loadConfig(e, config.Source{File: what, Environ: e.Environ})
	if err != nil {
		return nil, err
	}
	return checkedChanges(config.Diff(old, c)), nil
}

// runningConfig is what /config of the admin door answers: each setting that is not at its
// default. Secrets are redacted.
type runningConfig struct {
	Settings []runningSetting `json:"settings"`
}

type runningSetting struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

const (
	askTimeout = 5 * time.Second
	askMost    = 8 << 20 // of an answer: some 100,000 settings
)

// askRunning asks the admin door at url for the settings that are in force there.
func askRunning(ctx context.Context, url string) ([]config.Line, error) {
	const hint = "use the address of admin.listen of a postern on this machine, such as http://127.0.0.1:9090"
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(url, "/")+"/config", nil)
	if err != nil {
		return nil, &failure{cause: err, hint: hint}
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // and no proxy from the environment
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil, &failure{cause: err, hint: hint}
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, askMost))
	if err != nil {
		return nil, fmt.Errorf("read the answer of %s: %w", url, err)
	}
	var running runningConfig
	if answer.StatusCode != http.StatusOK || json.Unmarshal(text, &running) != nil || running.Settings == nil {
		return nil, refuse(hint, "%s answered %s: %.200s", url, answer.Status, text)
	}
	lines := make([]config.Line, 0, len(running.Settings))
	for _, s := range running.Settings {
		lines = append(lines, config.Line(s))
	}
	return lines, nil
}

// printChanges prints a table of what changes.
func printChanges(e *environment, changes []checkedChange) error {
	if len(changes) == 0 {
		return e.table(nil, []row{{"nothing changes"}})
	}
	var rows []row
	for _, c := range changes {
		by := "reload"
		if c.Restart {
			by = "restart"
		}
		rows = append(rows, row{c.Key, c.Old, "->", c.New, by})
	}
	return e.table(nil, rows)
}

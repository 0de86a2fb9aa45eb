package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"postern/answer"
	"postern/registry"
)

// usageOptions is what the commands on usage share.
type usageOptions struct {
	From *momentFlag `placeholder:"TIME" help:"The first hour: a day (its first moment in UTC), a time as in RFC 3339, or always; by default the first of this month."`
	To   *momentFlag `placeholder:"TIME" help:"The end, which is not included; by default all until now."`
	By   string      `enum:"hour,day,month" default:"day" help:"What one line is about: ${enum}, in UTC; ${default} by default."`
	CSV  bool        `name:"csv" help:"Answer with comma-separated values, for spreadsheets; the columns are always the same."`
}

// usageHelp says what is counted.
const usageHelp = "Requests are those that were let through. Refused ones are counted by reason, once the client is known; upstream_failed and upstream_timeout " +
	"are among the requests too. Tokens are issued and refreshed ones, bytes are of content. What a running postern counted in the last usage.interval is not here yet.\n\n"

// validate refuses what does not go together.
func (o *usageOptions) validate(asJSON bool) error {
	if o.CSV && asJSON {
		return errors.New("--json and --csv: choose one")
	}
	for name, flag := range map[string]*momentFlag{"--from": o.From, "--to": o.To} {
		if flag != nil && flag.at%registry.Time(time.Hour.Milliseconds()) != 0 {
			return fmt.Errorf("%s: usage is kept by the hour: use a whole one, for example 2026-01-31T12:00:00Z", name)
		}
	}
	return nil
}

// period is the usage of an hour, a day or a month.
type period struct {
	From registry.Time `json:"from"`
	registry.Counts
}

// usageAnswer is the usage of one client or organization.
type usageAnswer struct {
	Client       string          `json:"client_id,omitempty"`
	Organization string          `json:"organization_id,omitempty"`
	By           string          `json:"by"`
	From         registry.Time   `json:"from"`
	To           registry.Time   `json:"to"`
	Periods      []period        `json:"periods"` // that have some
	Total        registry.Counts `json:"total"`
}

// usage answers with what f's client or organization used.
func (o *usageOptions) usage(ctx context.Context, e *environment, r *registry.Registry, asJSON bool, f registry.UsageFilter) error {
	now := e.Now().UTC()
	f.From = registry.At(time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC))
	if o.From != nil {
		f.From = o.From.at
	}
	if o.To != nil {
		f.To = o.To.at
	}
	hours, err := r.Usage(ctx, f)
	if err != nil {
		return err
	}
	a := usageAnswer{Client: f.ClientID, Organization: f.OrganizationID, By: o.By, From: f.From, To: f.To, Periods: []period{}}
	for _, u := range hours {
		begins := o.begins(u.Hour)
		if last := len(a.Periods) - 1; last < 0 || a.Periods[last].From != begins {
			a.Periods = append(a.Periods, period{From: begins})
		}
		a.Periods[len(a.Periods)-1].Add(u.Counts)
		a.Total.Add(u.Counts)
	}
	switch {
	case o.CSV:
		return a.csv(e)
	case asJSON:
		for i := range a.Periods {
			a.Periods[i].Refused = notNil(a.Periods[i].Refused)
		}
		a.Total.Refused = notNil(a.Total.Refused)
		return e.json(a)
	}
	return a.table(e)
}

// begins is when the period begins that the hour is in.
func (o *usageOptions) begins(hour registry.Time) registry.Time {
	y, m, d := hour.Time().Date()
	switch o.By {
	case "month":
		d = 1
	case "hour":
		return hour
	}
	return registry.At(time.Date(y, m, d, 0, 0, 0, 0, time.UTC))
}

// notNil is an object in JSON even when nothing was refused.
func notNil(refused map[string]int64) map[string]int64 {
	if refused == nil {
		return map[string]int64{}
	}
	return refused
}

// label is a period for people, and for spreadsheets.
func (a usageAnswer) label(p period) string {
	return p.From.Time().Format(map[string]string{"hour": "2006-01-02T15:04Z", "day": time.DateOnly, "month": "2006-01"}[a.By])
}

func (a usageAnswer) table(e *environment) error {
	line := func(label string, c registry.Counts) row {
		var refused int64
		var reasons []string
		for _, reason := range slices.Sorted(maps.Keys(c.Refused)) {
			refused += c.Refused[reason]
			reasons = append(reasons, fmt.Sprintf("%s %d", reason, c.Refused[reason]))
		}
		return row{label, decimal(c.Requests), decimal(refused), decimal(c.Tokens), decimal(c.BytesIn), decimal(c.BytesOut), strings.Join(reasons, ", ")}
	}
	var rows []row
	for _, p := range a.Periods {
		rows = append(rows, line(a.label(p), p.Counts))
	}
	rows = append(rows, line("total", a.Total))
	return e.table(row{strings.ToUpper(a.By), "REQUESTS", "REFUSED", "TOKENS", "BYTES IN", "BYTES OUT", "REFUSED FOR"}, rows)
}

// csv has a column for each reason there is, so that files of different times fit together.
func (a usageAnswer) csv(e *environment) error {
	id, whose := "client_id", a.Client
	if a.Organization != "" {
		id, whose = "organization_id", a.Organization
	}
	header := []string{a.By, id, "requests", "tokens", "bytes_in", "bytes_out"}
	for _, reason := range refusalReasons() {
		header = append(header, "refused_"+reason)
	}
	w := csv.NewWriter(e.Stdout)
	lines := [][]string{header}
	for _, p := range a.Periods {
		line := []string{a.label(p), whose, decimal(p.Requests), decimal(p.Tokens), decimal(p.BytesIn), decimal(p.BytesOut)}
		for _, reason := range refusalReasons() {
			line = append(line, decimal(p.Refused[reason]))
		}
		lines = append(lines, line)
	}
	if err := w.WriteAll(lines); err != nil {
		return fmt.Errorf("cannot write the answer: %w", err)
	}
	return nil
}

// refusalReasons are all that a request can be refused for.
func refusalReasons() (names []string) {
	for _, reason := range answer.Reasons() {
		if reason != answer.OK {
			names = append(names, string(reason))
		}
	}
	return names
}

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// ClientUsageCommand tells what a client used.
type ClientUsageCommand struct {
	onClient
	usageOptions
}

// Help says what is counted and gives examples.
func (ClientUsageCommand) Help() string {
	return usageHelp + example("postern client usage "+exampleID, "postern client usage "+exampleID+" --by hour --from 2026-01-31 --to 2026-02-01 --csv")
}

// Validate refuses what does not go together.
func (c *ClientUsageCommand) Validate() error { return c.validate(c.JSON) }

// Run answers with a table, JSON or CSV.
func (c *ClientUsageCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		if _, err := r.Client(ctx, c.ID); err != nil {
			return err
		}
		return c.usage(ctx, e, r, c.JSON, registry.UsageFilter{ClientID: c.ID})
	})
	if err != nil {
		return cannot("tell the usage of client "+c.ID, err, next{notFound: clientsHint})
	}
	return nil
}

// OrganizationUsageCommand tells what the clients of an organization used together.
type OrganizationUsageCommand struct {
	onOrganization
	usageOptions
}

// Help says what is counted and gives examples.
func (OrganizationUsageCommand) Help() string {
	return usageHelp + "An organization's usage is that of all its clients, removed ones too.\n\n" +
		example("postern organization usage "+exampleID, "postern organization usage "+exampleID+" --by month --from always --json")
}

// Validate refuses what does not go together.
func (c *OrganizationUsageCommand) Validate() error { return c.validate(c.JSON) }

// Run answers with a table, JSON or CSV.
func (c *OrganizationUsageCommand) Run(ctx context.Context, e *environment) error {
	err := c.use(ctx, e, func(r *registry.Registry) error {
		if _, err := r.Organization(ctx, c.ID); err != nil {
			return err
		}
		return c.usage(ctx, e, r, c.JSON, registry.UsageFilter{OrganizationID: c.ID})
	})
	if err != nil {
		return cannot("tell the usage of organization "+c.ID, err, next{notFound: organizationsHint})
	}
	return nil
}

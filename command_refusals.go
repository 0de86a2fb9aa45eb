package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"postern/registry"
)

// RefusalsCommand asks a running postern what it refused lately.
type RefusalsCommand struct {
	door
	Client    string        `xor:"whose" placeholder:"ID" help:"The client whose requests were refused."`
	RequestID string        `name:"request-id" xor:"whose" placeholder:"ID" help:"Instead of a client: the request, by the request_id in its answer or the field X-Request-Id."`
	Timeout   time.Duration `default:"3s" placeholder:"DURATION" help:"How long to wait for the answer."`
	JSON      bool          `name:"json" help:"Answer with JSON, for machines; times are Unix milliseconds."`
}

// Help says what is remembered and gives examples.
func (RefusalsCommand) Help() string {
	return "Each replica remembers its own, in memory: the last 64 of a client, 4,096 in all, of clients that exist; an expired or revoked token is its " +
		"client's too. Ask each replica, on its machine or in its pod. What was refused before anybody knew the client is in the access log alone.\n\n" +
		example("postern refusals --client "+exampleID+" --url http://127.0.0.1:9090")
}

// Validate refuses to ask about nobody, to wait no time, and an address that leads elsewhere.
func (c *RefusalsCommand) Validate() error {
	if c.Client == "" && c.RequestID == "" { // required flags of an xor group read as if both were
		return errors.New("use --client ID or --request-id ID")
	}
	if c.Timeout <= 0 {
		return errors.New("--timeout: use a duration above 0, for example 3s")
	}
	if c.whole() {
		return errors.New("--url: leave the path out")
	}
	return c.door.Validate()
}

// Run answers with what is remembered, the newest first.
func (c *RefusalsCommand) Run(ctx context.Context, e *environment) error {
	told, err := c.fetch(ctx, e)
	if err == nil {
		err = c.answer(e, told)
	}
	if err != nil {
		return cannot("read the refusals", err, next{})
	}
	return nil
}

func (c *RefusalsCommand) fetch(ctx context.Context, e *environment) (told refusalsAnswer, err error) {
	target, err := c.at(e, "/refusals")
	if err != nil {
		return told, err
	}
	query := url.Values{}
	if c.Client != "" {
		query.Set("client", c.Client)
	} else {
		query.Set("request_id", c.RequestID)
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	content, err := fetch(ctx, http.MethodGet, target+"?"+query.Encode(), http.StatusOK)
	if err != nil {
		return told, err
	}
	if json.Unmarshal(content, &told) != nil || !told.OK {
		return told, refuse("is that the address of admin.listen?", "%s answered something else than refusals", target)
	}
	return told, nil
}

func (c *RefusalsCommand) answer(e *environment, told refusalsAnswer) error {
	if c.JSON {
		return list(e, true, told.Refusals, nil, nil)
	}
	if len(told.Refusals) == 0 {
		e.note("none since %s, when this replica began: another one may have refused it, or nobody knew the client", moment(registry.Time(told.Since)))
		return nil
	}
	header := row{"TIME", "REQUEST ID", "CLIENT", "ANSWER", "ROUTE", "WHY", "REQUEST"} // which may be long
	return list(e, false, told.Refusals, header, func(r refusal) row {
		why := r.Message
		if r.Shadowed {
			why = "(shadow: it was forwarded) " + why
		}
		return row{
			r.Time.Time().Format("2006-01-02T15:04:05.000Z"), r.RequestID, r.ClientID, strconv.Itoa(r.Status) + " " + string(r.Reason),
			r.Route, why, r.Method + " " + r.Path,
		}
	})
}

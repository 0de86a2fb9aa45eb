package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"postern/answer"
	"postern/config"
	"postern/directory"
	"postern/issuer"
	"postern/registry"
)

// TokenIssueCommand issues a token by hand.
type TokenIssueCommand struct {
	where
	Client    string        `required:"" placeholder:"ID" help:"The client that it speaks for."`
	Lifetime  time.Duration `placeholder:"DURATION" help:"How long it lives, as far as the terms of the client allow; by default as one that the client asks for."`
	Scope     string        `placeholder:"NAMES" help:"Its scopes, separated by spaces; by default all that are licensed."`
	IssuerURL string        `name:"issuer-url" placeholder:"URL" help:"The claim iss; by default issuer.url of the configuration."`
	Audience  string        `placeholder:"TEXT" help:"The claim aud; by default issuer.audience of the configuration, else the claim iss."`
}

// Help gives an example.
func (TokenIssueCommand) Help() string {
	return example("postern token issue --client " + exampleID + " --lifetime 1h --scope \"tracks playlists\" --issuer-url https://api.example.com")
}

// Validate refuses a lifetime that is none and a URL that no issuer can have.
func (c *TokenIssueCommand) Validate() error {
	if c.Lifetime < 0 || c.Lifetime > 0 && c.Lifetime < time.Second {
		return errors.New("--lifetime: use a duration of at least 1s, for example 1h")
	}
	return checkIssuerURL("--issuer-url", c.IssuerURL)
}

// checkIssuerURL accepts what issuer.url may be: scheme and host alone.
func checkIssuerURL(flag, text string) error {
	if text == "" {
		return nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.Scheme+"://"+u.Host != text {
		return errors.New(flag + ": use scheme and host alone, for example https://api.example.com")
	}
	return nil
}

// Run issues the token and answers with it, this once.
func (c *TokenIssueCommand) Run(ctx context.Context, e *environment) error {
	var record registry.Token
	var text string
	err := c.useLive(ctx, e, func(r *registry.Registry, d *directory.Directory, settings config.Config) (err error) {
		record, text, err = c.issue(ctx, e, r, d, settings)
		return err
	})
	if err == nil {
		err = c.answer(e, record, text)
	}
	if err != nil {
		return cannot("issue a token for client "+c.Client, err, next{notFound: clientsHint, other: masterHint})
	}
	return nil
}

// issue decides as the token route does, and makes the record durable.
func (c *TokenIssueCommand) issue(ctx context.Context, e *environment, r *registry.Registry, d *directory.Directory, settings config.Config) (registry.Token, string, error) {
	none := registry.Token{}
	url, audience := identity(settings.Issuer, c.IssuerURL, c.Audience)
	if url == "" {
		return none, "", refuse("say it with --issuer-url, or issuer.url in the configuration; verifiers compare it with the claim iss",
			"the issuer's URL is not set")
	}
	client, err := d.Client(ctx, c.Client)
	if err != nil {
		return none, "", err
	}
	now, longest := e.Now(), time.Duration(settings.Issuer.MaxLifetime)
	i := issuer.New(d, r, issuer.Options{
		URL: url, Audience: audience, TokenPath: settings.Issuer.TokenPath,
		Lifetime: min(cmp.Or(c.Lifetime, time.Duration(settings.Issuer.Lifetime)), longest), MaxLifetime: longest,
		Now: e.Now, Random: e.Random, Log: e.Logger("text", slog.LevelError),
	})
	record, text, reason, err := i.Prepare(client, c.Scope, c.Lifetime, now)
	switch {
	case err != nil && errors.Is(err, registry.ErrUnavailable):
		return none, "", refuse("postern serve makes the first key, and postern key rotate another", "there is no key that signs now")
	case err != nil:
		return none, "", err
	case reason != answer.OK:
		return none, "", unissued(reason, client, registry.At(now))
	}
	if err := r.RecordToken(ctx, e.actor(), record); err != nil {
		return none, "", err
	}
	if c.Lifetime > 0 && record.ExpiresAt < record.IssuedAt+registry.Time(c.Lifetime.Milliseconds()) {
		e.note("it expires sooner than asked for: the client's terms, its agreement or issuer.max_lifetime allow no more")
	}
	return record, text, nil
}

// identity is iss and aud: what the flags say, else the settings. A configuration that names
// no audience of its own means iss, also that of the flag.
func identity(settings config.Issuer, issuerFlag, audienceFlag string) (url, audience string) {
	url = cmp.Or(issuerFlag, settings.URL)
	if settings.Audience == settings.URL {
		settings.Audience = url
	}
	return url, cmp.Or(audienceFlag, settings.Audience, url)
}

// unissued says in words why the client gets no token.
func unissued(reason answer.Reason, client *directory.Client, now registry.Time) error {
	switch {
	case reason == answer.InvalidClient:
		return refuse("postern client show "+client.ID+" and postern organization show "+client.OrganizationID, "it or its organization is disabled or removed")
	case reason == answer.InvalidScope:
		return refuse("leave --scope out to get all that is licensed", "the scope is malformed or not licensed")
	case !client.InForce(now):
		return refuse("postern client show "+client.ID+" names the agreement", "its agreement is not in force")
	}
	return errors.New("its terms or the end of its agreement leave no lifetime")
}

func (c *TokenIssueCommand) answer(e *environment, t registry.Token, text string) (err error) {
	if c.JSON {
		err = e.json(struct {
			registry.Token
			Text string `json:"token"`
		}{t, text})
	} else {
		err = e.table(nil, []row{
			{"id", t.ID},
			{"token", text},
			{"client", t.SubjectID},
			{"scope", strings.TrimSpace(t.Scope)},
			{"issued", moment(t.IssuedAt)},
			{"expires", moment(t.ExpiresAt)},
		})
	}
	if err != nil {
		return refuse("nobody has seen the token, and it is not kept: postern token revoke "+t.ID, "%w", err)
	}
	if !c.JSON {
		e.note("keep the token now: it is not shown again")
	}
	return nil
}

// useLive is use with the live state that serving decides with.
func (w where) useLive(ctx context.Context, e *environment, do func(*registry.Registry, *directory.Directory, config.Config) error) (err error) {
	r, settings, err := w.open(ctx, e)
	if err != nil {
		return err
	}
	defer func() {
		if closing := r.Close(); err == nil && closing != nil {
			err = fmt.Errorf("close store: %w", closing)
		}
	}()
	feed, err := r.Feed(ctx)
	if err != nil {
		return err
	}
	defer feed.Close()
	d, err := directory.Open(ctx, r, feed, directory.Options{Now: e.Now, Log: e.Logger("text", slog.LevelError)})
	if err != nil {
		return err
	}
	defer d.Close()
	return do(r, d, settings)
}

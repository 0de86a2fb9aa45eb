package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"postern/config"
	"postern/directory"
	"postern/registry"
	"postern/token"
	"postern/verifier"
)

// TokenInspectCommand takes a token apart.
type TokenInspectCommand struct {
	where
	Token    string `arg:"" optional:"" default:"-" help:"The access token; - reads it from the standard input, where no shell history keeps it."`
	JWKS     string `name:"jwks" placeholder:"URL" help:"Verify with the JWK Set at this URL instead of a store."`
	Issuer   string `placeholder:"URL" help:"What the claim iss must be; by default issuer.url of the configuration, else anything."`
	Audience string `placeholder:"TEXT" help:"What the claim aud must name; by default issuer.audience of the configuration, else --issuer."`
}

// Help gives examples.
func (TokenInspectCommand) Help() string {
	return "The exit code is 0 when the token is valid and 1 when it is not.\n\n" +
		example("postern token inspect - --config postern.yaml", "postern token inspect - --jwks https://api.example.com/.well-known/jwks.json --issuer https://api.example.com")
}

// Validate refuses two sources of keys.
func (c *TokenInspectCommand) Validate() error {
	if c.JWKS != "" && (c.Store != "" || c.Config != "") {
		return errors.New("--jwks: it stands instead of --store and --config")
	}
	return nil
}

// errInvalidToken ends a run that has said everything.
var errInvalidToken = errors.New("the access token is not valid")

// Run answers with what the token says and what is wrong with it.
func (c *TokenInspectCommand) Run(ctx context.Context, e *environment) error {
	found, err := c.inspect(ctx, e)
	if err == nil {
		err = c.answer(e, found)
	}
	if err == nil && !found.Valid {
		return errInvalidToken
	}
	if err != nil {
		return cannot("inspect the token", err, next{other: masterHint})
	}
	return nil
}

func (c *TokenInspectCommand) inspect(ctx context.Context, e *environment) (inspection, error) {
	raw, err := e.bearer(c.Token)
	if err != nil {
		return inspection{}, err
	}
	now := e.Now()
	if c.JWKS != "" {
		keys, err := fetchKeys(ctx, e, c.JWKS)
		if err != nil {
			return inspection{}, err
		}
		i, expect := takeApart(raw, keys, token.Expect{Issuer: c.Issuer, Audience: cmp.Or(c.Audience, c.Issuer), Leeway: 30 * time.Second}, now)
		_, err = token.Verify(raw, keys, expect, now)
		i.conclude(err)
		return i, nil
	}
	var i inspection
	err = c.useLive(ctx, e, func(r *registry.Registry, d *directory.Directory, settings config.Config) error {
		issuer, audience := identity(settings.Issuer, c.Issuer, c.Audience)
		keys, _ := d.Keys()
		var expect token.Expect
		i, expect = takeApart(raw, keys, token.Expect{
			Issuer: issuer, Audience: audience, Leeway: time.Duration(settings.Verify.Leeway),
		}, now)
		if err := i.lookUp(ctx, r, now); err != nil {
			return err
		}
		// The last word is that of the front itself.
		v, err := verifier.New(d, verifier.Options{Issuer: expect.Issuer, Audience: expect.Audience, Leeway: expect.Leeway, CacheBytes: 1 << 20})
		if err != nil {
			return err
		}
		defer v.Close()
		_, err = v.Verify(raw, now)
		if _, invalid := errors.AsType[token.Invalid](err); err != nil && !invalid && keys.Len() > 0 {
			return err
		}
		i.conclude(err)
		return nil
	})
	return i, err
}

// bearer is the token that an argument has, - that of the standard input, without the blanks and
// the auth-scheme that it may have been copied with.
func (e *environment) bearer(argument string) ([]byte, error) {
	raw := []byte(argument)
	if argument == "-" {
		var err error
		if raw, err = io.ReadAll(io.LimitReader(e.Stdin, 2*token.MaxSize)); err != nil {
			return nil, fmt.Errorf("read the standard input: %w", err)
		}
	}
	raw = bytes.TrimPrefix(bytes.TrimSpace(raw), []byte("Bearer "))
	if len(raw) == 0 {
		return nil, errors.New("there is no token")
	}
	return raw, nil
}

func (c *TokenInspectCommand) answer(e *environment, i inspection) error {
	if c.JSON {
		return e.json(i)
	}
	verdict := "no"
	if i.Valid {
		verdict = "yes"
	}
	rows := []row{{"valid", verdict}}
	for _, f := range i.Checks {
		rows = append(rows, row{f.Name, f.Result + ": " + f.Detail})
	}
	for _, part := range []struct {
		name    string
		members map[string]json.RawMessage
	}{{"header", i.Header}, {"claims", i.Claims}} {
		for _, name := range slices.Sorted(maps.Keys(part.members)) {
			value := string(part.members[name])
			if t, ok := text(part.members[name]); ok {
				value = t
			}
			rows = append(rows, row{part.name + " " + name, value})
		}
	}
	return e.table(nil, rows)
}

const (
	jwksPatience = 10 * time.Second
	maxJWKS      = 1 << 20
)

// fetchKeys reads the JWK Set at url. It goes through no proxy and follows no redirect.
func fetchKeys(ctx context.Context, e *environment, url string) (*token.KeySet, error) {
	if !strings.HasPrefix(url, "https://") && !strings.HasPrefix(url, "http://") {
		return nil, errors.New("--jwks: use an http or https URL")
	}
	ctx, cancel := context.WithTimeout(ctx, jwksPatience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, errors.New("--jwks: it is no URL")
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("read JWK Set: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("read JWK Set: the answer is %d", response.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxJWKS+1))
	if err != nil {
		return nil, fmt.Errorf("read JWK Set: %w", err)
	}
	if len(body) > maxJWKS {
		return nil, errors.New("read JWK Set: it is larger than 1 MiB")
	}
	keys, dropped, err := token.ParseJWKSet(body)
	for _, d := range dropped {
		e.note("%v", d)
	}
	if err != nil {
		return nil, err
	}
	return token.NewKeySet(keys...), nil
}

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"postern/answer"
	"postern/directory"
	"postern/issuer"
	"postern/limiter"
	"postern/proxy"
	"postern/registry"
)

// This file joins the limiter to the rooms that ask it.

// openLimiter opens the limiter. A Redis that is away keeps nothing from starting.
func (p *postern) openLimiter(ctx context.Context, e *environment) (err error) {
	p.limiter, err = limiter.Open(ctx, limiter.Options{
		Now: e.Now, Random: e.Random, Log: p.log, Replicas: p.config.Limits.Replicas, Redis: p.config.Redis, Spent: p.store.Spent,
	})
	if err != nil {
		return fmt.Errorf("open the limiter: %w", err)
	}
	p.closers = append(p.closers, p.limiter.Close)
	return nil
}

// warnAlone says so where replicas may share the store, and not the limits in it.
func (p *postern) warnAlone(ctx context.Context, r *registry.Registry) {
	if p.config.Redis != "" || !strings.HasPrefix(p.config.Store.Reveal(), "postgres") {
		return
	}
	limited, err := r.AnyLimit(ctx)
	if err != nil {
		p.warn("find out whether there are limits", err)
	}
	if limited {
		p.log.Warn(limiter.Alone(p.config.Limits.Replicas))
	}
}

// newGrant is what the front asks for requests by.
func (p *postern) newGrant() proxy.Grant { return &grant{limiter: p.limiter} }

type grant struct {
	limiter.Grant
	limiter *limiter.Limiter
}

func (g *grant) Take(c *directory.Client, now time.Time) (ok bool) {
	g.Grant, ok = g.limiter.Take(c, now)
	return ok
}

func (g *grant) Refusal() (answer.Refusal, bool) { return g.Grant.Refusal(), g.Shared() }

// issueLimits is what the issuer asks for access tokens by.
type issueLimits struct{ *limiter.Limiter }

func (l issueLimits) Issue(c *directory.Client, now time.Time) (told issuer.Limit) {
	g, ok := l.Limiter.Issue(c, now)
	if !ok {
		told.Refusal, told.Shared = g.Refusal(), g.Shared()
	}
	told.Policy, told.State = string(g.AppendPolicy(nil)), string(g.AppendState(nil))
	return told
}

package main

import (
	"context"
	"time"

	"postern/config"
	"postern/registry"
	"postern/token"
)

const (
	// clockSkew is how much longer than the longest token a key is kept, for replicas whose
	// clocks differ.
	clockSkew = time.Minute

	rotateLook    = time.Minute // between looks whether a new signing key is due, at most
	rotateTimeout = 10 * time.Second
)

// rotationOf is how one signing key follows another by c.
func rotationOf(c config.Config) registry.Rotation {
	return registry.Rotation{
		Every: time.Duration(c.Keys.Rotate), Publish: time.Duration(c.Keys.Publish),
		Keep: time.Duration(c.Issuer.MaxLifetime) + clockSkew,
	}
}

// rotateKeys makes the next signing key when keys.rotate says so, until ctx ends. Every
// replica does; the store lets one of them win.
func (p *postern) rotateKeys(ctx context.Context) {
	o := rotationOf(p.config)
	if o.Every == 0 {
		return
	}
	tick := time.NewTicker(min(rotateLook, max(o.Every/20, 50*time.Millisecond)))
	defer tick.Stop()
	failing := false
	for {
		k, rotated, err := p.rotateDueKey(ctx, o)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			p.log.Error("cannot look after the signing keys; the old one goes on signing", "error", err)
		case err == nil && failing:
			p.log.Info("looking after the signing keys again")
		}
		if failing = err != nil; rotated {
			p.log.Info("made the next signing key", "kid", k.ID, "algorithm", k.Algorithm, "signs_from", moment(k.SignsFrom))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// rotateDueKey looks once. A store that is not open yet is told of elsewhere.
func (p *postern) rotateDueKey(ctx context.Context, o registry.Rotation) (registry.Key, bool, error) {
	store, err := p.store.opened()
	if err != nil {
		return registry.Key{}, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, rotateTimeout)
	defer cancel()
	return store.RotateDueKey(ctx, registry.Actor{Kind: "postern"}, o, p.makeKey)
}

// keyMaker makes keys of the algorithm that c says.
func (e *environment) keyMaker(c config.Config) func() (registry.Key, error) {
	return func() (registry.Key, error) { return newKey(token.Algorithm(c.Issuer.Algorithm), e.Random) }
}

package issuer

import (
	"context"
	"time"

	"postern/registry"
)

const (
	firstPrune   = 10 * time.Second // after Run began: not while everything starts
	pruneEvery   = time.Minute
	pruneTimeout = 30 * time.Second
)

// Run removes what has expired from the store, once a minute, until ctx ends. Call it
// once, in a goroutine of yours. A failure is told once until it is over.
func (i *Issuer) Run(ctx context.Context) {
	timer := time.NewTimer(firstPrune)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		failing = i.prune(ctx, failing)
		timer.Reset(pruneEvery)
	}
}

func (i *Issuer) prune(ctx context.Context, failing bool) (fails bool) {
	bounded, cancel := context.WithTimeout(ctx, pruneTimeout)
	defer cancel()
	rows, err := i.store.Prune(bounded, registry.At(i.options.Now()))
	if ctx.Err() != nil {
		return failing
	}
	if err != nil {
		if !failing {
			i.options.Log.Error("cannot prune the store; expired tokens stay in it until that works", "error", err)
		}
		return true
	}
	if failing {
		i.options.Log.Info("pruning the store again")
	}
	i.options.Log.Debug("pruned the store", "rows", rows)
	return false
}

package proxy

import "sync"

// pools are those of a front's settings, by the key of their upstream.
type pools map[string]*runningPool

// runningPool is a pool with what goes on beside its requests.
type runningPool struct {
	*pool
	stop    chan struct{}
	started bool
}

// get returns the pool of u: one of ours, one of old, or a new one.
func (p pools) get(u Upstream, old pools, o poolOptions) (*pool, error) {
	key := u.key()
	if r := p[key]; r != nil {
		return r.pool, nil
	}
	r := old[key]
	if r == nil {
		made, err := newPool(u, o)
		if err != nil {
			return nil, err
		}
		r = &runningPool{pool: made, stop: make(chan struct{})}
	}
	p[key] = r
	return r.pool, nil
}

// run starts what is not running yet. group waits for it.
func (p pools) run(group *sync.WaitGroup) {
	for _, r := range p {
		if !r.started {
			r.started = true
			group.Go(func() { r.pool.run(r.stop) })
		}
	}
}

// end stops and closes the pools that next does not have. Requests that are on them go on.
func (p pools) end(next pools) {
	for key, r := range p {
		if next[key] == nil {
			close(r.stop)
			r.close()
		}
	}
}

func (p pools) list() []*pool {
	all := make([]*pool, 0, len(p))
	for _, r := range p {
		all = append(all, r.pool)
	}
	return all
}

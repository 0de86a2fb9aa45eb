package config

import (
	"fmt"
	"net"
	"slices"
)

// routeUpstream checks where a route forwards to, and how.
func (l *loader) routeUpstream(key string, r Route) {
	l.upstreams(key+".upstream", r.Upstream)
	l.upstreamTLS(key, r)
	h, health := r.Health, key+".health"
	if h.Path == "" || !l.ok(health+".path") {
		return
	}
	if w := checkPath(h.Path); w != (wrong{}) {
		l.fault(health+".path", l.shown(health+".path", h.Path)+" "+w.problem, w.fix)
	}
	l.below(health+".timeout", health+".interval", h.Timeout.String(), h.Interval.String(), h.Timeout <= h.Interval)
}

func (l *loader) upstreams(key string, upstreams []Upstream) {
	if !l.ok(key) {
		return
	}
	const example = `write one or more, such as ["http://127.0.0.1:3000"]`
	if len(upstreams) == 0 {
		l.fault(key, "is required", example)
		return
	}
	seen := map[Endpoint]bool{}
	for i, u := range upstreams {
		at := fmt.Sprintf("%s[%d]", key, i)
		if o := l.origins[at]; o.shown == "" { // a mapping, and no plain string
			at += ".url"
		}
		if !l.ok(at) {
			continue
		}
		if u.URL == "" && l.origins[at].shown == "" {
			l.fault(at, "is required", "write one such as http://127.0.0.1:3000")
			continue
		}
		e, problem, fix := splitUpstream(u.URL)
		switch {
		case problem != "":
			l.fault(at, l.shown(at, u.URL)+" "+problem, fix)
		case seen[e]:
			l.fault(at, l.shown(at, u.URL)+" is listed twice", "remove one of the two; a weight gives it more requests")
		default:
			seen[e] = true
			l.loop(at, u.URL, e)
		}
	}
}

// loop refuses an upstream that is postern itself.
func (l *loader) loop(at, url string, e Endpoint) {
	if e.Network != "tcp" {
		return
	}
	host, port, _ := net.SplitHostPort(e.Address)
	to := door{host, parsePort(port)}
	if front, ok := parseListen(l.config.Front.Listen); ok && l.ok("front.listen") && front.meets(to) {
		l.fault(at, l.shown(at, url)+" is front.listen, so requests would go round for ever", "name the service that stands behind postern")
	}
	if admin, ok := parseListen(l.config.Admin.Listen); ok && l.ok("admin.listen") && admin.meets(to) {
		l.fault(at, l.shown(at, url)+" is admin.listen, which the front must never show", "name the service that stands behind postern")
	}
}

func (l *loader) upstreamTLS(key string, r Route) {
	section := key + ".upstream_tls"
	if r.UpstreamTLS == (UpstreamTLS{}) || !l.ok(section, key+".upstream") {
		return
	}
	if !slices.ContainsFunc(r.Endpoints(), func(e Endpoint) bool { return e.TLS }) {
		l.fault(section, "is set, and no upstream has an https URL", "use https in upstream, or remove it")
		return
	}
	name := r.UpstreamTLS.ServerName
	if at := section + ".server_name"; name != "" && l.ok(at) {
		if problem := checkHost(name); problem != "" {
			l.fault(at, l.shown(at, name)+" "+problem, "use a host name in lower case, such as api.internal")
		}
	}
	l.authorities(section+".ca", r.UpstreamTLS.CA)
	l.pair(section, r.UpstreamTLS.Certificate, r.UpstreamTLS.Key)
}

package config

import (
	"fmt"
	"strings"
)

// This file checks who may use a route, and how browsers may.

// routeAccess checks the scopes that a token must have.
func (l *loader) routeAccess(key string, r Route) {
	for i, scopes := range [][]string{r.Scopes, r.ScopesAny} {
		at := key + []string{".scopes", ".scopes_any"}[i]
		if len(scopes) > 0 && r.Access == "public" && l.ok(at, key+".access") {
			l.fault(at, "is set, and the route is public, where no token is looked at", "use access: client or optional")
			continue
		}
		l.elements(at, scopes, func(scope string) wrong {
			if !isScope(scope) {
				return wrong{"is not a scope", "use visible ASCII characters without quotes and backslashes, such as catalog:read"}
			}
			return wrong{}
		})
	}
}

// routeCatalog checks where a catalog is named: in one place, and by what a client can say.
func (l *loader) routeCatalog(key string, r Route) {
	at, c := key+".catalog", r.Catalog
	if !l.ok(at) {
		return
	}
	var places []string
	if c.Path > 0 {
		places = append(places, at+".path")
	}
	if c.Query != "" {
		places = append(places, at+".query")
	}
	if c.Header != "" {
		places = append(places, at+".header")
	}
	if len(places) == 0 {
		l.idle(at, false, "it says no place", "say path, query or header", "required")
		return
	}
	switch {
	case r.Access == "public" && l.ok(key+".access"):
		l.fault(at, "is set, and the route is public, where nobody's identity is known", "use access: client or optional")
	case len(places) > 1:
		l.fault(places[1], "is set, and "+places[0]+" is too", "use one place")
	}
	if at := at + ".query"; c.Query != "" && l.ok(at) && (len(c.Query) > 64 || strings.Trim(c.Query, tokenPlaces) != "") {
		l.fault(at, l.shown(at, c.Query)+" is not 1 to 64 letters, digits and ._-", "use one such as catalog")
	}
	if at := at + ".header"; c.Header != "" && l.ok(at) {
		if w := l.catalogField(r); w != (wrong{}) {
			l.fault(at, l.shown(at, c.Header)+" "+w.problem, w.fix)
		}
	}
}

// catalogField says why the field that names the catalog must be another one.
func (l *loader) catalogField(r Route) wrong {
	name := fold(r.Catalog.Header)
	if w := l.reserved(r.Catalog.Header); w != (wrong{}) {
		return w
	}
	if isTaken(r.Catalog.Header) {
		return wrong{"has a meaning of its own in HTTP", "use another name, such as X-Catalog"}
	}
	for _, f := range r.RequestHeaders {
		if fold(f.Name) == name {
			return wrong{"is changed by request_headers, and the upstream would read another catalog than was checked", "change it in one of the two"}
		}
	}
	for _, trailer := range r.Trailers {
		if fold(trailer) == name {
			return wrong{"is passed on from trailers too, where nothing is checked", "take it out of trailers"}
		}
	}
	return wrong{}
}

func (l *loader) routeAssertion(key string, r Route) {
	at := key + ".assertion"
	if !l.ok(at) {
		return
	}
	switch {
	case !r.Assertion.Enabled:
	case !l.config.Issuer.Enabled && l.ok("issuer.enabled"):
		l.fault(at+".enabled", "needs issuer.enabled, which is false", "enable the issuer, whose keys sign it, or remove the assertion")
	case r.Access == "public" && l.ok(key+".access"):
		l.fault(at+".enabled", "is true, and the route is public, where nobody's identity is known", "use access: client or optional")
	}
	chosen := l.origins[at+".audience"].shown
	if a := r.Assertion.Audience; chosen != "" && chosen != `""` && l.ok(at+".audience") && (len(a) > 255 || strings.ContainsFunc(a, notVisible)) {
		l.fault(at+".audience", l.shown(at+".audience", a)+" is not at most 255 visible ASCII characters", "use a name such as reports")
	}
}

// routeWebSocket checks how browsers, which cannot set Authorization, send their token.
func (l *loader) routeWebSocket(key string, r Route) {
	at, ws := key+".websocket", r.WebSocket
	if !l.ok(at) {
		return
	}
	for i, value := range []string{ws.Query, ws.Subprotocol} {
		k := at + []string{".query", ".subprotocol"}[i]
		switch {
		case value == "" || !l.ok(k):
		case len(value) > 64 || strings.Trim(value, tokenPlaces) != "":
			l.fault(k, l.shown(k, value)+" is not 1 to 64 letters, digits and ._-", "use one such as access_token")
		case r.Access == "public":
			l.warn(k, "is without effect, because the route is public", "remove it, or use access: client")
		}
	}
	l.elements(at+".origins", ws.Origins, func(origin string) wrong {
		if origin == "*" {
			return wrong{"is not an origin", "leave the list empty to allow any"}
		}
		return originFault(origin)
	})
	l.idle(at, ws.Enabled, "enabled is false", "set it to true", "query", "subprotocol", "idle", "lifetime", "origins")
}

const tokenPlaces = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"

func originFault(origin string) wrong {
	if problem := checkOrigin(origin); problem != "" {
		return wrong{problem, "use scheme, host and port alone, such as https://app.example.com"}
	}
	return wrong{}
}

// idle warns of a section whose switch is off although other settings in it are set.
func (l *loader) idle(section string, on bool, why, fix string, names ...string) {
	if on {
		return
	}
	for _, name := range names {
		if v, ok := l.origins[section+"."+name]; ok && v.layer != fromNowhere && v.shown != `""` {
			l.warn(section+"."+name, "is without effect, because "+why, fix)
			return
		}
	}
}

func (l *loader) routeCORS(key string, r Route) {
	at, c := key+".cors", r.CORS
	if !l.ok(at) {
		return
	}
	const star = "goes with no credentials"
	for i, list := range [][]string{c.Origins, c.Headers, c.Expose} {
		l.elements(at+[]string{".origins", ".headers", ".expose"}[i], list, func(value string) wrong {
			switch {
			case value == "*" && c.Credentials:
				return wrong{star, "list each one, or set credentials to false"}
			case value == "*":
				return wrong{}
			case i == 0:
				return originFault(value)
			case !isToken(value):
				return wrong{"is not a field name", "use letters, digits and hyphens, such as X-Requested-With"}
			}
			return wrong{}
		})
	}
	l.routeMethods(at+".methods", c.Methods)
	l.idle(at, len(c.Origins) > 0 || !l.ok(at+".origins"), "origins is empty", "list the origins", "methods", "headers", "expose", "credentials", "max_age")
}

// routePrefixes checks what is taken off and put before a path.
func (l *loader) routePrefixes(key string, r Route) {
	for i, value := range []string{r.StripPrefix, r.AddPrefix} {
		at := key + []string{".strip_prefix", ".add_prefix"}[i]
		if value == "" || !l.ok(at) {
			continue
		}
		w := checkPath(value)
		switch {
		case w != (wrong{}):
		case value == "/":
			w = wrong{"changes nothing", "remove it"}
		case i == 0 && !strings.HasPrefix(r.Path+"/", value+"/") && l.ok(key+".path"):
			w = wrong{fmt.Sprintf("is not what the route's path, %s, begins with", quoted(r.Path)), "use the path, or its first segments"}
		}
		if w != (wrong{}) {
			l.fault(at, l.shown(at, value)+" "+w.problem, w.fix)
		}
	}
}

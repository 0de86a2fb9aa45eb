package config

import (
	"fmt"
	"regexp"
	"strings"
)

// routeName is what a metric label and a log line can carry, with every path and
// host in it that is not unusual.
var routeName = regexp.MustCompile(`^[a-zA-Z0-9 ._/*:-]{1,64}$`)

func (l *loader) routes() {
	if len(l.config.Routes) == 0 {
		if l.ok("routes") {
			l.fault("routes", "there is none, so nothing is forwarded",
				`write one, such as {path: /, upstream: ["http://127.0.0.1:3000"]}, or start with --upstream http://127.0.0.1:3000`)
		}
		return
	}
	names := map[string]int{}
	places := map[place]int{}
	for i, r := range l.config.Routes {
		key := fmt.Sprintf("routes[%d]", i)
		if !l.ok(key) {
			continue
		}
		l.routeHost(key+".host", r.Host)
		if path := key + ".path"; l.ok(path) {
			if w := checkPath(r.Path); w != (wrong{}) {
				l.fault(path, l.shown(path, r.Path)+" "+w.problem, w.fix)
			}
		}
		l.routeMethods(key+".methods", r.Methods)
		l.routeAccess(key, r)
		l.routeCatalog(key, r)
		l.routeAssertion(key, r)
		l.routeWebSocket(key, r)
		l.routeCORS(key, r)
		l.routePrefixes(key, r)
		l.routeFields(key, r)
		l.routeUpstream(key, r)
		if l.ok(key+".host", key+".path", key+".match", key+".methods") && l.routePlace(places, key, i, r) {
			l.routeName(names, key+".name", i, r)
		}
		l.routeWarnings(key, r)
	}
}

// of names a route in a message, by its place and line alone: its name may be wrong itself.
func (l *loader) of(i int) string {
	key := fmt.Sprintf("routes[%d]", i)
	if line := l.origin(key).line; line > 0 {
		return fmt.Sprintf("%s (line %d)", key, line)
	}
	return key
}

func (l *loader) routeHost(key, host string) {
	name, wildcard := strings.CutPrefix(host, "*.")
	if host == "" || !l.ok(key) {
		return
	}
	problem := checkHost(name)
	switch {
	case strings.Contains(host, ":") && !strings.HasPrefix(host, "["):
		problem = "is more than a host name"
	case strings.Contains(name, "*"):
		problem = "has a * that is not its whole first label"
	case wildcard && strings.HasPrefix(name, "["):
		problem = "is not a host name"
	}
	if problem != "" {
		l.fault(key, l.shown(key, host)+" "+problem, "use a host in lower case, without a port, such as api.example.com or *.example.com")
	}
}

func (l *loader) routeMethods(key string, methods []string) {
	l.elements(key, methods, func(method string) wrong {
		switch {
		case !isToken(method) || method != strings.ToUpper(method):
			return wrong{"is not a method in upper case", "use one such as GET or POST"}
		case method == "CONNECT" || method == "TRACE":
			return wrong{"is never forwarded", "remove it"}
		}
		return wrong{}
	})
}

// A place is what two routes must not share.
type place struct{ host, path, match, method string }

// routePlace refuses a route that an earlier one hides.
func (l *loader) routePlace(places map[place]int, key string, i int, r Route) (ok bool) {
	const (
		all      = ""  // a route that lists no methods has them all
		whatever = " " // no method: stands for "some route is here"
	)
	taken := []string{whatever}
	clashes := []string{all}
	if len(r.Methods) == 0 {
		taken, clashes = append(taken, all), append(clashes, whatever)
	}
	taken, clashes = append(taken, r.Methods...), append(clashes, r.Methods...)
	for _, method := range clashes {
		if first, ok := places[place{r.Host, r.Path, r.Match, method}]; ok {
			l.fault(key, "has the host and the path of "+l.of(first)+", and a method in common with it",
				"remove one of the two, or give each methods of its own")
			return false
		}
	}
	for _, method := range taken {
		places[place{r.Host, r.Path, r.Match, method}] = i
	}
	return true
}

func (l *loader) routeName(names map[string]int, key string, i int, r Route) {
	if !l.ok(key) {
		return
	}
	const fix = "give it one of 1 to 64 letters, digits, spaces and ._/*:-"
	_, chosen := l.origins[key]
	first, twice := names[r.Name]
	switch {
	case !routeName.MatchString(r.Name) && !chosen:
		l.fault(key, "is required here, because host and path make no name", fix)
	case !routeName.MatchString(r.Name):
		l.fault(key, l.shown(key, r.Name)+" is not a name", fix)
	case twice:
		l.fault(key, "is that of "+l.of(first), "give each route a name of its own")
	default:
		names[r.Name] = i
	}
}

func (l *loader) routeWarnings(key string, r Route) {
	switch shadow := r.Enforce == "shadow"; {
	case shadow && r.Access == "public":
		l.warn(key+".enforce", "is without effect, because the route is public", "remove it, or use access: client")
	case shadow:
		l.warn(key+".enforce", "is shadow: what would be refused on this route is forwarded, and only counted",
			"look at postern_shadowed_total, then use enforce: enforce")
	}
	if r.Access == "public" && r.Path == "/" && r.Match == "prefix" {
		l.warn(key, "is public at /: whatever no longer path covers needs no access token", "use access: client, or a longer path")
	}
	token := l.config.Issuer.TokenPath
	if l.config.Issuer.Enabled && l.ok("issuer.token_path", key+".path") && strings.HasPrefix(r.Path+"/", token+"/") {
		l.warn(key, "is never reached: issuer.token_path and all below it is answered by postern", "move the route or issuer.token_path")
	}
	if d := l.config.Decision.Path; d != "" && r.Path == d && l.ok("decision.path") {
		l.warn(key, "is never reached at its path: decision.path is answered by postern", "move the route or decision.path")
	}
}

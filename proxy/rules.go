package proxy

import (
	"fmt"
	"strings"
)

// rules are what a route does beside forwarding, made ready. Those of a route without any
// cost a request nothing.
type rules struct {
	scopes    scopes
	catalog   catalogPlace
	rewriting rewriting
	request   requestFields
	response  responseFields
	cors      *cors
}

func newRules(r Route, c *classifier) (s rules, err error) {
	fail := func(err error) (rules, error) { return rules{}, fmt.Errorf("route %q: %w", r.Name, err) }
	if s.scopes, err = newScopes(r.Scopes, r.ScopesAny); err != nil {
		return fail(err)
	}
	if len(s.scopes.all)+len(s.scopes.any) > 0 && r.Access == Public {
		return fail(fmt.Errorf("a public route looks at no token, and so at no scope"))
	}
	if s.rewriting, err = newRewriting(r.StripPrefix, r.AddPrefix); err != nil {
		return fail(err)
	}
	if strip := string(s.rewriting.strip); r.Path != strip && !strings.HasPrefix(r.Path, strip+"/") {
		return fail(fmt.Errorf("its path does not begin with the prefix %q that is stripped", strip))
	}
	if s.request, err = newRequestFields(r.RequestFields, c); err != nil {
		return fail(err)
	}
	if s.catalog, err = newCatalogPlace(r, s.request, c); err != nil {
		return fail(err)
	}
	if s.response, err = newResponseFields(r.ResponseFields, c); err != nil {
		return fail(err)
	}
	if s.request.authorization && r.PassAuthorization {
		return fail(fmt.Errorf("the client's Authorization is passed on, and so not set"))
	}
	for _, name := range r.Trailers {
		if c.classify([]byte(name)) != forwarded {
			return fail(fmt.Errorf("field %s: belongs to HTTP or to postern, and is no trailer", name))
		}
		if s.request.drops([]byte(name)) || s.response.drops([]byte(name)) {
			return fail(fmt.Errorf("field %s: is set by the route, and so no trailer of others", name))
		}
	}
	if s.cors, err = newCORS(r.CORS); err != nil {
		return fail(err)
	}
	return s, nil
}

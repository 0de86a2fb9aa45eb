package proxy

import (
	"net/http"
	"strings"
	"testing"

	"postern/answer"
)

// catalogRoutes has a route for each place that can name a catalog.
func catalogRoutes(t testing.TB) *fixture {
	return startRoutes(t,
		Route{Name: "root", Path: "/", Access: Client},
		Route{Name: "path", Path: "/v1", Access: Client, Catalog: Catalog{Path: 3}, StripPrefix: "/v1"},
		Route{Name: "query", Path: "/q", Access: Client, Catalog: Catalog{Query: "catalog_id"}},
		Route{Name: "header", Path: "/h", Access: Client, Catalog: Catalog{Header: "X-Catalog"}},
		Route{Name: "required", Path: "/must", Access: Client, Catalog: Catalog{Query: "catalog", Required: true}},
		Route{Name: "optional", Path: "/some", Access: Optional, Catalog: Catalog{Query: "catalog"}})
}

var (
	noCatalog        = refusal{403, answer.ForbiddenCatalog, "", false}
	malformedCatalog = refusal{400, answer.InvalidRequest, "", false}
)

// catalogTarget is what the upstream of catalogRoutes gets of a request for target.
func catalogTarget(target string) string { return strings.TrimPrefix(target, "/v1") }

// names asserts that a's request is forwarded with these catalogs in X-Catalog-Id, or
// without it.
func (f *fixture) names(target, want string, fields ...string) {
	f.t.Helper()
	head := wire("GET "+catalogTarget(target), "api.test", &callerA, "", fields...)
	if want != "" {
		head = strings.TrimSuffix(head, "\r\n") + "X-Catalog-Id: " + want + "\r\n\r\n"
	}
	f.forwards(get(target, append(fields, as(callerA))...), head)
}

func TestCatalogOfPath(t *testing.T) {
	f := catalogRoutes(t)
	for target, want := range map[string]string{
		"/v1/catalogs/own/tracks":      "own",
		"/v1/catalogs/granted":         "granted",
		"/v1/catalogs/open?catalog=no": "open",
		"/v1/catalogs/%6Fwn/tracks/1":  "own",
		"/v1/catalogs/a%2Fb/tracks":    "a/b", // it is one segment
		"/v1/catalogs/a+b/tracks":      "a+b",
		"/v1/catalogs":                 "",
		"/v1/catalogs/":                "",
		"/v1":                          "",
	} {
		if target == "/v1" {
			continue // strips to nothing but the root
		}
		f.names(target, want)
	}
	for _, target := range []string{"theirs", "nobodys", "OWN", "own%2F", "own%20", "own%3Bv=1", "%256Fwn", "own%C3%A9"} {
		f.refuses(target, get("/v1/catalogs/"+target+"/tracks", as(callerA)), noCatalog)
	}
	// Which segment it is depends on who counts, or what it is on who reads.
	for _, target := range []string{"/v1/cata%2Flogs/own/own", "/v1/;x/own/own", "/v1/catalogs/own;v=1/tracks"} {
		f.refuses(target, get(target, as(callerA)), malformedCatalog)
	}
	f.refuses("of another organization", get("/v1/catalogs/own", as(callerB)), noCatalog)
}

func TestCatalogOfQuery(t *testing.T) {
	f := catalogRoutes(t)
	for target, want := range map[string]string{
		"/q":                                  "",
		"/q?":                                 "",
		"/q?a=b&catalog_id=own&c=d;e":         "own",
		"/q?c%61talog_id=%6Fwn":               "own",
		"/q?catalog_id=&x=theirs":             "",
		"/q?catalog_id":                       "",
		"/q?catalog_id=own&catalog_id=own":    "own",
		"/q?catalog_id=own&catalog_id=open":   "own open",
		"/q?catalog_id=a%2Fb&catalog_id=a%2B": "",
		"/q?mycatalog_id=theirs":              "",
		"/q?catalog_ids=theirs&x=%zz":         "",
	} {
		if strings.HasSuffix(target, "a%2B") {
			f.refuses("one of two", get(target, as(callerA)), noCatalog)
			continue
		}
		f.names(target, want)
	}
	for _, query := range []string{
		"catalog_id=theirs", "catalog_id=nobodys", "catalog_id=own&catalog_id=theirs", "catalog_id=theirs&catalog_id=own",
		"catalog_id=own,open", "catalog_id=a+b", "catalog_id=own+", "catalog_id=%20own", "catalog_id=Own",
	} {
		f.refuses(query, get("/q?"+query, as(callerA)), noCatalog)
	}
	for _, query := range []string{
		"catalog_id=%zz", "catalog_id=own%", "catalog_id=own%0", "catalog_id=own%00", "catalog_id=own%0a", "catalog_id=own%7f",
		"catalog_id=own;x=1", "x=1;catalog_id=own", "catalog_id=own;catalog_id=theirs", "catalog%zz=own",
		"Catalog_Id=own", "catalog_id[]=own", "catalog_id%5B0%5D=own", "catalog.id=own", "+catalog_id=own", "catalog_id%00=own", "catalog_id[=own",
		strings.Repeat("catalog_id=own&", maxCatalogs+1),
	} {
		f.refuses(query, get("/q?"+query, as(callerA)), malformedCatalog)
	}
}

func TestCatalogOfHeader(t *testing.T) {
	f := catalogRoutes(t)
	f.names("/h", "")
	f.names("/h", "", "X-Catalog: ")
	f.names("/h", "own", "X-Catalog: own")
	f.names("/h", "own open", "x-catalog: own", "X-CATALOG: open")
	f.names("/h", "granted", "X_Catalog: granted") // which CGI reads as the field
	f.names("/h", "own", "X-Catalog: own", "X-Catalogs: theirs")
	for _, lines := range [][]string{
		{"X-Catalog: theirs"}, {"X-Catalog: own", "X-Catalog: theirs"}, {"X-Catalog: own", "x_catalog: theirs"},
		{"X-Catalog: own, open"}, {"X-Catalog: own,open"}, {"X-Catalog: %6Fwn"}, {"X-Catalog: nobodys"},
	} {
		f.refuses(strings.Join(lines, " "), get("/h", append(lines, as(callerA))...), noCatalog)
	}
	f.refuses("a tab", get("/h", "X-Catalog: own\towner", as(callerA)), malformedCatalog)
}

func TestCatalogRequiredAndOptional(t *testing.T) {
	f := catalogRoutes(t)
	f.names("/must?catalog=own", "own")
	f.refuses("none", get("/must", as(callerA)), malformedCatalog)
	f.refuses("an empty one", get("/must?catalog=", as(callerA)), malformedCatalog)
	f.refuses("one that cannot be", get("/must?catalog=%20", as(callerA)), noCatalog)
	f.refuses("none, and no token", get("/must"), shortN)
	open := func(target, catalog string) string {
		return strings.TrimSuffix(wire("GET "+target, "api.test", nil, ""), "\r\n") + "X-Catalog-Id: " + catalog + "\r\n\r\n"
	}
	f.forwards(get("/some?catalog=open", "X-Catalog-Id: theirs"), open("/some?catalog=open", "open"))
	f.forwards(get("/some"), wire("GET /some", "api.test", nil, ""))
	f.refuses("not public", get("/some?catalog=own"), noCatalog)
	f.names("/some?catalog=own", "own")
}

// What is unknown and what is not allowed is refused in the same words.
func TestCatalogRefusalTellsNothing(t *testing.T) {
	f := catalogRoutes(t)
	theirs, nobodys := f.ask(get("/q?catalog_id=theirs", as(callerA))), f.ask(get("/q?catalog_id=nobodys", as(callerA)))
	words := func(m *message) string { return m.content[strings.Index(m.content, `"error"`):] }
	if words(theirs) != words(nobodys) || theirs.status() != http.StatusForbidden || strings.Contains(theirs.raw, "theirs") {
		t.Errorf("%q and %q", theirs.raw, nobodys.raw)
	}
}

func TestCatalogOfDecision(t *testing.T) {
	f := start(t, deciding, func(o *Options) {
		for i := range o.Routes {
			if o.Routes[i].Access != Public {
				o.Routes[i].Catalog.Query = "catalog"
			}
		}
	})
	for name, ask := range shapesOfGateways() {
		g := func(target string, status int, want string, fields ...string) {
			t.Helper()
			m := f.ask(ask("GET", "api.test", target, fields...))
			if m.status() != status || m.get("X-Catalog-Id") != want {
				t.Errorf("%s: %s: %q, want %d and %q", name, target, m.raw, status, want)
			}
		}
		g("/a?catalog=own", 200, "own", as(callerA))
		g("/a?catalog=theirs", 403, "", as(callerA))
		g("/optional?catalog=open", 200, "open")
	}
}

func TestCatalogsThatNoRouteHas(t *testing.T) {
	c := testClassifier(t)
	for what, r := range map[string]Route{
		"two places":         {Path: "/", Access: Client, Catalog: Catalog{Path: 1, Query: "q"}},
		"a public route":     {Path: "/", Access: Public, Catalog: Catalog{Path: 1}},
		"a name with blanks": {Path: "/", Access: Client, Catalog: Catalog{Query: "a b"}},
		"an identity field":  {Path: "/", Access: Client, Catalog: Catalog{Header: "X_Catalog_Id"}},
		"a field of HTTP":    {Path: "/", Access: Client, Catalog: Catalog{Header: "Host"}},
		"a field that is replaced": {Path: "/", Access: Client, Catalog: Catalog{Header: "X-Catalog"},
			RequestFields: []Field{set("x_catalog", "own")}},
		"a field that a trailer has": {Path: "/", Access: Client, Catalog: Catalog{Header: "X-Catalog"}, Trailers: []string{"x_catalog"}},
	} {
		if _, err := newRules(r, c); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// FuzzCatalogQuery: whatever is read by net/http as a value of the parameter is judged.
func FuzzCatalogQuery(f *testing.F) {
	for _, seed := range []string{"catalog=own", "catalog=a&catalog=b", "c%61talog=%2f", "x;catalog=1", "catalog=+", "=&&catalog"} {
		f.Add(seed)
	}
	p := &catalogPlace{parameter: "catalog", folded: "catalog"}
	f.Fuzz(func(t *testing.T, query string) {
		target := "/?" + query
		if _, _, ok := checkTarget([]byte(target)); !ok {
			return
		}
		var n named
		if !n.parameters([]byte(query), p) {
			return
		}
		r, err := http.NewRequest(http.MethodGet, target, nil)
		if err != nil {
			return
		}
		for _, value := range r.URL.Query()["catalog"] {
			if value != "" && !hasID(n.ids, []byte(value)) && !n.unknown {
				t.Errorf("%q: %q is not judged, %q is", query, value, n.ids)
			}
		}
	})
}

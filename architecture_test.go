package main

import (
	"fmt"
	"go/ast"
	"go/token"
	"go/types"
	"maps"
	"slices"
	"strings"
	"testing"
)

// layers are the rooms from the bottom up. A room may import rooms of lower layers, and
// never one of its own. A new package is given its place here first.
func layers() [][]string {
	return [][]string{
		{"secret", "answer", "registry/pgtest"},
		{"registry", "token"},
		{"directory"},
		{"proxy", "issuer", "verifier", "limiter", "usage", "config"},
		{"main"},
	}
}

// homes says where each third-party module, and each part of the standard library that
// a room must stay away from, is imported. A new dependency is given its home here first.
func homes() map[string][]string {
	return map[string][]string{
		"github.com/alecthomas/kong":                              {"main"},
		"gopkg.in/yaml.v3":                                        {"config"},
		"github.com/fsnotify/fsnotify":                            {"config"},
		"github.com/golang-jwt/jwt":                               {"token"},
		"github.com/dgraph-io/ristretto":                          {"verifier"},
		"github.com/hashicorp/golang-lru":                         {"directory", "issuer"},
		"modernc.org/sqlite":                                      {"registry"},
		"github.com/pressly/goose":                                {"registry"},
		"github.com/valyala/fasthttp":                             {"proxy", "issuer", "answer", "main"},
		"github.com/prometheus/client_golang":                     {"registry", "directory", "proxy", "issuer", "verifier", "limiter", "usage", "main"},
		"github.com/google/uuid":                                  {"registry", "directory", "token", "proxy", "issuer", "verifier", "main"},
		"github.com/gomodule/redigo":                              {"limiter"},
		"golang.org/x/sys":                                        {"proxy"},
		"golang.org/x/sync":                                       {"verifier"},
		"golang.org/x/crypto":                                     {"secret", "issuer"},
		"github.com/jackc/pgx":                                    {"registry", "registry/pgtest"},
		"database/sql":                                            {"registry", "registry/pgtest"},
		"net/http":                                                {"main"},
		"net/http/pprof":                                          {"main"},
		"github.com/prometheus/client_model":                      {},
		"github.com/prometheus/client_golang/prometheus/promauto": {}, // it registers with the default registerer
	}
}

const arrows = `the rules (a room imports only rooms below its own line):
    main
    proxy  issuer  verifier  limiter  usage  config      config is imported by main alone
    directory
    registry  token
    secret  answer  registry/pgtest      these import no room; pgtest is for tests alone`

func TestArchitecture(t *testing.T) {
	m := readModule(t)
	t.Run("arrows", func(t *testing.T) { report(t, arrows, arrowFaults(m.packages)) })
	t.Run("homes", func(t *testing.T) {
		rules := "the homes:"
		for _, path := range slices.Sorted(maps.Keys(homes())) {
			rules += fmt.Sprintf("\n    %-56s %s", path, strings.Join(homes()[path], " "))
		}
		report(t, rules, homeFaults(m.packages))
	})
	t.Run("source", func(t *testing.T) {
		rules := "the rules: no init function; no variable of a package but errors, embedded files and tables that nothing assigns to;\n" +
			"no default registerer, mux or logger; no values in contexts"
		var faults []string
		for _, p := range m.packages {
			faults = append(faults, sourceFaults(m.fset, p)...)
		}
		report(t, rules, faults)
	})
}

func report(t *testing.T, rules string, faults []string) {
	t.Helper()
	for _, f := range faults {
		t.Error(f)
	}
	if len(faults) > 0 {
		t.Log(rules)
	}
}

func arrowFaults(packages []*source) (faults []string) {
	layer := map[string]int{}
	for i, rooms := range layers() {
		for _, r := range rooms {
			layer[r] = i
		}
	}
	for _, p := range packages {
		from, known := layer[p.room()]
		if !known {
			faults = append(faults, "package "+p.room()+" has no place: give it one in layers")
			continue
		}
		for _, path := range p.Imports {
			target := listed{ImportPath: path}.room()
			if to, ours := layer[target]; !ours || target == path && path != modulePath {
				continue
			} else if to >= from {
				faults = append(faults, fmt.Sprintf("%s imports %s, which is not below it", p.room(), target))
			} else if target == "config" && p.room() != "main" {
				faults = append(faults, p.room()+" imports config: main alone may, and hands out small options")
			}
		}
	}
	return faults
}

func homeFaults(packages []*source) (faults []string) {
	known := homes()
	for _, p := range packages {
		for _, path := range p.Imports {
			home := ""
			for module := range known {
				if (path == module || strings.HasPrefix(path, module+"/")) && len(module) > len(home) {
					home = module
				}
			}
			switch {
			case home != "" && !slices.Contains(known[home], p.room()):
				faults = append(faults, fmt.Sprintf("%s imports %s, whose home is %q", p.room(), path, known[home]))
			case home == "" && strings.Contains(strings.Split(path, "/")[0], "."):
				faults = append(faults, fmt.Sprintf("%s imports %s, which has no home: give it one in homes", p.room(), path))
			}
		}
	}
	return faults
}

// forbidden names what lets one part of a program act on another behind its back.
func forbidden() map[string]string {
	return map[string]string{
		"context.WithValue": "pass it as an argument",
		"(*github.com/valyala/fasthttp.RequestCtx).SetUserValue":          "pass it as an argument",
		"(*github.com/valyala/fasthttp.RequestCtx).SetUserValueBytes":     "pass it as an argument",
		"github.com/prometheus/client_golang/prometheus.Register":         "register where main says",
		"github.com/prometheus/client_golang/prometheus.MustRegister":     "register where main says",
		"github.com/prometheus/client_golang/prometheus.Unregister":       "register where main says",
		"github.com/prometheus/client_golang/prometheus/promhttp.Handler": "use HandlerFor and a registry of our own",
		"net/http.Handle":         "use a mux of our own",
		"net/http.HandleFunc":     "use a mux of our own",
		"net/http.ListenAndServe": "use a server of our own, with its limits",
		"log/slog.SetDefault":     "pass the logger",
		"log/slog.Default":        "pass the logger",
		"github.com/prometheus/client_golang/prometheus.DefaultRegisterer": "register where main says",
		"github.com/prometheus/client_golang/prometheus.DefaultGatherer":   "gather where main says",
		"net/http.DefaultServeMux":                                         "use a mux of our own",
		"net/http.DefaultClient":                                           "use a client of our own, with its limits",
		"net/http.DefaultTransport":                                        "use a transport of our own, with its limits",
	}
}

func sourceFaults(fset *token.FileSet, p *source) (faults []string) {
	add := func(pos token.Pos, format string, args ...any) {
		faults = append(faults, place(fset, pos)+": "+fmt.Sprintf(format, args...))
	}
	assigned := assignedVariables(p)
	for _, file := range p.files {
		for _, d := range file.Decls {
			switch d := d.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" {
					add(d.Pos(), "an init function: do it where main says")
				}
			case *ast.GenDecl:
				if d.Tok != token.VAR {
					continue
				}
				for _, s := range d.Specs {
					for name, why := range variableFaults(p, d, s.(*ast.ValueSpec), assigned) {
						add(s.Pos(), "variable %s of the package: %s", name, why)
					}
				}
			}
		}
	}
	bad := forbidden()
	for ident, used := range p.info.Uses {
		name := ""
		switch used := used.(type) {
		case *types.Func:
			name = used.FullName()
		case *types.Var:
			if used.Pkg() != nil && used.Parent() == used.Pkg().Scope() {
				name = used.Pkg().Path() + "." + used.Name()
			}
		}
		if why, ok := bad[name]; ok {
			add(ident.Pos(), "%s: %s", name, why)
		}
	}
	slices.Sort(faults)
	return faults
}

// variableFaults judges the variables of one declaration: by name, why it may not be.
func variableFaults(p *source, d *ast.GenDecl, s *ast.ValueSpec, assigned map[types.Object]bool) map[string]string {
	faults := map[string]string{}
	for _, name := range s.Names {
		object := p.info.Defs[name]
		switch {
		case name.Name == "_": // states that a type has some methods
		case assigned[object]:
			faults[name.Name] = "it is assigned to: keep it in a value that main makes"
		case embedded(d.Doc) || embedded(s.Doc):
		case types.Implements(object.Type(), errorType()):
		case len(s.Values) != len(s.Names):
			faults[name.Name] = "it has no value of its own: keep it in a value that main makes"
		case !table(object.Type(), map[types.Type]bool{}):
			faults[name.Name] = fmt.Sprintf("a %s is no error, embedded file or table: keep it in a value that main makes", object.Type())
		}
	}
	return faults
}

func embedded(doc *ast.CommentGroup) bool {
	if doc == nil {
		return false
	}
	return slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

func errorType() *types.Interface {
	return types.Universe.Lookup("error").Type().Underlying().(*types.Interface)
}

// table reports whether t is made of plain values all through, or is one of the compiled
// things of the standard library that never change: nothing in it holds state.
func table(t types.Type, seen map[types.Type]bool) bool {
	if seen[t] {
		return true
	}
	seen[t] = true
	if slices.Contains([]string{"*regexp.Regexp", "*strings.Replacer", "*encoding/base64.Encoding", "reflect.Type"}, t.String()) {
		return true
	}
	if named, ok := t.(*types.Named); ok && named.Obj().Pkg() != nil &&
		slices.Contains([]string{"sync", "sync/atomic"}, named.Obj().Pkg().Path()) {
		return false
	}
	switch u := t.Underlying().(type) {
	case *types.Array:
		return table(u.Elem(), seen)
	case *types.Slice:
		return tableOrScalar(u.Elem(), seen)
	case *types.Map:
		return tableOrScalar(u.Elem(), seen)
	case *types.Struct:
		for field := range u.Fields() {
			if !tableOrScalar(field.Type(), seen) {
				return false
			}
		}
		return true
	case *types.Basic:
		return len(seen) > 1 // alone it is a setting
	}
	return false
}

func tableOrScalar(t types.Type, seen map[types.Type]bool) bool {
	switch t.Underlying().(type) {
	case *types.Basic, *types.Signature:
		return true
	}
	return table(t, seen)
}

// assignedVariables finds the package's variables that its functions assign to, whole or
// in part.
func assignedVariables(p *source) map[types.Object]bool {
	assigned := map[types.Object]bool{}
	mark := func(e ast.Expr) {
		for {
			switch x := e.(type) {
			case *ast.IndexExpr:
				e = x.X
				continue
			case *ast.SelectorExpr:
				e = x.X
				continue
			case *ast.ParenExpr:
				e = x.X
				continue
			case *ast.StarExpr:
				e = x.X
				continue
			case *ast.Ident:
				if o := p.info.Uses[x]; o != nil && o.Pkg() != nil && o.Parent() == o.Pkg().Scope() {
					assigned[o] = true
				}
			}
			return
		}
	}
	for _, file := range p.files {
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.AssignStmt:
				for _, left := range n.Lhs {
					mark(left)
				}
			case *ast.IncDecStmt:
				mark(n.X)
			case *ast.RangeStmt:
				if n.Tok == token.ASSIGN {
					mark(n.Key)
					mark(n.Value)
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") && len(n.Args) > 0 {
					mark(n.Args[0])
				}
			}
			return true
		})
	}
	return assigned
}

// TestArchitectureSees breaks each rule once: a judge that sees nothing finds nothing.
func TestArchitectureSees(t *testing.T) {
	imports := func(room string, paths ...string) []*source {
		path := modulePath + "/" + room
		if room == "main" {
			path = modulePath
		}
		return []*source{{listed: listed{ImportPath: path, Imports: paths}}}
	}
	f := func(name string, got []string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			if len(got) != len(want) {
				t.Fatalf("got %d faults, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
			}
			for i := range want {
				if !strings.Contains(got[i], want[i]) {
					t.Errorf("got %q, want %q in it", got[i], want[i])
				}
			}
		})
	}
	f("down", arrowFaults(imports("issuer", "fmt", "postern/directory", "postern/answer")))
	f("up", arrowFaults(imports("token", "postern/directory")), "token imports directory")
	f("aside", arrowFaults(imports("issuer", "postern/verifier")), "issuer imports verifier")
	f("leaf", arrowFaults(imports("secret", "postern/answer")), "secret imports answer")
	f("config", arrowFaults(imports("proxy", "postern/config")), "proxy imports config")
	f("main may", arrowFaults(imports("main", "postern/config", "postern/proxy")))
	f("main is a leaf's", arrowFaults(imports("secret", "postern")), "secret imports main")
	f("unknown room", arrowFaults(imports("util")), "util has no place")

	f("at home", homeFaults(imports("verifier", "github.com/dgraph-io/ristretto/v2", "crypto/sha256")))
	f("not at home", homeFaults(imports("proxy", "github.com/dgraph-io/ristretto/v2")), "proxy imports github.com/dgraph-io/ristretto/v2")
	f("no home", homeFaults(imports("proxy", "github.com/someone/something")), "has no home")
	f("sql", homeFaults(imports("directory", "database/sql/driver")), "directory imports database/sql/driver")
	f("promauto", homeFaults(imports("proxy", "github.com/prometheus/client_golang/prometheus/promauto")), "promauto")
	f("name alike", homeFaults(imports("proxy", "net/httpx")))

	snippet := snippets(t)
	text := func(body string) []string {
		fset, p := snippet("package snippet\n" + body)
		return sourceFaults(fset, p)
	}
	f("constants", text(`import ("errors"; "regexp")
const limit = 3
var ErrOne = errors.New("one")
var pattern = regexp.MustCompile("a")
var names = [...]string{"a"}
var table = map[string]struct{ status int; words []string }{"a": {status: 1}}
var _ error = ErrOne`))
	f("init", text("func init() {}"), "init function")
	f("counter", text("var count int\nfunc f() { count++ }"), "count of the package: it is assigned to")
	f("setting", text("var timeout = 3"), "timeout of the package: a int is no")
	f("late", text("var table map[string]int"), "it has no value of its own")
	f("table written", text("var table = map[string]int{}\nfunc f() { table[`a`] = 1 }"), "it is assigned to")
	f("table cleared", text("var table = map[string]int{}\nfunc f() { delete(table, `a`) }"), "it is assigned to")
	f("error replaced", text("import `errors`\nvar Err = errors.New(`x`)\nfunc f() { Err = nil }"), "it is assigned to")
	f("lock", text("import `sync`\nvar mu = sync.Mutex{}"), "is no error")
	f("hidden lock", text("import `sync`\nvar state = struct{ mu sync.Mutex }{}"), "is no error")
	f("pointer", text("type t struct{ n int }\nvar one = &t{}"), "is no error")
	f("context value", text("import `context`\nfunc f(c context.Context) context.Context { return context.WithValue(c, 1, 2) }"), "context.WithValue")
	f("method value", text("import `context`\nfunc f() any { return context.WithValue }"), "context.WithValue")
	f("default mux", text("import `net/http`\nfunc f() { http.HandleFunc(`/`, nil); _ = http.DefaultServeMux }"), "DefaultServeMux", "HandleFunc")
}

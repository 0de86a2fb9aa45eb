package main

import (
	"cmp"
	"go/ast"
	"go/token"
	"go/types"
	"slices"
	"strings"
	"testing"
)

// revealers are the functions that may read a secret's text, each with its reason. A
// new one is a deliberate act.
func revealers() map[string]string {
	return map[string]string{
		"command_apply_read.go: (*weakSecrets).Hash":         "a declared secret in clear is hashed",
		"command_apply_read.go: (*weakSecrets).Matches":      "a declared secret in clear is compared with what is kept",
		"command_apply_read.go: secretsOf":                   "the digest of a declared secret, and its form",
		"command_catalog_import.go: importedCatalog":         "rows of an import, all of which may be secrets by mistake",
		"command_client.go: (*environment).clientWithSecret": "the operator hands it to the client; shown this once",
		"command_import.go: (*ClientImportCommand).hash":     "secrets of an import in clear are hashed",
		"command_import_read.go: (importRow).client":         "rows of an import, all of which may be secrets by mistake",
		"command_key.go: publicJWK":                          "the public half is derived from the private one",
		"command_where.go: missingFile":                      "whether the store's file is there",
		"config/resolve.go: (*loader).masterKey":             "from base64 or hex to bytes",
		"config/route_fields.go: (*loader).fieldValue":       "the form of a host that upstreams are told",
		"config/route_fields.go: madeUp":                     "whether it is one that anybody can guess",
		"config/validate.go: (*loader).redis":                "the form of the address",
		"config/validate.go: (*loader).store":                "the form of the DSN",
		"demo.go: (*DemoCommand).show":                       "the demo's own client, in a temporary store",
		"directory/keys.go: (*Directory).loadKeys":           "keys are parsed once, when they change",
		"issuer/client.go: (*Issuer).authenticate":           "the digest of what the client sent",
		"issuer/weak.go: (*weak).proofOf":                    "its keyed digest is what is remembered",
		"limiter/redis.go: (*connection).login":              "the password of Redis",
		"limiter/redis.go: parseAddress":                     "the address of Redis, with its password",
		"limits.go: (*postern).warnAlone":                    "the kind of store that a DSN names",
		"proxy/fields.go: checkField":                        "a route's field has no control characters",
		"proxy/fields.go: newRequestFields":                  "what a route sends to its upstream, credentials perhaps",
		"proxy/fields.go: newResponseFields":                 "what a route sets in answers",
		"registry/copy.go: (*copying).run":                   "the kind of store that a DSN names",
		"registry/engine.go: isPostgres":                     "the kind of store that a DSN names",
		"registry/engine.go: openEngine":                     "the kind of store that a DSN names",
		"registry/postgres.go: newPostgres":                  "the DSN",
		"registry/registry.go: Open":                         "the DSN, and the length of the master key",
		"registry/secrets.go: (*Registry).addSecret":         "the digest is what is kept",
		"registry/secrets.go: insertSecret":                  "the slow hash is what is kept of a weak secret",
		"registry/source.go: openSource":                     "the kind of store that a DSN names, and its path",
		"registry/source.go: openOtherSource":                "the DSN",
		"registry/wrap.go: (sealer).seal":                    "the private key is encrypted",
		"registry/rewrap.go: (*Registry).Rewrap":             "the length of the new master key",
		"registry/wrap.go: openDataKey":                      "the master key decrypts the data key",
		"registry/wrap.go: wrapDataKey":                      "the master key encrypts the data key",
	}
}

func TestSecretRevealCallers(t *testing.T) {
	m := readModule(t)
	found := map[string]bool{}
	for _, p := range m.packages {
		if p.room() == "secret" {
			continue
		}
		for _, where := range reveals(m.fset, p) {
			found[where] = true
		}
	}
	allowed := revealers()
	for where := range found {
		if allowed[where] == "" {
			t.Errorf("%s reads a secret's text and is not in the list of those that may", where)
		}
	}
	for where := range allowed {
		if !found[where] {
			t.Errorf("%s is in the list and reads no secret: take it out", where)
		}
	}
}

// reveals names the functions of p that read a secret's text: by Reveal, or by a
// conversion or an index, which would be ways around it.
func reveals(fset *token.FileSet, p *source) []string {
	var found []string
	for _, file := range p.files {
		name := strings.SplitN(place(fset, file.Pos()), ":", 2)[0]
		for _, d := range file.Decls {
			function := "package"
			if f, ok := d.(*ast.FuncDecl); ok {
				function = f.Name.Name
				if f.Recv != nil {
					function = "(" + types.ExprString(f.Recv.List[0].Type) + ")." + function
				}
			}
			ast.Inspect(d, func(n ast.Node) bool {
				if n, ok := n.(ast.Expr); ok && readsSecret(p.info, n) {
					found = append(found, name+": "+function)
				}
				return true
			})
		}
	}
	slices.SortFunc(found, cmp.Compare)
	return slices.Compact(found)
}

func readsSecret(info *types.Info, e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.SelectorExpr: // s.Reveal, called or not, and secret.Secret.Reveal
		f, ok := info.Uses[e.Sel].(*types.Func)
		return ok && f.FullName() == "("+modulePath+"/secret.Secret).Reveal"
	case *ast.CallExpr: // string(s), []byte(s)
		conversion := info.Types[e.Fun].IsType() && len(e.Args) == 1
		if conversion {
			return isSecret(info.TypeOf(e.Args[0])) && !isSecret(info.TypeOf(e))
		}
		appends := info.Types[e.Fun].IsBuiltin() && len(e.Args) == 2 && e.Ellipsis.IsValid() // append(b, s...)
		return appends && isSecret(info.TypeOf(e.Args[1]))
	case *ast.IndexExpr:
		return isSecret(info.TypeOf(e.X))
	}
	return false
}

func isSecret(t types.Type) bool {
	return t != nil && t.String() == modulePath+"/secret.Secret"
}

func TestSecretRevealCallersSees(t *testing.T) {
	snippet := snippets(t)
	f := func(name, body string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			t.Helper()
			fset, p := snippet("package snippet\nimport `postern/secret`\nvar _ secret.Secret\n" + body)
			if got := reveals(fset, p); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
	f("nothing", "func f(s secret.Secret) secret.Secret { return s + `x` }")
	f("making one", "func f(b []byte) secret.Secret { return secret.Secret(b) }")
	f("length", "func f(s secret.Secret) int { return len(s) }")
	f("call", "func f(s secret.Secret) string { return s.Reveal() }", "snippet.go: f")
	f("method", "type t struct{ s secret.Secret }\nfunc (x *t) f() string { return x.s.Reveal() }", "snippet.go: (*t).f")
	f("method value", "func f(s secret.Secret) func() string { return s.Reveal }", "snippet.go: f")
	f("method expression", "func f() func(secret.Secret) string { return secret.Secret.Reveal }", "snippet.go: f")
	f("inner function", "func f(s secret.Secret) { func() { _ = s.Reveal() }() }", "snippet.go: f")
	f("conversion", "func f(s secret.Secret) string { return string(s) }", "snippet.go: f")
	f("bytes", "func f(s secret.Secret) []byte { return []byte(s) }", "snippet.go: f")
	f("append", "func f(s secret.Secret) []byte { return append([]byte(nil), s...) }", "snippet.go: f")
	f("index", "func f(s secret.Secret) byte { return s[0] }", "snippet.go: f")
	f("variable", "var g = func(s secret.Secret) string { return s.Reveal() }", "snippet.go: package")
	f("another Reveal", "type t struct{}\nfunc (t) Reveal() string { return `` }\nfunc f(x t) string { return x.Reveal() }")
}

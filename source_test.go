package main

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// listed is what go list says of one package.
type listed struct {
	ImportPath   string
	Dir          string
	Name         string
	Export       string // file with the compiled package's declarations
	Imports      []string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Module       *struct{ Path string }
	Standard     bool
}

// source is one package of ours as the compiler sees it, without its tests.
type source struct {
	listed
	files []*ast.File
	info  *types.Info
}

// module is the whole program: read once for all tests that judge it.
type module struct {
	fset     *token.FileSet
	packages []*source
}

// room is the package's path inside the module; "main" for the root.
func (l listed) room() string {
	if l.ImportPath == modulePath {
		return "main"
	}
	return strings.TrimPrefix(l.ImportPath, modulePath+"/")
}

const modulePath = "postern"

// goList asks the go command about packages.
func goList(t *testing.T, args ...string) []listed {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("SKIPPED: there is no go command to ask about the packages")
	}
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Name,Export,Imports,GoFiles,TestGoFiles,XTestGoFiles,Module,Standard"}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, &stderr)
	}
	var all []listed
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var one listed
		if err := decoder.Decode(&one); err == io.EOF {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, one)
	}
}

// readModule parses and type-checks every package of ours, against the compiled
// declarations of all others.
func readModule(t *testing.T) *module {
	t.Helper()
	all := goList(t, "-export", "-deps", "./...")
	m := &module{fset: token.NewFileSet()}
	for _, one := range all {
		if one.Module != nil && one.Module.Path == modulePath {
			m.packages = append(m.packages, &source{listed: one})
		}
	}
	imports := compiled(m.fset, all)
	for _, p := range m.packages {
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(m.fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			p.files = append(p.files, file)
		}
		p.info = check(t, m.fset, imports, p.ImportPath, p.files)
	}
	if len(m.packages) < 2 {
		t.Fatalf("go list found %d packages of ours", len(m.packages))
	}
	return m
}

// compiled returns an importer of the declarations that go list found compiled.
func compiled(fset *token.FileSet, all []listed) types.Importer {
	exports := map[string]string{}
	for _, one := range all {
		exports[one.ImportPath] = one.Export
	}
	return importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
}

func check(t *testing.T, fset *token.FileSet, imports types.Importer, path string, files []*ast.File) *types.Info {
	t.Helper()
	info := &types.Info{
		Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{},
		Selections: map[*ast.SelectorExpr]*types.Selection{},
	}
	if _, err := (&types.Config{Importer: imports}).Check(path, fset, files, info); err != nil {
		t.Fatal(err)
	}
	return info
}

// place names the line that pos is on, from the module's root.
func place(fset *token.FileSet, pos token.Pos) string {
	p := fset.Position(pos)
	if root, err := os.Getwd(); err == nil {
		if short, err := filepath.Rel(root, p.Filename); err == nil {
			p.Filename = filepath.ToSlash(short)
		}
	}
	p.Column = 0
	return p.String()
}

// snippets returns a function that type-checks a package of one file, for the tests of
// the judges themselves. What it imports must be something that postern is made of.
func snippets(t *testing.T) func(text string) (*token.FileSet, *source) {
	t.Helper()
	fset := token.NewFileSet()
	imports := compiled(fset, goList(t, "-export", "-deps", "."))
	return func(text string) (*token.FileSet, *source) {
		t.Helper()
		file, err := parser.ParseFile(fset, "snippet.go", text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		p := &source{listed: listed{ImportPath: modulePath + "/snippet"}, files: []*ast.File{file}}
		p.info = check(t, fset, imports, "snippet", p.files)
		return fset, p
	}
}

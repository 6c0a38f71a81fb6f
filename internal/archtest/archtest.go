// Package archtest keeps the house's map true: which room may import which, where the environment may be
// read and goroutines started, how large things may grow. The map is the table in rooms.go; the package's
// own test compares it with the repository.
//
// It reads source files only and knows nothing of what they do.
package archtest

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Breach is one place where the repository does not follow the map.
type Breach struct {
	Place string // file:line, or a room
	Rule  string // what is wrong there and what to do
}

func (b Breach) String() string { return b.Place + ": " + b.Rule }

// Check returns every breach in the Go files of repo, sorted by place. The error is that of reading.
func Check(repo fs.FS) ([]Breach, error) {
	c := &checker{repo: repo, fset: token.NewFileSet(), documented: map[string]bool{}}
	if err := fs.WalkDir(repo, ".", c.visit); err != nil {
		return nil, fmt.Errorf("reading the repository: %w", err)
	}
	for room, ok := range c.documented {
		if !ok {
			c.report(room, "no package comment: say what the room owns and what it refuses to know")
		}
	}
	slices.SortFunc(c.breaches, func(a, b Breach) int { return strings.Compare(a.String(), b.String()) })
	return c.breaches, nil
}

type checker struct {
	repo       fs.FS
	fset       *token.FileSet
	documented map[string]bool // rooms with code, and whether one of their files has a package comment
	breaches   []Breach
}

func (c *checker) report(place, format string, args ...any) {
	c.breaches = append(c.breaches, Breach{place, fmt.Sprintf(format, args...)})
}

func (c *checker) visit(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if d.IsDir() {
		base := path.Base(name)
		hidden := name != "." && (strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_"))
		if hidden || base == "testdata" || base == "node_modules" {
			return fs.SkipDir
		}
		return nil
	}
	if path.Ext(name) != ".go" {
		return nil
	}
	text, err := fs.ReadFile(c.repo, name)
	if err != nil {
		return err
	}
	file, err := parser.ParseFile(c.fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return err
	}
	c.file(name, file)
	return nil
}

// A source is one file as the rules see it.
type source struct {
	name, dir string
	room      Room
	known     bool // there is a row for the room
	test      bool
	generated bool
}

// file applies every rule to one file.
func (c *checker) file(name string, file *ast.File) {
	src := source{
		name: name, dir: path.Dir(name), test: strings.HasSuffix(name, "_test.go"), generated: ast.IsGenerated(file),
	}
	src.room, src.known = roomOf(src.dir)
	if !src.known && !src.test {
		c.report(src.dir, "a room that is not on the map: describe it in internal/archtest/rooms.go, with a sentence "+
			"and what it may import, and in docs/decisions")
	}
	for _, spec := range file.Imports {
		c.imports(src, spec)
	}
	if src.test {
		return
	}
	c.documented[src.dir] = c.documented[src.dir] || file.Doc != nil
	if n := c.fset.File(file.Pos()).LineCount(); n > MaxFileLines && !src.generated {
		c.report(name, "%d lines, at most %d: split it by what its parts know", n, MaxFileLines)
	}
	for node := range ast.Preorder(file) {
		c.node(src, node)
	}
}

func (c *checker) imports(src source, spec *ast.ImportSpec) {
	target, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		return // the parser has seen to it
	}
	place := c.place(spec)
	for _, fence := range Only {
		if !fence.covers(target) || src.test && fence.testsMay(src.dir) {
			continue
		}
		if !inAny(src.dir, fence.Places) {
			c.report(place, "imports %s, which only %s may: %s", target, list(fence.Places), fence.Why)
		}
	}
	if src.test || !src.known {
		return // a test may use what the rooms it wires together use
	}
	if rest, ours := strings.CutPrefix(target, module+"/"); ours {
		if !inAny(rest, src.room.Rooms) {
			c.report(place, "room %s imports %s, the map allows %s", src.room.Path, rest, list(src.room.Rooms))
		}
		return
	}
	if foreign(target) && !slices.ContainsFunc(src.room.Foreign, func(root string) bool { return below(target, root) }) {
		c.report(place, "room %s imports %s, the map allows %s", src.room.Path, target, list(src.room.Foreign))
	}
}

// covers reports whether a fence is about an import: of another module with all below it, of the standard
// library exactly, for log/slog has nothing to do with log.
func (f Fence) covers(target string) bool {
	return target == f.What || foreign(f.What) && below(target, f.What)
}

// foreign reports whether an import path begins with a host's name.
func foreign(target string) bool {
	host, _, _ := strings.Cut(target, "/")
	return strings.Contains(host, ".")
}

// testsMay reports whether the fence lets tests of a room through.
func (f Fence) testsMay(dir string) bool {
	places, fenced := InTests[f.What]
	return !fenced || inAny(dir, places)
}

// node applies the rules that look into a file.
func (c *checker) node(src source, node ast.Node) {
	switch n := node.(type) {
	case *ast.GoStmt:
		c.fenced(src.name, n, Goroutines)
	case *ast.CallExpr:
		c.call(src.name, n)
	case *ast.SelectorExpr:
		if isName(n.X, "os") && slices.Contains([]string{"Getenv", "LookupEnv", "Environ"}, n.Sel.Name) {
			c.fenced(src.name, n, Environment)
		}
	case *ast.FuncDecl:
		if n.Recv == nil && n.Name.Name == "init" {
			c.fenced(src.name, n, Inits)
		}
		if lines := c.lines(n); lines > MaxFuncLines && !src.generated {
			c.report(c.place(n), "%s has %d lines, at most %d: split it", n.Name.Name, lines, MaxFuncLines)
		}
	case *ast.TypeSpec:
		c.typeSpec(src.dir, n)
	}
}

func (c *checker) call(name string, call *ast.CallExpr) {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		if f.Name == "print" || f.Name == "println" {
			c.fenced(name, call, Printing)
		}
	case *ast.SelectorExpr:
		if isName(f.X, "fmt") && strings.HasPrefix(f.Sel.Name, "Print") {
			c.fenced(name, call, Printing)
		}
		if f.Sel.Name == "Go" && len(call.Args) == 1 { // of an errgroup or a WaitGroup
			c.fenced(name, call, Goroutines)
		}
	}
}

func (c *checker) typeSpec(dir string, spec *ast.TypeSpec) {
	decl, ok := spec.Type.(*ast.InterfaceType)
	if !ok {
		return
	}
	methods := 0
	for _, field := range decl.Methods.List {
		methods += len(field.Names)
	}
	name := dir + "." + spec.Name.Name
	if _, excused := WideInterfaces[name]; methods > MaxMethods && !excused {
		c.report(c.place(spec), "interface %s has %d methods, at most %d: declare what its consumer needs, or give "+
			"the reason in WideInterfaces", name, methods, MaxMethods)
	}
}

// fenced reports node unless its file or its room lies within the fence.
func (c *checker) fenced(name string, node ast.Node, fence Fence) {
	if !inAny(path.Dir(name), fence.Places) && !slices.Contains(fence.Places, name) {
		c.report(c.place(node), "%s outside of %s: %s", fence.What, list(fence.Places), fence.Why)
	}
}

func (c *checker) place(node ast.Node) string {
	pos := c.fset.Position(node.Pos())
	return fmt.Sprintf("%s:%d", pos.Filename, pos.Line)
}

func (c *checker) lines(node ast.Node) int {
	return c.fset.Position(node.End()).Line - c.fset.Position(node.Pos()).Line + 1
}

// roomOf returns the most specific row that describes a folder.
func roomOf(dir string) (best Room, ok bool) {
	for _, room := range Rooms {
		if inAny(dir, []string{room.Path}) && (!ok || len(room.Path) > len(best.Path)) {
			best, ok = room, true
		}
	}
	return best, ok
}

// inAny reports whether one of the patterns describes dir: the folder itself, "x/..." or "..." for all.
func inAny(dir string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		root, deep := strings.CutSuffix(pattern, "...")
		root = strings.TrimSuffix(root, "/")
		return dir == pattern || deep && (root == "" || below(dir, root))
	})
}

// below reports whether a slash-separated path is root or lies below it.
func below(name, root string) bool {
	return name == root || strings.HasPrefix(name, root+"/")
}

func isName(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name
}

// list names allowed places for people.
func list(places []string) string {
	if len(places) == 0 {
		return "nothing"
	}
	return strings.Join(places, ", ")
}

package main

import (
	"go/ast"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The methods of a type stand together: in one file, or in two.
func TestMethodsStandTogether(t *testing.T) {
	files := map[string]map[string]bool{} // by package and type
	for _, f := range product(t) {
		for _, decl := range f.Decls {
			if name := receiver(decl); name != "" {
				name = f.dir + "." + name
				if files[name] == nil {
					files[name] = map[string]bool{}
				}
				files[name][filepath.Base(f.path)] = true
			}
		}
	}
	if len(files) < 50 {
		t.Fatalf("only %d types with methods found", len(files))
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if len(files[name]) > 2 {
			t.Errorf("the methods of %s lie in %d files, at most 2 are allowed: %s", name, len(files[name]),
				strings.Join(slices.Sorted(maps.Keys(files[name])), ", "))
		}
	}
}

// receiver returns the type that a declaration is a method of, or "".
func receiver(decl ast.Decl) string {
	fn, ok := decl.(*ast.FuncDecl)
	if !ok || fn.Recv == nil {
		return ""
	}
	expr := fn.Recv.List[0].Type
	if star, ok := expr.(*ast.StarExpr); ok {
		expr = star.X
	}
	if index, ok := expr.(*ast.IndexExpr); ok { // a generic type
		expr = index.X
	}
	id, _ := expr.(*ast.Ident)
	if id == nil {
		return ""
	}
	return id.Name
}

// Each package tells its story: go doc has a text for it.
func TestEveryPackageHasItsStory(t *testing.T) {
	story := map[string]int{}
	for _, f := range product(t) {
		if f.Doc != nil {
			story[f.dir] = max(story[f.dir], len(f.Doc.Text()))
		} else if story[f.dir] == 0 {
			story[f.dir] = 0
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(story)) {
		if least := 80; story[dir] < least {
			t.Errorf("package %s has a comment of %d letters: at least %d", dir, story[dir], least)
		}
	}
}

// bitLiterals are the ways to spell the bits of a frame's header by hand.
var bitLiterals = []string{"1<<31", "1 << 31", "1<<30", "1 << 30", "0x80", "0x7f", "0x80000000", "0x7fffffff"}

// notFrames are places where such a number means something else.
var notFrames = map[string]string{
	"cli":       "the most that a flag allows",
	"cli/flags": "the most that a flag allows",
	"ipc/spool": "the largest body that a file may have",
}

// There is one codec: what a bit of a frame's header means is known to ipc/frame
// alone, and its copies in the modules.
func TestOneCodec(t *testing.T) {
	checked := 0
	for _, f := range product(t) {
		if f.dir == "ipc/frame" || strings.HasSuffix(f.dir, "/internal/frame") {
			continue
		}
		checked++
		ast.Inspect(f.File, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if n.Kind == token.INT && slices.Contains(bitLiterals, n.Value) && notFrames[f.dir] == "" {
					t.Errorf("%s: %s: bits of a frame belong to ipc/frame", position(n), n.Value)
				}
			case *ast.BinaryExpr:
				if n.Op == token.SHL && isInt(n.X, "1") && (isInt(n.Y, "31") || isInt(n.Y, "30")) && notFrames[f.dir] == "" {
					t.Errorf("%s: 1<<%s: bits of a frame belong to ipc/frame", position(n), n.Y.(*ast.BasicLit).Value)
				}
			case *ast.SelectorExpr:
				if id, ok := n.X.(*ast.Ident); ok && id.Name == "binary" && n.Sel.Name == "BigEndian" {
					t.Errorf("%s: binary.BigEndian: frames are read and written by ipc/frame", position(n))
				}
			}
			return true
		})
	}
	if checked < 50 {
		t.Errorf("only %d files were looked at", checked)
	}
}

func isInt(e ast.Expr, value string) bool {
	lit, ok := e.(*ast.BasicLit)
	return ok && lit.Kind == token.INT && lit.Value == value
}

// codes are the failure codes of the wire. Outside of ipc/frame they are its
// constants, not literals.
var codes = []string{"stopping", "too-big", "given-up", "refused", "spooled", "interrupted", "not-a-line"}

// otherWords are places where such a word is no failure code.
var otherWords = map[string]string{
	"cli":        "a state of a worker",
	"daemon":     "a line of the log",
	"metrics":    "the value of a label",
	"supervisor": "a state of a worker, an outcome of a reload, a line of the log",
}

func TestFailureCodesAreConstants(t *testing.T) {
	for _, f := range product(t) {
		if f.dir == "ipc/frame" || strings.HasSuffix(f.dir, "/internal/frame") || otherWords[f.dir] != "" {
			continue
		}
		ast.Inspect(f.File, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if word, err := strconv.Unquote(lit.Value); err == nil && slices.Contains(codes, word) {
					t.Errorf("%s: %q is a constant of ipc/frame", position(n), word)
				}
			}
			return true
		})
	}
}

// dialect are turns of speech that the log does not use: the reader may be woken
// by it at night, in a second language. docs/architecture.md has the rules.
var dialect = regexp.MustCompile(`(?i)\b(somebody|nobody|anybody|went wrong|turned away|so (many|long)|sees to|at once|do not stop|does not stop|given up: |passing a|who|whoever|would else|is no [a-z]+\b|all the same)\b`)

func TestLogSpeaksPlainly(t *testing.T) {
	seen := 0
	for _, f := range product(t) {
		ast.Inspect(f.File, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || !slices.Contains([]string{"Msg", "Msgf", "Warn", "warn"}, sel.Sel.Name) {
				return true
			}
			for _, arg := range call.Args {
				lit, ok := arg.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					continue
				}
				seen++
				if odd := dialect.FindString(lit.Value); odd != "" {
					t.Errorf("%s: %s: %q is not a word of the log", position(n), lit.Value, odd)
				}
			}
			return true
		})
	}
	if seen < 40 {
		t.Errorf("only %d messages found", seen)
	}
}

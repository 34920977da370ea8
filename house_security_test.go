package main

import (
	"go/ast"
	"go/parser"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	securityDir  = regexp.MustCompile("^`([a-z0-9/]+)` ")
	securityTest = regexp.MustCompile("^Test[A-Z][A-Za-z0-9]*$")
)

// Each line of SECURITY.md's table names tests that there are.
func TestSecurityIsTested(t *testing.T) {
	lines := 0
	for line := range strings.Lines(document(t, "SECURITY.md")) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") || strings.HasPrefix(line, "| who ") {
			continue
		}
		lines++
		dir := ""
		for name := range strings.SplitSeq(strings.TrimSuffix(cells[len(cells)-1], " |"), ", ") {
			if m := securityDir.FindStringSubmatch(name); m != nil {
				dir, name = m[1], name[len(m[0]):]
			}
			if dir == "" || !securityTest.MatchString(name) {
				t.Errorf("not a list of tests: %q in %.60s", name, line)
			} else if !testsOf(t, dir)[name] {
				t.Errorf("%s has no %s: %.60s", dir, name, line)
			}
		}
	}
	if lines < 10 {
		t.Errorf("the table has %d lines", lines)
	}
}

// testsOf returns the names of a directory's tests.
func testsOf(t *testing.T, dir string) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	files, _ := filepath.Glob(dir + "/*_test.go") // the pattern is right
	for _, file := range files {
		f, err := parser.ParseFile(fileSet, file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil {
				names[fn.Name.Name] = true
			}
		}
	}
	return names
}

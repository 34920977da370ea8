package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	fenced  = regexp.MustCompile("(?s)\n```.*?\n```")
)

// Each link of the documents leads somewhere: to a file that is there, and to a
// heading that it has.
func TestLinks(t *testing.T) {
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "dist" || d.Name() == "node_modules"):
			return filepath.SkipDir
		case filepath.Ext(name) == ".md":
			checkLinks(t, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkLinks(t *testing.T, name string) {
	t.Helper()
	text := fenced.ReplaceAllString(document(t, name), "")
	for _, m := range link.FindAllStringSubmatch(text, -1) {
		target, anchor, _ := strings.Cut(m[1], "#")
		if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
			continue
		}
		file := name
		if target != "" {
			file = filepath.Join(filepath.Dir(name), target)
		}
		if _, err := os.Stat(file); err != nil {
			t.Errorf("%s: %s: %v", name, m[1], err)
		} else if anchor != "" && !hasHeading(document(t, file), anchor) {
			t.Errorf("%s: %s: there is no such heading", name, m[1])
		}
	}
}

// hasHeading reports whether a text has a heading that is linked to by an anchor,
// as code hosts make those.
func hasHeading(text, anchor string) bool {
	for _, h := range heading.FindAllStringSubmatch(text, -1) {
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', r >= 'a' && r <= 'z', r >= '0' && r <= '9':
				return r
			}
			return -1
		}, strings.ToLower(h[1]))
		if slug == anchor {
			return true
		}
	}
	return false
}

// docs/architecture.md is the map: it names each package of the product. The copies
// that worker and client carry under internal/ are named where they come from.
func TestMapNamesPackages(t *testing.T) {
	text := document(t, "docs/architecture.md")
	for _, f := range product(t) {
		if f.dir != "." && !strings.Contains(f.dir, "/internal/") && !strings.Contains(text, "| `"+f.dir+"` |") {
			t.Errorf("docs/architecture.md has no row for %s", f.dir)
		}
	}
}

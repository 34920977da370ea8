package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// plainSkip is a skip that CI would not notice.
var plainSkip = regexp.MustCompile(`\b[tb]\.Skip(f|Now)?\(`)

// Tests skip by way of internal/testkit/strict, so that nothing is missing in CI without a word;
// or the line says what else the reason is. Benchmarks are not part of CI, and the modules of e2e have rules of
// their own.
func TestSkipsAreStrict(t *testing.T) {
	seen := 0
	err := filepath.WalkDir(".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (name == ".git" || name == "bench" || name == "bin" || name == "dist" || name == "e2e/browser" || name == "e2e/kubernetes"):
			return filepath.SkipDir
		case !strings.HasSuffix(name, ".go") || !strings.HasSuffix(name, "_test.go") && !strings.HasPrefix(name, "e2e/harness/") || name == "house_skips_test.go":
			return nil
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		seen += strings.Count(string(text), "strict.Skip(")
		for i, line := range strings.Split(string(text), "\n") {
			if plainSkip.MatchString(line) && !strings.Contains(line, "// no lack") {
				t.Errorf("%s:%d: %s", name, i+1, strings.TrimSpace(line))
			}
		}
		return nil
	})
	if err != nil || seen < 20 {
		t.Errorf("%d calls of strict.Skip, %v", seen, err)
	}
}

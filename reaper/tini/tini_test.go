package tini

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/poolinit/poolinit/reaper"
)

// The system's words first, as tini has them, and what they leave out; neither twice.
func TestDescribeExec(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for command, want := range map[string]string{
		"/no/such": "No such file or directory (no such file there)",
		plain:      "Permission denied (is its x bit set?)",
	} {
		if got := describeExec(reaper.Look([]string{command}, nil, "")); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if got := describeExec(&fs.PathError{Op: "exec", Path: "x", Err: os.ErrInvalid}); got != "Invalid argument" {
		t.Errorf("%q", got)
	}
}

package main

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The copies of ipc/frame and ipc/dial that worker and client carry are what
// tools/modules.sh makes of the originals.
func TestModulesCarryCopies(t *testing.T) {
	want := t.TempDir()
	if out, err := exec.Command("tools/modules.sh", want).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, dir := range []string{"worker/internal/frame", "client/internal/frame", "client/internal/dial"} {
		made, here := files(t, filepath.Join(want, dir)), files(t, dir)
		for name := range here {
			if _, ok := made[name]; !ok {
				t.Errorf("%s/%s is not a copy of anything: run tools/modules.sh", dir, name)
			}
		}
		for name, text := range made {
			if !bytes.Equal(text, here[name]) {
				t.Errorf("%s/%s differs from its original: change that, and run tools/modules.sh", dir, name)
			}
		}
		if len(made) == 0 {
			t.Errorf("tools/modules.sh makes no %s", dir)
		}
	}
}

// files returns all files below a directory, by their names in it.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	found := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		rel, _ := filepath.Rel(dir, name) // name is below it
		found[rel] = text
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

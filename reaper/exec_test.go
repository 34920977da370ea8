package reaper

import (
	"os"
	"path/filepath"
	"testing"
)

func TestLook(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string, mode os.FileMode) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return name
	}
	env := []string{"PATH=/bin:/usr/bin:" + dir}
	for command, want := range map[string]int{
		"sh":                                0,
		"/bin/sh":                           0,
		"no-such":                           127,
		"./no-such":                         127,
		dir:                                 126,
		"/etc/passwd":                       126,
		file("good", "#!/bin/sh\n", 0o755):  0,
		file("bare", "exit 0\n", 0o755):     0,
		file("plain", "#!/bin/sh\n", 0o644): 126,
		file("bad", "#! /no/such/shell -e\n", 0o755):     127,
		filepath.Base(file("named", "#!/bin/sh", 0o755)): 0,
	} {
		err := Look([]string{command}, env)
		if err == nil && want != 0 || err != nil && ExitCode(err) != want {
			t.Errorf("%s: %v, want exit code %d", command, err, want)
		}
	}
}

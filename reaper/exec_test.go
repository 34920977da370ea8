package reaper

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
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
		err := Look([]string{command}, env, "")
		if err == nil && want != 0 || err != nil && ExitCode(err) != want {
			t.Errorf("%s: %v, want exit code %d", command, err, want)
		}
	}
}

// What is relative is relative to the directory, as after cd in a shell: a command
// with a slash, and parts of PATH.
func TestDir(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string, mode os.FileMode) {
		name = filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("dir/app", "#!/bin/sh\npwd -P >\"$0.out\"\n", 0o755)
	put("dir/bare", "pwd -P >\"$0.out\"\n", 0o755)
	put("dir/bin/tool", "#!/bin/sh\npwd -P >tool.out\n", 0o755)
	put("dir/plain", "x", 0o644)
	put("closed/app", "#!/bin/sh\n", 0o755)
	if err := os.Chmod(filepath.Join(root, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := newTest(t, nil)
	nobody := &syscall.Credential{Uid: 65534, Gid: 65534}
	for _, tt := range []struct {
		dir, command string
		credential   *syscall.Credential
		want         string // part of the error; "": it runs
		code         int
		file         string // that it has written
	}{
		{"dir", "./app", nil, "", 0, "app.out"},
		{"dir", "./bare", nil, "", 0, "bare.out"},
		{"dir", "../dir/app", nil, "", 0, "app.out"},
		{"dir", "tool", nil, "", 0, "tool.out"},
		{"dir", "./bin", nil, "is a directory", 126, ""},
		{"dir", "./plain", nil, "permission denied (is its x bit set?)", 126, ""},
		{"dir", "./gone", nil, "no such file there", 127, ""},
		{"gone", "./app", nil, "chdir " + root + "/gone: no such directory", 127, ""},
		{"gone", "true", nil, "chdir " + root + "/gone: no such directory", 127, ""},
		{"dir/app", "true", nil, "chdir " + root + "/dir/app: not a directory", 126, ""},
		{"closed", "./app", nobody, "permission denied (may its user enter " + root + "/closed?)", 126, ""},
	} {
		if tt.credential != nil && os.Geteuid() != 0 {
			continue
		}
		spec := &Spec{
			Args: []string{tt.command}, Env: []string{"PATH=bin:/usr/bin:/bin"}, Dir: filepath.Join(root, tt.dir),
			Credential: tt.credential, NewGroup: true,
		}
		err := Look(spec.Args, spec.Env, spec.Dir)
		if (err == nil) != (tt.want == "" || tt.credential != nil) { // only the start knows the other user's rights
			t.Errorf("%s in %s: Look says %v", tt.command, tt.dir, err)
		}
		p, err := r.Start(spec)
		if tt.want != "" {
			if err == nil || !strings.Contains(err.Error(), tt.want) || ExitCode(err) != tt.code {
				t.Errorf("%s in %s: %v, want %q and code %d", tt.command, tt.dir, err, tt.want, tt.code)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s in %s: %v", tt.command, tt.dir, err)
			continue
		}
		testkit.Wait(t, "exit", p.Exited())
		physical, err := filepath.EvalSymlinks(spec.Dir)
		if err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(spec.Dir, tt.file)
		if got, err := os.ReadFile(out); string(got) != physical+"\n" {
			t.Errorf("%s in %s ran in %q, %v", tt.command, tt.dir, got, err)
		}
		os.Remove(out)
	}
}

// A FIFO is no program, and to look at it must not wait for a writer.
func TestLookAtFIFO(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Look([]string{path}, nil, ""); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
	r := newTest(t, nil)
	if _, err := r.Start(&Spec{Args: []string{path}}); !errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

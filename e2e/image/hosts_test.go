package image

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// The stand-ins for languages and for Redis: the host's own programs.

// fromHost returns a stand-in for an image, made of programs of the host, and of
// what pack adds.
func fromHost(t testing.TB, real string, programs []string, pack func(w *harness.ImageWriter) error) *standIn {
	t.Helper()
	harness.Need(t, append(programs, "ldd", "install")...)
	s := &standIn{name: strings.NewReplacer(":", "-", ".", "-").Replace(real), real: []string{real}, made: "1\n"}
	for _, name := range programs {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		s.made += fmt.Sprintln(path, fi.Size(), fi.ModTime())
	}
	s.pack = func(w *harness.ImageWriter) error {
		w.Programs("sh", "install", "cat")
		return pack(w)
	}
	return s
}

// answer is what a program of the host prints.
func answer(t testing.TB, name string, args ...string) []string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return strings.Fields(string(out))
}

// phpBase stands for php:8.3-cli. Its docker-php-ext-install only looks whether
// the host's PHP has the extension.
func phpBase(t testing.TB) *standIn {
	t.Helper()
	return fromHost(t, "php:8.3-cli", []string{"php"}, func(w *harness.ImageWriter) error {
		w.Programs("php")
		about := answer(t, "php", "-r", `echo PHP_EXTENSION_DIR, " ", PHP_CONFIG_FILE_SCAN_DIR;`)
		for _, name := range []string{"ctype", "posix"} { // the real one has these built in
			if lib := filepath.Join(about[0], name+".so"); len(about) == 2 && fileExists(lib) {
				w.Program(lib, lib)
				w.Text(filepath.Join(about[1], name+".ini"), "extension="+name+".so\n")
			}
		}
		if utc := "/usr/share/zoneinfo/UTC"; fileExists(utc) { // Debian's asks the system
			w.File(utc, utc)
		}
		w.Script("/usr/bin/docker-php-ext-install", `exec php -r 'exit(extension_loaded($argv[1]) ? 0 : 1);' "$1"`)
		return nil
	})
}

// pythonBase stands for python:3.13-slim.
func pythonBase(t testing.TB) *standIn {
	t.Helper()
	return fromHost(t, "python:3.13-slim", []string{"python3"}, func(w *harness.ImageWriter) error {
		about := answer(t, "python3", "-c", `import sys, sysconfig; print(sys.executable, sysconfig.get_path("stdlib"))`)
		w.Program(about[0], about[0])
		w.Script("/usr/bin/python3", fmt.Sprintf("exec %s \"$@\"\n", about[0]))
		w.Tree(about[1], about[1], func(name string, d fs.DirEntry) bool {
			switch d.Name() {
			case "test", "__pycache__", "site-packages", "dist-packages", "idlelib", "tkinter", "ensurepip", "lib2to3":
				return true
			}
			return strings.HasPrefix(d.Name(), "config-")
		})
		return nil
	})
}

// nodeBase stands for node:22-slim.
func nodeBase(t testing.TB) *standIn {
	t.Helper()
	return fromHost(t, "node:22-slim", []string{"node"}, func(w *harness.ImageWriter) error {
		w.Programs("node")
		return nil
	})
}

// redisBase stands for Redis.
func redisBase(t testing.TB) *standIn {
	t.Helper()
	s := fromHost(t, "redis:8.2-alpine", []string{"redis-server", "redis-cli"}, func(w *harness.ImageWriter) error {
		w.Programs("redis-server", "redis-cli")
		w.Dir("/data", 0o755)
		return nil
	})
	s.conf = []string{"WORKDIR /data"}
	return s
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

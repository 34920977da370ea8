package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own child: with TEST_CHILD it plays a worker.
func TestMain(m *testing.M) {
	if role := os.Getenv("TEST_CHILD"); role != "" {
		os.Exit(child(role))
	}
	os.Exit(runTests(m))
}

// buildDir is where tests build the binary.
var buildDir string

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "poolinit-test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	buildDir = dir
	return m.Run()
}

// child plays "exit N", "die SIGNAL" (as a number) or "deaf".
func child(role string) int {
	word, arg, _ := strings.Cut(role, " ")
	n, _ := strconv.Atoi(arg)
	switch word {
	case "exit":
		return n
	case "die":
		signal.Reset()
		_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
		time.Sleep(time.Minute)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("deaf")
		time.Sleep(time.Minute)
	}
	return 99
}

// captured calls f and returns its result, and what it wrote to stdout and
// stderr.
func captured(t *testing.T, f func() int) (code int, stdout, stderr string) {
	t.Helper()
	oldOut, oldErr := os.Stdout, os.Stderr
	defer func() { os.Stdout, os.Stderr = oldOut, oldErr }()
	var files [2]*os.File
	for i := range files {
		f, err := os.Create(filepath.Join(t.TempDir(), "captured"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	os.Stdout, os.Stderr = files[0], files[1]
	code = f()
	var texts [2]string
	for i, f := range files {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		texts[i] = string(text)
	}
	return code, texts[0], texts[1]
}

func dispatched(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	old := os.Args
	defer func() { os.Args = old }()
	os.Args = args
	return captured(t, func() int { return dispatch(args) })
}

func TestVersion(t *testing.T) {
	for _, word := range []string{"version", "--version"} {
		code, stdout, stderr := dispatched(t, "poolinit", word)
		if code != 0 || !strings.HasPrefix(stdout, "poolinit ") || strings.Count(stdout, "\n") != 1 || stderr != "" {
			t.Errorf("%s: code %d, stdout %q, stderr %q", word, code, stdout, stderr)
		}
	}
	code, stdout, stderr := dispatched(t, "poolinit", "version", "x")
	if code != exitUsage || stdout != "" || !strings.Contains(stderr, `"x"`) {
		t.Errorf("with an argument: code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
}

func TestHelp(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"-h"}, {"run", "--help"}, {"-n", "3", "-h"}, {"run", "-h", "--", "x"}, {"help"}, {"version", "-h"}} {
		code, stdout, stderr := dispatched(t, append([]string{"poolinit"}, args...)...)
		if code != 0 || !strings.HasPrefix(stdout, usageHead) || stderr != "" {
			t.Errorf("%q: code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// By tini's names it is tini, whatever the arguments say.
func TestNameDecides(t *testing.T) {
	for _, name := range []string{"tini", "/sbin/docker-init", "./tini-static"} {
		code, stdout, _ := dispatched(t, name, "--version")
		if want := filepath.Base(name) + " (poolinit "; code != 0 || !strings.HasPrefix(stdout, want) {
			t.Errorf("%s: code %d, stdout %q, want %q...", name, code, stdout, want)
		}
	}
	if code, _, stderr := dispatched(t, "tini", "--workers", "3", "true"); code != 1 {
		t.Errorf("tini --workers: code %d, stderr %q", code, stderr)
	}
}

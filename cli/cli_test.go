package cli

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/poolinit/poolinit/cli/flags"
	"github.com/poolinit/poolinit/internal/captured"
)

var update = flag.Bool("update", false, "write the output of --help and the table of status into the documents")

// dispatched runs a command line, and returns the exit code and what it printed.
func dispatched(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	old := os.Args
	defer func() { os.Args = old }()
	os.Args = args
	return captured.Run(t, func() int { return Main(args, About{License: "a license"}) })
}

func TestVersion(t *testing.T) {
	for _, word := range []string{"version", "--version"} {
		code, stdout, stderr := dispatched(t, "poolinit", word)
		if code != 0 || !strings.HasPrefix(stdout, "poolinit ") || strings.Count(stdout, "\n") != 1 || stderr != "" {
			t.Errorf("%s: code %d, stdout %q, stderr %q", word, code, stdout, stderr)
		}
	}
	code, stdout, stderr := dispatched(t, "poolinit", "version", "x")
	if code != flags.ExitUsage || stdout != "" || !strings.Contains(stderr, `"x"`) {
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

package daemon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc"
	"github.com/poolinit/poolinit/supervisor"
)

func TestTerminationText(t *testing.T) {
	lines := strings.Repeat("line of the worker\n", 300)
	for name, tt := range map[string]struct{ why, lines, want string }{
		"short":               {"stopped", "Traceback\n", "stopped\nTraceback\n"},
		"no lines":            {"stopped", "", "stopped"},
		"the end stays":       {"stopped", lines, "stopped\n" + lines[len(lines)-mostTermination+8:]},
		"long reason":         {strings.Repeat("x", 5000), "y", strings.Repeat("x", mostTermination)},
		"not UTF-8":           {"a\xff", "b\xff", "a?\nb?"},
		"cut within a letter": {strings.Repeat("x", mostTermination-4), "\u00e4\u00f6", strings.Repeat("x", mostTermination-4) + "\n\u00f6"},
	} {
		got := terminationText(tt.why, tt.lines)
		if got != tt.want || len(got) > mostTermination {
			t.Errorf("%s: %d bytes, want %d\n%.100q\n%.100q", name, len(got), len(tt.want), got, tt.want)
		}
	}
}

func TestReason(t *testing.T) {
	for want, over := range map[string]*supervisor.Over{
		"":                               nil,
		"\nno worker is left to restart": {Why: "no worker is left to restart", Worker: -1},
		"\nevery worker failed too many times in a row: worker 2 exited with code 1 after 1s (crash)": {Why: "every worker failed too many times in a row", Worker: 2, How: "exited with code 1 after 1s (crash)"},
		"\ncannot start the command: exec x: gone":                                                    {Why: "cannot start the command", Broken: true, How: "exec x: gone"},
	} {
		if got := reason(over); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// Only a file that is there is written, and nothing that a link or a pipe leads to.
func TestTerminationLogIsAFile(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"file": "from before, and longer", "target": "precious"} {
		if err := os.WriteFile(path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("target", path("link")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(path("pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, warns := range map[string]bool{"file": false, "gone": false, "link": true, "pipe": true, "": true, "/dev/null": true} {
		var log logBook
		full := path(name)
		if strings.HasPrefix(name, "/") {
			full = name
		}
		terminationLog{full, zerolog.New(&log)}.write("stopped", "")
		if got := strings.Contains(log.String(), "cannot write the termination log"); got != warns {
			t.Errorf("%s: warns %v: %s", name, got, log.String())
		}
	}
	for name, want := range map[string]string{"file": "stopped", "target": "precious"} {
		if got, err := os.ReadFile(path(name)); string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(path("gone")); err == nil {
		t.Error("a file was made")
	}
}

// The order of exit codes, as far as the daemon knows more than the pool.
func TestExitCodeOfStop(t *testing.T) {
	for _, tt := range []struct {
		pool   supervisor.Result
		lost   uint64
		lostOK bool
		want   int
	}{
		{supervisor.Result{Code: 0}, 0, false, 0},
		{supervisor.Result{Code: 0}, 1, false, 75},
		{supervisor.Result{Code: 0}, 1, true, 0},
		{supervisor.Result{Code: 137, Killed: 1}, 1, false, 75},
		{supervisor.Result{Code: 137, Killed: 1}, 1, true, 137},
		{supervisor.Result{Code: 3}, 1, false, 75},
		{supervisor.Result{Code: 3, Final: true}, 1, false, 3},
		{supervisor.Result{Code: 127, Final: true}, 1, false, 127},
	} {
		in := &countingIntake{lost: 5}
		d := &Daemon{cfg: &Config{LostOK: tt.lostOK}, intake: in}
		before := in.totals().Lost
		in.lost += tt.lost
		if got := d.exitCode(tt.pool, before); got != tt.want {
			t.Errorf("%+v: %d", tt, got)
		}
	}
}

// A countingIntake has lost messages.
type countingIntake struct {
	messages
	lost uint64
}

func (in *countingIntake) totals() ipc.Totals { return ipc.Totals{Lost: in.lost} }

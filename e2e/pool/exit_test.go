package pool

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
)

// startAtExit runs a pool of two shells that wait; where they are told that the
// pool has ended they do something else.
func startAtExit(t *testing.T, atExit string, env []string, flags ...string) harness.Pool {
	t.Helper()
	harness.Need(t, "sh", "sleep")
	script := `case "$POOLINIT_EVENT" in
shutdown) ` + atExit + ` ;;
'') echo "worker $POOLINIT_WORKER_ID"; exec sleep 1000 ;;
*) echo "event $POOLINIT_EVENT" ;;
esac`
	args := append([]string{harness.Binary(t), "-n", "2", "--log-level", "debug"}, flags...)
	p := harness.PoolOf(harness.Start(t, harness.Program{Env: env, Args: append(args, "--", "sh", "-c", script)}))
	p.Stdout.Expect(t, "worker 0")
	p.Stdout.Expect(t, "worker 1")
	p.Signal(syscall.SIGTERM)
	return p
}

// COMMAND runs once more, as no worker, when all have ended.
func TestRunAtExit(t *testing.T) {
	p := startAtExit(t, `env | grep -e ^POOLINIT -e ^NOTIFY | sort; echo "of $PPID"`, []string{"POOLINIT_RUN_AT_EXIT=true", "POOLINIT_LISTEN="})
	p.ExpectExit(0)
	if got := p.Stdout.String(); !strings.HasSuffix(got, "POOLINIT_EVENT=shutdown\nof 1\n") || strings.Count(got, "POOLINIT") != 1 {
		t.Errorf("it says\n%s", got)
	}
	ended := 0
	for _, r := range p.Records() {
		switch {
		case r.Message == "worker exited":
			ended++
		case r.Message == "running the exit command" && ended != 2:
			t.Errorf("it ran when %d workers had ended", ended)
		}
	}
	if p.Count("running the exit command") != 1 || p.Count("worker started") != 2 || p.Count("exit command did not") != 0 {
		t.Error(p.Stderr.String())
	}
}

func TestRunAtExitNotAsked(t *testing.T) {
	p := startAtExit(t, "echo no", nil, "--run-at-exit=false")
	p.ExpectExit(0)
	if strings.Contains(p.Stdout.String(), "no\n") {
		t.Error(p.Stdout.String())
	}
}

// How it ends is for the log alone.
func TestRunAtExitFails(t *testing.T) {
	for label, tt := range map[string]struct {
		atExit string
		code   int
	}{"exits": {"exit 7", 7}, "dies": {"kill -9 $$", 137}} {
		t.Run(label, func(t *testing.T) {
			p := startAtExit(t, tt.atExit, nil, "--run-at-exit")
			p.ExpectExit(0)
			p.ExpectLog("exit command failed", func(r harness.Record) bool { return r.Code == tt.code && r.Level == "warn" })
		})
	}
}

// It has what is left of --stop-timeout, and its children do not outlive it.
func TestRunAtExitHangs(t *testing.T) {
	t.Parallel()
	p := startAtExit(t, `sleep 1000 & trap '' TERM; echo "at exit"; while :; do sleep 1000; done`, nil, "--run-at-exit", "--stop-timeout", "3s")
	p.Stdout.Expect(t, "at exit\n")
	p.ExpectExit(0)
	p.ExpectLog("exit command did not end in time, killing it", nil)
	p.ExpectLog("exit command failed", func(r harness.Record) bool { return r.Code == 137 })
}

// A stop that is hurried is not for the workers alone.
func TestRunAtExitSecondSignal(t *testing.T) {
	t.Parallel()
	p := startAtExit(t, `trap '' TERM; echo "at exit"; while :; do sleep 1000; done`, nil, "--run-at-exit", "--stop-timeout", "5m")
	p.Stdout.Expect(t, "at exit\n")
	p.StopNow()
	p.ExpectExit(0) // long before the five minutes are over
	p.ExpectLog("exit command did not end in time, killing it", nil)
}

// Its lines are marked, and none is lost.
func TestRunAtExitOutput(t *testing.T) {
	harness.Need(t, "id")
	p := startAtExit(t, `echo "I am $(id -u)"; echo oops >&2`, nil, "--run-at-exit", "--output", "json", "--user", "1000:1000")
	p.ExpectExit(0)
	found := 0
	for _, r := range append(harness.ParseLog(p.Stdout.Lines()), p.Records()...) {
		if r.Worker != nil && *r.Worker == 2 && (r.Message == "I am 1000" || r.Message == "oops") {
			found++
		}
	}
	if found != 2 {
		t.Errorf("%s\n%s", p.Stdout.String(), p.Stderr.String())
	}
}

// What Kubernetes reads of an end: the last line, the reason if it was not asked for,
// and the last lines of the worker at fault.
func TestRunTerminationLog(t *testing.T) {
	harness.Need(t, "sh")
	for name, tt := range map[string]struct {
		args []string
		stop bool
		code int
		want string // regexp
	}{
		"gives up": {[]string{"--give-up", "2", "--output", "prefix", "--", "sh", "-c", "echo 'no database' >&2; exit 3"}, false, 3,
			`^stopped: handled 0, .*s\nevery worker failed too many times in a row: worker 0 exited with code 3 after .* \(crash\)\nno database\nno database\n?$`},
		"gives up, with its own output": {[]string{"--give-up", "1", "--", "sh", "-c", "exit 3"}, false, 3,
			`^stopped: .*\nevery worker failed too many times in a row: worker 0 exited with code 3 after .* \(crash\)$`},
		"once": {[]string{"--restart", "never", "--output", "json", "--", "sh", "-c", "echo broken >&2; kill -9 $$"}, false, 137,
			`^stopped: .*\nno worker is left to restart: worker 0 died of SIGKILL after .* \(crash\)\nbroken\n?$`},
		"no command": {[]string{"--", "/no/such/program"}, false, 127, `^stopped: .*\ncannot start the command: exec /no/such/program: no such file there$`},
		"no address": {[]string{"--http", "192.0.2.1:80", "--", "true"}, false, 2, `^poolinit: cannot .*192\.0\.2\.1`},
		"asked to":   {[]string{"--", "sh", "-c", "echo up; exec sleep 1000"}, true, 0, `^stopped: handled 0, spooled 0, lost 0, killed 0, in .*s$`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "log")
			if err := os.WriteFile(file, []byte(strings.Repeat("old ", 2000)), 0o666); err != nil {
				t.Fatal(err)
			}
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: append([]string{harness.Binary(t), "--termination-log", file}, tt.args...)}))
			if tt.stop {
				p.Stdout.Expect(t, "up")
				p.Signal(syscall.SIGTERM)
			}
			if code := p.Wait(); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			got, err := os.ReadFile(file)
			if err != nil || !regexp.MustCompile(tt.want).Match(got) {
				t.Errorf("%q, %v\nwant %s", got, err, tt.want)
			}
		})
	}
}

// A stop that loses a message says so by its exit code, unless that is all right.
func TestRunLost(t *testing.T) {
	harness.Need(t, "sh")
	const holds = "read -r line <&3; echo \"holds $line\"; trap '' TERM; while :; do sleep 1; done"
	for name, tt := range map[string]struct {
		flags []string
		code  int
	}{
		"lost":            {nil, 75},
		"lost, all right": {[]string{"--lost-ok"}, 137},
		"kept":            {[]string{"--spool", t.TempDir()}, 137},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := harness.UnixURL(t, "")
			args := slices.Concat([]string{"--deliver", "lines", "--stop-timeout", "200ms"}, tt.flags, []string{"--", "sh", "-c", holds})
			p := harness.PoolOf(harness.StartSource(t, harness.Program{}, url, args...))
			if err := harness.WriteFrame(harness.Dial(t, url), "m"); err != nil {
				t.Fatal(err)
			}
			p.Stdout.Expect(t, "holds m")
			p.Signal(syscall.SIGTERM)
			p.ExpectExit(tt.code)
		})
	}
}

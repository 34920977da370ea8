package pool

import (
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

// The second stop signal is not for the workers alone.
func TestRunAtExitSecondSignal(t *testing.T) {
	t.Parallel()
	p := startAtExit(t, `trap '' TERM; echo "at exit"; while :; do sleep 1000; done`, nil, "--run-at-exit", "--stop-timeout", "5m")
	p.Stdout.Expect(t, "at exit\n")
	p.Signal(syscall.SIGINT)
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

package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

func TestRunRestartPolicies(t *testing.T) {
	for _, c := range []struct {
		name  string
		flags []string
		deed  []string
		code  int
	}{
		{"never, 0", []string{"--restart", "never"}, []string{"exit", "0"}, 0},
		{"never, 7", []string{"--restart", "never"}, []string{"exit", "7"}, 7},
		{"never, signal", []string{"--restart", "never"}, []string{"die", "6"}, 134},
		{"never, KILL", []string{"--restart", "never"}, []string{"die", "9"}, 137},
		{"on-failure, 0", []string{"--restart", "on-failure"}, []string{"exit", "0"}, 0},
		{"on-failure, 7", []string{"--restart", "on-failure", "--give-up", "3", "--restart-delay", "1ms"}, []string{"exit", "7"}, 7},
		{"give up", []string{"--give-up", "5", "--restart-delay", "1ms"}, []string{"exit", "42"}, 42},
		{"give up, signal", []string{"--give-up", "2", "--restart-delay", "1ms"}, []string{"die", "11"}, 139},
		{"one of three", []string{"-n", "3", "--restart", "never"}, []string{oneFailsDeed}, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := harness.StartRun(t, harness.Program{}, append(append(c.flags, "--"), c.deed...)...)
			p.ExpectExit(c.code)
		})
	}
}

// One that does not get ready dies of the stop signal: a program that has no
// handler, since one that is about to set its handlers may end otherwise.
func TestRunGiveUpNeverReady(t *testing.T) {
	harness.Need(t, "sleep")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--give-up", "2", "--restart-delay", "1ms",
		"--ready", "notify", "--ready-timeout", "50ms", "sleep", "1000"}}))
	p.ExpectExit(143)
}

var oneFailsDeed = harness.Deed("one-fails", func([]string) int {
	if os.Getenv("POOLINIT_WORKER_ID") == "1" {
		return 5
	}
	return 0
})

// A crash loop is slowed down, costs next to nothing, and slows nobody else.
func TestRunCrashLoop(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--give-up", "0", "--restart-delay", "50ms", "--restart-delay-max", "400ms", "--", oneCrashesDeed)
	p.ExpectLog("worker exited", func(r harness.Record) bool { return *r.Worker == 1 })
	crashes := func() (n int) {
		for _, r := range p.Records() {
			if r.Message == "worker exited" && *r.Worker == 1 {
				n++
			}
		}
		return n
	}
	testkit.Eventually(t, "six crashes", func() (any, bool) { return p.Stderr.String(), crashes() >= 6 })
	before, began := cpuTime(t, p.Self()), time.Now()
	have := crashes()
	testkit.Eventually(t, "three more", func() (any, bool) { return p.Stderr.String(), crashes() >= have+3 })
	if took := time.Since(began); took < 600*time.Millisecond {
		t.Errorf("three restarts within %v", took)
	}
	used, took := cpuTime(t, p.Self())-before, time.Since(began)
	if used > max(100*time.Millisecond, took/10) {
		t.Errorf("that cost poolinit %v of CPU time in %v", used, took)
	}
	p.Worker(0)
	p.Stdout.Expect(t, "up worker=0 ")
	if strings.Count(p.Stdout.String(), "worker=0") != 1 {
		t.Errorf("worker 0 was started again:\n%s", p.Stdout.String())
	}
}

var oneCrashesDeed = harness.Deed("one-crashes", func([]string) int {
	if os.Getenv("POOLINIT_WORKER_ID") == "1" {
		return 1
	}
	return harness.Forever()
})

func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
	var ns int64
	if err == nil {
		_, err = fmt.Sscan(string(text), &ns)
	}
	if err != nil {
		strict.Skip(t, "no schedstat: %v", err)
	}
	return time.Duration(ns)
}

func TestRunExecFailures(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		name, command string
		code          int
		says          string
	}{
		{"absent", "no-such-program", 127, "no such file in $PATH"},
		{"absent path", dir + "/absent", 127, "no such file"},
		{"not executable", write("plain", "#!/bin/sh\n", 0o644), 126, "permission denied"},
		{"a directory", dir, 126, "is a directory"},
		{"no interpreter", write("lost", "#!/no/such/shell\n", 0o755), 127, "interpreter"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "4", c.command}}))
			p.ExpectExit(c.code)
			p.ExpectLog("cannot start the command", func(r harness.Record) bool {
				return r.Level == "error" && strings.Contains(r.Error, c.says) && strings.Contains(r.Error, c.command)
			})
			if p.Count("cannot start the command") != 1 || p.Count("worker started") != 0 {
				t.Errorf("log:\n%s", p.Stderr.String())
			}
		})
	}
	script := write("bare", "echo run by sh: $1; exit 3\n", 0o755)
	p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--restart", "never", script, "word"}})
	if code != 3 || p.Stdout.String() != "run by sh: word\n" {
		t.Errorf("script without #!: exit code %d, %q, %s", code, p.Stdout.String(), p.Stderr.String())
	}
}

// A program that goes away later is no reason to give up: it may come back.
func TestRunProgramComesBack(t *testing.T) {
	harness.Need(t, "sh")
	script := filepath.Join(t.TempDir(), "worker")
	harness.InstallScript(t, script, "#!/bin/sh\necho up; exec sleep 1000\n")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--restart-delay", "20ms", "--restart-delay-max", "50ms", "--give-up", "0", script}}))
	p.Stdout.Expect(t, "up\n")
	if err := os.Remove(script); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.Worker(0).PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ExpectLog("cannot start worker", func(r harness.Record) bool { return r.Why == "start" })
	harness.InstallScript(t, script, "#!/bin/sh\necho again; exec sleep 1000\n")
	p.Stdout.Expect(t, "again\n")
}

func TestRunUser(t *testing.T) {
	harness.Need(t, "id", "sh")
	for _, c := range []struct{ flag, want string }{
		{"nobody", "65534 65534"}, {"1234", "1234 1234"}, {"1234:5678", "1234 5678"}, {"nobody:root", "65534 0"},
	} {
		p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--restart", "never", "--user", c.flag, "sh", "-c", "echo $(id -u) $(id -g)"}})
		if got := strings.TrimSpace(p.Stdout.String()); code != 0 || got != c.want {
			t.Errorf("--user %s: %q, exit code %d, %s", c.flag, got, code, p.Stderr.String())
		}
	}
}

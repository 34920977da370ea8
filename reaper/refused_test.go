package reaper

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/reaper/proc"
)

// A child that runs, or has ended, neither holds up a probe nor is reaped by it.
func TestNothingIsRefused(t *testing.T) {
	for _, args := range [][]string{{"sleep", "1000"}, {"true"}} {
		child := exec.Command(args[0], args[1:]...) // there is no reaper in this test
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = child.Process.Kill()
			if err := child.Wait(); err != nil && args[0] == "true" {
				t.Error(err)
			}
		}()
		testkit.Eventually(t, args[0]+" runs, or has ended", func() (any, bool) {
			stat, err := proc.StatOf(child.Process.Pid)
			return stat, err == nil && (stat.Zombie() || args[0] == "sleep")
		})
	}
	for name := range probes() {
		if err := Refused(name); err != nil && !(name == "setgroups" && os.Geteuid() != 0) {
			t.Error(err)
		}
	}
}

var errRefused = errors.New("refused by a test")

// Without waitid each exit still reaches its owner, orphans are reaped, and groups
// are swept to their end.
func TestReapBlindly(t *testing.T) {
	if err := BecomeSubreaper(); err != nil {
		t.Fatal(err)
	}
	r := newReaper(nil, refusals{waitid: errRefused})
	t.Cleanup(r.Close)
	n := scaled(2000)
	storm := start(t, r, playStorm(t, n))
	for code := range 20 {
		p := start(t, r, play("exit", strconv.Itoa(code%10)))
		testkit.Wait(t, "exit", p.Exited())
		if got := p.Exit().Status(); got != code%10 {
			t.Errorf("status %d, want %d", got, code%10)
		}
	}
	testkit.Wait(t, "exit", storm.Exited())
	testkit.Eventually(t, "every orphan reaped", func() (any, bool) { return r.Stats().Orphans, r.Stats().Orphans == uint64(n) })
	p := start(t, r, &Spec{Args: []string{"sh", "-c", "sleep 1000 & exit 3"}, Env: os.Environ(), NewGroup: true})
	testkit.Wait(t, "exit", p.Exited())
	if err := p.SignalGroup(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	testkit.Wait(t, "an empty group", p.Gone())
	if left := zombiesOf(os.Getpid()); left != 0 {
		t.Errorf("%d zombies left", left)
	}
	if lacks := r.Lacks(); len(lacks) != 1 || lacks[0].Err != errRefused || !strings.Contains(lacks[0].Effect, "wait4") {
		t.Errorf("lacks %v", lacks)
	}
}

// Without setpgid a child stays in this program's group, and alone gets what is meant
// for its own.
func TestStartWithoutGroup(t *testing.T) {
	r := newReaper(nil, refusals{setpgid: errRefused, prctl: errRefused})
	t.Cleanup(r.Close)
	p := start(t, r, &Spec{Args: []string{"sleep", "1000"}, NewGroup: true, DeathSignal: syscall.SIGKILL})
	if pgid, err := syscall.Getpgid(p.PID()); pgid != syscall.Getpgrp() || err != nil {
		t.Errorf("group %d, %v", pgid, err)
	}
	if err := p.SignalGroup(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	testkit.Wait(t, "its end", p.Gone())
	if got := p.Exit().Status(); got != 143 {
		t.Errorf("status %d", got)
	}
}

package pool

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// Every signal that is neither poolinit's own nor a request to it reaches each
// worker; it stays pending in a process that blocks all.
func TestRunForwards(t *testing.T) {
	harness.Need(t, "sleep")
	never := []syscall.Signal{
		syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPROF, 32, 33, 34, // cannot be had in Go
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, 37, syscall.SIGUSR1, syscall.SIGHUP, // requests
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGCONT, // it is looked at below
	}
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "3", harness.Self(t)}, Child: harness.BlockedChild}))
	workers := awaitBlocked(p, 3)
	want := map[syscall.Signal]bool{}
	for _, sig := range harness.AllSignals {
		if !slices.Contains(never, sig) {
			want[sig] = true
			p.Signal(sig)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGCHLD} {
		p.Signal(sig)
	}
	for _, w := range workers {
		harness.RequireSignals(t, w.PID, "ShdPnd", want)
	}
	want[syscall.SIGCONT] = true
	p.Signal(syscall.SIGCONT)
	for _, w := range workers {
		harness.RequireSignals(t, w.PID, "ShdPnd", want)
	}
	if q, _ := harness.ReadProc(p.Self()); q.State == 'T' {
		t.Error("poolinit has stopped")
	}
}

// awaitBlocked waits until poolinit catches all that it will ever catch, and
// its n workers have become what they are to be. (They have no environment.)
func awaitBlocked(p harness.Pool, n int) (workers []harness.ProcInfo) {
	p.T.Helper()
	self := p.Self()
	testkit.Eventually(p.T, "all signals are caught", func() (any, bool) {
		caught := harness.SignalSet(self, "SigCgt")
		return caught, caught[64] && caught[syscall.SIGUSR2]
	})
	testkit.Eventually(p.T, "the workers block all signals", func() (any, bool) {
		workers = nil
		for _, q := range p.List() {
			if q.PPID == self && q.Name == "sleep" {
				workers = append(workers, q)
			}
		}
		return p.List(), len(workers) == n
	})
	return workers
}

// A stop that comes before the pool runs is acted on when it does.
func TestRunEarlySignal(t *testing.T) {
	harness.Need(t, "sleep")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "8", "sleep", "1000"}}))
	testkit.Eventually(t, "TERM is caught", func() (any, bool) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		return string(name), strings.TrimSpace(string(name)) == filepath.Base(harness.Binary(t)) && harness.SignalSet(p.PID, "SigCgt")[syscall.SIGUSR1]
	})
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 && code != 2 { // 2: it came between the runtime's handler and ours, some tenths of a millisecond
		t.Errorf("exit code %d", code)
	}
}

// Not PID 1: it is the subreaper of what its workers abandon, and its workers
// die with it, however it dies.
func TestRunNotPID1(t *testing.T) {
	harness.Need(t, "sh")
	p := harness.PoolOf(harness.Start(t, harness.Program{Under: true, Args: []string{harness.Binary(t), "-n", "2",
		"sh", "-c", "(sleep 0.01; exec sleep 1000) & (:&) ; exec sleep 1000"}}))
	testkit.Eventually(t, "two workers and no zombie", func() (any, bool) {
		return p.List(), len(p.Workers()) == 2 && len(p.Zombies()) == 0
	})
	list := []harness.Worker{p.Worker(0), p.Worker(1)}
	if err := syscall.Kill(p.Self(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	for _, w := range list {
		testkit.Eventually(t, "the worker is gone", func() (any, bool) { q, there := harness.ReadProc(w.PID); return q, !there })
	}
}

// An orphan of a worker comes to poolinit, which reaps it.
func TestRunIsSubreaper(t *testing.T) {
	harness.Need(t, "sh", "sleep")
	p := harness.PoolOf(harness.Start(t, harness.Program{Under: true, Args: []string{harness.Binary(t),
		"sh", "-c", "(sh -c 'exec sleep 1000' &); exec sleep 2000"}}))
	self := p.Self()
	testkit.Eventually(t, "two children", func() (any, bool) {
		n := 0
		for _, q := range p.List() {
			if q.PPID == self && q.Name == "sleep" {
				n++
			}
		}
		return p.List(), n == 2
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0) // its group goes with the worker
}

// Signals mean what the flags say.
func TestRunSignalsOfTheFlags(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{Env: []string{"POOLINIT_FORWARD=HUP=USR2,ALRM="}},
		"--log-level", "debug", "--stop-on", "WINCH", "--reload-on", "RTMIN+5", "--ready", "started", "--", "obey")
	p.AwaitPool()
	p.Signal(39)
	p.ExpectLog("reload done", nil)
	p.Signal(syscall.SIGHUP)
	p.ExpectLog("forwarding signal", func(r harness.Record) bool { return r.Signal == "SIGUSR2" })
	p.Signal(syscall.SIGALRM)
	p.Signal(syscall.SIGWINCH)
	p.ExpectExit(0)
	if p.Count(`"SIGALRM"`) > 0 {
		t.Error(p.Stderr.String())
	}
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Every signal that is neither poolinit's own nor a request to it reaches each
// worker; it stays pending in a process that blocks all.
func TestRunForwards(t *testing.T) {
	Need(t, "sleep")
	never := []syscall.Signal{
		syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPROF, 32, 33, 34, // cannot be had in Go
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, 37, syscall.SIGUSR1, syscall.SIGHUP, // requests
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGCONT, // it is looked at below
	}
	p := Pool{Start(t, Program{Args: []string{Binary(t), "-n", "3", Self(t)}, Child: BlockedChild})}
	workers := p.awaitBlocked(3)
	want := map[syscall.Signal]bool{}
	for _, sig := range AllSignals {
		if !slices.Contains(never, sig) {
			want[sig] = true
			p.Signal(sig)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGCHLD} {
		p.Signal(sig)
	}
	for _, w := range workers {
		RequireSignals(t, w.PID, "ShdPnd", want)
	}
	want[syscall.SIGCONT] = true
	p.Signal(syscall.SIGCONT)
	for _, w := range workers {
		RequireSignals(t, w.PID, "ShdPnd", want)
	}
	if q, _ := ReadProc(p.Self()); q.State == 'T' {
		t.Error("poolinit has stopped")
	}
}

// awaitBlocked waits until poolinit catches all that it will ever catch, and
// its n workers have become what they are to be. (They have no environment.)
func (p Pool) awaitBlocked(n int) (workers []ProcInfo) {
	p.T.Helper()
	self := p.Self()
	Eventually(p.T, "all signals are caught", func() (any, bool) {
		caught := SignalSet(self, "SigCgt")
		return caught, caught[64] && caught[syscall.SIGUSR2]
	})
	Eventually(p.T, "the workers block all signals", func() (any, bool) {
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
	Need(t, "sleep")
	p := Pool{Start(t, Program{Args: []string{Binary(t), "-n", "8", "sleep", "1000"}})}
	Eventually(t, "TERM is caught", func() (any, bool) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.PID))
		return string(name), strings.TrimSpace(string(name)) == filepath.Base(Binary(t)) && SignalSet(p.PID, "SigCgt")[syscall.SIGUSR1]
	})
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 0 && code != 2 { // 2: it came between the runtime's handler and ours, some tenths of a millisecond
		t.Errorf("exit code %d", code)
	}
}

// Not PID 1: it is the subreaper of what its workers abandon, and its workers
// die with it, however it dies.
func TestRunNotPID1(t *testing.T) {
	Need(t, "sh")
	p := Pool{Start(t, Program{Under: true, Args: []string{Binary(t), "-n", "2",
		"sh", "-c", "(sleep 0.01; exec sleep 1000) & (:&) ; exec sleep 1000"}})}
	Eventually(t, "two workers and no zombie", func() (any, bool) {
		return p.List(), len(p.Workers()) == 2 && len(p.Zombies()) == 0
	})
	list := []Worker{p.Worker(0), p.Worker(1)}
	if err := syscall.Kill(p.Self(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	for _, w := range list {
		Eventually(t, "the worker is gone", func() (any, bool) { q, there := ReadProc(w.PID); return q, !there })
	}
}

// An orphan of a worker comes to poolinit, which reaps it.
func TestRunIsSubreaper(t *testing.T) {
	Need(t, "sh", "sleep")
	p := Pool{Start(t, Program{Under: true, Args: []string{Binary(t),
		"sh", "-c", "(sh -c 'exec sleep 1000' &); exec sleep 2000"}})}
	self := p.Self()
	Eventually(t, "two children", func() (any, bool) {
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

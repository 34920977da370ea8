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
	need(t, "sleep")
	never := []syscall.Signal{
		syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGPROF, 32, 33, 34, // cannot be had in Go
		syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT, 37, syscall.SIGUSR1, syscall.SIGHUP, // requests
		syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU,
		syscall.SIGCONT, // it is looked at below
	}
	p := runPool{start(t, program{args: []string{poolinit(t), "-n", "3", self(t)}, child: blockedChild})}
	workers := p.awaitBlocked(3)
	want := map[syscall.Signal]bool{}
	for _, sig := range signal1to64 {
		if !slices.Contains(never, sig) {
			want[sig] = true
			p.signal(sig)
		}
	}
	for _, sig := range []syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPIPE, syscall.SIGURG, syscall.SIGCHLD} {
		p.signal(sig)
	}
	for _, w := range workers {
		requireSignals(t, w.PID, "ShdPnd", want)
	}
	want[syscall.SIGCONT] = true
	p.signal(syscall.SIGCONT)
	for _, w := range workers {
		requireSignals(t, w.PID, "ShdPnd", want)
	}
	if q, _ := readProc(p.self()); q.State == 'T' {
		t.Error("poolinit has stopped")
	}
}

// awaitBlocked waits until poolinit catches all that it will ever catch, and
// its n workers have become what they are to be. (They have no environment.)
func (p runPool) awaitBlocked(n int) (workers []procInfo) {
	p.t.Helper()
	self := p.self()
	eventually(p.t, "all signals are caught", func() (any, bool) {
		caught := signalSet(self, "SigCgt")
		return caught, caught[64] && caught[syscall.SIGUSR2]
	})
	eventually(p.t, "the workers block all signals", func() (any, bool) {
		workers = nil
		for _, q := range p.list() {
			if q.PPID == self && q.Name == "sleep" {
				workers = append(workers, q)
			}
		}
		return p.list(), len(workers) == n
	})
	return workers
}

// A stop that comes before the pool runs is acted on when it does.
func TestRunEarlySignal(t *testing.T) {
	need(t, "sleep")
	p := runPool{start(t, program{args: []string{poolinit(t), "-n", "8", "sleep", "1000"}})}
	eventually(t, "TERM is caught", func() (any, bool) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.pid))
		return string(name), strings.TrimSpace(string(name)) == filepath.Base(poolinit(t)) && signalSet(p.pid, "SigCgt")[syscall.SIGUSR1]
	})
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != 0 && code != 2 { // 2: it came between the runtime's handler and ours, some tenths of a millisecond
		t.Errorf("exit code %d", code)
	}
}

// Not PID 1: it is the subreaper of what its workers abandon, and its workers
// die with it, however it dies.
func TestRunNotPID1(t *testing.T) {
	need(t, "sh")
	p := runPool{start(t, program{under: true, args: []string{poolinit(t), "-n", "2",
		"sh", "-c", "(sleep 0.01; exec sleep 1000) & (:&) ; exec sleep 1000"}})}
	eventually(t, "two workers and no zombie", func() (any, bool) {
		return p.list(), len(p.workers()) == 2 && len(p.zombies()) == 0
	})
	list := []liveWorker{p.worker(0), p.worker(1)}
	if err := syscall.Kill(p.self(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.wait()
	for _, w := range list {
		eventually(t, "the worker is gone", func() (any, bool) { q, there := readProc(w.PID); return q, !there })
	}
}

// An orphan of a worker comes to poolinit, which reaps it.
func TestRunIsSubreaper(t *testing.T) {
	need(t, "sh", "sleep")
	p := runPool{start(t, program{under: true, args: []string{poolinit(t),
		"sh", "-c", "(sh -c 'exec sleep 1000' &); exec sleep 2000"}})}
	self := p.self()
	eventually(t, "two children", func() (any, bool) {
		n := 0
		for _, q := range p.list() {
			if q.PPID == self && q.Name == "sleep" {
				n++
			}
		}
		return p.list(), n == 2
	})
	p.signal(syscall.SIGTERM)
	p.expectExit(0) // its group goes with the worker
}

package chaos

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// A deed is trouble. What it returns ends it; nil: it ends by itself.
type deed struct {
	name     string
	weight   int  // how often it happens
	harmful  bool // workers die of it that have innocent messages
	possible func(*round) bool
	do       func(*round, *rand.Rand) (undo func())
}

var deeds = []deed{
	{name: "kill a worker", weight: 6, harmful: true, do: signalWorker(syscall.SIGKILL)},
	{name: "stop a worker", weight: 3, harmful: true, do: stopWorker},
	{name: "a worker eats memory", weight: 2, harmful: true, possible: hasMemory, do: eat},
	{name: "a worker is a fork bomb", weight: 2, harmful: true, possible: hasPIDs, do: bomb},
	{name: "a worker ignores SIGTERM", weight: 2, do: signalWorker(sigDeaf)},
	{name: "a worker hangs up", weight: 2, harmful: true, do: signalWorker(sigHangUp)},
	{name: "a worker lies", weight: 1, harmful: true, do: signalWorker(sigLie)},
	{name: "orphans", weight: 1, do: signalWorker(sigOrphan)},
	{name: "reload", weight: 3, do: reload(1)},
	{name: "reload storm", weight: 1, do: reload(30)},
	{name: "scale", weight: 3, do: scale},
	{name: "pause", weight: 2, do: pause},
	{name: "stop and start", weight: 2, do: restart},
	{name: "kill poolinit", weight: 1, do: crash},
	{name: "remove the queue", weight: 1, do: removeQueue},
	{name: "freeze", weight: 2, harmful: true, possible: hasFreezer, do: freeze},
	{name: "stop poolinit", weight: 1, harmful: true, do: stopPoolinit},
	{name: "full disk", weight: 1, possible: hasDisk, do: func(r *round, _ *rand.Rand) func() { r.disk.fill(); return r.disk.heal }},
	{name: "frozen disk", weight: 1, possible: hasDisk, do: func(r *round, _ *rand.Rand) func() { r.disk.freeze(); return r.disk.heal }},
	{name: "no descriptors", weight: 2, do: noDescriptors},
	{name: "no PIDs", weight: 2, possible: hasPIDs, do: noPIDs},
	{name: "new certificate", weight: 2, do: rotate},
	{name: "rude clients", weight: 5, do: rude},
	{name: "strangers", weight: 2, do: strangers},
}

func hasMemory(r *round) bool  { return r.cage.memory != "" }
func hasPIDs(r *round) bool    { return r.cage.pids != "" }
func hasFreezer(r *round) bool { return r.cage.frozen != "" }
func hasDisk(r *round) bool    { return r.disk != nil }

// workerPID returns a worker that is there now, or 0.
func (r *round) workerPID(rng *rand.Rand) int {
	p := r.life().p
	var workers []int
	for _, q := range p.List() {
		if q.PPID == p.PID {
			workers = append(workers, q.PID)
		}
	}
	if len(workers) == 0 {
		return 0
	}
	return workers[rng.IntN(len(workers))]
}

func signalWorker(sig syscall.Signal) func(*round, *rand.Rand) func() {
	return func(r *round, rng *rand.Rand) func() {
		if pid := r.workerPID(rng); pid > 0 {
			_ = syscall.Kill(pid, sig)
		}
		return nil
	}
}

func stopWorker(r *round, rng *rand.Rand) func() {
	pid := r.workerPID(rng)
	if pid == 0 {
		return nil
	}
	_ = syscall.Kill(pid, syscall.SIGSTOP)
	p := r.life().p
	return func() {
		for _, q := range p.List() { // its PID may be another process's by now
			if q.PID == pid {
				_ = syscall.Kill(pid, syscall.SIGCONT)
			}
		}
	}
}

func eat(r *round, rng *rand.Rand) func() {
	r.cage.squeeze(100 << 20)
	signalWorker(sigEat)(r, rng)
	return r.cage.release
}

func bomb(r *round, rng *rand.Rand) func() {
	r.cage.limitPIDs(200)
	signalWorker(sigBomb)(r, rng)
	return r.cage.release
}

func noPIDs(r *round, rng *rand.Rand) func() {
	r.cage.limitPIDs(rng.IntN(3))
	return r.cage.release
}

func freeze(r *round, _ *rand.Rand) func() {
	r.cage.freeze(true)
	time.Sleep(300 * time.Millisecond) // nothing else can be done meanwhile
	return func() { r.cage.freeze(false) }
}

func stopPoolinit(r *round, _ *rand.Rand) func() {
	p := r.life().p
	_ = syscall.Kill(p.PID, syscall.SIGSTOP)
	return func() { _ = p.Cmd.Process.Signal(syscall.SIGCONT) }
}

func reload(times int) func(*round, *rand.Rand) func() {
	return func(r *round, rng *rand.Rand) func() {
		for range times {
			sig := syscall.SIGUSR1
			if rng.IntN(2) == 0 {
				sig = syscall.SIGHUP
			}
			_ = syscall.Kill(r.life().p.PID, sig)
			time.Sleep(time.Duration(rng.IntN(5)) * time.Millisecond) // two at once are one
		}
		return nil
	}
}

// An operator's command may fail while there is trouble. It ends in any case.
func scale(r *round, rng *rand.Rand) func() {
	r.background("scale", strconv.Itoa(1+rng.IntN(8)))
	return nil
}

func pause(r *round, _ *rand.Rand) func() {
	r.background("pause")
	return func() { r.background("resume") }
}

// background runs an operator's command without waiting for it.
func (r *round) background(args ...string) {
	harness.Start(r.t, harness.Program{Host: true, Args: r.insideArgs(args)})
}

// restart stops the pool as the trouble has left it, and starts it as its orchestrator would
// on another machine.
func restart(r *round, _ *rand.Rand) func() {
	r.thaw()
	r.stopLife()
	r.heal()
	r.startLife()
	return nil
}

func crash(r *round, _ *rand.Rand) func() {
	r.thaw()
	r.killLife()
	r.heal()
	r.startLife()
	return nil
}

// thaw lets the pool hear a signal.
func (r *round) thaw() {
	if r.cage.frozen != "" {
		r.cage.freeze(false)
	}
	_ = syscall.Kill(r.life().p.PID, syscall.SIGCONT)
}

func removeQueue(r *round, _ *rand.Rand) func() {
	r.queue.Remove()
	r.removed = time.Now()
	return nil
}

// noDescriptors leaves PID 1 a few descriptors.
func noDescriptors(r *round, rng *rand.Rand) func() {
	p := r.life().p
	open, err := os.ReadDir("/proc/" + strconv.Itoa(p.PID) + "/fd")
	if err != nil {
		return nil
	}
	var old unix.Rlimit
	limit := unix.Rlimit{Cur: uint64(len(open) + rng.IntN(4)), Max: 1 << 16}
	if unix.Prlimit(p.PID, unix.RLIMIT_NOFILE, nil, &old) != nil || unix.Prlimit(p.PID, unix.RLIMIT_NOFILE, &limit, nil) != nil {
		return nil
	}
	return func() { _ = unix.Prlimit(p.PID, unix.RLIMIT_NOFILE, &old, nil) }
}

// rotate replaces the certificate, as cert-manager does.
func rotate(r *round, _ *rand.Rand) func() {
	harness.IssueCertificate(r.t, r.path("next"), "next")
	for _, file := range []string{".crt", ".key"} {
		if err := os.Rename(r.path("next"+file), r.path("tls"+file)); err != nil {
			r.t.Error(err)
		}
	}
	return nil
}

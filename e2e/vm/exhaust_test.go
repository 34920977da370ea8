package vm

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The whole machine runs out of memory. The kernel takes the worker that eats it,
// and neither poolinit, nor the machine's init.
func testMachineOOM(t *testing.T) {
	b := newBox(t, nil) // a group has no limit, but counts
	p := b.start(t, harness.WorkerChild, "/poolinit", "run", "-n", "1", "--log-format", "json", "--give-up", "1", "--", "/init", harness.EatsDeed)
	if code := p.Wait(); code != 137 {
		t.Errorf("exit code %d\n%s", code, p.Stderr.String())
	}
	pool := harness.PoolOf(p)
	if r := pool.ExpectLog("worker exited", nil); r.Why != "oom" {
		t.Errorf("%+v\n%s", r, p.Stderr.String())
	}
	if pool.Count("stopped: ") != 1 {
		t.Errorf("no last line:\n%s", p.Stderr.String())
	}
	harness.RunClient(t, nil, "/poolinit", "health").Says(t, 0)
}

// No process can be started in the whole machine. The pool goes on with the
// workers that it has, and has all of them again as soon as it can.
func testNoPIDs(t *testing.T) {
	reserveThreads(64)
	p, addr := startSpool(t, t.TempDir()+"/spool")
	nc := dial(t, addr)
	ask(t, nc, "before")
	last, err := os.ReadFile("/proc/sys/kernel/threads-max")
	if err != nil {
		t.Fatal(err)
	}
	w := p.WaitForProcess("a worker", func(q harness.ProcInfo) bool { return q.PPID == p.Self() && q.Name == "sh" })
	set(t, "/proc/sys/kernel/threads-max", "20") // fewer than there are
	restore := sync.OnceFunc(func() { set(t, "/proc/sys/kernel/threads-max", strings.TrimSpace(string(last))) })
	t.Cleanup(restore)
	if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ExpectLog("cannot start worker", nil)
	for range 20 {
		ask(t, nc, "meanwhile")
	}
	restore()
	awaitBoth(p)
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// reserveThreads has the runtime keep as many threads of this process: where it
// cannot start one that it needs, it ends the process.
func reserveThreads(n int) {
	var all, done sync.WaitGroup
	all.Add(n)
	for range n {
		done.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			all.Done()
			all.Wait()
		})
	}
	done.Wait()
}

// No file can be opened in the whole machine, but by root. A pool of another user
// goes on with the connections and workers that it has, and takes new ones as soon
// as it can.
func testNoDescriptors(t *testing.T) {
	addr := harness.FreePort(t)
	p := harness.Start(t, harness.Program{Child: harness.UserChild, Args: []string{harness.Self(t), "1000", "/poolinit", "run", "-n", "2",
		"--deliver", "lines", "--log-format", "json", "--restart-delay", "1ms", "--restart-delay-max", "50ms", "--give-up", "0",
		"--listen", "tcp://" + addr + "?reply=always", "--", "sh", "-c", echoLines}})
	pool := harness.PoolOf(p)
	pool.ExpectLog("accepting messages", nil)
	nc := dial(t, addr)
	ask(t, nc, "before")
	w := p.WaitForProcess("a worker", func(q harness.ProcInfo) bool { return q.PPID == p.Self() && q.Name == "sh" })
	setting(t, "/proc/sys/fs/file-max", "10") // fewer than there are
	if err := syscall.Kill(w.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	pool.ExpectLog("cannot start worker", nil)
	late := dial(t, addr) // the kernel accepts it; poolinit cannot
	for range 20 {
		ask(t, nc, "meanwhile")
	}
	set(t, "/proc/sys/fs/file-max", strconv.Itoa(1<<20))
	ask(t, late, "late")
	testkit.Eventually(t, "both workers", func() (any, bool) {
		n := 0
		for _, q := range p.List() {
			if q.PPID == p.Self() && q.Name == "sh" {
				n++
			}
		}
		return fmt.Sprint(n, p.Stderr.String()), n == 2
	})
	p.Signal(syscall.SIGTERM)
	pool.ExpectExit(0)
}

// lateEater takes memory as soon as there is a file.
var lateEater = harness.Deed("eatsLater", func(words []string) int {
	harness.AwaitFile(words[0])
	return harness.Deeds[harness.EatsDeed](nil)
})

// poolinit holds messages, and is larger than each of its workers when these have
// used up the memory of the cgroup. The kernel takes the workers.
func testOOMSparesQueue(t *testing.T) {
	addr, gate := harness.FreePort(t), t.TempDir()+"/gate"
	b := newBox(t, map[string]string{"memory.max": "134217728"})
	p := b.start(t, harness.WorkerChild, "/poolinit", "run", "-n", "4", "--log-format", "json", "--restart", "never", "--stop-timeout", "2s",
		"--queue-bytes", "48MiB", "--listen", "tcp://"+addr+"?reply=never", "--", "/init", lateEater, gate)
	pool := harness.PoolOf(p)
	pool.AwaitWorkers(4)
	nc := dial(t, addr)
	for range 44 {
		if err := harness.WriteFrame(nc, strings.Repeat("x", 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	p.AwaitDocument("the messages wait", func(d *harness.Document) bool { return d.Queue.Messages >= 40 })
	if err := os.WriteFile(gate, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.Wait()
	killed := 0
	for _, r := range pool.Records() {
		if r.Why == "oom" {
			killed++
		}
	}
	if killed < 4 || pool.Count("stopped: ") != 1 {
		t.Errorf("%d workers with why=oom\n%s", killed, p.Stderr.String())
	}
}

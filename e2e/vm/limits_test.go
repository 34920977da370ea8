package vm

import (
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// poolinit is the init of the machine: it runs its worker, which is this process,
// answers on its control socket, and reaps what loses its parent.
func testInit(t *testing.T) {
	if os.Getppid() != 1 {
		t.Errorf("the parent is %d", os.Getppid())
	}
	harness.RunClient(t, nil, "/poolinit", "health").Says(t, 0)
	var status string // an emulated machine that boots may take longer than a client waits
	testkit.Eventually(t, "status is answered", func() (any, bool) {
		got := harness.RunClient(t, nil, "/poolinit", "status", "--json")
		status = got.Stdout
		return got, got.Code == 0
	})
	d := harness.ParseDocument(t, status)
	if d.PID != 1 || len(d.Workers) != 1 || d.Workers[0].PID != os.Getpid() {
		t.Errorf("status: %+v", d)
	}
	out, err := exec.Command("sh", "-c", "sleep 0.2 >/dev/null 2>&1 & echo $!").Output()
	if err != nil {
		t.Fatal(err)
	}
	orphan, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the orphan is reaped", func() (any, bool) {
		p, found := harness.ReadProc(orphan)
		return p, !found
	})
}

// -n auto is the CPU limit of a cgroup of version 2.
func testLimits(t *testing.T) {
	b := newBox(t, map[string]string{"cpu.max": "300000 100000", "memory.max": "67108864", "pids.max": "100", "memory.oom.group": "1"})
	p := b.start(t, harness.WorkerChild, "/poolinit", "run", "-n", "auto", "--log-format", "json", "--min-ready", "10ms", "--", "/init", "obey")
	harness.PoolOf(p).ExpectLog("memory.oom.group is set", nil)
	harness.PoolOf(p).AwaitWorkers(3)
	set(t, string(b)+"/cpu.max", "200000 100000")
	p.Signal(syscall.SIGUSR1)
	harness.PoolOf(p).ExpectLog("--workers auto: following the number of CPUs", nil)
	harness.PoolOf(p).AwaitWorkers(2)
	p.Signal(syscall.SIGTERM)
	harness.PoolOf(p).ExpectExit(0)
}

// The log says which worker the OOM killer took, and which one an operator.
func testOOM(t *testing.T) {
	b := newBox(t, map[string]string{"memory.max": "67108864"})
	p := b.start(t, harness.WorkerChild, "/poolinit", "run", "-n", "1", "--log-format", "json", "--give-up", "2", "--restart-delay", "1ms", "--", "/init", harness.EatsDeed)
	pool := harness.PoolOf(p)
	if code := p.Wait(); code != 137 {
		t.Errorf("exit code %d\n%s", code, p.Stderr.String())
	}
	killed := 0
	for _, r := range pool.Records() {
		if strings.Contains(r.Message, "worker exited") && r.Why == "oom" {
			killed++
		}
	}
	if got := b.counter(t, "memory.events", "oom_kill"); killed != 2 || got != "2" {
		t.Errorf("%d workers with why=oom, and %s by the kernel\n%s", killed, got, p.Stderr.String())
	}

	p = b.start(t, harness.WorkerChild, "/poolinit", "run", "-n", "1", "--log-format", "json", "--", "/init", "obey")
	pool = harness.PoolOf(p)
	first := pool.AwaitWorkers(1)[0]
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r := pool.ExpectLog("worker exited", nil)
	if r.Why == "oom" || r.Signal != "SIGKILL" {
		t.Errorf("%+v", r)
	}
	p.Signal(syscall.SIGTERM)
	pool.ExpectExit(0)
}

// With memory.oom.group the kernel kills poolinit with its worker. That is the
// container's end, not the machine's.
func testOOMGroup(t *testing.T) {
	b := newBox(t, map[string]string{"memory.max": "67108864", "memory.oom.group": "1"})
	p := b.start(t, harness.WorkerChild, "/poolinit", "run", "-n", "1", "--log-format", "json", "--", "/init", harness.EatsDeed)
	if code := p.Wait(); code != 137 {
		t.Errorf("exit code %d\n%s", code, p.Stderr.String())
	}
	if got := b.counter(t, "memory.events", "oom_group_kill"); got != "1" {
		t.Errorf("%s kills of the group", got)
	}
	harness.RunClient(t, nil, "/poolinit", "health").Says(t, 0)
}

package pool

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

func TestRunKeepsWorkers(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "3", "--healthy-after", "0s", "--", "obey")
	before := p.AwaitWorkers(3)
	for id := range 3 {
		w := before[id]
		if w.PGID != w.PID || w.PPID != p.Self() {
			t.Errorf("worker %d does not lead a group of its own: %v", id, w)
		}
	}
	killed := time.Now()
	if err := syscall.Kill(before[1].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "another worker 1", func() (any, bool) {
		now := p.Workers()[1]
		return now, len(now) == 1 && now[0].PID != before[1].PID
	})
	took := time.Since(killed)
	after := p.AwaitWorkers(3)
	if after[0].PID != before[0].PID || after[2].PID != before[2].PID {
		t.Errorf("the others were replaced too: %v, before %v", after, before)
	}
	t.Logf("replaced after %v", took) // a figure is bench's business
	p.ExpectLog("worker exited", func(r harness.Record) bool {
		return *r.Worker == 1 && r.Signal == "SIGKILL" && r.Why == "crash" && r.PID == before[1].Inside && r.Uptime != ""
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

func TestRunReapsOrphans(t *testing.T) {
	harness.Need(t, "sh")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--", "sh", "-c",
		"i=0; while [ $i -lt 1000 ]; do (: &); i=$((i+1)); done; echo done; exec sleep 1000"}}))
	p.Stdout.Expect(t, "done\n")
	testkit.Eventually(t, "no zombies", func() (any, bool) { z := p.Zombies(); return len(z), len(z) == 0 && len(p.List()) == 2 })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// Each worker dies at once, many times: no status is lost, no zombie stays.
func TestRunManyDeaths(t *testing.T) {
	harness.Need(t, "true")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "-n", "300", "--restart", "never", "true"}}))
	p.ExpectExit(0)
	if n := p.Count("worker exited"); n != 300 {
		t.Errorf("%d ends logged, want 300", n)
	}
}

var environDeed = harness.Deed("environ", func([]string) int {
	for _, v := range os.Environ() {
		fmt.Println("env " + v)
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.Contains(to, "eventpoll") && !strings.Contains(to, "eventfd") && !strings.HasPrefix(to, "/proc/") && !strings.HasPrefix(to, "/sys/fs/cgroup") {
			fmt.Println("fd " + e.Name())
		}
	}
	fmt.Println("that is all")
	return harness.Forever()
})

func TestRunEnvironment(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	p := harness.StartRun(t, harness.Program{Files: []*os.File{r, w}, Env: []string{
		"POOLINIT_STOP_TIMEOUT=3s", "POOLINIT_WORKERS=2", "POOLINIT_WRONG=x", "KEPT=1", "POOLINIT_SERVICE_HOST=10.0.0.1", "POOLINIT_PORT=tcp://x",
		"NOTIFY_SOCKET=/outer", "WATCHDOG_USEC=1", "WATCHDOG_PID=1", "LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=x",
	}}, "--watchdog", "90s", "--", environDeed)
	p.AwaitWorkers(2)
	testkit.Eventually(t, "both have said all", func() (any, bool) {
		return p.Stdout.String(), strings.Count(p.Stdout.String(), "that is all") == 2
	})
	lines := p.Stdout.Lines()
	for _, want := range []string{
		"env KEPT=1", "env POOLINIT_WORKERS=2", "env POOLINIT_WORKER_ID=0", "env POOLINIT_WORKER_ID=1", "env POOLINIT_GENERATION=1",
		"env WATCHDOG_USEC=90000000", "env POOLINIT_SERVICE_HOST=10.0.0.1", "fd 0", "fd 1", "fd 2",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("workers have no %q", want)
		}
	}
	for _, line := range lines {
		for _, not := range []string{"env POOLINIT_STOP_TIMEOUT", "env NOTIFY_SOCKET=/outer", "env WATCHDOG_PID", "env LISTEN_", "fd 3", "fd 4", "fd 5"} {
			if strings.HasPrefix(line, not) {
				t.Errorf("workers have %q", line)
			}
		}
	}
	p.ExpectLog("POOLINIT_WRONG is not a poolinit setting", func(r harness.Record) bool { return r.Level == "warn" })
	if strings.Contains(p.Stderr.String(), "POOLINIT_SERVICE") || strings.Contains(p.Stderr.String(), "POOLINIT_PORT") {
		t.Errorf("a warning about Kubernetes' variables:\n%s", p.Stderr.String())
	}
}

// What poolinit finds ignored or blocked, and what the Go runtime makes of the
// limit of descriptors, is neither its workers' nor in its way.
func TestRunResetsSignals(t *testing.T) {
	harness.Need(t, "sleep")
	p := harness.PoolOf(harness.Start(t, harness.Program{
		Args:    []string{harness.Binary(t), "-n", "2", "--healthy-after", "0s", "sleep", "1000"},
		Ignored: []syscall.Signal{syscall.SIGCHLD, syscall.SIGTSTP, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE, 40},
		Blocked: []syscall.Signal{syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGUSR1},
		Nofile:  777, // the Go runtime raises its own
	}))
	p.WaitForProcess("sleep", func(q harness.ProcInfo) bool { return q.Name == "sleep" })
	first := p.Worker(0)
	p.Worker(1)
	for _, key := range []string{"SigIgn", "SigBlk"} {
		harness.RequireSignals(t, first.PID, key, map[syscall.Signal]bool{})
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", first.PID))
	if err != nil || !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), "Max open files 777 3108") {
		t.Errorf("limits of a worker: %v\n%s", err, limits)
	}
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Signal == "SIGKILL" })
	testkit.Eventually(t, "the other one", func() (any, bool) {
		w := p.Workers()[0]
		return w, len(w) == 1 && w[0].PID != first.PID
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// Package bench measures the real binary beside its peers: tini, the program
// alone, an empty Go program, the least supervisor that C can be. Each pair is
// measured in the same run, by turns, since only the difference means anything
// on a machine that somebody else uses too.
//
//	go test -run - -bench . ./bench
//
// A figure that is over its limit fails the benchmark. docs/performance.md has
// the figures.
package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a benchmark waits for what must happen.
const patience = time.Minute

var cleanup []func()

func TestMain(m *testing.M) {
	if os.Getenv("BENCH_ECHO") != "" {
		fmt.Fprintln(os.Stderr, echoServer(os.Args[1]))
		os.Exit(1)
	}
	if os.Getenv("BENCH_METRICS") != "" {
		fmt.Fprintln(os.Stderr, plainMetrics(os.Args[1]))
		os.Exit(1)
	}
	code := m.Run()
	for _, f := range cleanup {
		f()
	}
	os.Exit(code)
}

// programs are what is measured, built once. E2E_BINARY names a poolinit that
// is there already.
type programs struct{ poolinit, peer, empty string }

var build = sync.OnceValues(func() (p programs, err error) {
	dir, err := os.MkdirTemp("", "poolinit-bench")
	if err != nil {
		return p, err
	}
	cleanup = append(cleanup, func() { os.RemoveAll(dir) })
	p = programs{filepath.Join(dir, "poolinit"), filepath.Join(dir, "peer"), filepath.Join(dir, "empty")}
	ours := []string{"../tools/build.sh", p.poolinit}
	if path := os.Getenv("E2E_BINARY"); path != "" {
		ours = []string{"cp", path, p.poolinit}
	}
	source := filepath.Join(dir, "empty.go")
	if err := os.WriteFile(source, []byte("package main\n\nfunc main() {}\n"), 0o600); err != nil {
		return p, err
	}
	for _, command := range [][]string{
		ours,
		{"go", "build", "-trimpath", "-ldflags", "-s -w", "-o", p.empty, source},
		{"gcc", "-O2", "-static", "-o", p.peer, "testdata/peer.c"},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return p, fmt.Errorf("%v: %w\n%s", command, err, out)
		}
	}
	unix.Sync() // pages that are not on the disk yet count as the program's private ones
	return p, nil
})

// built returns the programs, or skips the benchmark where it cannot be run.
func built(b *testing.B) programs {
	b.Helper()
	for _, tool := range []string{"gcc", "tini", "true"} {
		if _, err := exec.LookPath(tool); err != nil {
			b.Skipf("%s is not installed", tool)
		}
	}
	p, err := build()
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// lookPath is for commands that are started a thousand times.
func lookPath(b *testing.B, name string) string {
	b.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// limit reports a figure and fails if it is over. The other figures are then
// not printed, so whoever has a peer's says it first, with b.Log.
func limit(b *testing.B, figure float64, unit string, most float64) {
	b.Helper()
	report(b, figure, unit)
	if figure > most {
		b.Errorf("%.3f %s, and the limit is %.3f", figure, unit, most)
	}
}

// report is b.ReportMetric for a benchmark that can fail: then no metric is printed, and those
// beside the one that is over its limit say what it means.
func report(b *testing.B, figure float64, unit string) {
	b.Helper()
	b.ReportMetric(figure, unit)
	b.Cleanup(func() {
		if b.Failed() {
			b.Logf("%.3f %s", figure, unit)
		}
	})
}

// noNsPerOp leaves out the time of the loop, which is nobody's figure here.
func noNsPerOp(b *testing.B) { b.ReportMetric(0, "ns/op") }

// monotonic is the clock that the workers stamp with.
func monotonic() time.Duration {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t) // cannot fail
	return time.Duration(t.Nano())
}

func median[T int | float64 | time.Duration](list []T) T { return quantile(list, 0.5) }

func quantile[T int | float64 | time.Duration](list []T, q float64) T {
	sorted := slices.Sorted(slices.Values(list))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// A pool is a supervisor that runs, with workers that stamp.
type pool struct {
	b      *testing.B
	cmd    *exec.Cmd
	began  time.Duration
	stamps chan stamp
	pids   map[int]int // of the workers, by number
	exited chan struct{}
}

// A stamp is what a worker says first.
type stamp struct {
	worker, pid int
	at          time.Duration
}

// startPool starts a supervisor and waits for its n workers. It is killed at
// the end of the benchmark, and its workers with it.
func startPool(b *testing.B, n int, command ...string) *pool {
	b.Helper()
	p := &pool{b: b, stamps: make(chan stamp, 1<<16), pids: map[int]int{}, exited: make(chan struct{})}
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	p.began = monotonic()
	if err := p.cmd.Start(); err != nil {
		b.Skipf("cannot make a PID namespace: %v", err)
	}
	go func() { // ends with the pool, which stop sees to
		defer close(p.exited)
		readStamps(stdout, p.stamps)
		_ = p.cmd.Wait() // it was killed
	}()
	b.Cleanup(p.stop)
	for range n {
		p.next()
	}
	return p
}

func (p *pool) stop() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

func (p *pool) next() stamp {
	p.b.Helper()
	select {
	case s := <-p.stamps:
		p.pids[s.worker] = s.pid
		return s
	case <-time.After(patience):
		p.b.Fatal("no worker was started")
	}
	return stamp{}
}

// pid returns a worker's PID as it is seen from here.
func (p *pool) pid(worker int) int {
	p.b.Helper()
	for _, pid := range children(p.cmd.Process.Pid) {
		pids := strings.Fields(statusLine(p.b, pid, "NSpid"))
		if len(pids) > 0 && pids[len(pids)-1] == strconv.Itoa(p.pids[worker]) {
			return pid
		}
	}
	p.b.Fatalf("worker %d (pid %d) is not there", worker, p.pids[worker])
	return 0
}

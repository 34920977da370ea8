package bench

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"
)

func startWorkers(b *testing.B, p programs, n int, flags ...string) *pool {
	b.Helper()
	command := append([]string{p.poolinit, "run", "-n", strconv.Itoa(n), "--log-level", "warn"}, flags...)
	return startPool(b, n, append(command, "--", p.peer, "stamp")...)
}

// replaceOne kills a worker and returns the time from the kill(2) until the
// first instruction of main in the one that takes its place: the death, the
// wait, the fork, the exec.
func (p *pool) replaceOne(worker int) time.Duration {
	p.b.Helper()
	pid := p.pid(worker)
	began := monotonic()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		p.b.Fatal(err)
	}
	next := p.next()
	if next.worker != worker {
		p.b.Fatalf("worker %d was started in place of %d", next.worker, worker)
	}
	return next.at - began
}

// The death of a worker to the exec of its replacement. The floor is a C
// program that does nothing but wait, vfork and exec.
func BenchmarkReplace(b *testing.B) {
	p := built(b)
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("workers=%d", n), func(b *testing.B) {
			// Every worker counts as healthy, so that each death is followed by a start at once.
			ours, floor := startWorkers(b, p, n, "--healthy-after", "0s"), startPool(b, n, p.peer, "pool", strconv.Itoa(n))
			quiet(b)
			var got, least []time.Duration
			for b.Loop() {
				for i := range 300 {
					got = append(got, ours.replaceOne(i%n))
					least = append(least, floor.replaceOne(i%n))
				}
			}
			noNsPerOp(b)
			b.Logf("the floor: median %v, 99 %% %v; poolinit: %v, %v", median(least), quantile(least, 0.99), median(got), quantile(got, 0.99))
			report(b, milliseconds(median(least)), "floor-ms")
			report(b, milliseconds(quantile(got, 0.99)), "p99-ms")
			limit(b, milliseconds(median(got)), "median-ms", 1.5)
		})
	}
}

// settle waits until the pool has been quiet for a second: what the start has
// left to do (log lines, the garbage collector) is done.
func (p *pool) settle() {
	p.b.Helper()
	deadline := time.Now().Add(patience)
	for before := -1; ; time.Sleep(time.Second) {
		now := wakeUps(p.b, p.cmd.Process.Pid)
		if now == before {
			return
		}
		if before = now; time.Now().After(deadline) {
			p.b.Fatal("the pool does not come to rest")
		}
	}
}

// What 16 workers with nothing to do cost.
func BenchmarkIdle(b *testing.B) {
	p := built(b)
	pool := startWorkers(b, p, 16, "--healthy-after", "100ms") // else its end is in what is measured
	pool.settle()
	pid := pool.cmd.Process.Pid
	var woken int
	for b.Loop() {
		before := wakeUps(b, pid)
		time.Sleep(10 * time.Second) // what is measured is that nothing happens
		woken = wakeUps(b, pid) - before
	}
	noNsPerOp(b)
	limit(b, float64(woken), "wake-ups/10s", 2)
	limit(b, float64(memory(b, pid, "Rss"))/1024, "RSS-MB", 10)
	limit(b, float64(memory(b, pid, "Private_Dirty"))/1024, "private-MB", 4)
}

// Start, and memory in poolinit, with 100 and 1,000 workers.
func BenchmarkThousand(b *testing.B) {
	p := built(b)
	sizes := []int{1, 100, 500, 1000}
	private := map[int]int{}
	quiet(b)
	var took time.Duration
	for b.Loop() {
		for _, n := range sizes {
			pool := startWorkers(b, p, n)
			took = monotonic() - pool.began
			pool.settle()
			private[n] = memory(b, pool.cmd.Process.Pid, "Private_Dirty")
			pool.stop()
		}
	}
	noNsPerOp(b)
	for _, n := range sizes {
		report(b, float64(private[n])/1024, fmt.Sprintf("private-MB-of-%d", n))
	}
	limit(b, took.Seconds(), "start-s", 5)
	limit(b, float64(private[1000]-private[100])/900, "kB/worker", 40)
	limit(b, float64(private[1000]-private[500])/500, "kB/worker-of-the-second-half", 40)
}

func BenchmarkBinarySize(b *testing.B) {
	p := built(b)
	var size int64
	for b.Loop() {
		fi, err := os.Stat(p.poolinit)
		if err != nil {
			b.Fatal(err)
		}
		size = fi.Size()
	}
	noNsPerOp(b)
	limit(b, float64(size)/1e6, "MB", 9.5)
}

package bench

import (
	"os/exec"
	"strconv"
	"testing"
	"time"
)

// What a HEALTHCHECK or an exec probe costs beside `true`, and what a look at the
// table does: each from fork to exit, for a pool of four workers.
func BenchmarkHealth(b *testing.B) {
	p, yes := built(b), lookPath(b, "true")
	pool := exec.Command(p.poolinit, "run", "-n", "4", "--ready", "started", "--log-level", "error", "--", p.peer, "up")
	if err := pool.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = pool.Process.Kill() // its workers die with it
		_ = pool.Wait()
	})
	pid := strconv.Itoa(pool.Process.Pid)
	for deadline := time.Now().Add(patience); exec.Command(p.poolinit, "health", "--ready", "--pid", pid).Run() != nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatal("the pool does not get ready")
		}
	}
	list := []contender{
		{"true", []string{yes}},
		{"empty", []string{p.empty}},
		{"version", []string{p.poolinit, "version"}},
		{"health", []string{p.poolinit, "health", "--pid", pid}},
		{"status", []string{p.poolinit, "status", "--pid", pid}},
	}
	quiet(b)
	var got map[string][]time.Duration
	for b.Loop() {
		got = byTurns(b, 200, list, func(command []string) time.Duration {
			began := time.Now()
			if err := exec.Command(command[0], command[1:]...).Run(); err != nil {
				b.Fatalf("%v: %v", command, err)
			}
			return time.Since(began)
		})
	}
	noNsPerOp(b)
	over := func(name string) float64 { return milliseconds(median(got[name]) - median(got["true"])) }
	report(b, milliseconds(median(got["true"])), "true-ms")
	report(b, float64(median(got["health"]))/float64(median(got["true"])), "health/true")
	report(b, over("empty"), "empty-Go-over-true-ms")
	report(b, over("version"), "version-over-true-ms")
	report(b, over("status"), "status-over-true-ms")
	limit(b, over("health"), "health-over-true-ms", 10)
}

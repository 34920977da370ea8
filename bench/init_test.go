package bench

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A contender is a command that is measured under a name.
type contender struct {
	name    string
	command []string
}

// byTurns measures each contender so many times, one after the other, so that
// what disturbs one disturbs all.
func byTurns(b *testing.B, rounds int, list []contender, measure func([]string) time.Duration) map[string][]time.Duration {
	b.Helper()
	got := map[string][]time.Duration{}
	for range rounds {
		for _, c := range list {
			got[c.name] = append(got[c.name], measure(c.command))
		}
	}
	return got
}

// namespaced runs a command as PID 1 of a PID namespace until it ends.
func namespaced(b *testing.B, command []string) time.Duration {
	b.Helper()
	began := time.Now()
	pid, err := syscall.ForkExec(command[0], command, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID},
	})
	if err != nil {
		b.Skipf("cannot make a PID namespace: %v", err)
	}
	var status syscall.WaitStatus
	for {
		if _, err = syscall.Wait4(pid, &status, 0, nil); err != syscall.EINTR {
			break
		}
	}
	if err != nil || status != 0 {
		b.Fatalf("%v: %v, status %x", command, err, status)
	}
	return time.Since(began)
}

// What `init -- true` costs over `true` alone, each as a PID 1, from fork to
// the end of the namespace.
func BenchmarkInitTrue(b *testing.B) {
	p, yes, tini := built(b), lookPath(b, "true"), lookPath(b, "tini")
	list := []contender{
		{"true", []string{yes}},
		{"empty", []string{p.empty}},
		{"tini", []string{tini, "--", yes}},
		{"init", []string{p.poolinit, "init", "--", yes}},
		{"run", []string{p.poolinit, "run", "--restart", "never", "--log-level", "error", "--", yes}},
	}
	quiet(b)
	var got map[string][]time.Duration
	for b.Loop() {
		got = byTurns(b, 300, list, func(command []string) time.Duration { return namespaced(b, command) })
	}
	noNsPerOp(b)
	over := func(name string) float64 { return milliseconds(median(got[name]) - median(got["true"])) }
	report(b, milliseconds(median(got["true"])), "true-ms")
	report(b, over("empty"), "empty-Go-over-true-ms")
	report(b, over("tini"), "tini-over-true-ms")
	report(b, over("run"), "run-over-true-ms")
	limit(b, over("init"), "init-over-true-ms", 4)
}

// How long after exec a SIGTERM is lost, or kills in a way that is not the
// program's: half of those sent at that time are acted on. See peer.c.
func BenchmarkDeaf(b *testing.B) {
	p, tini := built(b), lookPath(b, "tini")
	list := []contender{
		{"tini", []string{tini, "--", p.peer, "up"}},
		{"init", []string{p.poolinit, "init", "--", p.peer, "up"}},
		{"run", []string{p.poolinit, "run", "--log-level", "error", "--", p.peer, "up"}},
	}
	quiet(b)
	var got map[string][]time.Duration
	for b.Loop() {
		got = byTurns(b, 5, list, func(command []string) time.Duration {
			out, err := exec.Command(p.peer, append([]string{"deaf", "120"}, command...)...).Output()
			if err != nil {
				b.Fatal(err)
			}
			var ns, wrong int64
			if _, err := fmt.Sscan(string(out), &ns, &wrong); err != nil {
				b.Fatalf("%q: %v", out, err)
			}
			return time.Duration(ns)
		})
	}
	noNsPerOp(b)
	report(b, milliseconds(median(got["tini"])), "tini-ms")
	limit(b, milliseconds(median(got["init"])), "init-ms", 1.5)
	limit(b, milliseconds(median(got["run"])), "run-ms", 1.5)
}

// 10,000 orphans that end at once, until no zombie is left.
func BenchmarkOrphans(b *testing.B) {
	p, tini := built(b), lookPath(b, "tini")
	storm := []string{p.peer, "orphans", "10000"}
	list := []contender{
		{"tini", append([]string{tini, "--"}, storm...)},
		{"init", append([]string{p.poolinit, "init", "--"}, storm...)},
		{"run", append([]string{p.poolinit, "run", "--restart", "never", "--log-level", "error", "--"}, storm...)},
	}
	quiet(b)
	var got map[string][]time.Duration
	for b.Loop() {
		got = byTurns(b, 15, list, func(command []string) time.Duration {
			cmd := exec.Command(command[0], command[1:]...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
			out, err := cmd.Output()
			var whole, reaping int64
			if _, scanErr := fmt.Sscan(strings.TrimSpace(string(out)), &whole, &reaping); err != nil || scanErr != nil {
				b.Fatalf("%v: %v, output %q", command, err, out)
			}
			return time.Duration(whole)
		})
	}
	noNsPerOp(b)
	for name, times := range got {
		b.Logf("%s: fastest %v, median %v, slowest %v", name, quantile(times, 0), median(times), quantile(times, 1))
		report(b, milliseconds(median(times)), name+"-ms")
	}
	ratio := float64(median(got["init"])) / float64(median(got["tini"]))
	report(b, float64(median(got["run"]))/float64(median(got["tini"])), "run/tini")
	limit(b, ratio, "init/tini", 1.05)
}

package control

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
)

func TestReloadCommand(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "-n", "3", "--", "obey")
	p.AwaitWorkers(3)
	p.Inside("reload").Says(t, 0, "process 1 reloads\n")
	p.ExpectLog("reload started", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit reload (uid 0, pid ") })
	p.ExpectLog("reload done", nil)
	got := p.Inside("reload", "--wait")
	got.Says(t, 0, "generation 3: 3 of 3 workers replaced\n", "reload done in ")
	if got.Stderr != "" || !strings.Contains(p.Inside("status").Stdout, "generation 3: ready\nreload: done in ") {
		t.Errorf("%+v", got)
	}
}

// Its progress can be seen while it goes on.
func TestReloadCommandTellsProgress(t *testing.T) {
	dir := t.TempDir()
	file := func(worker string) string { return dir + "/" + worker }
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--ready", "notify", "--", steppedDeed, dir)
	p.ExpectReady(2)
	waits := harness.Start(t, harness.Program{Host: true, Args: p.InsideArgs(nil, "reload", "--wait")})
	p.ExpectLog("reload started", nil)
	if err := os.WriteFile(file("0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waits.Stdout.Expect(t, "generation 2: 1 of 2 workers replaced\n")
	p.Inside("status").Says(t, 0, "reload: running for ", ", 1 of 2 replaced")
	if err := os.WriteFile(file("1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := waits.Wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, waits.Stderr.String())
	}
	waits.Stdout.Expect(t, "generation 2: 2 of 2 workers replaced\nreload done in ")
}

// steppedDeed is ready in the first generation at once, and later when there is a
// file of its number.
var steppedDeed = harness.Deed("stepped", func(words []string) int {
	if os.Getenv("POOLINIT_GENERATION") != "1" {
		harness.AwaitFile(words[0] + "/" + os.Getenv("POOLINIT_WORKER_ID"))
	}
	return harness.ServeReady()
})

// brokenLaterDeed works in the first generation only.
var brokenLaterDeed = harness.Deed("broken-later", func([]string) int {
	if os.Getenv("POOLINIT_GENERATION") != "1" {
		return 1
	}
	return harness.ServeReady()
})

// A new version that does not work: who asked is told why, and the old ones stay.
func TestReloadCommandOfABrokenVersion(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--ready", "notify", "--give-up", "0", "--restart-delay", "1h", "--restart-delay-max", "1h", "--", brokenLaterDeed)
	p.ExpectReady(2)
	p.AwaitPool()
	got := p.Inside("reload", "--wait")
	got.Says(t, 1, "poolinit: reload failed: new worker 0 is not ready: exited with code 1 after ", "(crash)\n")
	if strings.Contains(got.Stdout, "done") {
		t.Errorf("%+v", got)
	}
	p.Inside("status").Says(t, 0, "reload: failed after 0 of 2: new worker 0 is not ready: ")
	p.Inside("health", "--ready").Says(t, 0, "ok\n") // worker 1 works
}

// The pool stops while somebody waits for a reload.
func TestReloadCommandIsInterrupted(t *testing.T) {
	p, _ := harness.StartGated(t, 2)
	waits := harness.Start(t, harness.Program{Host: true, Args: p.InsideArgs(nil, "reload", "--wait", "--pid", "1")})
	p.ExpectLog("worker started", func(r harness.Record) bool { return r.Generation == 2 })
	p.Signal(syscall.SIGTERM)
	if code := waits.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	waits.Stderr.Expect(t, "poolinit: reload interrupted: the pool is stopping\n")
	p.ExpectExit(0)
}

// Who goes away does not end what he has asked for.
func TestReloadCommandIsKilled(t *testing.T) {
	p, gate := harness.StartGated(t, 2)
	waits := harness.Start(t, harness.Program{Host: true, Args: p.InsideArgs(nil, "reload", "--wait")})
	p.ExpectLog("reload started", nil)
	if err := syscall.Kill(harness.FirstChild(waits.PID), syscall.SIGKILL); err != nil { // nsenter is not it
		t.Fatal(err)
	}
	waits.Wait()
	gate.Open(t)
	p.ExpectLog("reload done", nil)
}

// stop --wait of a PID 1 ends when the workers have, by its hand.
func TestStopCommand(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--", "obey")
	p.AwaitWorkers(2)
	got := p.Inside("stop", "--wait")
	got.Says(t, 0, "process 1 has stopped its workers\n")
	p.ExpectLog("stopping", func(r harness.Record) bool { return strings.HasPrefix(r.Why, "poolinit stop (uid 0, pid ") })
	p.ExpectExit(0)
}

// stop --wait of any other ends when its process has.
func TestStopCommandWaits(t *testing.T) {
	t.Parallel()
	pool := startHost(t, "--stop-timeout", "700ms", "--", "ignore")
	pool.Stdout.Expect(t, "deaf")
	got := harness.RunClient(t, nil, harness.Binary(t), "stop", "--wait", "--pid", strconv.Itoa(pool.PID))
	got.Says(t, 0, "process "+strconv.Itoa(pool.PID)+" has stopped its workers\n")
	if p, ok := harness.ReadProc(pool.PID); ok && p.State != 'Z' {
		t.Errorf("it is still there: %v", p)
	}
	pool.ExpectExit(137)
}

// Many wait at once, with a reload and a look in between: all hear of the end.
func TestStopCommandByMany(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--run-at-exit", "--stop-timeout", "1m", "--", atExitDeed)
	p.Stdout.Expect(t, "up ")
	var waiting []*harness.Process
	for range 5 {
		waiting = append(waiting, harness.Start(t, harness.Program{Host: true, Args: p.InsideArgs(nil, "reload", "--wait")}))
	}
	for _, w := range waiting {
		if code := w.Wait(); code != 0 {
			t.Errorf("reload ends with %d: %s", code, w.Stderr.String())
		}
	}
	p.Inside("stop", "--wait").Says(t, 0, "process 1 has stopped its workers\n")
	p.ExpectExit(0)
}

// atExitDeed is a worker, and takes a moment as the command at the exit.
var atExitDeed = harness.Deed("at-exit", func([]string) int {
	if os.Getenv("POOLINIT_EVENT") == "" {
		return harness.Forever()
	}
	time.Sleep(100 * time.Millisecond) // its work
	return 0
})

func TestHealth(t *testing.T) {
	p, gate := harness.StartGated(t, 1)
	p.Inside("health").Says(t, 0, "ok\n")
	p.Inside("health", "--ready").Says(t, 0, "ok\n")
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("worker started", func(r harness.Record) bool { return r.Generation == 2 })
	p.Inside("health").Says(t, 0, "ok\n")
	p.Inside("health", "--ready").Says(t, 1, "poolinit: not ready: no worker is ready\n")
	gate.Open(t)
	p.ExpectLog("reload done", nil)
	p.Inside("health", "--ready").Says(t, 0, "ok\n")
}

func TestHealthAtTheStart(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--ready", "notify", "--", "obey")
	p.Stdout.Expect(t, "up ")
	p.Inside("health").Says(t, 0, "ok\n")
	p.Inside("health", "--ready").Says(t, 1, "poolinit: not ready: not every worker has been ready yet\n")
}

package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestReloadCommand(t *testing.T) {
	p := startRun(t, program{}, "-n", "3", "--", "obey")
	p.awaitWorkers(3)
	p.inside("reload").says(t, 0, "process 1 reloads\n")
	p.expectLog("reload begins", func(r record) bool { return strings.HasPrefix(r.Why, "poolinit reload (uid 0, pid ") })
	p.expectLog("reload done", nil)
	got := p.inside("reload", "--wait")
	got.says(t, 0, "generation 3: 3 of 3 workers replaced\n", "reload done in ")
	if got.stderr != "" || !strings.Contains(p.inside("status").stdout, "generation 3: ready\nreload: done in ") {
		t.Errorf("%+v", got)
	}
}

// Its progress can be seen while it goes on.
func TestReloadCommandTellsProgress(t *testing.T) {
	dir := t.TempDir()
	file := func(worker string) string { return dir + "/" + worker }
	p := startRun(t, program{}, "-n", "2", "--ready", "notify", "--", steppedDeed, dir)
	p.expectReady(2)
	waits := start(t, program{host: true, args: p.insideArgs(nil, "reload", "--wait")})
	p.expectLog("reload begins", nil)
	if err := os.WriteFile(file("0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	waits.stdout.expect(t, "generation 2: 1 of 2 workers replaced\n")
	p.inside("status").says(t, 0, "reload: running for ", ", 1 of 2 replaced")
	if err := os.WriteFile(file("1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if code := waits.wait(); code != 0 {
		t.Errorf("exit code %d: %s", code, waits.stderr.String())
	}
	waits.stdout.expect(t, "generation 2: 2 of 2 workers replaced\nreload done in ")
}

// steppedDeed is ready in the first generation at once, and later when there is a
// file of its number.
var steppedDeed = deed("stepped", func(words []string) int {
	if os.Getenv("POOLINIT_GENERATION") != "1" {
		awaitFile(words[0] + "/" + os.Getenv("POOLINIT_WORKER_ID"))
	}
	return serveReady()
})

// brokenLaterDeed works in the first generation only.
var brokenLaterDeed = deed("broken-later", func([]string) int {
	if os.Getenv("POOLINIT_GENERATION") != "1" {
		return 1
	}
	return serveReady()
})

// A new version that does not work: who asked is told why, and the old ones stay.
func TestReloadCommandOfABrokenVersion(t *testing.T) {
	p := startRun(t, program{}, "-n", "2", "--ready", "notify", "--give-up", "0", "--restart-delay", "1h", "--restart-delay-max", "1h", "--", brokenLaterDeed)
	p.expectReady(2)
	p.awaitPool()
	got := p.inside("reload", "--wait")
	got.says(t, 1, "poolinit: reload failed: new worker 0 is not ready: exited with code 1 after ", "(crash)\n")
	if strings.Contains(got.stdout, "done") {
		t.Errorf("%+v", got)
	}
	p.inside("status").says(t, 0, "reload: failed after 0 of 2: new worker 0 is not ready: ")
	p.inside("health", "--ready").says(t, 0, "ok\n") // worker 1 works
}

// The pool stops while somebody waits for a reload.
func TestReloadCommandIsInterrupted(t *testing.T) {
	p, _ := startGated(t, 2)
	waits := start(t, program{host: true, args: p.insideArgs(nil, "reload", "--wait", "--pid", "1")})
	p.expectLog("worker started", func(r record) bool { return r.Generation == 2 })
	p.signal(syscall.SIGTERM)
	if code := waits.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	waits.stderr.expect(t, "poolinit: reload interrupted: the pool stops\n")
	p.expectExit(0)
}

// Who goes away does not end what he has asked for.
func TestReloadCommandIsKilled(t *testing.T) {
	p, gate := startGated(t, 2)
	waits := start(t, program{host: true, args: p.insideArgs(nil, "reload", "--wait")})
	p.expectLog("reload begins", nil)
	if err := syscall.Kill(firstChild(waits.pid), syscall.SIGKILL); err != nil { // nsenter is not it
		t.Fatal(err)
	}
	waits.wait()
	gate.open(t)
	p.expectLog("reload done", nil)
}

// stop --wait of a PID 1 ends when the workers have, by its hand.
func TestStopCommand(t *testing.T) {
	p := startRun(t, program{}, "-n", "2", "--", "obey")
	p.awaitWorkers(2)
	got := p.inside("stop", "--wait")
	got.says(t, 0, "process 1 has stopped its workers\n")
	p.expectLog("stopping", func(r record) bool { return strings.HasPrefix(r.Why, "poolinit stop (uid 0, pid ") })
	p.expectExit(0)
}

// stop --wait of any other ends when its process has.
func TestStopCommandWaits(t *testing.T) {
	pool := startHost(t, "--stop-timeout", "700ms", "--", "ignore")
	pool.stdout.expect(t, "deaf")
	got := client(t, nil, poolinit(t), "stop", "--wait", "--pid", strconv.Itoa(pool.pid))
	got.says(t, 0, "process "+strconv.Itoa(pool.pid)+" has stopped its workers\n")
	if p, ok := readProc(pool.pid); ok && p.State != 'Z' {
		t.Errorf("it is still there: %v", p)
	}
	pool.expectExit(137)
}

// Many wait at once, with a reload and a look in between: all hear of the end.
func TestStopCommandByMany(t *testing.T) {
	p := startRun(t, program{}, "--run-at-exit", "--stop-timeout", "1m", "--", atExitDeed)
	p.stdout.expect(t, "up ")
	var waiting []*process
	for range 5 {
		waiting = append(waiting, start(t, program{host: true, args: p.insideArgs(nil, "reload", "--wait")}))
	}
	for _, w := range waiting {
		if code := w.wait(); code != 0 {
			t.Errorf("reload ends with %d: %s", code, w.stderr.String())
		}
	}
	p.inside("stop", "--wait").says(t, 0, "process 1 has stopped its workers\n")
	p.expectExit(0)
}

// atExitDeed is a worker, and takes a moment as the command at the exit.
var atExitDeed = deed("at-exit", func([]string) int {
	if os.Getenv("POOLINIT_EVENT") == "" {
		return forEver()
	}
	time.Sleep(100 * time.Millisecond) // its work
	return 0
})

func TestHealth(t *testing.T) {
	p, gate := startGated(t, 1)
	p.inside("health").says(t, 0, "ok\n")
	p.inside("health", "--ready").says(t, 0, "ok\n")
	p.signal(syscall.SIGUSR1)
	p.expectLog("worker started", func(r record) bool { return r.Generation == 2 })
	p.inside("health").says(t, 0, "ok\n")
	p.inside("health", "--ready").says(t, 1, "poolinit: not ready: no worker is ready\n")
	gate.open(t)
	p.expectLog("reload done", nil)
	p.inside("health", "--ready").says(t, 0, "ok\n")
}

func TestHealthAtTheStart(t *testing.T) {
	p := startRun(t, program{}, "-n", "2", "--ready", "notify", "--", "obey")
	p.stdout.expect(t, "up ")
	p.inside("health").says(t, 0, "ok\n")
	p.inside("health", "--ready").says(t, 1, "poolinit: not ready: not every worker has been ready yet\n")
}

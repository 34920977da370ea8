package pool

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

func TestRunReload(t *testing.T) {
	for _, c := range []struct {
		order       string
		least, most int // workers at any time
	}{{"stop-first", 2, 3}, {"start-first", 3, 4}} {
		for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGHUP} {
			t.Run(c.order+"/"+sig.String(), func(t *testing.T) {
				p := harness.StartRun(t, harness.Program{}, "-n", "3", "--reload-order", c.order, "--ready", "notify", "--", notifyDeed)
				before := p.AwaitWorkers(3)
				p.ExpectReady(3)
				p.Signal(sig)
				p.ExpectLog("reload done", nil)
				after := p.AwaitWorkers(3)
				for id, w := range after {
					if w.PID == before[id].PID || w.Generation != 2 {
						t.Errorf("worker %d is still %v", id, w)
					}
				}
				checkSteps(p, c.least, c.most)
				p.Signal(syscall.SIGTERM)
				p.ExpectExit(0)
			})
		}
	}
}

// checkSteps reads the log: how many workers there were after each line since
// the reload began, and the order of the replacements.
func checkSteps(p harness.Pool, least, most int) {
	p.T.Helper()
	running, replaced, reloading := 0, 0, false
	for _, r := range p.Records() {
		switch {
		case strings.HasPrefix(r.Message, "reload started"):
			reloading = true
		case r.Message == "worker started":
			running++
		case r.Message == "worker exited":
			running--
			if r.Why != "reload" || *r.Worker != replaced && least == 2 {
				p.T.Errorf("worker %d ended because of %q, as number %d", *r.Worker, r.Why, replaced)
			}
		case strings.HasPrefix(r.Message, "worker replaced"):
			if *r.Worker != replaced {
				p.T.Errorf("worker %d was replaced as number %d", *r.Worker, replaced)
			}
			replaced++
		}
		if reloading && (running < least || running > most) {
			p.T.Errorf("%d workers at %q of worker %v", running, r.Message, *r.Worker)
		}
	}
	if replaced != 3 {
		p.T.Errorf("%d workers replaced", replaced)
	}
}

// notifyDeed says that it is ready, with a status, as sd_notify(3) does.
var notifyDeed = harness.Deed("notify", func([]string) int { return harness.ServeReady() })

// A new version that does not work: the reload stops at the first worker, and
// the others go on in the old one. Then a version that works.
func TestRunReloadBrokenVersion(t *testing.T) {
	harness.Need(t, "sh")
	const good, dies, mute = "#!/bin/sh\necho up; exec sleep 1000\n", "#!/bin/sh\nexit 9\n", "#!/bin/sh\nexec sleep 1000\n"
	for _, c := range []struct {
		name, good, broken string
		flags              []string
		reason             string
	}{
		// Long enough for a slow machine: the one that dies is to be dead by then, and the one that says READY=1 to have said so.
		{"min-ready", good, dies, []string{"--min-ready", "2s"}, "exited with code 9"},
		{"min-ready, start-first", good, dies, []string{"--min-ready", "2s", "--reload-order", "start-first"}, "exited with code 9"},
		{"not executable", good, "", []string{"--min-ready", "150ms"}, "permission denied"},
		{"never ready", notifyScript(t), mute, []string{"--ready", "notify", "--ready-timeout", "8s"}, "not-ready"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			script := filepath.Join(t.TempDir(), "worker")
			harness.InstallScript(t, script, c.good)
			args := append([]string{harness.Binary(t), "-n", "3", "--restart-delay", "1h", "--restart-delay-max", "1h"}, c.flags...)
			p := harness.PoolOf(harness.Start(t, harness.Program{Args: append(args, script)}))
			testkit.Eventually(t, "three are ready", func() (any, bool) {
				return p.Stderr.String(), strings.Count(p.Stdout.String(), "up\n") == 3
			})
			harness.InstallScript(t, script, c.broken)
			p.Signal(syscall.SIGUSR1)
			failed := p.ExpectLog("reload failed", func(r harness.Record) bool { return strings.Contains(r.Error, c.reason) })
			if failed.Level != "error" || !strings.Contains(failed.Error, "new worker 0") && c.broken != "" {
				t.Errorf("log: %+v", failed)
			}
			left := 2
			if c.name == "min-ready, start-first" || c.name == "not executable" { // the command is looked up first
				left = 3
			}
			testkit.Eventually(t, fmt.Sprintf("%d old workers are left", left), func() (any, bool) {
				list := p.Workers()
				return list, old(list) == left
			})
			harness.InstallScript(t, script, c.good)
			p.Signal(syscall.SIGHUP)
			p.ExpectLog("reload done", func(r harness.Record) bool { return r.Generation == 3 })
			if n := p.Count("reload done"); n != 1 {
				t.Errorf("%d reloads done", n)
			}
		})
	}
}

// old counts the workers of the first generation.
func old(workers map[int][]harness.Worker) (n int) {
	for _, list := range workers {
		for _, w := range list {
			if w.Generation == 1 {
				n++
			}
		}
	}
	return n
}

// notifyScript is a Python program that says READY=1 as services in Python do.
func notifyScript(t *testing.T) string {
	t.Helper()
	harness.Need(t, "/usr/bin/python3")
	return `#!/usr/bin/python3
import os, signal, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect("\0" + os.environ["NOTIFY_SOCKET"][1:])
s.send(b"READY=1\nSTATUS=python serves")
os.write(1, b"up\n")
while True:
    time.sleep(1000)
`
}

// A second reload during one is another one after it, however many asked.
func TestRunReloadIsQueued(t *testing.T) {
	p, gate := harness.StartGated(t, 2)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload started", nil)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("another one is queued", nil)
	gate.Open(t)
	p.ExpectLog("reload done", func(r harness.Record) bool { return r.Generation == 3 })
	for id, w := range p.AwaitWorkers(2) {
		if w.Generation != 3 {
			t.Errorf("worker %d is of generation %d", id, w.Generation)
		}
	}
}

// A crash during a reload neither advances nor breaks it.
func TestRunCrashDuringReload(t *testing.T) {
	p, gate := harness.StartGated(t, 3, "--healthy-after", "0s")
	before := p.AwaitWorkers(3)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("worker started", func(r harness.Record) bool { return r.Generation == 2 })
	if err := syscall.Kill(before[2].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ExpectLog("worker exited", func(r harness.Record) bool { return *r.Worker == 2 && r.Why == "crash" })
	gate.Open(t)
	p.ExpectLog("reload done", nil)
	if n := p.Count("worker replaced"); n != 3 {
		t.Errorf("%d workers replaced", n)
	}
}

// A stop ends a reload that is under way.
func TestRunStopDuringReload(t *testing.T) {
	p, _ := harness.StartGated(t, 3)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("worker started", func(r harness.Record) bool { return r.Generation == 2 })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

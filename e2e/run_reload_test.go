package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestRunReload(t *testing.T) {
	for _, c := range []struct {
		order       string
		least, most int // workers at any time
	}{{"stop-first", 2, 3}, {"start-first", 3, 4}} {
		for _, sig := range []syscall.Signal{syscall.SIGUSR1, syscall.SIGHUP} {
			t.Run(c.order+"/"+sig.String(), func(t *testing.T) {
				p := StartRun(t, Program{}, "-n", "3", "--reload-order", c.order, "--ready", "notify", "--", notifyDeed)
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
				p.checkSteps(c.least, c.most)
				p.Signal(syscall.SIGTERM)
				p.ExpectExit(0)
			})
		}
	}
}

// ExpectReady waits until n workers have said READY=1, and the pool has heard it.
func (p Pool) ExpectReady(n int) {
	p.T.Helper()
	Eventually(p.T, fmt.Sprintf("%d ready", n), func() (any, bool) {
		return p.Stderr.String(), p.Count("worker says") >= n
	})
}

// checkSteps reads the log: how many workers there were after each line since
// the reload began, and the order of the replacements.
func (p Pool) checkSteps(least, most int) {
	p.T.Helper()
	running, replaced, reloading := 0, 0, false
	for _, r := range p.Records() {
		switch {
		case strings.HasPrefix(r.Message, "reload begins"):
			reloading = true
		case r.Message == "worker started":
			running++
		case r.Message == "worker ended":
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
var notifyDeed = Deed("notify", func([]string) int { return ServeReady() })

func ServeReady() int {
	if err := SdNotify("STATUS=serving\nREADY=1"); err != nil {
		return Failed(err)
	}
	return Forever()
}

// A new version that does not work: the reload stops at the first worker, and
// the others go on in the old one. Then a version that works.
func TestRunReloadBrokenVersion(t *testing.T) {
	Need(t, "sh")
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
			InstallScript(t, script, c.good)
			args := append([]string{Binary(t), "-n", "3", "--restart-delay", "1h", "--restart-delay-max", "1h"}, c.flags...)
			p := Pool{Start(t, Program{Args: append(args, script)})}
			Eventually(t, "three are ready", func() (any, bool) {
				return p.Stderr.String(), strings.Count(p.Stdout.String(), "up\n") == 3
			})
			InstallScript(t, script, c.broken)
			p.Signal(syscall.SIGUSR1)
			failed := p.ExpectLog("reload failed", func(r Record) bool { return strings.Contains(r.Error, c.reason) })
			if failed.Level != "error" || !strings.Contains(failed.Error, "new worker 0") {
				t.Errorf("log: %+v", failed)
			}
			left := 2
			if c.name == "min-ready, start-first" {
				left = 3
			}
			Eventually(t, fmt.Sprintf("%d old workers are left", left), func() (any, bool) {
				list := p.Workers()
				return list, old(list) == left
			})
			InstallScript(t, script, c.good)
			p.Signal(syscall.SIGHUP)
			p.ExpectLog("reload done", func(r Record) bool { return r.Generation == 3 })
			if n := p.Count("reload done"); n != 1 {
				t.Errorf("%d reloads done", n)
			}
		})
	}
}

// old counts the workers of the first generation.
func old(workers map[int][]Worker) (n int) {
	for _, list := range workers {
		for _, w := range list {
			if w.Generation == 1 {
				n++
			}
		}
	}
	return n
}

// InstallScript replaces a program by another version; "" is one that may not be executed.
func InstallScript(t *testing.T, path, text string) {
	t.Helper()
	mode := os.FileMode(0o755)
	if text == "" {
		mode = 0o644
	}
	// A process that another test forks meanwhile would have the file open for writing: nobody could execute it.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path+".new", []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// notifyScript is a Python program that says READY=1 as services in Python do.
func notifyScript(t *testing.T) string {
	t.Helper()
	Need(t, "/usr/bin/python3")
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

// gatedDeed says that it is ready as soon as there is a file.
var gatedDeed = Deed("gated", func(words []string) int {
	AwaitFile(words[0])
	return ServeReady()
})

// A gate is a file that workers wait for before they are ready: a reload lasts
// as long as it is shut.
type gate string

func (g gate) Open(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(string(g), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (g gate) shut(t *testing.T) {
	t.Helper()
	if err := os.Remove(string(g)); err != nil {
		t.Fatal(err)
	}
}

// StartGated starts n workers that pass the gate, and shuts it behind them.
func StartGated(t *testing.T, n int, flags ...string) (p Pool, g gate) {
	t.Helper()
	g = gate(filepath.Join(t.TempDir(), "gate"))
	g.Open(t)
	p = StartRun(t, Program{}, append(append(flags, "-n", fmt.Sprint(n), "--ready", "notify"), "--", gatedDeed, string(g))...)
	p.AwaitWorkers(n)
	p.ExpectReady(n)
	g.shut(t)
	return p, g
}

// A second reload during one is another one after it, however many asked.
func TestRunReloadIsQueued(t *testing.T) {
	p, gate := StartGated(t, 2)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload begins", nil)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("another reload will follow", nil)
	gate.Open(t)
	p.ExpectLog("reload done", func(r Record) bool { return r.Generation == 3 })
	for id, w := range p.AwaitWorkers(2) {
		if w.Generation != 3 {
			t.Errorf("worker %d is of generation %d", id, w.Generation)
		}
	}
}

// A crash during a reload neither advances nor breaks it.
func TestRunCrashDuringReload(t *testing.T) {
	p, gate := StartGated(t, 3, "--healthy-after", "0s")
	before := p.AwaitWorkers(3)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("worker started", func(r Record) bool { return r.Generation == 2 })
	if err := syscall.Kill(before[2].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.ExpectLog("worker ended", func(r Record) bool { return *r.Worker == 2 && r.Why == "crash" })
	gate.Open(t)
	p.ExpectLog("reload done", nil)
	if n := p.Count("worker replaced"); n != 3 {
		t.Errorf("%d workers replaced", n)
	}
}

// A stop ends a reload that is under way.
func TestRunStopDuringReload(t *testing.T) {
	p, _ := StartGated(t, 3)
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("worker started", func(r Record) bool { return r.Generation == 2 })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

package e2e

import (
	"fmt"
	"syscall"
	"testing"
)

// The harness itself: what a program is started with is what it finds.
func TestHarnessStartsPID1(t *testing.T) {
	need(t, "sh", "sleep")
	p := start(t, program{args: []string{"sh", "-c", "echo $$; sleep 1000; exit 3"}})
	p.stdout.expect(t, "1\n")
	sleep := p.waitFor("sleep", func(q procInfo) bool { return q.Name == "sleep" })
	if sleep.PPID != p.pid || sleep.Inside == sleep.PID || len(p.list()) != 2 {
		t.Errorf("processes: %v", p.list())
	}
	if err := syscall.Kill(sleep.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

func TestHarnessHandsOnSignals(t *testing.T) {
	need(t, "cat")
	p, code := run(t, program{args: []string{"cat", "/proc/self/status"}, under: true,
		ignored: []syscall.Signal{syscall.SIGCHLD, syscall.SIGTSTP, 34}, blocked: []syscall.Signal{syscall.SIGTERM}})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, p.stderr.String())
	}
	for _, want := range []string{
		fmt.Sprintf("SigIgn:\t%016x", 1<<16|1<<19|1<<33), fmt.Sprintf("SigBlk:\t%016x", 1<<14), "NSpid:\t",
	} {
		p.stdout.expect(t, want)
	}
}

func TestHarnessTerminal(t *testing.T) {
	need(t, "sh", "stty")
	tty := openPTY(t)
	p := start(t, program{args: []string{"sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do read -r line && exit 7; done"}, tty: tty})
	tty.expect("ready")
	tty.resize(30, 100)
	tty.expect("30 100")
	tty.send("x\n")
	if code := p.wait(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

func TestHarnessDocker(t *testing.T) {
	c := dockerRun(t, nil, "/bin/sh", "-c", "echo hello; exec sleep 1000")
	if running := c.inspect("{{.State.Running}}"); running != "true" {
		t.Errorf("running: %s", running)
	}
	eventually(t, "PID 1 is sleep", func() (any, bool) {
		out := c.exec("cat", "/proc/1/comm")
		return out, out == "sleep"
	})
	c.kill("KILL")
	if code := c.wait(); code != "137" {
		t.Errorf("exit code %s", code)
	}
	c.expectLog("hello\n", 1)
	if logs := c.logs(); logs != "hello\n" {
		t.Errorf("logs %q", logs)
	}
}

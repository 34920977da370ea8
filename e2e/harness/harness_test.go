package harness

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

// The harness itself: what a program is started with is what it finds.
func TestHarnessStartsPID1(t *testing.T) {
	Need(t, "sh", "sleep")
	p := Start(t, Program{Args: []string{"sh", "-c", "echo $$; sleep 1000; exit 3"}})
	p.Stdout.Expect(t, "1\n")
	sleep := p.WaitForProcess("sleep", func(q ProcInfo) bool { return q.Name == "sleep" })
	if sleep.PPID != p.PID || sleep.Inside == sleep.PID || len(p.List()) != 2 {
		t.Errorf("processes: %v", p.List())
	}
	if err := syscall.Kill(sleep.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := p.Wait(); code != 3 {
		t.Errorf("exit code %d, want 3", code)
	}
}

func TestHarnessHandsOnSignals(t *testing.T) {
	Need(t, "cat")
	p, code := Run(t, Program{Args: []string{"cat", "/proc/self/status"}, Under: true,
		Ignored: []syscall.Signal{syscall.SIGCHLD, syscall.SIGTSTP, 34}, Blocked: []syscall.Signal{syscall.SIGTERM}})
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, p.Stderr.String())
	}
	for _, want := range []string{
		fmt.Sprintf("SigIgn:\t%016x", 1<<16|1<<19|1<<33), fmt.Sprintf("SigBlk:\t%016x", 1<<14), "NSpid:\t",
	} {
		p.Stdout.Expect(t, want)
	}
}

func TestHarnessTerminal(t *testing.T) {
	Need(t, "sh", "stty")
	tty := OpenPTY(t)
	p := Start(t, Program{Args: []string{"sh", "-c", "trap 'stty size' WINCH; echo ready; while :; do read -r line && exit 7; done"}, TTY: tty})
	tty.Expect("ready")
	tty.Resize(30, 100)
	tty.Expect("30 100")
	tty.Send("x\n")
	if code := p.Wait(); code != 7 {
		t.Errorf("exit code %d, want 7", code)
	}
}

func TestHarnessDocker(t *testing.T) {
	c := RunContainer(t, nil, "/bin/sh", "-c", "echo hello; exec sleep 1000")
	if running := c.Inspect("{{.State.Running}}"); running != "true" {
		t.Errorf("running: %s", running)
	}
	testkit.Eventually(t, "PID 1 is sleep", func() (any, bool) {
		out := c.Exec("cat", "/proc/1/comm")
		return out, out == "sleep"
	})
	c.Kill("KILL")
	if code := c.Wait(); code != "137" {
		t.Errorf("exit code %s", code)
	}
	c.ExpectLog("hello\n", 1)
	if logs := c.Logs(); logs != "hello\n" {
		t.Errorf("logs %q", logs)
	}
}

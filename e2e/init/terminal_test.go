package init_test

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// eachInit runs a test for tini and for poolinit init.
func eachInit(t *testing.T, f func(t *testing.T, command []string, isTini bool)) {
	t.Helper()
	for who, command := range inits(t) {
		t.Run(who, func(t *testing.T) { f(t, command, who == "tini") })
	}
}

// As PID 1 on a terminal: its foreground is the child's, so Ctrl-C is, too.
func TestInitTerminalCtrlC(t *testing.T) {
	harness.Need(t, "sleep")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		tty := harness.OpenPTY(t)
		p := harness.Start(t, harness.Program{Args: append(command, "--", "sleep", "1000"), TTY: tty})
		sleep := p.WaitForProcess("sleep", func(q harness.ProcInfo) bool { return q.Name == "sleep" })
		if sleep.PGID != sleep.PID || tty.Foreground() != sleep.PID {
			t.Errorf("the foreground is %d's: %v", tty.Foreground(), p.List())
		}
		tty.Send("\x03")
		if code := p.Wait(); code != 130 {
			t.Errorf("exit code %d, want 130", code)
		}
	})
}

func TestInitTerminalWindowSize(t *testing.T) {
	harness.Need(t, "sh", "stty")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		tty := harness.OpenPTY(t)
		script := "trap 'stty size' WINCH; echo ready; while :; do read -r line && exit 7; done"
		p := harness.Start(t, harness.Program{Args: append(command, "--", "sh", "-c", script), TTY: tty})
		tty.Expect("ready")
		tty.Resize(30, 100)
		tty.Expect("30 100")
		tty.Send("x\n")
		if code := p.Wait(); code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
	})
}

// Ctrl-Z where no shell could continue the child: without an init the kernel
// ignores it. tini leaves the child stopped for ever.
func TestInitTerminalCtrlZ(t *testing.T) {
	harness.Need(t, "cat")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		tty := harness.OpenPTY(t)
		p := harness.Start(t, harness.Program{Args: append(command, "--", "cat"), TTY: tty})
		cat := p.WaitForProcess("cat", func(q harness.ProcInfo) bool { return q.Name == "cat" })
		tty.Send("one\n")
		tty.Expect("one\r\none\r\n")
		tty.Send("\x1a")
		tty.Expect("^Z")
		if isTini {
			p.WaitForProcess("cat, stopped", func(q harness.ProcInfo) bool { return q.PID == cat.PID && q.State == 'T' })
			return
		}
		tty.Send("two\n")
		tty.Expect("two\r\ntwo\r\n")
		tty.Send("\x04")
		if code := p.Wait(); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// A shell as the child has its job control.
func TestInitTerminalShell(t *testing.T) {
	harness.Need(t, "bash", "stty", "sleep")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		tty := harness.OpenPTY(t)
		p := harness.Start(t, harness.Program{Args: append(command, "--", "bash", "--norc", "-i"), TTY: tty, Env: []string{"PS1=ready> ", "TERM=dumb"}})
		harness.UseShell(tty)
		if code := p.Wait(); code != 42 {
			t.Errorf("exit code %d, want 42", code)
		}
	})
}

// As a job of a shell: Ctrl-Z stops init and child together, fg continues
// both. Below tini only the child stops, and the shell never gets its prompt.
func TestInitTerminalJob(t *testing.T) {
	harness.Need(t, "bash", "cat")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		tty, p := harness.Shell(t)
		tty.Send(strings.Join(command, " ") + " -s -- sh -c 'echo up; exec cat'\n")
		tty.Expect("up\r\n")
		tty.Send("one\n")
		tty.Expect("one\r\none\r\n")
		tty.Send("\x1a")
		cat := p.WaitForProcess("cat, stopped", func(q harness.ProcInfo) bool { return q.Name == "cat" && q.State == 'T' })
		if isTini {
			if tty.Foreground() != cat.PID {
				t.Errorf("the foreground is %d's: %v", tty.Foreground(), p.List())
			}
			return
		}
		tty.Expect("Stopped")
		tty.Expect("ready> ")
		tty.Send("fg\n")
		tty.Expect("cat'\r\n")
		tty.Send("two\n")
		tty.Expect("two\r\ntwo\r\n")
		tty.Send("\x04")
		tty.Expect("ready> ")
		tty.Send("echo still here; exit 42\n")
		tty.Expect("still here\r\n")
		if code := p.Wait(); code != 42 {
			t.Errorf("exit code %d, want 42", code)
		}
	})
}

// In the background it leaves the foreground to whose it is. tini takes it.
func TestInitTerminalBackground(t *testing.T) {
	harness.Need(t, "bash", "sleep")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		tty, p := harness.Shell(t)
		begin := filepath.Join(t.TempDir(), "begin")
		if err := syscall.Mkfifo(begin, 0o600); err != nil {
			t.Fatal(err)
		}
		// It begins when the shell is at its prompt, and does nothing to the terminal any more.
		tty.Send("(read -r x <" + begin + "; exec " + strings.Join(command, " ") + " -s -- sleep 1000) &\n")
		tty.Expect("ready> ")
		if err := os.WriteFile(begin, []byte("\n"), 0); err != nil {
			t.Fatal(err)
		}
		sleep := p.WaitForProcess("sleep", func(q harness.ProcInfo) bool { return q.Name == "sleep" })
		want := p.PID
		if isTini {
			want = sleep.PID
		}
		if got := tty.Foreground(); got != want {
			t.Errorf("the foreground is %d's, want %d's: %v", got, want, p.List())
		}
		if isTini {
			return
		}
		tty.Send("kill %1; wait; exit 3\n")
		if code := p.Wait(); code != 3 {
			t.Errorf("exit code %d, want 3", code)
		}
	})
}

// The same in docker, on the terminal that docker run -it makes.
func TestInitDockerTerminal(t *testing.T) {
	t.Parallel()
	harness.Need(t, "bash", "stty")
	image := harness.Image(t)
	tty := harness.OpenPTY(t)
	name := harness.ContainerName(t)
	p := harness.Start(t, harness.Program{Host: true, TTY: tty, Args: []string{"docker", "run", "-it", "--name", name,
		"-e", "PS1=ready> ", "-e", "TERM=dumb", image, "/poolinit", "init", "--", "bash", "--norc", "-i"}})
	harness.UseShell(tty)
	if code := p.Wait(); code != 42 {
		t.Errorf("exit code %d, want 42", code)
	}
}

func TestInitDockerStop(t *testing.T) {
	t.Parallel()
	c := harness.RunContainer(t, nil, "/poolinit", "init", "--", "sleep", "1000")
	eventuallyIn(c, "sleep runs", "sleep")
	c.Stop(harness.DockerPatience)
	if code := c.Wait(); code != "143" {
		t.Errorf("exit code %s, want 143; logs: %s", code, c.Logs())
	}
}

// eventuallyIn waits until a container runs a program.
func eventuallyIn(c *harness.Container, what, name string) {
	c.T.Helper()
	testkit.Eventually(c.T, what, func() (any, bool) {
		top := harness.Docker(c.T, "top", c.Name, "-eo", "pid,comm")
		return top, strings.Contains(top, name)
	})
}

package e2e

import (
	"strings"
	"testing"
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
	need(t, "sleep")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		tty := openPTY(t)
		p := start(t, program{args: append(command, "--", "sleep", "1000"), tty: tty})
		sleep := p.waitFor("sleep", func(q procInfo) bool { return q.Name == "sleep" })
		if sleep.PGID != sleep.PID || tty.foreground() != sleep.PID {
			t.Errorf("the foreground is %d's: %v", tty.foreground(), p.list())
		}
		tty.send("\x03")
		if code := p.wait(); code != 130 {
			t.Errorf("exit code %d, want 130", code)
		}
	})
}

func TestInitTerminalWindowSize(t *testing.T) {
	need(t, "sh", "stty")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		tty := openPTY(t)
		script := "trap 'stty size' WINCH; echo ready; while :; do read -r line && exit 7; done"
		p := start(t, program{args: append(command, "--", "sh", "-c", script), tty: tty})
		tty.expect("ready")
		tty.resize(30, 100)
		tty.expect("30 100")
		tty.send("x\n")
		if code := p.wait(); code != 7 {
			t.Errorf("exit code %d, want 7", code)
		}
	})
}

// Ctrl-Z where no shell could continue the child: without an init the kernel
// ignores it. tini leaves the child stopped for ever.
func TestInitTerminalCtrlZ(t *testing.T) {
	need(t, "cat")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		tty := openPTY(t)
		p := start(t, program{args: append(command, "--", "cat"), tty: tty})
		cat := p.waitFor("cat", func(q procInfo) bool { return q.Name == "cat" })
		tty.send("one\n")
		tty.expect("one\r\none\r\n")
		tty.send("\x1a")
		tty.expect("^Z")
		if isTini {
			p.waitFor("cat, stopped", func(q procInfo) bool { return q.PID == cat.PID && q.State == 'T' })
			return
		}
		tty.send("two\n")
		tty.expect("two\r\ntwo\r\n")
		tty.send("\x04")
		if code := p.wait(); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
	})
}

// A shell as the child has its job control.
func TestInitTerminalShell(t *testing.T) {
	need(t, "bash", "stty", "sleep")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		tty := openPTY(t)
		p := start(t, program{args: append(command, "--", "bash", "--norc", "-i"), tty: tty, env: []string{"PS1=ready> ", "TERM=dumb"}})
		useShell(tty)
		if code := p.wait(); code != 42 {
			t.Errorf("exit code %d, want 42", code)
		}
	})
}

// useShell does at a prompt "ready> " what people do there, and exits with 42.
func useShell(tty *pty) {
	tty.expect("ready> ")
	tty.send("stty size\n")
	tty.expect("24 80")
	tty.resize(40, 120)
	tty.send("until [ \"$(stty size)\" = '40 120' ]; do :; done; echo resized\n") // docker takes a moment
	tty.expect("resized\r\n")
	tty.expect("ready> ")
	tty.send("sh -c 'echo up; exec sleep 1000'\n")
	tty.expect("up\r\n") // so the foreground is its own, and Ctrl-C is for it
	tty.send("\x03")
	tty.expect("ready> ")
	tty.send("sh -c 'echo up; exec cat'\n")
	tty.expect("up\r\n")
	tty.send("one\n")
	tty.expect("one\r\none\r\n")
	tty.send("\x1a")
	tty.expect("Stopped")
	tty.expect("ready> ")
	tty.send("fg\n")
	tty.expect("cat'\r\n")
	tty.send("two\n")
	tty.expect("two\r\ntwo\r\n")
	tty.send("\x03")
	tty.expect("ready> ")
	tty.send("exit 42\n")
}

// As a job of a shell: Ctrl-Z stops init and child together, fg continues
// both. Below tini only the child stops, and the shell never gets its prompt.
func TestInitTerminalJob(t *testing.T) {
	need(t, "bash", "cat")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		tty, p := shell(t)
		tty.send(strings.Join(command, " ") + " -s -- sh -c 'echo up; exec cat'\n")
		tty.expect("up\r\n")
		tty.send("one\n")
		tty.expect("one\r\none\r\n")
		tty.send("\x1a")
		cat := p.waitFor("cat, stopped", func(q procInfo) bool { return q.Name == "cat" && q.State == 'T' })
		if isTini {
			if tty.foreground() != cat.PID {
				t.Errorf("the foreground is %d's: %v", tty.foreground(), p.list())
			}
			return
		}
		tty.expect("Stopped")
		tty.expect("ready> ")
		tty.send("fg\n")
		tty.expect("cat'\r\n")
		tty.send("two\n")
		tty.expect("two\r\ntwo\r\n")
		tty.send("\x04")
		tty.expect("ready> ")
		tty.send("echo still here; exit 42\n")
		tty.expect("still here\r\n")
		if code := p.wait(); code != 42 {
			t.Errorf("exit code %d, want 42", code)
		}
	})
}

// In the background it leaves the foreground to whose it is. tini takes it.
func TestInitTerminalBackground(t *testing.T) {
	need(t, "bash", "sleep")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		tty, p := shell(t)
		tty.send(strings.Join(command, " ") + " -s -- sleep 1000 &\n")
		sleep := p.waitFor("sleep", func(q procInfo) bool { return q.Name == "sleep" })
		want := p.pid
		if isTini {
			want = sleep.PID
		}
		if got := tty.foreground(); got != want {
			t.Errorf("the foreground is %d's, want %d's: %v", got, want, p.list())
		}
		if isTini {
			return
		}
		tty.expect("ready> ")
		tty.send("kill %1; wait; exit 3\n")
		if code := p.wait(); code != 3 {
			t.Errorf("exit code %d, want 3", code)
		}
	})
}

func shell(t *testing.T) (*pty, *process) {
	t.Helper()
	tty := openPTY(t)
	p := start(t, program{args: []string{"bash", "--norc", "-i"}, tty: tty, env: []string{"PS1=ready> ", "TERM=dumb"}})
	tty.expect("ready> ")
	return tty, p
}

// The same in docker, on the terminal that docker run -it makes.
func TestInitDockerTerminal(t *testing.T) {
	need(t, "bash", "stty")
	image := dockerImage(t)
	tty := openPTY(t)
	name := containerName(t)
	p := start(t, program{host: true, tty: tty, args: []string{"docker", "run", "-it", "--name", name,
		"-e", "PS1=ready> ", "-e", "TERM=dumb", image, "/poolinit", "init", "--", "bash", "--norc", "-i"}})
	useShell(tty)
	if code := p.wait(); code != 42 {
		t.Errorf("exit code %d, want 42", code)
	}
}

func TestInitDockerStop(t *testing.T) {
	c := dockerRun(t, nil, "/poolinit", "init", "--", "sleep", "1000")
	eventuallyIn(c, "sleep runs", "sleep")
	c.stop(dockerPatience)
	if code := c.wait(); code != "143" {
		t.Errorf("exit code %s, want 143; logs: %s", code, c.logs())
	}
}

// eventuallyIn waits until a container runs a program.
func eventuallyIn(c *container, what, name string) {
	c.t.Helper()
	eventually(c.t, what, func() (any, bool) {
		top := docker(c.t, "top", c.name, "-eo", "pid,comm")
		return top, strings.Contains(top, name)
	})
}

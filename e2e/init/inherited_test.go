package init_test

import (
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// By the names tini and docker-init it is the same program, and says that name.
func TestInitByName(t *testing.T) {
	harness.Need(t, "sh")
	for _, name := range []string{"tini", "tini-static", "docker-init"} {
		path := harness.Named(t, name)
		if p, code := harness.Run(t, harness.Program{Args: append([]string{path}, sh("exit 42")...)}); code != 42 {
			t.Errorf("%s: exit code %d; %s", name, code, p.Stderr.String())
		}
		p, code := harness.Run(t, harness.Program{Args: []string{path, "/no/such"}})
		outcome{127, "-", "[FATAL " + name + " (1)] exec /no/such failed"}.check(t, p, code)
		p, code = harness.Run(t, harness.Program{Args: []string{path, "-h"}})
		outcome{0, "Usage: " + name + " [OPTIONS]", "-"}.check(t, p, code)
	}
}

// Descriptors from 3 on are the child's.
func TestInitHandsOnFiles(t *testing.T) {
	harness.Need(t, "sh")
	eachInit(t, func(t *testing.T, command []string, _ bool) {
		r, w := pipe(t)
		p, code := harness.Run(t, harness.Program{Args: append(command, sh("echo hello >&3")...), Files: []*os.File{w}})
		w.Close()
		if text, _ := io.ReadAll(r); code != 0 || string(text) != "hello\n" {
			t.Errorf("exit code %d, %q through descriptor 3; %s", code, text, p.Stderr.String())
		}
	})
}

// Started with SIGCHLD ignored the kernel would keep the child's status to
// itself. tini waits for ever for one that it never gets.
func TestInitSIGCHLDIgnored(t *testing.T) {
	t.Parallel()
	harness.Need(t, "sh")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		p := harness.Start(t, harness.Program{Args: append(command, sh("echo ran; exit 42")...), Ignored: []syscall.Signal{syscall.SIGCHLD}})
		p.Stdout.Expect(t, "ran\n")
		if !isTini {
			if code := p.Wait(); code != 42 {
				t.Errorf("exit code %d, want 42", code)
			}
			return
		}
		testkit.Eventually(t, "the child is gone", func() (any, bool) { return p.List(), len(p.List()) == 1 })
		before := contextSwitches(p)
		testkit.Eventually(t, "tini woke up twice and went on", func() (any, bool) { return contextSwitches(p), contextSwitches(p) >= before+2 })
	})
}

// contextSwitches is how often the program has waited for something.
func contextSwitches(p *harness.Process) int {
	n, _ := strconv.Atoi(harness.StatusLine(p.PID, "voluntary_ctxt_switches"))
	return n
}

// A message that nobody can read any more costs the child nothing. Below tini
// the child gets tini's SIGPIPE.
func TestInitBrokenStderr(t *testing.T) {
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		broken, stderr := pipe(t)
		stdin, end := pipe(t)
		broken.Close()
		p := harness.Start(t, harness.Program{Args: append(command, "-w", "--", harness.Self(t)), Child: lateChild, Stdin: stdin, Stderr: stderr})
		child := waitBlocked(p, "child", func(q harness.ProcInfo) bool { return q.PPID == p.PID })
		end.Close()
		testkit.Eventually(t, "the orphan is reaped", func() (any, bool) {
			list, z := p.List(), p.Zombies()
			return list, len(list) == 3 && len(z) == 1 && z[0].PPID == child.PID
		})
		p.Signal(syscall.SIGUSR2)
		want := map[syscall.Signal]bool{syscall.SIGUSR2: true, syscall.SIGCHLD: true} // CHLD: of its own child
		if isTini {
			want[syscall.SIGPIPE] = true
		}
		harness.RequireSignals(t, child.PID, "ShdPnd", want)
	})
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		w.Close()
	})
	return r, w
}

// A stderr that nobody reads, full, stops neither signals nor reaping.
func TestInitFullStderr(t *testing.T) {
	harness.Need(t, "sleep")
	_, w := pipe(t)
	if err := fill(w); err != nil {
		t.Fatal(err)
	}
	p := harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "init", "-wvvv", "--", harness.Self(t), "3"}, Child: orphansChild, Stderr: w})
	p.Stdout.Expect(t, "done\n")
	testkit.Eventually(t, "no zombie", func() (any, bool) { z := p.Zombies(); return z, len(z) == 0 })
	child := waitBlocked(p, "child", func(q harness.ProcInfo) bool { return q.PPID == p.PID })
	p.Signal(syscall.SIGHUP)
	harness.RequireSignals(t, child.PID, "ShdPnd", map[syscall.Signal]bool{syscall.SIGHUP: true})
}

// fill writes until there is no room, and leaves the pipe blocking.
func fill(w *os.File) error {
	conn, err := w.SyscallConn()
	if err != nil {
		return err
	}
	page := []byte(strings.Repeat("x", 4096))
	return conn.Control(func(fd uintptr) {
		_ = syscall.SetNonblock(int(fd), true)
		for {
			if _, err := syscall.Write(int(fd), page); err != nil {
				break
			}
		}
		_ = syscall.SetNonblock(int(fd), false)
	})
}

// What says that a program is broken is not passed on, and does not harm it
// either. tini, where it is not PID 1, dies of it and leaves its child alone.
func TestInitDeadlySignals(t *testing.T) {
	harness.Need(t, "sleep")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		p := harness.Start(t, harness.Program{Args: append(command, "-s", "--", harness.Self(t)), Child: harness.BlockedChild, Under: true})
		child := waitBlocked(p, "child", func(harness.ProcInfo) bool { return true })
		waitCatching(p, isTini)
		p.Signal(syscall.SIGABRT)
		if isTini {
			if code := p.Wait(); code != 134 {
				t.Errorf("exit code %d, want 134", code)
			}
			return
		}
		p.Signal(syscall.SIGUSR2)
		harness.RequireSignals(t, child.PID, "ShdPnd", map[syscall.Signal]bool{syscall.SIGUSR2: true})
	})
}

// Real-time signals are queued by the kernel, so a thousand arrive at tini's
// child as a thousand; here as at least one.
func TestInitQueuedSignals(t *testing.T) {
	harness.Need(t, "sleep")
	eachInit(t, func(t *testing.T, command []string, isTini bool) {
		const sent = 1000
		p := harness.Start(t, harness.Program{Args: append(command, "--", harness.Self(t)), Child: harness.BlockedChild})
		child := waitBlocked(p, "child", func(harness.ProcInfo) bool { return true })
		waitCatching(p, isTini)
		for range sent {
			p.Signal(40)
		}
		p.Signal(41) // after a higher number has arrived no 40 is on its way: the lower go first
		testkit.Eventually(t, "the last signal", func() (any, bool) {
			pending := harness.SignalSet(child.PID, "ShdPnd")
			return pending, pending[40] && pending[41]
		})
		if n := queued(child.PID); isTini && n < sent {
			t.Errorf("%d signals are queued, want %d", n, sent)
		}
	})
}

// queued is how many signals are queued for the user of a process.
func queued(pid int) int {
	n, _, _ := strings.Cut(harness.StatusLine(pid, "SigQ"), "/")
	number, _ := strconv.Atoi(n)
	return number
}

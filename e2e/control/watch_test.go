package control

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

const (
	otherScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // without a cursor, and lines that end at the edge
	firstScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watch starts `poolinit status --watch` on a terminal, for a pool on the host.
func watch(t *testing.T, pool harness.Pool, env ...string) (*harness.Process, *harness.PTY) {
	t.Helper()
	tty := harness.OpenPTY(t)
	return harness.Start(t, harness.Program{Host: true, TTY: tty, Env: env, Args: []string{harness.Binary(t), "status", "--watch", "--pid", strconv.Itoa(pool.PID)}}), tty
}

// startHost starts a pool that is no PID 1.
func startHost(t *testing.T, flagsAndWords ...string) harness.Pool {
	t.Helper()
	p := harness.StartRun(t, harness.Program{Host: true}, flagsAndWords...)
	p.Stderr.Expect(t, "worker started")
	testkit.Eventually(t, "the pool is ready", func() (any, bool) {
		got := harness.RunClient(t, nil, harness.Binary(t), "health", "--ready", "--pid", strconv.Itoa(p.PID))
		return got, got.Code == 0
	})
	return p
}

// awaitNormalScreen waits until the terminal is as it was before, and nothing follows.
func awaitNormalScreen(p *harness.PTY) {
	p.T.Helper()
	testkit.Eventually(p.T, "the first screen", func() (any, bool) {
		got := p.Screen.String()
		return strconv.Quote(got[max(0, len(got)-300):]), strings.HasSuffix(got, firstScreen)
	})
	if got := p.Screen.String(); strings.Count(got, otherScreen) != 1 || strings.Count(got, firstScreen) != 1 || !strings.HasPrefix(got, otherScreen) {
		p.T.Errorf("%q", got)
	}
}

func TestStatusWatch(t *testing.T) {
	t.Parallel()
	pool := startHost(t, "-n", "3", "--", "obey")
	p, tty := watch(t, pool)
	tty.Expect(otherScreen + "\x1b[H\x1b[Kpoolinit ")
	tty.Expect("generation 1: \x1b[32mready\x1b[0m")
	pool.Signal(syscall.SIGUSR1)
	pool.ExpectLog("reload done", nil)
	tty.Expect("\x1b[H\x1b[Kpoolinit ") // from the top
	tty.Expect("generation 2: ")
	tty.Expect("reload: done in ")
	tty.Expect("(reload)")     // the end of LAST-EXIT, in 80 columns
	tty.Expect("\x1b[0m>\r\n") // there is more
	tty.Resize(4, 40)
	tty.Expect("... and ")
	tty.Expect(" lines more")
	tty.Send("\x03")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	awaitNormalScreen(tty)
}

// Ctrl-Z stops the programs that a person uses in a shell, and fg continues them.
// status --watch leaves the shell the screen and the cursor meanwhile.
func TestCtrlZ(t *testing.T) {
	harness.Need(t, "bash")
	t.Parallel()
	for name, c := range map[string]struct{ args, up, stopped string }{
		"watch": {"status --watch", otherScreen + "\x1b[H\x1b[Kpoolinit ", firstScreen},
		"send":  {"send \"$URL\"", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tty, shell := harness.Shell(t)
			tty.Send("POOLINIT=" + harness.Binary(t) + " URL=" + harness.UnixURL(t, "") + " TERM=xterm\n")
			tty.Expect("ready> ")
			tty.Send("$POOLINIT --log-level error --ready started --listen $URL -- sleep 1000 & until $POOLINIT health --ready 2>/dev/null; do :; done\n")
			tty.Expect("ok\r\nready> ")
			tty.Send("$POOLINIT " + c.args + "\n")
			tty.Expect("\r\n")
			tty.Expect(c.up)
			testkit.Eventually(t, "it has the foreground", func() (any, bool) { return tty.Foreground(), tty.Foreground() != shell.PID })
			tty.Send("\x1a")
			tty.Expect(c.stopped)
			tty.Expect("Stopped")
			tty.Expect("ready> ")
			tty.Send("fg\n")
			tty.Expect(c.up)
			testkit.Eventually(t, "it has the foreground", func() (any, bool) { return tty.Foreground(), tty.Foreground() != shell.PID })
			tty.Send("\x03")
			tty.Expect("ready> ")
			tty.Send("exit 3\n")
			if code := shell.Wait(); code != 3 {
				t.Errorf("exit code %d, want 3", code)
			}
		})
	}
}

// Where no shell could continue it, Ctrl-Z does nothing.
func TestStatusWatchWithoutShell(t *testing.T) {
	t.Parallel()
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool)
	tty.Expect("ready")
	tty.Send("\x1a")
	tty.Expect(firstScreen + otherScreen)
	tty.Expect("ready")
	tty.Send("\x03")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// Each way to end it leaves the terminal as it was, also while it waits for an
// answer.
func TestStatusWatchEnds(t *testing.T) {
	for name, end := range map[string]func(*harness.Process, *harness.PTY){
		"Ctrl-C":  func(_ *harness.Process, tty *harness.PTY) { tty.Send("\x03") },
		"Ctrl-\\": func(_ *harness.Process, tty *harness.PTY) { tty.Send("\x1c") },
		"TERM":    func(p *harness.Process, _ *harness.PTY) { p.Signal(syscall.SIGTERM) },
		"HUP":     func(p *harness.Process, _ *harness.PTY) { p.Signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := startHost(t, "--", "obey")
			p, tty := watch(t, pool)
			tty.Expect("ready")
			pool.Signal(syscall.SIGSTOP)
			tty.Expect("poolinit: the pool of process " + strconv.Itoa(pool.PID) + " does not answer within 3s: it hangs") // and what 80 columns have room for
			end(p, tty)
			if code := p.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			awaitNormalScreen(tty)
			pool.Signal(syscall.SIGCONT)
		})
	}
}

// It outlives the pool.
func TestStatusWatchOfAPoolThatEnds(t *testing.T) {
	t.Parallel()
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool)
	tty.Expect("ready")
	pool.Signal(syscall.SIGTERM)
	pool.ExpectExit(0)
	tty.Expect("poolinit: process " + strconv.Itoa(pool.PID) + " is not a pool in this PID namespace")
	tty.Send("\x03")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	awaitNormalScreen(tty)
}

// A process that is no pool is not waited for, and the terminal stays as it was.
func TestStatusWatchOfNoPool(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	want := "poolinit: process " + pid + " is not a pool in this PID namespace"
	tty := harness.OpenPTY(t)
	p := harness.Start(t, harness.Program{Host: true, TTY: tty, Args: []string{harness.Binary(t), "status", "--watch", "--pid", pid}})
	if code := p.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	tty.Expect(want + "\r\n")
	if got := tty.Screen.String(); got != want+"\r\n" {
		t.Errorf("%q", got)
	}
	p = harness.Start(t, harness.Program{Host: true, Args: []string{harness.Binary(t), "status", "--watch", "--json", "--pid", pid}})
	if code := p.Wait(); code != 1 || p.Stdout.String() != "" || p.Stderr.String() != want+"\n" {
		t.Errorf("exit code %d, %q, %q", code, p.Stdout.String(), p.Stderr.String())
	}
}

// Who wants no colours gets none, and a terminal that can do nothing is told nothing.
func TestStatusWatchIsModest(t *testing.T) {
	t.Parallel()
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool, "NO_COLOR=1")
	tty.Expect("generation 1: ready")
	tty.Send("\x03")
	p.Wait()
	awaitNormalScreen(tty)
	dumb, plain := watch(t, pool, "TERM=dumb")
	plain.Expect("generation 1: ready")
	plain.Expect("generation 1: ready") // a second later
	plain.Send("\x03")
	if code := dumb.Wait(); code != 0 || strings.Contains(plain.Screen.String(), "\x1b") {
		t.Errorf("exit code %d, %q", code, plain.Screen.String())
	}
}

// In a pipe it is one document after the other.
func TestStatusWatchJSON(t *testing.T) {
	t.Parallel()
	pool := startHost(t, "--", "obey")
	p := harness.Start(t, harness.Program{Host: true, Args: []string{harness.Binary(t), "status", "--watch", "--json", "--pid", strconv.Itoa(pool.PID)}})
	testkit.Eventually(t, "two documents", func() (any, bool) { return p.Stdout.String(), len(p.Stdout.Lines()) >= 2 })
	p.Signal(syscall.SIGINT)
	if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
		t.Errorf("exit code %d, %q", code, p.Stderr.String())
	}
	for _, line := range p.Stdout.Lines() {
		if d := harness.ParseDocument(t, line); d.PID != pool.PID || !d.Ready {
			t.Errorf("%q", line)
		}
	}
}

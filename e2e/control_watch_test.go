package e2e

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

const (
	otherScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l" // without a cursor, and lines that end at the edge
	firstScreen = "\x1b[?7h\x1b[?25h\x1b[?1049l"
)

// watch starts `poolinit status --watch` on a terminal, for a pool on the host.
func watch(t *testing.T, pool Pool, env ...string) (*Process, *PTY) {
	t.Helper()
	tty := OpenPTY(t)
	return Start(t, Program{Host: true, TTY: tty, Env: env, Args: []string{Binary(t), "status", "--watch", "--pid", strconv.Itoa(pool.PID)}}), tty
}

// startHost starts a pool that is no PID 1.
func startHost(t *testing.T, flagsAndWords ...string) Pool {
	t.Helper()
	p := StartRun(t, Program{Host: true}, flagsAndWords...)
	p.Stderr.Expect(t, "worker started")
	Eventually(t, "the pool is ready", func() (any, bool) {
		got := RunClient(t, nil, Binary(t), "health", "--ready", "--pid", strconv.Itoa(p.PID))
		return got, got.Code == 0
	})
	return p
}

// left waits until the terminal is as it was before, and nothing follows.
func (p *PTY) left() {
	p.T.Helper()
	Eventually(p.T, "the first screen", func() (any, bool) {
		got := p.Screen.String()
		return strconv.Quote(got[max(0, len(got)-300):]), strings.HasSuffix(got, firstScreen)
	})
	if got := p.Screen.String(); strings.Count(got, otherScreen) != 1 || strings.Count(got, firstScreen) != 1 || !strings.HasPrefix(got, otherScreen) {
		p.T.Errorf("%q", got)
	}
}

func TestStatusWatch(t *testing.T) {
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
	tty.Send("\x1a") // Ctrl-Z does nothing
	tty.Expect(" lines more")
	tty.Send("\x03")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	tty.left()
}

// Each way to end it leaves the terminal as it was, also while it waits for an
// answer.
func TestStatusWatchEnds(t *testing.T) {
	for name, end := range map[string]func(*Process, *PTY){
		"Ctrl-C":  func(_ *Process, tty *PTY) { tty.Send("\x03") },
		"Ctrl-\\": func(_ *Process, tty *PTY) { tty.Send("\x1c") },
		"TERM":    func(p *Process, _ *PTY) { p.Signal(syscall.SIGTERM) },
		"HUP":     func(p *Process, _ *PTY) { p.Signal(syscall.SIGHUP) },
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
			tty.left()
			pool.Signal(syscall.SIGCONT)
		})
	}
}

// It outlives the pool.
func TestStatusWatchOfAPoolThatEnds(t *testing.T) {
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool)
	tty.Expect("ready")
	pool.Signal(syscall.SIGTERM)
	pool.ExpectExit(0)
	tty.Expect("poolinit: process " + strconv.Itoa(pool.PID) + " is no pool of this PID namespace")
	tty.Send("\x03")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	tty.left()
}

// A process that is no pool is not waited for, and the terminal stays as it was.
func TestStatusWatchOfNoPool(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	want := "poolinit: process " + pid + " is no pool of this PID namespace"
	tty := OpenPTY(t)
	p := Start(t, Program{Host: true, TTY: tty, Args: []string{Binary(t), "status", "--watch", "--pid", pid}})
	if code := p.Wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	tty.Expect(want + "\r\n")
	if got := tty.Screen.String(); got != want+"\r\n" {
		t.Errorf("%q", got)
	}
	p = Start(t, Program{Host: true, Args: []string{Binary(t), "status", "--watch", "--json", "--pid", pid}})
	if code := p.Wait(); code != 1 || p.Stdout.String() != "" || p.Stderr.String() != want+"\n" {
		t.Errorf("exit code %d, %q, %q", code, p.Stdout.String(), p.Stderr.String())
	}
}

// Who wants no colours gets none, and a terminal that can do nothing is told nothing.
func TestStatusWatchIsModest(t *testing.T) {
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool, "NO_COLOR=1")
	tty.Expect("generation 1: ready")
	tty.Send("\x03")
	p.Wait()
	tty.left()
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
	pool := startHost(t, "--", "obey")
	p := Start(t, Program{Host: true, Args: []string{Binary(t), "status", "--watch", "--json", "--pid", strconv.Itoa(pool.PID)}})
	Eventually(t, "two documents", func() (any, bool) { return p.Stdout.String(), len(p.Stdout.Lines()) >= 2 })
	p.Signal(syscall.SIGINT)
	if code := p.Wait(); code != 0 || p.Stderr.String() != "" {
		t.Errorf("exit code %d, %q", code, p.Stderr.String())
	}
	for _, line := range p.Stdout.Lines() {
		if d := ParseDocument(t, line); d.PID != pool.PID || !d.Ready {
			t.Errorf("%q", line)
		}
	}
}

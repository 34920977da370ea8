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
func watch(t *testing.T, pool runPool, env ...string) (*process, *pty) {
	t.Helper()
	tty := openPTY(t)
	return start(t, program{host: true, tty: tty, env: env, args: []string{poolinit(t), "status", "--watch", "--pid", strconv.Itoa(pool.pid)}}), tty
}

// startHost starts a pool that is no PID 1.
func startHost(t *testing.T, flagsAndWords ...string) runPool {
	t.Helper()
	p := startRun(t, program{host: true}, flagsAndWords...)
	p.stderr.expect(t, "worker started")
	eventually(t, "the pool is ready", func() (any, bool) {
		got := client(t, nil, poolinit(t), "health", "--ready", "--pid", strconv.Itoa(p.pid))
		return got, got.code == 0
	})
	return p
}

// left waits until the terminal is as it was before, and nothing follows.
func (p *pty) left() {
	p.t.Helper()
	eventually(p.t, "the first screen", func() (any, bool) {
		got := p.screen.String()
		return strconv.Quote(got[max(0, len(got)-300):]), strings.HasSuffix(got, firstScreen)
	})
	if got := p.screen.String(); strings.Count(got, otherScreen) != 1 || strings.Count(got, firstScreen) != 1 || !strings.HasPrefix(got, otherScreen) {
		p.t.Errorf("%q", got)
	}
}

func TestStatusWatch(t *testing.T) {
	pool := startHost(t, "-n", "3", "--", "obey")
	p, tty := watch(t, pool)
	tty.expect(otherScreen + "\x1b[H\x1b[Kpoolinit ")
	tty.expect("generation 1: \x1b[32mready\x1b[0m")
	pool.signal(syscall.SIGUSR1)
	pool.expectLog("reload done", nil)
	tty.expect("\x1b[H\x1b[Kpoolinit ") // from the top
	tty.expect("generation 2: ")
	tty.expect("reload: done in ")
	tty.expect("(reload)")     // the end of LAST-EXIT, in 80 columns
	tty.expect("\x1b[0m>\r\n") // there is more
	tty.resize(4, 40)
	tty.expect("... and ")
	tty.expect(" lines more")
	tty.send("\x1a") // Ctrl-Z does nothing
	tty.expect(" lines more")
	tty.send("\x03")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	tty.left()
}

// Each way to end it leaves the terminal as it was, also while it waits for an
// answer.
func TestStatusWatchEnds(t *testing.T) {
	for name, end := range map[string]func(*process, *pty){
		"Ctrl-C":  func(_ *process, tty *pty) { tty.send("\x03") },
		"Ctrl-\\": func(_ *process, tty *pty) { tty.send("\x1c") },
		"TERM":    func(p *process, _ *pty) { p.signal(syscall.SIGTERM) },
		"HUP":     func(p *process, _ *pty) { p.signal(syscall.SIGHUP) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := startHost(t, "--", "obey")
			p, tty := watch(t, pool)
			tty.expect("ready")
			pool.signal(syscall.SIGSTOP)
			tty.expect("poolinit: the pool of process " + strconv.Itoa(pool.pid) + " does not answer within 3s: it hangs") // and what 80 columns have room for
			end(p, tty)
			if code := p.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			tty.left()
			pool.signal(syscall.SIGCONT)
		})
	}
}

// It outlives the pool.
func TestStatusWatchOfAPoolThatEnds(t *testing.T) {
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool)
	tty.expect("ready")
	pool.signal(syscall.SIGTERM)
	pool.expectExit(0)
	tty.expect("poolinit: process " + strconv.Itoa(pool.pid) + " is no pool of this PID namespace")
	tty.send("\x03")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	tty.left()
}

// A process that is no pool is not waited for, and the terminal stays as it was.
func TestStatusWatchOfNoPool(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	want := "poolinit: process " + pid + " is no pool of this PID namespace"
	tty := openPTY(t)
	p := start(t, program{host: true, tty: tty, args: []string{poolinit(t), "status", "--watch", "--pid", pid}})
	if code := p.wait(); code != 1 {
		t.Errorf("exit code %d", code)
	}
	tty.expect(want + "\r\n")
	if got := tty.screen.String(); got != want+"\r\n" {
		t.Errorf("%q", got)
	}
	p = start(t, program{host: true, args: []string{poolinit(t), "status", "--watch", "--json", "--pid", pid}})
	if code := p.wait(); code != 1 || p.stdout.String() != "" || p.stderr.String() != want+"\n" {
		t.Errorf("exit code %d, %q, %q", code, p.stdout.String(), p.stderr.String())
	}
}

// Who wants no colours gets none, and a terminal that can do nothing is told nothing.
func TestStatusWatchIsModest(t *testing.T) {
	pool := startHost(t, "--", "obey")
	p, tty := watch(t, pool, "NO_COLOR=1")
	tty.expect("generation 1: ready")
	tty.send("\x03")
	p.wait()
	tty.left()
	dumb, plain := watch(t, pool, "TERM=dumb")
	plain.expect("generation 1: ready")
	plain.expect("generation 1: ready") // a second later
	plain.send("\x03")
	if code := dumb.wait(); code != 0 || strings.Contains(plain.screen.String(), "\x1b") {
		t.Errorf("exit code %d, %q", code, plain.screen.String())
	}
}

// In a pipe it is one document after the other.
func TestStatusWatchJSON(t *testing.T) {
	pool := startHost(t, "--", "obey")
	p := start(t, program{host: true, args: []string{poolinit(t), "status", "--watch", "--json", "--pid", strconv.Itoa(pool.pid)}})
	eventually(t, "two documents", func() (any, bool) { return p.stdout.String(), len(p.stdout.lines()) >= 2 })
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != 0 || p.stderr.String() != "" {
		t.Errorf("exit code %d, %q", code, p.stderr.String())
	}
	for _, line := range p.stdout.lines() {
		if d := parseDocument(t, line); d.PID != pool.pid || !d.Ready {
			t.Errorf("%q", line)
		}
	}
}

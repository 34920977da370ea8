package sdk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// Node has no unix datagrams: its workers have the program poolinit speak for them.

// What cannot be told is no error; why it cannot is told on stderr. Several are told
// in their order.
func TestSDKNodeNotify(t *testing.T) {
	harness.Need(t, "node")
	w := nodeSDK.worker(t)
	w.wantNotice("READY=1")
	w.write(frames("notify loading", "notify ", "notify STATUS=\x00", "notify X=ä\n\nY=-", "statuses 1 2 3 4"))
	w.want("false", "false", "false", "true", "true,true,true,true")
	w.wantNotice("X=ä\nY=-")
	for i := range 4 {
		w.wantNotice(fmt.Sprint("STATUS=", i+1))
	}
	w.end()
	w.wantEnd(0, `notify: "loading" is not allowed`)
	w.wantNoNotice()
}

// The README's line for --watchdog.
func TestSDKNodeWatchdog(t *testing.T) {
	harness.Need(t, "node")
	text, err := os.ReadFile("../../sdk/node/README.md")
	if err != nil {
		t.Fatal(err)
	}
	line := "if (process.env.WATCHDOG_USEC) setInterval(() => pool.notify('WATCHDOG=1'), process.env.WATCHDOG_USEC / 3000).unref();"
	if script, err := os.ReadFile("testdata/pool.js"); err != nil || !strings.Contains(string(text), line) || !strings.Contains(string(script), line) {
		t.Errorf("%v: it is not that line", err)
	}
	w := nodeSDK.worker(t, "WATCHDOG_USEC=300000")
	for _, want := range []string{"READY=1", "WATCHDOG=1", "WATCHDOG=1"} {
		w.wantNotice(want)
	}
	w.end()
	w.wantEnd(0, "")
}

// What is told last is waited for.
func TestSDKNodeNotifyLast(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	p := nodeSDK.start(t, "BYE=1", "POOLINIT_WORKERS=1")
	for i := range 3 {
		c := p.client()
		c.send("stop")
		c.want("stop")
		p.awaitUps(i + 2)
		if said := p.Count("worker status"); said != i+1 {
			t.Errorf("%d times\n%s", said, p.Stderr.String())
		}
	}
	p.stop(0)
}

// poolinit ends the input before it says SIGTERM. Then nothing is asked for, and
// nothing told: nobody listens any more.
func TestSDKNodeStoppedByPool(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	for range 5 {
		w := nodeSDK.worker(t, "BYE=1")
		w.wantNotice("READY=1")
		w.write(frames("a"))
		w.want("a")
		w.Signal(syscall.SIGSTOP)
		w.end()
		w.Signal(syscall.SIGTERM)
		w.Signal(syscall.SIGCONT)
		w.wantEnd(0, "")
		w.wantNoNotice()
	}
}

// What is being told then is given up.
func TestSDKNodeStoppedAsItTells(t *testing.T) {
	harness.Need(t, "node")
	slow := filepath.Join(t.TempDir(), "slow")
	harness.InstallScript(t, slow, "#!/bin/sh\necho telling \"$3\" >&2\nexec sleep 1000\n")
	w := nodeSDK.worker(t, "BYE=1", "POOLINIT="+slow)
	w.Stderr.Expect(t, "telling READY=1\n")
	w.write(frames("a")) // that does not wait
	w.want("a")
	w.end()
	w.wantEnd(0, "")

	w = nodeSDK.worker(t, "BYE=1", "POOLINIT="+slow)
	w.Stderr.Expect(t, "telling READY=1\n")
	w.Signal(syscall.SIGTERM) // somebody else's: STOPPING=1 is to be told, after READY=1
	w.write(frames("a"))
	w.want("a")
	w.end()
	w.Signal(syscall.SIGTERM) // poolinit's
	w.wantEnd(0, "")
	if got := w.Stderr.String(); got != "telling READY=1\n" {
		t.Error(got)
	}
}

// A worker that does not find poolinit says so, serves what it gets all the same, and
// at its end waits for a moment without a message.
func TestSDKNodeWithoutPoolinit(t *testing.T) {
	harness.Need(t, "node")
	for env, says := range map[string]string{
		"POOLINIT=/nowhere/poolinit":    "POOLINIT is '/nowhere/poolinit', and that is no program",
		"POOLINIT=" + badInterpreter(t): "cannot run ",
		"POOLINIT=/bin/false":           "poolinit notify ended with 1",
	} {
		w := nodeSDK.worker(t, env)
		w.Stderr.Expect(t, "poolinit: worker 5 cannot say READY=1, and with --ready notify it gets no messages: ")
		w.Stderr.Expect(t, says)
		w.write(frames("a", "notify STATUS=x"))
		w.want("a", "false")
		file := filepath.Join(t.TempDir(), "go-on")
		w.write(frames("wait "+file, "here already"))
		w.Stdout.Expect(t, "waiting")
		w.Signal(syscall.SIGTERM)
		touch(t, file)
		w.want("wait "+file, "here already", "EOF")
		w.wantEnd(0, "")
		w.wantNoNotice()
	}
}

// startUnder runs poolinit, as PID 1, with the tests' program as its worker. It does
// not find poolinit by itself.
func (s scriptSDK) startUnder(t testing.TB, env []string, flags ...string) scriptPool {
	t.Helper()
	url := harness.UnixURL(t, "?reply=always")
	args := append([]string{harness.Binary(t), "-n", "1", "--listen", url}, flags...)
	args = append(args, s.interpreter(t), filepath.Join(s.dir(t), "pool"+s.ext))
	env = append([]string{"POOLINIT=", "PATH=" + t.TempDir()}, env...)
	p := scriptPool{s: s, url: url, Pool: harness.PoolOf(harness.Start(t, harness.Program{Args: args, Env: env}))}
	p.awaitUps(1)
	return p
}

// Where poolinit is the ENTRYPOINT a worker finds it as its parent, also if it has
// another name.
func TestSDKNodeFindsParent(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	script := filepath.Join(nodeSDK.dir(t), "pool.js")
	for _, name := range []string{harness.Binary(t), harness.Named(t, "another-name"), "another-name"} {
		url := harness.UnixURL(t, "?reply=always")
		args := []string{name, "--ready", "notify", "--attempts", "1", "--listen", url, "--", nodeSDK.interpreter(t), script}
		env := []string{"POOLINIT=", "PATH=" + t.TempDir()}
		if !filepath.IsAbs(name) { // then it is no place to look at
			args = append([]string{"/bin/bash", "-c", `exec -a "$0" ` + harness.Binary(t) + ` "$@"`}, args...)
		}
		p := scriptPool{s: nodeSDK, url: url, Pool: harness.PoolOf(harness.Start(t, harness.Program{Args: args, Env: env}))}
		p.awaitUps(1)
		c := p.client()
		for i := range 3 {
			c.send("stop", fmt.Sprint(i))
			c.want("stop", fmt.Sprint(i))
		}
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
	}
}

// With --user a worker must not look at its parent's program, but has its name.
func TestSDKNodeFindsParentOfAnotherUser(t *testing.T) {
	harness.Need(t, "node")
	if os.Getuid() != 0 {
		strict.Skip(t, "only root can become somebody else")
	}
	dir := nodeSDK.dir(t)
	for path := dir; path != os.TempDir(); path = filepath.Dir(path) {
		if err := os.Chmod(path, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"pool.js", "poolinit.js"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	url := harness.UnixURL(t, "?reply=always")
	p := scriptPool{s: nodeSDK, url: url, Pool: harness.PoolOf(harness.Start(t, harness.Program{Env: []string{"POOLINIT=", "PATH=/nowhere", "POOLINIT_READY=notify"},
		Args: []string{harness.Binary(t), "--user", "65534:65534", "--listen", url, "--", nodeSDK.interpreter(t), filepath.Join(dir, "pool.js")}}))}
	p.awaitUps(1)
	if got := p.client().ask("notify STATUS=x"); got != "true" {
		t.Errorf("%s\n%s", got, p.Stderr.String())
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// READY=1 costs a process. It is not said where nobody waits for it.
func TestSDKNodeReadyAsNeeded(t *testing.T) {
	t.Parallel()
	harness.Need(t, "node")
	spy := filepath.Join(t.TempDir(), "spy")
	text := "#!/bin/sh\necho told: \"$3\" >&2\nexec " + harness.Binary(t) + " \"$@\"\n"
	harness.InstallScript(t, spy, text)
	for _, test := range []struct {
		env   string
		flags []string
		ready int
	}{
		{"POOLINIT_READY=", nil, 0},
		{"POOLINIT_READY=notify", nil, 1},
		{"POOLINIT_READY=notify", []string{"--ready", "started"}, 1}, // needless, but not wrong
		{"POOLINIT_READY=started", nil, 0},
		{"POOLINIT_READY=", []string{"--ready=started"}, 0},
		{"POOLINIT_READY=", []string{"--ready=notify"}, 1},
		{"POOLINIT_READY=", []string{"--ready", "notify"}, 1},
	} {
		p := nodeSDK.startUnder(t, []string{test.env, "POOLINIT=" + spy}, test.flags...)
		c := p.client()
		c.send("fine", "notify STATUS=x")
		c.want("fine", "true") // what is told is told in its order
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
		if got := strings.Count(p.Stderr.String(), "told: READY=1\n"); got != test.ready {
			t.Errorf("%s %q: READY=1 %d times\n%s", test.env, test.flags, got, p.Stderr.String())
		}
	}
}

// A worker behind a shell has another parent than poolinit. It says what it misses.
func TestSDKNodeBehindShell(t *testing.T) {
	harness.Need(t, "node", "sh")
	script := filepath.Join(nodeSDK.dir(t), "pool.js")
	args := []string{harness.Binary(t), "--ready", "notify", "--ready-timeout", "1m", "--listen", harness.UnixURL(t, ""), "--",
		"/bin/sh", "-c", `"$0" "$1"; exit $?`, nodeSDK.interpreter(t), script}
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: args, Env: []string{"POOLINIT=", "PATH=/nowhere"}}))
	p.Stderr.Expect(t, "poolinit: worker 0 cannot say READY=1, and with --ready notify it gets no messages: "+
		"cannot find the program poolinit: it is not in PATH (/nowhere), there is no "+filepath.Dir(script)+"/poolinit, and POOLINIT is not set.\n")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

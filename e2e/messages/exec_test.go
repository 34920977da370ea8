package messages

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// An execPool is a pool whose command runs once a message, and a client of it.
type execPool struct {
	harness.Pool
	addr string
	nc   net.Conn
	in   *bufio.Reader
}

func startExec(t *testing.T, flags []string, command ...string) *execPool {
	t.Helper()
	harness.Need(t, command[0])
	p := &execPool{addr: harness.FreePort(t)}
	args := append([]string{harness.Binary(t), "--deliver", "exec", "--listen", "tcp://" + p.addr + "?reply=always", "--stop-timeout", "5m"}, flags...)
	p.Pool = harness.PoolOf(harness.Start(t, harness.Program{Args: append(append(args, "--"), command...)}))
	p.ExpectLog("accepting messages", nil)
	var err error
	if p.nc, err = net.Dial("tcp", p.addr); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.nc.Close() })
	_ = p.nc.SetDeadline(time.Now().Add(testkit.Patience))
	p.in = bufio.NewReader(p.nc)
	return p
}

func (p *execPool) send(bodies ...string) {
	p.T.Helper()
	for _, body := range bodies {
		if err := harness.WriteFrame(p.nc, body); err != nil {
			p.T.Fatal(err)
		}
	}
}

// expect reads replies; one with a "!" is a failure.
func (p *execPool) expect(replies ...string) {
	p.T.Helper()
	for _, want := range replies {
		body, failed, err := harness.ReadFrame(p.in)
		got := string(body)
		if failed {
			got = "!" + got
		}
		if err != nil || got != want {
			p.T.Fatalf("reply %q %v, want %q\n%s", got, err, want, p.Stderr.String())
		}
	}
}

// inHand waits until the command runs for a message, and returns it.
func (p *execPool) inHand(command string) harness.ProcInfo {
	p.T.Helper()
	return p.WaitForProcess(command, func(q harness.ProcInfo) bool { return harness.Environ(q.PID)["POOLINIT_MESSAGE_ID"] != "" })
}

func TestExecJQ(t *testing.T) {
	p := startExec(t, []string{"-n", "2", "--attempts", "2"}, "jq", "-c", ".a")
	p.send(`{"a":1}`, `{"a":{"b":[2]}}`, `{`, `{"a":"last"}`)
	p.expect("1\n", "{\"b\":[2]}\n", "!given-up: after 2 attempts: the command exited with code 4", "\"last\"\n")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	if last := p.Stderr.Lines(); !strings.Contains(last[len(last)-1], "handled 3, spooled 0, lost 0") {
		t.Error(last[len(last)-1])
	}
}

func TestExecCat(t *testing.T) {
	p := startExec(t, nil, "cat")
	big := strings.Repeat("0123456789abcdef", 1<<16)
	go p.send("a", "", big, "z") // ends when all is written
	p.expect("a", "", big, "z")
}

// --workers is how many run at a time: each of three waits for the two others.
func TestExecManyAtATime(t *testing.T) {
	dir := t.TempDir()
	p := startExec(t, []string{"-n", "3"}, "sh", "-c", `cd `+dir+`; : >$POOLINIT_MESSAGE_ID; until [ -e 1 -a -e 2 -a -e 3 ]; do sleep 0.01; done; cat`)
	p.send("a", "b", "c")
	p.expect("a", "b", "c")
}

func TestExecOneAtATime(t *testing.T) {
	dir := t.TempDir()
	p := startExec(t, nil, "sh", "-c", `mkdir `+dir+`/lock && sleep 0.01 && cat && rmdir `+dir+`/lock`)
	var all []string
	for i := range 20 {
		all = append(all, fmt.Sprint(i))
	}
	p.send(all...)
	p.expect(all...)
}

// A command that somebody kills is a failed attempt; what it says of itself in
// its environment is true.
func TestExecKilledFromOutside(t *testing.T) {
	p := startExec(t, nil, "sh", "-c", `[ $POOLINIT_ATTEMPT = 1 ] && sleep 1000; echo $POOLINIT_ATTEMPT $POOLINIT_SOURCE $POOLINIT_WORKER_ID`)
	p.send("a")
	if err := syscall.Kill(-p.inHand("sh").PGID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	p.expect("2 tcp://" + p.addr + " 0\n")
}

func TestExecMessageTimeout(t *testing.T) {
	p := startExec(t, []string{"--message-timeout", "100ms", "--attempts", "2", "--restart-delay", "1ms"}, "sh", "-c", `sleep 1000`)
	p.send("a")
	p.expect("!given-up: after 2 attempts: no answer within 100ms")
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Why == "message-timeout" })
}

// A message in hand is finished at a reload and at a stop.
func TestExecStopAndReloadFinish(t *testing.T) {
	dir := t.TempDir()
	p := startExec(t, nil, "sh", "-c", `trap "echo signalled" TERM; until [ -e `+dir+`/$POOLINIT_MESSAGE_ID ]; do sleep 0.01; done; echo $POOLINIT_GENERATION`)
	release := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Error(err)
		}
	}
	p.send("a")
	p.inHand("sh")
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("reload started", nil)
	release("1")
	p.expect("1\n")
	p.ExpectLog("reload done", nil)
	p.send("b")
	p.inHand("sh")
	p.Signal(syscall.SIGTERM)
	p.ExpectLog("stopping", nil)
	release("2")
	p.expect("2\n")
	p.nc.Close()
	p.ExpectExit(0)
}

// One that does not end in time is killed, and all that it has started.
func TestExecStopKills(t *testing.T) {
	t.Parallel()
	p := startExec(t, []string{"--stop-timeout", "1s", "--lost-ok"}, "sh", "-c", `trap "" TERM; sleep 1000 & sleep 1000; sleep 1000`)
	p.send("a")
	p.inHand("sh")
	p.Signal(syscall.SIGTERM)
	body, failed, err := harness.ReadFrame(p.in)
	if err != nil || !failed || !strings.HasPrefix(string(body), "interrupted: ") {
		t.Errorf("%q %v %v", body, failed, err)
	}
	p.ExpectExit(137)
}

// A pool whose command can never run takes nothing, and its log is whole all the
// same.
func TestExecCannotStart(t *testing.T) {
	for command, want := range map[string]int{"./no-such-command": 127, "/": 126, "/etc/passwd": 126} {
		addr := harness.FreePort(t)
		p, code := harness.Run(t, harness.Program{Args: []string{harness.Binary(t), "--deliver", "exec", "--listen", "tcp://" + addr, "--", command}})
		var lines []string
		for _, r := range (harness.PoolOf(p)).Records() {
			lines = append(lines, r.Message)
		}
		said := strings.Join(lines, "; ")
		if code != want || said != "starting poolinit; cannot start the command; stopped: handled 0, spooled 0, lost 0, killed 0, in 0.0s" {
			t.Errorf("%s: code %d\n%s", command, code, p.Stderr.String())
		}
	}
}

// What the kernel kills for want of memory is told apart, also where it is no
// worker's process: to the client, in the log, and where the pool is looked at.
func TestExecDockerOOM(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, []string{"--memory", "64m"}, []string{"--deliver", "exec", "--attempts", "1", "--http", "127.0.0.1:9090",
		"--listen", "tcp://127.0.0.1:8089?reply=always"}, harness.EatsDeed)
	pool.ExpectLog("accepting messages", 1)
	out := pool.Exec("sh", "-c", "echo a | /poolinit send --reply tcp://127.0.0.1:8089 2>&1; true")
	if !strings.Contains(out, "command was killed by the OOM killer") {
		t.Errorf("the client hears %q\n%s", out, pool.Logs())
	}
	pool.ExpectLog(`"message":"command was killed by the OOM killer"`, 1)
	if text := pool.Exec("/poolinit", "status", "--json"); !strings.Contains(text, `"why":"oom"`) {
		t.Errorf("status: %s", text)
	}
	metrics := harness.Docker(t, "exec", "-e", "TEST_CHILD="+harness.FetchChild, pool.Name, "/e2e.test", "http://127.0.0.1:9090/metrics")
	if !strings.Contains(metrics, `poolinit_worker_exits_total{reason="oom"} 1`) {
		t.Errorf("metrics: %s", metrics)
	}
}

// A command that vanishes costs no message.
func TestExecCommandVanishes(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script")
	write := func() {
		harness.InstallScript(t, script, "#!/bin/sh\necho $POOLINIT_ATTEMPT\n")
	}
	write()
	p := startExec(t, []string{"--restart-delay", "20ms", "--give-up", "0"}, script)
	p.send("a")
	p.expect("1\n")
	if err := os.Remove(script); err != nil {
		t.Fatal(err)
	}
	p.send("b")
	p.ExpectLog("cannot start the command", nil)
	write()
	p.expect("1\n")
}

func TestExecFlags(t *testing.T) {
	for flags, says := range map[string]string{
		"":                                   "--listen",
		"--listen tcp://:0 --ready notify":   "--ready notify",
		"--listen tcp://:0 --watchdog 1s":    "--watchdog",
		"--listen tcp://:0 --window 2":       "--window 2",
		"--listen tcp://:0 --share tcp://:0": "--share",
	} {
		args := append([]string{harness.Binary(t), "--deliver", "exec"}, strings.Fields(flags)...)
		p, code := harness.Run(t, harness.Program{Args: append(args, "--", "cat")})
		harness.CheckUsage(t, p, code, []string{"--deliver exec", says})
	}
}

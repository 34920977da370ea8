package pool

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// exitsDeed takes the stop signal and exits with a code; the test binary dies of
// it otherwise.
var exitsDeed = harness.Deed("exits", func(words []string) int {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR2)
	fmt.Println("listening")
	fmt.Println("got", <-sig)
	var code int
	_, _ = fmt.Sscan(words[0], &code)
	return code
})

// daemonDeed leaves a process behind that has a session of its own and ignores HUP
// and TERM, and then lives on itself. That of shellDeed ignores TERM only.
var (
	daemonDeed = harness.Deed("daemon", func([]string) int { return leave("deafer") })
	shellDeed  = harness.Deed("shell", func([]string) int { return leave("like-a-shell") })
	_          = harness.Deed("deafer", func([]string) int {
		signal.Ignore(syscall.SIGHUP, syscall.SIGTERM)
		fmt.Println("deaf")
		return harness.Forever()
	})
	_ = harness.Deed("like-a-shell", func([]string) int {
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("shell")
		return harness.Forever()
	})
)

func leave(deed string) int {
	cmd := exec.Command("/proc/self/exe", deed)
	cmd.Env = append(os.Environ(), "TEST_CHILD="+harness.WorkerChild)
	cmd.Stdout = os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return harness.Failed(err)
	}
	return harness.Forever()
}

func TestRunStop(t *testing.T) {
	for _, c := range []struct {
		name   string
		sig    syscall.Signal
		flags  []string
		deed   []string
		ready  string // what the workers say when they can be stopped
		code   int
		killed string
		least  time.Duration
	}{
		{name: "dies of TERM", sig: syscall.SIGTERM, deed: []string{"obey"}, killed: "killed 0"},
		{name: "INT", sig: syscall.SIGINT, deed: []string{"obey"}, killed: "killed 0"},
		{name: "QUIT", sig: syscall.SIGQUIT, deed: []string{"obey"}, killed: "killed 0"},
		{name: "RTMIN+3", sig: 37, deed: []string{"obey"}, killed: "killed 0"},
		{name: "exit 0", sig: syscall.SIGTERM, deed: []string{exitsDeed, "0"}, ready: "listening", killed: "killed 0"},
		{name: "exit 143", sig: syscall.SIGTERM, deed: []string{exitsDeed, "143"}, ready: "listening", killed: "killed 0"},
		{name: "--stop-signal", sig: syscall.SIGTERM, flags: []string{"--stop-signal", "usr2"}, deed: []string{exitsDeed, "0"}, ready: "listening", killed: "killed 0"},
		{name: "ignores TERM", sig: syscall.SIGTERM, flags: []string{"--stop-timeout", "300ms"}, deed: []string{"ignore"}, ready: "deaf",
			code: 137, killed: "killed 2", least: 300 * time.Millisecond},
		{name: "--drain-delay", sig: syscall.SIGTERM, flags: []string{"--drain-delay", "200ms"}, deed: []string{"obey"},
			killed: "killed 0", least: 200 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			flags := append([]string{"-n", "2", "--stop-timeout", "5m"}, c.flags...)
			p := harness.StartRun(t, harness.Program{}, append(append(flags, "--"), c.deed...)...)
			p.AwaitWorkers(2)
			testkit.Eventually(t, "both listen", func() (any, bool) {
				return p.Stdout.String(), strings.Count(p.Stdout.String(), c.ready) >= 2
			})
			began := time.Now()
			p.Signal(c.sig)
			p.ExpectExit(c.code)
			if took := time.Since(began); took < c.least { // and not the five minutes, or expectExit would have said so
				t.Errorf("took %v, want %v or more", took, c.least)
			}
			p.ExpectLog(c.killed+", in", func(r harness.Record) bool { return r.Code == c.code })
		})
	}
}

// A preStop hook, the kubelet and an operator ask for one stop. The second SIGINT
// kills.
func TestRunSecondSignalKills(t *testing.T) {
	for _, flags := range [][]string{nil, {"--drain-delay", "4m"}} {
		p := harness.StartRun(t, harness.Program{}, append(flags, "-n", "2", "--stop-timeout", "5m", "--", "ignore")...)
		p.AwaitWorkers(2)
		testkit.Eventually(t, "both are deaf", func() (any, bool) { return nil, strings.Count(p.Stdout.String(), "deaf") == 2 })
		p.Signal(syscall.SIGTERM)
		p.ExpectLog("stopping", nil)
		for _, sig := range []syscall.Signal{syscall.SIGQUIT, syscall.SIGTERM, 37} {
			before := p.Count("already stopping")
			p.Signal(sig)
			testkit.Eventually(t, "it says that it stops already", func() (any, bool) { return p.Stderr.String(), p.Count("already stopping") > before })
		}
		p.Inside("stop").Says(t, 0, "process 1 stops\n")
		if p.Count("killing the workers") > 0 {
			t.Error(p.Stderr.String())
		}
		p.StopNow()
		p.ExpectExit(137) // long before the five minutes are over
	}
}

// One that obeys and one that does not: the pool waits for it, and says which.
func TestRunWaitsForAll(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--stop-timeout", "3s", "--", oneDeafDeed)
	p.AwaitWorkers(2)
	p.Stdout.Expect(t, "deaf\n")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(137)
	p.ExpectLog("killed 1, in", nil)
	p.ExpectLog("did not stop in time", func(r harness.Record) bool { return *r.Worker == 1 })
}

var oneDeafDeed = harness.Deed("one-deaf", func([]string) int {
	if os.Getenv("POOLINIT_WORKER_ID") == "1" {
		return harness.Deeds["ignore"](nil)
	}
	return harness.Forever()
})

// What has left its worker's session and ignores TERM is gone in the end, costs the
// pool far less than --stop-timeout, and is named in the log.
func TestRunLeavesNothing(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "--stop-timeout", "5m", "--", daemonDeed)
	p.Stdout.Expect(t, "deaf\n")
	pids := p.List()
	if len(pids) != 3 {
		t.Fatalf("processes: %v", pids)
	}
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	for _, q := range pids {
		if now, ok := harness.ReadProc(q.PID); ok && now.State != 'Z' {
			t.Errorf("still there: %v", now)
		}
	}
	for _, text := range []string{"processes are left that are not a worker's, stopping them", "processes that are not a worker's did not stop in time, killing them"} {
		p.ExpectLog(text, func(r harness.Record) bool {
			return len(r.Processes) == 1 && strings.HasPrefix(r.Processes[0], "exe (") // a link in /proc is what it was started by
		})
	}
}

// An interactive shell, such as that of docker exec, ignores TERM. It obeys HUP.
func TestRunEndsShells(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "--stop-timeout", "5m", "--", shellDeed)
	p.Stdout.Expect(t, "shell\n")
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	p.ExpectLog("processes are left that are not a worker's, stopping them", nil)
	if n := p.Count("processes that are not a worker's did not stop in time, killing them"); n > 0 {
		t.Error("SIGHUP did not end it")
	}
}

// A stopped worker obeys as well.
func TestRunStopsWhatIsStopped(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--", "obey")
	w := p.AwaitWorkers(1)[0]
	if err := syscall.Kill(w.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it has stopped", func() (any, bool) { q, _ := harness.ReadProc(w.PID); return q, q.State == 'T' })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// A stop that comes while a worker waits for its next start.
func TestRunStopDuringBackoff(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--restart-delay", "1h", "--restart-delay-max", "1h", "--", "exit", "3")
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Code == 3 })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

// GNU timeout sends its signal to its child, and then to the group that both are in:
// that is one request.
func TestRunUnderTimeout(t *testing.T) {
	t.Parallel()
	harness.Need(t, "timeout", "sh")
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{
		"timeout", "--preserve-status", "2", harness.Binary(t), "--", "sh", "-c", `trap 'sleep 0.5; echo clean; exit 0' TERM; echo up; while :; do sleep 0.1; done`,
	}}))
	p.Stdout.Expect(t, "clean\n")
	p.ExpectExit(0)
	if strings.Contains(p.Stderr.String(), "already stopping") {
		t.Error(p.Stderr.String())
	}
}

// What waits when the stop comes is handled, though its worker died and would not
// have come back for an hour.
func TestRunStopDoesNotBackOff(t *testing.T) {
	harness.Need(t, "sh")
	dir := t.TempDir()
	addr := harness.FreePort(t)
	script := `[ -e ` + dir + `/once ] && exec cat <&3 >&3; : >` + dir + `/once; read -r line <&3; exit 3`
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{harness.Binary(t), "--restart-delay", "1h", "--restart-delay-max", "1h", "--stop-timeout", "5m",
		"--deliver", "lines", "--listen", "tcp://" + addr + "?reply=always", "--", "sh", "-c", script}}))
	p.ExpectLog("accepting messages", nil)
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(testkit.Patience))
	for _, body := range []string{"a", "b"} {
		if err := harness.WriteFrame(nc, body); err != nil {
			t.Fatal(err)
		}
	}
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Code == 3 })
	p.Signal(syscall.SIGTERM)
	in := bufio.NewReader(nc)
	for _, want := range []string{"a", "b"} {
		if reply, failed, err := harness.ReadFrame(in); string(reply) != want || failed || err != nil {
			t.Errorf("reply %q %v %v, want %q", reply, failed, err, want)
		}
	}
	nc.Close()
	p.ExpectExit(0)
	p.ExpectLog("stopped: handled 2, spooled 0, lost 0, ", nil)
}

// A worker that a tracer holds survives SIGKILL: the pool goes on without it, a reload
// ends, and its late end is noted.
func TestRunGoesOnWithoutATracedWorker(t *testing.T) {
	t.Parallel()
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	p := harness.StartRun(t, harness.Program{}, "--ready", "started", "--stop-timeout", "1s", "--", "obey")
	traced := p.AwaitWorkers(1)[0]
	if err := syscall.PtraceAttach(traced.PID); err != nil {
		t.Fatal(err)
	}
	if _, err := syscall.Wait4(traced.PID, nil, syscall.WALL, nil); err != nil {
		t.Fatal(err)
	}
	p.Signal(syscall.SIGUSR1)
	p.ExpectLog("worker survived SIGKILL, going on without it", func(r harness.Record) bool { return *r.Worker == 0 })
	p.ExpectLog("reload done", nil)
	if code := p.Inside("health").Code; code != 0 {
		t.Errorf("health: %d", code)
	}
	if _, err := syscall.Wait4(traced.PID, nil, syscall.WALL, nil); err != nil { // lets go of it
		t.Fatal(err)
	}
	p.ExpectLog("worker that had survived SIGKILL exited", func(r harness.Record) bool { return r.Signal != "" })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

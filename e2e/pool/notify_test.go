package pool

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// strangerDeed says what it should not, of which nothing may count, and lets a
// process of another group say that the worker is ready.
var strangerDeed = harness.Deed("stranger", func([]string) int {
	for _, text := range []string{"", "\xff\xfe\x00READY=1", "no assignment\nREADY=1", "READY=1\n" + strings.Repeat("X", 100_000), "WATCHDOG_USEC=many\nREADY=1", "=\n"} {
		_ = harness.SdNotify(text) // one of them is too big for some kernels
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "TEST_CHILD="+readyChild)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		return harness.Failed(err)
	}
	_ = harness.SdNotify("STATUS=the worker itself")
	return harness.Forever()
})

var readyChild = harness.Child("ready", func([]string) int {
	if err := harness.SdNotify("READY=1"); err != nil {
		return harness.Failed(err)
	}
	return 0
})

func TestRunNotifyNonsense(t *testing.T) {
	t.Parallel() // it waits for the --ready-timeout, which leaves the worker time to say it all
	p := harness.StartRun(t, harness.Program{}, "--ready", "notify", "--ready-timeout", "8s", "--restart", "never", "--", strangerDeed)
	p.ExpectLog("worker status", func(r harness.Record) bool { return r.Status == "the worker itself" })
	for _, what := range []string{"not UTF-8", "not NAME=value", "longer than 4096", "not of this worker", "WATCHDOG_USEC"} {
		p.ExpectLog("ignoring invalid notify message", func(r harness.Record) bool { return strings.Contains(r.Error, what) })
	}
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Why == "not-ready" })
	p.Wait()
}

// hangsDeed tells the watchdog that it lives, a few times.
var hangsDeed = harness.Deed("hangs", func([]string) int {
	for range 8 {
		if err := harness.SdNotify("WATCHDOG=1"); err != nil {
			return harness.Failed(err)
		}
		time.Sleep(250 * time.Millisecond) // as services do: well within the interval
	}
	return harness.Forever()
})

// It lives for as long as it says WATCHDOG=1, which is longer than the interval.
// (Not every time: where the machine stands still, it is too late to say it.)
func TestRunWatchdog(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "--watchdog", "1s", "--give-up", "0", "--restart-delay", "1ms", "--restart-delay-max", "1ms", "--", hangsDeed)
	p.ExpectLog("worker exited", func(r harness.Record) bool {
		uptime, err := time.ParseDuration(r.Uptime)
		return err == nil && r.Why == "watchdog" && uptime > 2*time.Second
	})
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

func TestRunWatchdogIsAFailure(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "--watchdog", "200ms", "--restart", "never", "--", "obey")
	if code := p.Wait(); code == 0 {
		t.Error("exit code 0")
	}
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Why == "watchdog" })
}

func TestRunMaxLifetime(t *testing.T) {
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--max-lifetime", "300ms", "--", "obey")
	p.ExpectLog("worker exited", func(r harness.Record) bool { return *r.Worker == 0 && r.Why == "max-lifetime" })
	p.ExpectLog("worker exited", func(r harness.Record) bool { return *r.Worker == 1 && r.Why == "max-lifetime" })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
}

var fatDeed = harness.Deed("fat", func([]string) int {
	if os.Getenv("POOLINIT_WORKER_ID") == "1" {
		fat := make([]byte, 100<<20)
		for i := 0; i < len(fat); i += 4096 {
			fat[i] = 1
		}
		defer func() { fat[0]++ }()
	}
	return harness.Forever()
})

func TestRunMaxMemory(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "-n", "2", "--max-memory", "50MiB", "--", fatDeed)
	p.ExpectLog("worker exceeded its memory limit", func(r harness.Record) bool { return *r.Worker == 1 })
	p.ExpectLog("worker exited", func(r harness.Record) bool { return *r.Worker == 1 && r.Why == "max-memory" })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	for _, r := range p.Records() {
		if r.Worker != nil && *r.Worker == 0 && r.Why == "max-memory" {
			t.Error("the lean one was replaced too")
		}
	}
}

// A shell has no datagrams: poolinit notify says it for it. The second worker's
// helper is of another session, and is not heard.
func TestRunNotifyCommand(t *testing.T) {
	t.Parallel() // it waits for the --ready-timeout
	script := `case $POOLINIT_WORKER_ID in
0) "$0" notify READY=1 'STATUS=said by a shell' || exit 3;;
1) setsid -w "$0" notify READY=1;;
esac
exec sleep 600`
	p := harness.PoolOf(harness.Start(t, harness.Program{Args: []string{
		harness.Binary(t), "-n", "2", "--ready", "notify", "--ready-timeout", "3s", "--", "/bin/sh", "-c", script, harness.Binary(t),
	}}))
	p.ExpectLog("worker status", func(r harness.Record) bool { return *r.Worker == 0 && r.Status == "said by a shell" })
	p.ExpectLog("ignoring invalid notify message", func(r harness.Record) bool { return *r.Worker == 1 && strings.Contains(r.Error, "not of this worker") })
	p.ExpectLog("worker exited", func(r harness.Record) bool { return *r.Worker == 1 && r.Why == "not-ready" })
	p.Signal(syscall.SIGTERM)
	p.ExpectExit(0)
	for _, r := range p.Records() {
		if r.Message == "worker exited" && *r.Worker == 0 && r.Why != "stop" {
			t.Errorf("worker 0 ended: %s", r.Why)
		}
	}
}

// deadLeaderDeed ends its main thread, as pthread_exit does, and takes memory in
// another one.
var deadLeaderDeed = harness.Deed("dead-leader", func([]string) int {
	go func() {
		runtime.LockOSThread()
		fat := make([]byte, 80<<20)
		for i := 0; i < len(fat); i += 4096 {
			fat[i] = 1
		}
		fmt.Println("fat")
		harness.Forever()
		runtime.KeepAlive(fat)
	}()
	_, _, errno := unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	return harness.Failed(errno)
})

func init() {
	if len(os.Args) > 1 && os.Args[1] == "dead-leader" {
		runtime.LockOSThread() // main stays on the main thread
	}
}

// A worker whose main thread has ended looks like a zombie, and is none.
func TestRunMaxMemoryOfADeadLeader(t *testing.T) {
	t.Parallel()
	p := harness.StartRun(t, harness.Program{}, "--max-memory", "40MiB", "--", deadLeaderDeed)
	p.Stdout.Expect(t, "fat\n")
	p.ExpectLog("worker exited", func(r harness.Record) bool { return r.Why == "max-memory" })
}

package pool

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

func TestRunDockerStop(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		flags []string
		deed  string
		says  string
		code  string
	}{
		{"obeys", []string{"--stop-timeout", "1m"}, "obey", "up worker", "0"},
		{"ignores", []string{"--stop-timeout", "700ms"}, "ignore", "deaf", "137"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pool := harness.DockerPool(t, nil, append(c.flags, "-n", "3"), c.deed)
			pool.ExpectLog(c.says, 3)
			began := time.Now()
			pool.Stop(harness.DockerPatience)
			took := time.Since(began)
			if code := pool.Wait(); code != c.code || took > testkit.Patience {
				t.Errorf("exit code %s after %v\n%s", code, took, pool.Logs())
			}
			if pids := pool.Inspect("{{.State.Pid}}"); pids != "0" {
				t.Errorf("something is left: PID %s", pids)
			}
			pool.ExpectLog("stopped: ", 1)
		})
	}
}

// docker pause for longer than the watchdog allows: the workers have done nothing
// wrong, and stay.
func TestRunDockerPause(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, nil, []string{"-n", "3", "--ready", "notify", "--watchdog", "2s"}, pingsDeed)
	pool.ExpectLog("worker status", 3)
	harness.Docker(t, "pause", pool.Name)
	time.Sleep(5 * time.Second) // the pause itself
	harness.Docker(t, "unpause", pool.Name)
	pool.ExpectLog("poolinit did not run for a while", 1)
	pool.ExpectLog("still here", 3)
	pool.Stop(harness.DockerPatience)
	if logs := pool.Logs(); strings.Contains(logs, "watchdog") || strings.Count(logs, "worker started") != 3 {
		t.Errorf("log:\n%s", logs)
	}
}

// pingsDeed keeps the watchdog quiet, and says once that it has been asleep.
var pingsDeed = harness.Deed("pings", func([]string) int {
	if err := harness.SdNotify("STATUS=serving\nREADY=1"); err != nil {
		return harness.Failed(err)
	}
	for {
		before := time.Now()
		time.Sleep(300 * time.Millisecond) // between two pings
		if err := harness.SdNotify("WATCHDOG=1"); err != nil {
			return harness.Failed(err)
		}
		if time.Since(before) > 3*time.Second {
			fmt.Println("still here")
		}
	}
})

func TestRunDockerReload(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, nil, []string{"-n", "3"}, "obey")
	pool.ExpectLog("up worker", 3)
	if ps := pool.Exec("ps", "-eo", "pid,args"); strings.Count(ps, "/e2e.test obey") < 3 || !strings.Contains(ps, "1 /poolinit") {
		t.Errorf("ps shows\n%s", ps)
	}
	pool.Kill("USR1")
	pool.ExpectLog("reload done", 1)
	pool.ExpectLog(`"why":"reload"`, 3)
	pool.ExpectLog("generation=2", 3) // the new workers' own lines, which nobody waits for
	pool.Stop(harness.DockerPatience)
	pool.ExpectLog("stopped: ", 1)
	if logs := pool.Logs(); strings.Count(logs, `"why":"reload"`) != 3 || strings.Count(logs, "generation=2") != 3 {
		t.Errorf("log:\n%s", logs)
	}
	if code := pool.Wait(); code != "0" {
		t.Errorf("exit code %s", code)
	}
}

// docker run -it with one worker: Ctrl-C is the worker's, as without poolinit.
func TestRunDockerTerminal(t *testing.T) {
	image := harness.Image(t)
	tty := harness.OpenPTY(t)
	name := harness.ContainerName(t)
	p := harness.Start(t, harness.Program{Host: true, TTY: tty, Args: []string{"docker", "run", "-it", "--name", name, "-e", "TEST_CHILD=" + harness.WorkerChild,
		image, "/poolinit", "--restart", "never", "--", "/e2e.test", exitsDeed, "0"}})
	tty.Expect("listening")
	tty.Send("\x03")
	tty.Expect("got interrupt")
	tty.Expect("stopped: ")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// What the kernel kills for want of memory is called so, and what somebody
// else kills is not.
func TestRunDockerOOM(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, []string{"--memory", "64m"}, []string{"--give-up", "2", "--restart-delay", "1ms"}, harness.EatsDeed)
	if code := pool.Wait(); code != "137" {
		t.Errorf("exit code %s", code)
	}
	pool.ExpectLog("stopped: ", 1)
	if logs := pool.Logs(); strings.Count(logs, `"why":"oom"`) != 2 || strings.Contains(logs, "cannot be told apart") {
		t.Errorf("log:\n%s", logs)
	}
	other := harness.DockerPool(t, []string{"--memory", "64m"}, []string{"--restart", "never"}, "die", "9")
	other.ExpectLog("stopped: ", 1)
	if code := other.Wait(); code != "137" || strings.Contains(other.Logs(), `"oom"`) {
		t.Errorf("exit code %s\n%s", code, other.Logs())
	}
}

// What root has begun in the container of a pool that is not root is not the
// pool's to stop, nor to wait for.
func TestRunDockerDoesNotWaitForRoot(t *testing.T) {
	t.Parallel()
	const long = time.Minute
	pool := harness.DockerPool(t, []string{"--user", "65532"}, []string{"--stop-timeout", long.String()}, "obey")
	pool.ExpectLog("up worker", 1)
	harness.Docker(t, "exec", "-d", "-u", "0", "-e", "TEST_CHILD="+harness.WorkerChild, pool.Name, "/e2e.test", "ignore")
	testkit.Eventually(t, "root's process", func() (any, bool) {
		ps := harness.Docker(t, "top", pool.Name, "-eo", "pid,args")
		return ps, strings.Contains(ps, "/e2e.test ignore")
	})
	began := time.Now()
	pool.Stop(50)
	if code, took := pool.Wait(), time.Since(began); code != "0" || took > long/2 {
		t.Errorf("exit code %s after %v\n%s", code, took, pool.Logs())
	}
}

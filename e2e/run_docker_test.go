package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// DockerPatience is for docker stop and the like: long after it, docker kills.
const DockerPatience = 120

// DockerPool starts poolinit as the PID 1 of a container; workers are
// workerChild with the given words.
func DockerPool(t *testing.T, options, flags []string, words ...string) *Container {
	t.Helper()
	command := append(append([]string{"/poolinit"}, flags...), "--", "/e2e.test")
	return RunContainer(t, append(options, "-e", "E2E_CHILD="+WorkerChild), append(command, words...)...)
}

func (c *Container) ExpectLog(text string, times int) {
	c.T.Helper()
	Eventually(c.T, fmt.Sprintf("%q in the container's log, %d times", text, times), func() (any, bool) {
		logs := c.Logs()
		return logs, strings.Count(logs, text) >= times
	})
}

func TestRunDockerStop(t *testing.T) {
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
			pool := DockerPool(t, nil, append(c.flags, "-n", "3"), c.deed)
			pool.ExpectLog(c.says, 3)
			began := time.Now()
			pool.Stop(DockerPatience)
			took := time.Since(began)
			if code := pool.Wait(); code != c.code || took > Patience {
				t.Errorf("exit code %s after %v\n%s", code, took, pool.Logs())
			}
			if pids := pool.Inspect("{{.State.Pid}}"); pids != "0" {
				t.Errorf("something is left: PID %s", pids)
			}
			pool.ExpectLog("stopped: ", 1)
		})
	}
}

func TestRunDockerReload(t *testing.T) {
	pool := DockerPool(t, nil, []string{"-n", "3"}, "obey")
	pool.ExpectLog("up worker", 3)
	if ps := pool.Exec("ps", "-eo", "pid,args"); strings.Count(ps, "/e2e.test obey") < 3 || !strings.Contains(ps, "1 /poolinit") {
		t.Errorf("ps shows\n%s", ps)
	}
	pool.Kill("USR1")
	pool.ExpectLog("reload done", 1)
	pool.ExpectLog(`"why":"reload"`, 3)
	pool.ExpectLog("generation=2", 3) // the new workers' own lines, which nobody waits for
	pool.Stop(DockerPatience)
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
	image := Image(t)
	tty := OpenPTY(t)
	name := ContainerName(t)
	p := Start(t, Program{Host: true, TTY: tty, Args: []string{"docker", "run", "-it", "--name", name, "-e", "E2E_CHILD=" + WorkerChild,
		image, "/poolinit", "--restart", "never", "--", "/e2e.test", exitsDeed, "0"}})
	tty.Expect("listening")
	tty.Send("\x03")
	tty.Expect("got interrupt")
	tty.Expect("stopped: ")
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// EatsDeed takes memory until somebody minds.
var EatsDeed = Deed("eats", func([]string) int {
	var eaten [][]byte
	for {
		bite := make([]byte, 1<<20)
		for i := 0; i < len(bite); i += 4096 {
			bite[i] = 1
		}
		eaten = append(eaten, bite)
		if len(eaten) > 4096 {
			return 1
		}
	}
})

// What the kernel kills for want of memory is called so, and what somebody
// else kills is not.
func TestRunDockerOOM(t *testing.T) {
	pool := DockerPool(t, []string{"--memory", "64m"}, []string{"--give-up", "2", "--restart-delay", "1ms"}, EatsDeed)
	if code := pool.Wait(); code != "137" {
		t.Errorf("exit code %s", code)
	}
	pool.ExpectLog("stopped: ", 1)
	if logs := pool.Logs(); strings.Count(logs, `"why":"oom"`) != 2 || strings.Contains(logs, "cannot be told apart") {
		t.Errorf("log:\n%s", logs)
	}
	other := DockerPool(t, []string{"--memory", "64m"}, []string{"--restart", "never"}, "die", "9")
	other.ExpectLog("stopped: ", 1)
	if code := other.Wait(); code != "137" || strings.Contains(other.Logs(), `"oom"`) {
		t.Errorf("exit code %s\n%s", code, other.Logs())
	}
}

// What root has begun in the container of a pool that is not root is not the
// pool's to stop, nor to wait for.
func TestRunDockerDoesNotWaitForRoot(t *testing.T) {
	const long = time.Minute
	pool := DockerPool(t, []string{"--user", "65532"}, []string{"--stop-timeout", long.String()}, "obey")
	pool.ExpectLog("up worker", 1)
	Docker(t, "exec", "-d", "-u", "0", "-e", "E2E_CHILD="+WorkerChild, pool.Name, "/e2e.test", "ignore")
	Eventually(t, "root's process", func() (any, bool) {
		ps := Docker(t, "top", pool.Name, "-eo", "pid,args")
		return ps, strings.Contains(ps, "/e2e.test ignore")
	})
	began := time.Now()
	pool.Stop(50)
	if code, took := pool.Wait(), time.Since(began); code != "0" || took > long/2 {
		t.Errorf("exit code %s after %v\n%s", code, took, pool.Logs())
	}
}

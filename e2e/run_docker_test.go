package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// dockerPatience is for docker stop and the like: long after it, docker kills.
const dockerPatience = 120

// dockerPool starts poolinit as the PID 1 of a container; workers are
// workerChild with the given words.
func dockerPool(t *testing.T, options, flags []string, words ...string) *container {
	t.Helper()
	command := append(append([]string{"/poolinit"}, flags...), "--", "/e2e.test")
	return dockerRun(t, append(options, "-e", "E2E_CHILD="+workerChild), append(command, words...)...)
}

func (c *container) expectLog(text string, times int) {
	c.t.Helper()
	eventually(c.t, fmt.Sprintf("%q in the container's log, %d times", text, times), func() (any, bool) {
		logs := c.logs()
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
			pool := dockerPool(t, nil, append(c.flags, "-n", "3"), c.deed)
			pool.expectLog(c.says, 3)
			began := time.Now()
			pool.stop(dockerPatience)
			took := time.Since(began)
			if code := pool.wait(); code != c.code || took > patience {
				t.Errorf("exit code %s after %v\n%s", code, took, pool.logs())
			}
			if pids := pool.inspect("{{.State.Pid}}"); pids != "0" {
				t.Errorf("something is left: PID %s", pids)
			}
			pool.expectLog("stopped: ", 1)
		})
	}
}

func TestRunDockerReload(t *testing.T) {
	pool := dockerPool(t, nil, []string{"-n", "3"}, "obey")
	pool.expectLog("up worker", 3)
	if ps := pool.exec("ps", "-eo", "pid,args"); strings.Count(ps, "/e2e.test obey") < 3 || !strings.Contains(ps, "1 /poolinit") {
		t.Errorf("ps shows\n%s", ps)
	}
	pool.kill("USR1")
	pool.expectLog("reload done", 1)
	pool.expectLog(`"why":"reload"`, 3)
	pool.expectLog("generation=2", 3) // the new workers' own lines, which nobody waits for
	pool.stop(dockerPatience)
	pool.expectLog("stopped: ", 1)
	if logs := pool.logs(); strings.Count(logs, `"why":"reload"`) != 3 || strings.Count(logs, "generation=2") != 3 {
		t.Errorf("log:\n%s", logs)
	}
	if code := pool.wait(); code != "0" {
		t.Errorf("exit code %s", code)
	}
}

// docker run -it with one worker: Ctrl-C is the worker's, as without poolinit.
func TestRunDockerTerminal(t *testing.T) {
	image := dockerImage(t)
	tty := openPTY(t)
	name := containerName(t)
	p := start(t, program{host: true, tty: tty, args: []string{"docker", "run", "-it", "--name", name, "-e", "E2E_CHILD=" + workerChild,
		image, "/poolinit", "--restart", "never", "--", "/e2e.test", exitsDeed, "0"}})
	tty.expect("listening")
	tty.send("\x03")
	tty.expect("got interrupt")
	tty.expect("stopped: ")
	if code := p.wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// eatsDeed takes memory until somebody minds.
var eatsDeed = deed("eats", func([]string) int {
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
	pool := dockerPool(t, []string{"--memory", "64m"}, []string{"--give-up", "2", "--restart-delay", "1ms"}, eatsDeed)
	if code := pool.wait(); code != "137" {
		t.Errorf("exit code %s", code)
	}
	pool.expectLog("stopped: ", 1)
	if logs := pool.logs(); strings.Count(logs, `"why":"oom"`) != 2 || strings.Contains(logs, "cannot be told apart") {
		t.Errorf("log:\n%s", logs)
	}
	other := dockerPool(t, []string{"--memory", "64m"}, []string{"--restart", "never"}, "die", "9")
	other.expectLog("stopped: ", 1)
	if code := other.wait(); code != "137" || strings.Contains(other.logs(), `"oom"`) {
		t.Errorf("exit code %s\n%s", code, other.logs())
	}
}

// What root has begun in the container of a pool that is not root is not the
// pool's to stop, nor to wait for.
func TestRunDockerDoesNotWaitForRoot(t *testing.T) {
	const long = time.Minute
	pool := dockerPool(t, []string{"--user", "65532"}, []string{"--stop-timeout", long.String()}, "obey")
	pool.expectLog("up worker", 1)
	docker(t, "exec", "-d", "-u", "0", "-e", "E2E_CHILD="+workerChild, pool.name, "/e2e.test", "ignore")
	eventually(t, "root's process", func() (any, bool) {
		ps := docker(t, "top", pool.name, "-eo", "pid,args")
		return ps, strings.Contains(ps, "/e2e.test ignore")
	})
	began := time.Now()
	pool.stop(50)
	if code, took := pool.wait(), time.Since(began); code != "0" || took > long/2 {
		t.Errorf("exit code %s after %v\n%s", code, took, pool.logs())
	}
}

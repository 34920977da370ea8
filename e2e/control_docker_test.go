package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An image with nothing in it but poolinit, as restricted as Kubernetes can make it.
func TestStatusDocker(t *testing.T) {
	pool := bareRun(t, []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65532:65532", "--network", "none"}, "-n", "2")
	pool.awaitAnswer("/poolinit", "health", "--ready")
	got := pool.asks("/poolinit", "status")
	got.says(t, 0, ", PID 1, up ", "generation 1: ready\n", "\nWORKER ")
	if d := parseDocument(t, pool.exec("/poolinit", "status", "--json")); len(d.Workers) != 2 || !d.Ready || d.PID != 1 {
		t.Errorf("%+v", d)
	}
	pool.asks("/poolinit", "reload", "--wait").says(t, 0, "generation 2: 2 of 2 workers replaced\n", "reload done in ")
	asRoot := client(t, nil, "docker", "exec", "-u", "0", pool.name, "/poolinit", "health")
	asRoot.says(t, 0, "ok\n")
	other := client(t, nil, "docker", "exec", "-u", "65533", pool.name, "/poolinit", "status")
	other.says(t, 1, "poolinit: the pool of process 1 runs as uid 65532: only that one and root may ask it, and this is uid 65533\n")
	pool.asks("/poolinit", "stop", "--wait").says(t, 0, "process 1 has stopped its workers\n")
	if code := pool.wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, pool.logs())
	}
	pool.expectLog("somebody was turned away", 1)
}

// knockChild says what somebody gets who connects to an abstract name.
var knockChild = child("knock", func(args []string) int {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return stubFailed(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, `{"command":"stop"}`+"\n") // it may be closed already
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // what it said was not read
		return stubFailed(err)
	}
	fmt.Printf("%s", answer)
	return 0
})

// pidNamespace is that of a container, as its socket's name has it.
func (c *container) pidNamespace() string {
	c.t.Helper()
	pid := c.inspect("{{.State.Pid}}")
	link, err := os.Readlink("/proc/" + pid + "/ns/pid")
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Trim(strings.TrimPrefix(link, "pid:"), "[]")
}

// Another container of the same pod shares the network namespace, and so the
// socket's name, but neither finds the pool nor may it say anything to it.
func TestStatusFromAnotherContainer(t *testing.T) {
	pool := dockerPool(t, nil, nil, "obey")
	pool.awaitAnswer("/poolinit", "health", "--ready")
	beside := []string{"--network", "container:" + pool.name}
	looks := dockerRun(t, beside, "/poolinit", "status")
	if code := looks.wait(); code != "1" || looks.logs() != "poolinit: no pool runs in this PID namespace\n" {
		t.Errorf("exit code %s, %q", code, looks.logs())
	}
	name := "@poolinit/" + pool.pidNamespace() + "/1"
	knocks := dockerRun(t, append(beside, "-e", "E2E_CHILD="+knockChild), "/e2e.test", name)
	if code := knocks.wait(); code != "0" || knocks.logs() != `{"error":"the process is not in the pool's PID namespace"}`+"\n" {
		t.Errorf("exit code %s, %q", code, knocks.logs())
	}
	pool.expectLog("somebody was turned away from the control socket", 1)
	pool.expectLog("the process is not in the pool's PID namespace", 1)
	pool.asks("/poolinit", "health", "--ready").says(t, 0, "ok\n")
	if logs := pool.logs(); strings.Contains(logs, `"stopping"`) {
		t.Errorf("log:\n%s", logs)
	}
}

// Two pools of one pod: each finds its own.
func TestStatusOfTwoContainers(t *testing.T) {
	first := dockerPool(t, nil, []string{"-n", "1"}, "obey")
	second := dockerPool(t, []string{"--network", "container:" + first.name}, []string{"-n", "2"}, "obey")
	for n, pool := range []*container{first, second} {
		pool.awaitAnswer("/poolinit", "health", "--ready")
		if d := parseDocument(t, pool.exec("/poolinit", "status", "--json")); d.PID != 1 || len(d.Workers) != n+1 {
			t.Errorf("%+v", d)
		}
	}
	second.asks("/poolinit", "stop", "--wait").says(t, 0)
	if code := second.wait(); code != "0" {
		t.Errorf("exit code %s", code)
	}
	first.asks("/poolinit", "health", "--ready").says(t, 0, "ok\n")
}

// HEALTHCHECK in an image without a shell.
func TestHealthDocker(t *testing.T) {
	pool := bareRun(t, []string{"--health-interval", "1s", "--health-timeout", "20s", "--health-retries", "1"})
	pool.awaitHealth("healthy")
	pid, err := strconv.Atoi(pool.inspect("{{.State.Pid}}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	pool.awaitHealth("unhealthy")
	if last := pool.inspect("{{json .State.Health.Log}}"); !strings.Contains(last, "poolinit: the pool of process 1 does not answer within 3s: it hangs, or is stopped") {
		t.Errorf("%s", last)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	pool.awaitHealth("healthy")
}

// The same by a shell, and a pool whose workers do not get ready.
func TestHealthDockerNotReady(t *testing.T) {
	pool := dockerPool(t, []string{"--health-cmd", "/poolinit health --ready", "--health-interval", "1s", "--health-timeout", "20s", "--health-retries", "1"},
		[]string{"--ready", "notify", "--ready-timeout", "1h"}, "obey")
	pool.awaitHealth("unhealthy")
	if last := pool.inspect("{{json .State.Health.Log}}"); !strings.Contains(last, "poolinit: not ready: not every worker has been ready yet") {
		t.Errorf("%s", last)
	}
}

func (c *container) awaitHealth(want string) {
	c.t.Helper()
	eventually(c.t, "the container is "+want, func() (any, bool) {
		got := c.inspect("{{.State.Health.Status}}")
		return got + c.inspect("{{json .State.Health.Log}}"), got == want
	})
}

// A worker that the kernel took for want of memory is called so, wherever one looks.
func TestStatusDockerOOM(t *testing.T) {
	pool := dockerPool(t, []string{"--memory", "64m"}, []string{"--http", "127.0.0.1:9090", "--give-up", "0", "--restart-delay", "1h", "--restart-delay-max", "1h"}, eatsDeed)
	pool.expectLog(`"why":"oom"`, 1)
	pool.asks("/poolinit", "status").says(t, 0, "not ready: ", "ago: died of SIGKILL after ", "(oom)", "starts in ")
	d := parseDocument(t, pool.exec("/poolinit", "status", "--json"))
	if x := d.Workers[0].LastExit; x == nil || x.Why != "oom" || x.Signal != "SIGKILL" || x.Peak < 16<<20 {
		t.Errorf("%+v", x)
	}
	fetch := func(path string) string {
		return pool.exec("env", "E2E_CHILD="+fetchChild, "/e2e.test", "http://127.0.0.1:9090"+path)
	}
	metrics := fetch("/metrics")
	for _, want := range []string{`poolinit_worker_exits_total{reason="oom"} 1`, `poolinit_worker_exits_total{reason="crash"} 0`, `poolinit_workers{state="backoff"} 1`} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if text := fetch("/status.json"); parseDocument(t, text).Workers[0].LastExit.Why != "oom" {
		t.Errorf("%s", text)
	}
}

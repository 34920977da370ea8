package control

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

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// An image with nothing in it but poolinit, as restricted as Kubernetes can make it.
func TestStatusDocker(t *testing.T) {
	t.Parallel()
	pool := bareRun(t, []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65532:65532", "--network", "none"}, "-n", "2")
	pool.AwaitAnswer("/poolinit", "health", "--ready")
	got := pool.Asks("/poolinit", "status")
	got.Says(t, 0, ", PID 1, up ", "generation 1: ready\n", "\nWORKER ")
	if d := harness.ParseDocument(t, pool.Exec("/poolinit", "status", "--json")); len(d.Workers) != 2 || !d.Ready || d.PID != 1 {
		t.Errorf("%+v", d)
	}
	pool.Asks("/poolinit", "reload", "--wait").Says(t, 0, "generation 2: 2 of 2 workers replaced\n", "reload done in ")
	asRoot := harness.RunClient(t, nil, "docker", "exec", "-u", "0", pool.Name, "/poolinit", "health")
	asRoot.Says(t, 0, "ok\n")
	other := harness.RunClient(t, nil, "docker", "exec", "-u", "65533", pool.Name, "/poolinit", "status")
	other.Says(t, 1, "poolinit: the pool of process 1 runs as uid 65532: only that one and root may ask it, and this is uid 65533\n")
	pool.Asks("/poolinit", "stop", "--wait").Says(t, 0, "process 1 has stopped its workers\n")
	if code := pool.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, pool.Logs())
	}
	pool.ExpectLog("control socket: access denied", 1)
}

// knockChild says what somebody gets who connects to an abstract name.
var knockChild = harness.Child("knock", func(args []string) int {
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return harness.Failed(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, _ = io.WriteString(conn, `{"command":"stop"}`+"\n") // it may be closed already
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) { // what it said was not read
		return harness.Failed(err)
	}
	fmt.Printf("%s", answer)
	return 0
})

// pidNamespace is that of a container, as its socket's name has it.
func pidNamespace(c *harness.Container) string {
	c.T.Helper()
	pid := c.Inspect("{{.State.Pid}}")
	link, err := os.Readlink("/proc/" + pid + "/ns/pid")
	if err != nil {
		c.T.Fatal(err)
	}
	return strings.Trim(strings.TrimPrefix(link, "pid:"), "[]")
}

// Another container of the same pod shares the network namespace, and so the
// socket's name, but neither finds the pool nor may it say anything to it.
func TestStatusFromAnotherContainer(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, nil, nil, "obey")
	pool.AwaitAnswer("/poolinit", "health", "--ready")
	beside := []string{"--network", "container:" + pool.Name}
	looks := harness.RunContainer(t, beside, "/poolinit", "status")
	if code := looks.Wait(); code != "1" || looks.Logs() != "poolinit: no pool runs in this PID namespace\n" {
		t.Errorf("exit code %s, %q", code, looks.Logs())
	}
	name := "@poolinit/" + pidNamespace(pool) + "/1"
	knocks := harness.RunContainer(t, append(beside, "-e", "TEST_CHILD="+knockChild), "/e2e.test", name)
	if code := knocks.Wait(); code != "0" || knocks.Logs() != `{"error":"the process is not in the pool's PID namespace"}`+"\n" {
		t.Errorf("exit code %s, %q", code, knocks.Logs())
	}
	pool.ExpectLog("control socket: access denied", 1)
	pool.ExpectLog("the process is not in the pool's PID namespace", 1)
	pool.Asks("/poolinit", "health", "--ready").Says(t, 0, "ok\n")
	if logs := pool.Logs(); strings.Contains(logs, `"stopping"`) {
		t.Errorf("log:\n%s", logs)
	}
}

// Two pools of one pod: each finds its own.
func TestStatusOfTwoContainers(t *testing.T) {
	t.Parallel()
	first := harness.DockerPool(t, nil, []string{"-n", "1"}, "obey")
	second := harness.DockerPool(t, []string{"--network", "container:" + first.Name}, []string{"-n", "2"}, "obey")
	for n, pool := range []*harness.Container{first, second} {
		pool.AwaitAnswer("/poolinit", "health", "--ready")
		if d := harness.ParseDocument(t, pool.Exec("/poolinit", "status", "--json")); d.PID != 1 || len(d.Workers) != n+1 {
			t.Errorf("%+v", d)
		}
	}
	second.Asks("/poolinit", "stop", "--wait").Says(t, 0)
	if code := second.Wait(); code != "0" {
		t.Errorf("exit code %s", code)
	}
	first.Asks("/poolinit", "health", "--ready").Says(t, 0, "ok\n")
}

// HEALTHCHECK in an image without a shell.
func TestHealthDocker(t *testing.T) {
	t.Parallel()
	pool := bareRun(t, []string{"--health-interval", "1s", "--health-timeout", "20s", "--health-retries", "1"})
	awaitHealth(pool, "healthy")
	pid, err := strconv.Atoi(pool.Inspect("{{.State.Pid}}"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	awaitHealth(pool, "unhealthy")
	if last := pool.Inspect("{{json .State.Health.Log}}"); !strings.Contains(last, "poolinit: the pool of process 1 does not answer within 3s: it hangs, or is stopped") {
		t.Errorf("%s", last)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	awaitHealth(pool, "healthy")
}

// The same by a shell, and a pool whose workers do not get ready.
func TestHealthDockerNotReady(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, []string{"--health-cmd", "/poolinit health --ready", "--health-interval", "1s", "--health-timeout", "20s", "--health-retries", "1"},
		[]string{"--ready", "notify", "--ready-timeout", "1h"}, "obey")
	awaitHealth(pool, "unhealthy")
	if last := pool.Inspect("{{json .State.Health.Log}}"); !strings.Contains(last, "poolinit: not ready: not every worker has been ready yet") {
		t.Errorf("%s", last)
	}
}

func awaitHealth(c *harness.Container, want string) {
	c.T.Helper()
	testkit.Eventually(c.T, "the container is "+want, func() (any, bool) {
		got := c.Inspect("{{.State.Health.Status}}")
		return got + c.Inspect("{{json .State.Health.Log}}"), got == want
	})
}

// A worker that the kernel took for want of memory is called so, wherever one looks.
func TestStatusDockerOOM(t *testing.T) {
	t.Parallel()
	pool := harness.DockerPool(t, []string{"--memory", "64m"}, []string{"--http", "127.0.0.1:9090", "--give-up", "0", "--restart-delay", "1h", "--restart-delay-max", "1h"}, harness.EatsDeed)
	pool.ExpectLog(`"why":"oom"`, 1)
	pool.Asks("/poolinit", "status").Says(t, 0, "not ready: ", "ago: died of SIGKILL after ", "(oom)", "starts in ")
	d := harness.ParseDocument(t, pool.Exec("/poolinit", "status", "--json"))
	if x := d.Workers[0].LastExit; x == nil || x.Why != "oom" || x.Signal != "SIGKILL" || x.Peak < 16<<20 {
		t.Errorf("%+v", x)
	}
	fetch := func(path string) string {
		return pool.Exec("env", "TEST_CHILD="+harness.FetchChild, "/e2e.test", "http://127.0.0.1:9090"+path)
	}
	metrics := fetch("/metrics")
	for _, want := range []string{`poolinit_worker_exits_total{reason="oom"} 1`, `poolinit_worker_exits_total{reason="crash"} 0`, `poolinit_workers{state="backoff"} 1`} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s in\n%s", want, metrics)
		}
	}
	if text := fetch("/status.json"); harness.ParseDocument(t, text).Workers[0].LastExit.Why != "oom" {
		t.Errorf("%s", text)
	}
}

package image

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// What docker run can do to a container, beside memory (TestRunDockerOOM).

// A limit of processes: what cannot be started is tried again, and succeeds when
// there is room. poolinit itself goes on, and so do the other workers.
func TestImagePidsLimit(t *testing.T) {
	c := harness.RunContainer(t, []string{"--pids-limit", "200"}, "/poolinit", "-n", "3", "--restart-delay", "10ms", "--restart-delay-max", "300ms", "--", "sleep", "1000")
	c.ExpectLog(`"message":"worker started"`, 3)
	c.Exec("/poolinit", "reload", "--wait") // then it has the threads that it needs
	c.ExpectLog("reload done", 1)

	harness.Docker(t, "update", "--pids-limit", "4", c.Name) // less than there are
	victim := harness.FirstChild(hostPID(c))
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.ExpectLog(": resource temporarily unavailable", 3)
	c.ExpectLog(`"message":"cannot start worker"`, 3)
	harness.Docker(t, "update", "--pids-limit", "200", c.Name)
	c.ExpectLog(`"message":"worker started"`, 7)
	c.Stop(harness.DockerPatience)
	c.ExpectLog("stopped: ", 1)
	if code := c.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, c.Logs())
	}
}

// hostPID is that of the container's PID 1, as the host has it.
func hostPID(c *harness.Container) int {
	c.T.Helper()
	pid, err := strconv.Atoi(c.Inspect("{{.State.Pid}}"))
	if err != nil {
		c.T.Fatal(err)
	}
	return pid
}

var orphan = regexp.MustCompile(`(?m) sleep 0\.1$`)

// docker run --init makes another program PID 1. poolinit reaps what its workers
// abandon all the same, and is stopped and reloaded through it.
func TestImageInit(t *testing.T) {
	abandons := `(sleep 0.1 &); echo abandoned; exec sleep 1000`
	c := harness.RunContainer(t, []string{"--init"}, "/poolinit", "-n", "2", "--", "sh", "-c", abandons)
	c.ExpectLog("abandoned", 2)
	ps := func() string { return c.Exec("ps", "-eo", "pid,ppid,stat,args") }
	testkit.Eventually(t, "no zombie, no orphan", func() (any, bool) {
		list := ps()
		return list, !orphan.MatchString(list) && !strings.Contains(list, "defunct")
	})
	if list := ps(); !regexp.MustCompile(`(?m)^ +1 .*docker-init`).MatchString(list) {
		t.Errorf("PID 1 is not docker's:\n%s", list)
	}
	if strings.Contains(c.Logs(), "orphans will not be reaped") {
		t.Errorf("it is no subreaper:\n%s", c.Logs())
	}
	c.Kill("USR1")
	c.ExpectLog("reload done", 1)
	if health := c.Exec("/poolinit", "health"); health != "ok" {
		t.Errorf("health says %q", health)
	}
	c.Stop(harness.DockerPatience)
	c.ExpectLog("stopped: ", 1)
	if code := c.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, c.Logs())
	}
}

// With the host's PIDs poolinit ends its own processes, and no others.
func TestImageHostPIDs(t *testing.T) {
	harness.NeedDocker(t)
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1) // nobody may be there any more to hear of it
	go func() { ended <- bystander.Wait() }()
	t.Cleanup(func() { _ = bystander.Process.Kill() })

	c := harness.RunContainer(t, []string{"--pid", "host"}, "/poolinit", "-n", "2", "--", "sleep", "1000")
	c.ExpectLog("worker started", 2)
	if list := c.Exec("ps", "-e", "-o", "pid"); !slices.Contains(strings.Fields(list), strconv.Itoa(bystander.Process.Pid)) {
		t.Errorf("it does not see the host's processes:\n%s", list)
	}
	if health := c.Exec("/poolinit", "health"); health != "ok" {
		t.Errorf("health says %q", health)
	}
	workers := []int{}
	for _, r := range harness.ParseLog(strings.Split(c.Logs(), "\n")) {
		if r.Message == "worker started" {
			workers = append(workers, r.PID)
		}
	}
	c.Stop(harness.DockerPatience)
	c.ExpectLog("stopped: ", 1)
	if code := c.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, c.Logs())
	}
	for _, pid := range workers {
		if p, ok := harness.ReadProc(pid); ok && strings.Contains(p.String(), "sleep") {
			t.Errorf("a worker is left: %v", p)
		}
	}
	select {
	case err := <-ended:
		t.Errorf("a process of the host's was ended: %v", err)
	default:
	}
}

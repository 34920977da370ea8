package image

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The image that the Dockerfile makes, run as restricted as docker can; and the
// images of deploy/docker, which take poolinit from it.

// restricted is what a cautious user adds to docker run.
var restricted = []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}

// messageURL is where the container takes messages, from the host.
func messageURL(c *harness.Container) string {
	c.T.Helper()
	return "tcp://" + c.Inspect("{{.NetworkSettings.IPAddress}}") + ":8089?reply=always"
}

// expectHealth waits until docker calls the container so.
func expectHealth(c *harness.Container, want string) {
	c.T.Helper()
	testkit.Eventually(c.T, "health", func() (any, bool) {
		got := c.Inspect("{{json .State.Health}}")
		return got + "\n" + c.Logs(), strings.Contains(got, `"Status":"`+want+`"`)
	})
}

// The image itself, with a worker that is mounted into it.
func TestImageRun(t *testing.T) {
	image := productImage(t)
	echo := filepath.Join(t.TempDir(), "echo")
	build := exec.Command("go", "build", "-C", "../../worker", "-o", echo, "./examples/echo")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	options := append(restricted, "--user", "65532:65532", "-v", echo+":/echo:ro", "--health-interval", "200ms", "-e", "POOLINIT_WORKERS=2")
	c := harness.RunContainerOf(t, image, options, "--", "/echo")
	expectHealth(c, "healthy")
	if replies := harness.Send(t, strings.NewReader("hello\n"), messageURL(c)); replies.Stdout != "hello\n" {
		t.Errorf("%+v", replies)
	}
	if health := c.Exec("/poolinit", "health", "--ready"); health != "ok" {
		t.Errorf("health --ready says %q", health)
	}
	c.Kill("USR1")
	c.ExpectLog("reload done", 1)
	status := c.Exec("/poolinit", "status")
	if !strings.HasPrefix(status, "poolinit "+imageVersion+", PID 1, ") || !strings.Contains(status, "generation 2: ready") || !strings.Contains(status, "tcp://:8089") {
		t.Errorf("status:\n%s", status)
	}
	c.Stop(harness.DockerPatience)
	c.ExpectLog("stopped: handled 1, spooled 0, lost 0, killed 0, ", 1)
	if code := c.Wait(); code != "0" {
		t.Errorf("exit code %s", code)
	}
}

// An image without a worker says what it needs.
func TestImageAlone(t *testing.T) {
	c := harness.RunContainerOf(t, productImage(t), nil)
	if code := c.Wait(); code != "2" || !strings.Contains(c.Logs(), "COMMAND is missing") {
		t.Errorf("exit code %s\n%s", code, c.Logs())
	}
	if version := harness.Docker(t, "run", "--rm", productImage(t), "version"); version != "poolinit "+imageVersion {
		t.Errorf("version: %q", version)
	}
}

// Each image of deploy/docker is built as it is, handles messages, and is
// stopped by docker stop in the middle of more of them: what was taken is handled
// and answered.
func TestImageWorkers(t *testing.T) {
	harness.NeedDocker(t)
	for _, c := range []struct {
		name string
		base func(testing.TB) *standIn
	}{{"php", phpBase}, {"python", pythonBase}, {"node", nodeBase}, {"go", goBase}} {
		t.Run(c.name, func(t *testing.T) {
			image := workerImage(t, "deploy/docker/"+c.name+"/Dockerfile", c.base)
			c := harness.RunContainerOf(t, image, append(restricted, "--health-interval", "500ms"))
			for n := range 4 {
				c.ExpectLog(fmt.Sprintf("worker %d of 4 is started", n), 1)
			}
			harness.Send(t, strings.NewReader("hello\nworld\n"), messageURL(c)).Want(t, "HELLO\nWORLD\n", 0)
			if refused := harness.Send(t, strings.NewReader("\n"), messageURL(c)); refused.Code != 1 || !strings.Contains(refused.Stderr, "there is nothing in it") {
				t.Errorf("%+v", refused)
			}
			expectHealth(c, "healthy")
			answered := stopWhileSending(c)
			c.ExpectLog(fmt.Sprintf("stopped: handled %d, spooled 0, lost 0, killed 0, ", 2+answered), 1)
			if code := c.Wait(); code != "0" {
				t.Errorf("exit code %s\n%s", code, c.Logs())
			}
		})
	}
}

// stopWhileSending sends messages, stops the container in the middle of them,
// and returns how many were answered.
func stopWhileSending(c *harness.Container) (answered int) {
	c.T.Helper()
	url := messageURL(c)
	var sender sync.WaitGroup
	var s harness.Result
	sender.Go(func() {
		s = harness.Send(c.T, strings.NewReader("hello\n"), "--count", "100000000", "--timeout", "5s", "--connect-timeout", "100ms", url)
	})
	testkit.Eventually(c.T, "messages are handled", func() (any, bool) {
		status := c.Exec("/poolinit", "status", "--json")
		return status, strings.Contains(status, `"handled":`) && !strings.Contains(status, `"handled":2,`)
	})
	began := time.Now()
	c.Stop(harness.DockerPatience)
	if took := time.Since(began); took > testkit.Patience {
		c.T.Errorf("docker stop took %v", took)
	}
	sender.Wait()
	answered = strings.Count(s.Stdout, "HELLO\n")
	if answered == 0 || s.Code == 0 {
		c.T.Errorf("%d were answered, exit code %d, stderr %.500s", answered, s.Code, s.Stderr)
	}
	return answered
}

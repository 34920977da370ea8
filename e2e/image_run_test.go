package e2e

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// The image that the Dockerfile makes, run as restricted as docker can; and the
// images of deploy/docker, which take poolinit from it.

// restricted is what a cautious user adds to docker run.
var restricted = []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"}

// url is where the container takes messages, from the host.
func (c *container) url() string {
	c.t.Helper()
	return "tcp://" + c.inspect("{{.NetworkSettings.IPAddress}}") + ":8089?reply=always"
}

// expectHealth waits until docker calls the container so.
func (c *container) expectHealth(want string) {
	c.t.Helper()
	eventually(c.t, "health", func() (any, bool) {
		got := c.inspect("{{json .State.Health}}")
		return got + "\n" + c.logs(), strings.Contains(got, `"Status":"`+want+`"`)
	})
}

// The image itself, with a worker that is mounted into it.
func TestImageRun(t *testing.T) {
	image := productImage(t)
	echo := filepath.Join(t.TempDir(), "echo")
	build := exec.Command("go", "build", "-C", "../worker", "-o", echo, "./examples/echo")
	build.Env = append(build.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	options := append(restricted, "--user", "65532:65532", "-v", echo+":/echo:ro", "--health-interval", "200ms", "-e", "POOLINIT_WORKERS=2")
	c := dockerRunImage(t, image, options, "--", "/echo")
	c.expectHealth("healthy")
	if replies := send(t, strings.NewReader("hello\n"), c.url()); replies.stdout != "hello\n" {
		t.Errorf("%+v", replies)
	}
	if health := c.exec("/poolinit", "health", "--ready"); health != "ok" {
		t.Errorf("health --ready says %q", health)
	}
	c.kill("USR1")
	c.expectLog("reload done", 1)
	status := c.exec("/poolinit", "status")
	if !strings.HasPrefix(status, "poolinit "+imageVersion+", PID 1, ") || !strings.Contains(status, "generation 2: ready") || !strings.Contains(status, "tcp://:8089") {
		t.Errorf("status:\n%s", status)
	}
	c.stop(dockerPatience)
	c.expectLog("stopped: handled 1, spooled 0, lost 0, killed 0, ", 1)
	if code := c.wait(); code != "0" {
		t.Errorf("exit code %s", code)
	}
}

// An image without a worker says what it needs.
func TestImageAlone(t *testing.T) {
	c := dockerRunImage(t, productImage(t), nil)
	if code := c.wait(); code != "2" || !strings.Contains(c.logs(), "there is no COMMAND to run") {
		t.Errorf("exit code %s\n%s", code, c.logs())
	}
	if version := docker(t, "run", "--rm", productImage(t), "version"); version != "poolinit "+imageVersion {
		t.Errorf("version: %q", version)
	}
}

// Each image of deploy/docker is built as it is, handles messages, and is
// stopped by docker stop in the middle of more of them: what was taken is handled
// and answered.
func TestImageWorkers(t *testing.T) {
	needDocker(t)
	for _, c := range []struct {
		name string
		base func(testing.TB) *standIn
	}{{"php", phpBase}, {"python", pythonBase}, {"node", nodeBase}, {"go", goBase}} {
		t.Run(c.name, func(t *testing.T) {
			image := workerImage(t, "deploy/docker/"+c.name+"/Dockerfile", c.base)
			c := dockerRunImage(t, image, append(restricted, "--health-interval", "500ms"))
			for n := range 4 {
				c.expectLog(fmt.Sprintf("worker %d of 4 is started", n), 1)
			}
			send(t, strings.NewReader("hello\nworld\n"), c.url()).want(t, "HELLO\nWORLD\n", 0)
			if refused := send(t, strings.NewReader("\n"), c.url()); refused.code != 1 || !strings.Contains(refused.stderr, "there is nothing in it") {
				t.Errorf("%+v", refused)
			}
			c.expectHealth("healthy")
			answered := c.stopWhileSending()
			c.expectLog(fmt.Sprintf("stopped: handled %d, spooled 0, lost 0, killed 0, ", 2+answered), 1)
			if code := c.wait(); code != "0" {
				t.Errorf("exit code %s\n%s", code, c.logs())
			}
		})
	}
}

// stopWhileSending sends messages, stops the container in the middle of them,
// and returns how many were answered.
func (c *container) stopWhileSending() (answered int) {
	c.t.Helper()
	url := c.url()
	var sender sync.WaitGroup
	var s sent
	sender.Go(func() {
		s = send(c.t, strings.NewReader("hello\n"), "--count", "100000000", "--timeout", "5s", "--connect-timeout", "100ms", url)
	})
	eventually(c.t, "messages are handled", func() (any, bool) {
		status := c.exec("/poolinit", "status", "--json")
		return status, strings.Contains(status, `"handled":`) && !strings.Contains(status, `"handled":2,`)
	})
	began := time.Now()
	c.stop(dockerPatience)
	if took := time.Since(began); took > patience {
		c.t.Errorf("docker stop took %v", took)
	}
	sender.Wait()
	answered = strings.Count(s.stdout, "HELLO\n")
	if answered == 0 || s.code == 0 {
		c.t.Errorf("%d were answered, exit code %d, stderr %.500s", answered, s.code, s.stderr)
	}
	return answered
}

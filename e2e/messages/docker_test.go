package messages

import (
	"strings"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// hundredLines prints the numbers from 1 to 100, with what the image has.
const hundredLines = `i=1; while [ $i -le 100 ]; do echo $i; i=$((i+1)); done`

// messagePool starts a container whose workers echo.
func messagePool(t *testing.T, options []string, flags ...string) *harness.Container {
	t.Helper()
	command := append([]string{"/poolinit", "-n", "2"}, flags...)
	return harness.RunContainer(t, append(options, "-e", "TEST_CHILD="+chaosWorker), append(command, "--", "/e2e.test", "/book")...)
}

// The port of a container: messages go in, replies come out, and docker stop
// finds nothing undone.
func TestMessagesDocker(t *testing.T) {
	t.Parallel()
	pool := messagePool(t, nil, "--listen", "tcp://0.0.0.0:8089?reply=always")
	pool.ExpectLog("accepting messages", 1)
	replies := pool.Exec("sh", "-c", hundredLines+" | /poolinit send --reply tcp://127.0.0.1:8089")
	if got := strings.Fields(replies); len(got) != 100 || got[0] != "1" || got[99] != "100" {
		t.Errorf("replies %q", replies)
	}
	pool.Stop(harness.DockerPatience)
	if code := pool.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, pool.Logs())
	}
	pool.ExpectLog("stopped: handled 100, spooled 0, lost 0, killed 0, ", 1)
}

// The containers of a pod share their IPC namespace: one feeds the queue of the
// other. What is sent while poolinit is not there waits in the kernel.
func TestMessagesDockerSharedQueue(t *testing.T) {
	t.Parallel()
	pool := messagePool(t, []string{"--ipc", "shareable"}, "--listen", "sysv://0x7000001")
	pool.ExpectLog("accepting messages", 1)
	feed := func() {
		t.Helper()
		sender := harness.RunContainer(t, []string{"--ipc", "container:" + pool.Name}, "sh", "-c", hundredLines+" | /poolinit send sysv://0x7000001")
		if code := sender.Wait(); code != "0" {
			t.Fatalf("send ends with %s\n%s", code, sender.Logs())
		}
	}
	feed()
	testkit.Eventually(t, "all are handled", func() (any, bool) {
		book := pool.Exec("cat", "/book")
		return book, len(strings.Fields(book)) == 100
	})
	pool.Stop(harness.DockerPatience)
	pool.ExpectLog("stopped: handled 100, ", 1)
}

// As restricted as Kubernetes can make it: no root, no capability, nothing to
// write to.
func TestMessagesDockerRestricted(t *testing.T) {
	t.Parallel()
	pool := harness.RunContainer(t, []string{"--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--user", "65532:65532",
		"-e", "TEST_CHILD=" + chaosWorker}, "/poolinit", "-n", "2", "--listen", "tcp://0.0.0.0:8089?reply=always", "--", "/e2e.test", "/dev/null")
	pool.ExpectLog("accepting messages", 1)
	if replies := pool.Exec("sh", "-c", "echo hello | /poolinit send --reply tcp://127.0.0.1:8089"); replies != "hello" {
		t.Errorf("reply %q", replies)
	}
	pool.Stop(harness.DockerPatience)
	if code := pool.Wait(); code != "0" {
		t.Errorf("exit code %s\n%s", code, pool.Logs())
	}
}

package sdk

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// needPHPModules skips the test unless php has these extensions.
func needPHPModules(t testing.TB, modules ...string) {
	t.Helper()
	harness.Need(t, "php")
	out, err := exec.Command("php", "-m").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range modules {
		if !bytes.Contains(out, []byte("\n"+m+"\n")) {
			strict.Skip(t, "php has no %s", m)
		}
	}
}

// sdkPHP returns the absolute path of a file of the PHP SDK.
func sdkPHP(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "sdk", "php", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// seedProgram returns the absolute path of one of the seed's programs.
func seedProgram(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "testdata", "seed", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// phpFile writes a program that has the SDK, and returns its path.
func phpFile(t testing.TB, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program.php")
	text := fmt.Sprintf("<?php\n\ndeclare(strict_types=1);\n\nrequire %q;\n\n%s\n", sdkPHP(t, "Pool.php"), body)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// withPoolinit tells the SDK where poolinit is.
func withPoolinit(t testing.TB, prog harness.Program) harness.Program {
	t.Helper()
	prog.Env = append(prog.Env, "POOLINIT="+harness.Binary(t))
	return prog
}

// startPHP runs php with these arguments, which becomes poolinit.
func startPHP(t testing.TB, args ...string) harness.Pool {
	t.Helper()
	return harness.PoolOf(harness.Start(t, withPoolinit(t, harness.Program{Args: append([]string{"php"}, args...)})))
}

// swoole is php's option that stands in for ext-swoole.
func swoole(t testing.TB) string {
	t.Helper()
	return "-dauto_prepend_file=" + sdkPHP(t, "swoole.php")
}

// An island is a network and an IPC namespace of their own, where every port and
// every queue is free.
type island struct {
	t        testing.TB
	net, ipc *os.File
}

func newIsland(t testing.TB) *island {
	t.Helper()
	i := &island{t: t}
	made := make(chan error)
	go func() { made <- i.make() }() // ends at once, and with it its thread
	if err := <-made; errors.Is(err, unix.EPERM) {
		strict.Skip(t, "no permission to make a network namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		i.net.Close()
		i.ipc.Close()
	})
	return i
}

// make makes the namespaces in a thread that nobody uses any more.
func (i *island) make() (err error) {
	runtime.LockOSThread() // never unlocked
	if err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWIPC); err != nil {
		return err
	}
	if err := harness.LoopbackUp(); err != nil {
		return err
	}
	if i.net, err = os.Open("/proc/thread-self/ns/net"); err == nil {
		i.ipc, err = os.Open("/proc/thread-self/ns/ipc")
	}
	return err
}

// program is a program on the island.
func (i *island) program(args ...string) harness.Program {
	i.t.Helper()
	return harness.Program{Args: append([]string{harness.Self(i.t)}, args...), Child: islandChild, Files: []*os.File{i.net, i.ipc}}
}

// run runs a client on the island to its end.
func (i *island) run(args ...string) string {
	i.t.Helper()
	cmd := exec.Command(harness.Self(i.t), args...)
	cmd.Env = append(os.Environ(), "TEST_CHILD="+islandChild)
	cmd.ExtraFiles = []*os.File{i.net, i.ipc}
	out, err := cmd.CombinedOutput()
	if err != nil {
		i.t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return string(out)
}

// islandChild runs a program in the namespaces of descriptors 3 and 4.
var islandChild = harness.Child("island", func(args []string) int {
	runtime.LockOSThread()
	for fd, kind := range map[int]int{3: unix.CLONE_NEWNET, 4: unix.CLONE_NEWIPC} {
		if err := unix.Setns(fd, kind); err != nil {
			return harness.Failed(err)
		}
		unix.Close(fd)
	}
	return harness.Become(args)
})

// phpPool starts a program that takes messages from the URL, and waits until it
// does. The body says what is done with $message.
func phpPool(t testing.TB, url, body string, env ...string) harness.Pool {
	t.Helper()
	needPHPModules(t, "pcntl", "posix")
	prog := withPoolinit(t, harness.Program{Args: []string{"php", phpFile(t, fmt.Sprintf(`
$pool = new Poolinit\Pool(2);
$pool->listen(%q)->set(['healthy-after' => '0s']);
$pool->on('workerStart', function (Poolinit\Pool $pool, int $id): void { echo "started $id\n"; });
$pool->on('workerStop', function (Poolinit\Pool $pool, int $id): void { echo "stopped $id\n"; });
$pool->on('message', function (Poolinit\Pool $pool, string $message): mixed {
%s
});
$pool->start();`, url, body))}})
	prog.Env = append(prog.Env, env...)
	p := harness.PoolOf(harness.Start(t, prog))
	p.Stdout.ExpectTimes(t, "started ", 2)
	p.Stderr.Expect(t, "accepting messages")
	return p
}

// A phpClient sends messages one after the other.
type phpClient struct {
	t testing.TB
	net.Conn
}

func newPHPClient(t testing.TB, url string) phpClient {
	t.Helper()
	c := phpClient{t, harness.Dial(t, url)}
	if err := c.SetDeadline(time.Now().Add(3 * testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c phpClient) send(body string) {
	c.t.Helper()
	if err := harness.WriteFrame(c, body); err != nil {
		c.t.Fatal(err)
	}
}

// want reads a reply; a failure is written with a ! before it.
func (c phpClient) want(want string) {
	c.t.Helper()
	body, failed, err := harness.ReadFrame(c)
	got := string(body)
	if failed {
		got = "!" + got
	}
	if err != nil || got != want {
		c.t.Errorf("reply %.200q (%d bytes), %v; want %.200q (%d bytes)", got, len(got), err, want, len(want))
	}
}

package vm

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// insideVariable is set for everything in the machine that its init has started.
const insideVariable = "E2E_MACHINE"

const cgroups = "/sys/fs/cgroup"

// becomeInit makes the machine usable, and becomes poolinit. It returns only an error.
func becomeInit() error {
	for _, m := range []struct{ kind, place string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"cgroup2", cgroups}, {"tmpfs", "/tmp"}} {
		if err := unix.Mount(m.kind, m.place, m.kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.place, err)
		}
	}
	if err := write(cgroups+"/cgroup.subtree_control", "+cpu +memory +pids"); err != nil {
		return err
	}
	if err := harness.LoopbackUp(); err != nil {
		return err
	}
	module, err := os.Open("/loop.ko")
	if err == nil {
		err = unix.FinitModule(int(module.Fd()), "", 0)
	}
	if err != nil {
		return fmt.Errorf("loop.ko: %w", err)
	}
	results, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY|syscall.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	if err := unix.Dup2(int(results.Fd()), 1); err != nil {
		return err
	}
	for name, value := range map[string]string{insideVariable: "1", "E2E_BINARY": "/poolinit", "PATH": "/bin", "TMPDIR": "/tmp", "HOME": "/"} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return syscall.Exec("/poolinit", []string{"poolinit", "run", "--restart", "never", "--log-format", "json", "--",
		"/init", "-test.v", "-test.timeout", machineTime.String(), "-test.run", os.Getenv("E2E_RUN")}, os.Environ())
}

func write(path, text string) error { return os.WriteFile(path, []byte(text), 0o644) }

// set writes a setting of the kernel.
func set(t *testing.T, path, value string) {
	t.Helper()
	if err := write(path, value); err != nil {
		t.Fatal(err)
	}
}

// setting is set until the end of the check.
func setting(t *testing.T, path, value string) {
	t.Helper()
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	set(t, path, value)
	t.Cleanup(func() { set(t, path, strings.TrimSpace(string(old))) })
}

// A box is a cgroup of the check.
type box string

func newBox(t *testing.T, limits map[string]string) box {
	t.Helper()
	b := box(filepath.Join(cgroups, t.Name()[len("Test/"):]))
	if err := os.Mkdir(string(b), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // runs after the check's processes have ended: they are started later
		testkit.Eventually(t, "the cgroup is removed", func() (any, bool) {
			err := os.Remove(string(b))
			return err, err == nil
		})
	})
	for name, value := range limits {
		set(t, string(b)+"/"+name, value)
	}
	return b
}

// start starts a program in the box, as PID 1 of a namespace.
func (b box) start(t *testing.T, child string, words ...string) *harness.Process {
	t.Helper()
	p := harness.Start(t, harness.Program{Child: boxedChild, Args: append([]string{harness.Self(t), string(b)}, words...),
		Env: []string{"E2E_NEXT=" + child}})
	return p
}

// boxedChild enters a cgroup and becomes a program.
var boxedChild = harness.Child("boxed", func(args []string) int {
	if err := write(args[0]+"/cgroup.procs", "0"); err != nil {
		return harness.Failed(err)
	}
	return harness.Become(args[1:])
})

// counter reads a line of one of the box's files.
func (b box) counter(t *testing.T, file, name string) string {
	t.Helper()
	text, err := os.ReadFile(string(b) + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	t.Fatalf("no %s in %s", name, text)
	return ""
}

// dial connects to a pool. Everything on the connection has a deadline.
func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err == nil {
		err = nc.SetDeadline(time.Now().Add(2 * testkit.Patience))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// ask sends a message, which has to be answered with itself.
func ask(t *testing.T, nc net.Conn, body string) {
	t.Helper()
	if err := harness.WriteFrame(nc, body); err != nil {
		t.Fatal(err)
	}
	if got, failed, err := harness.ReadFrame(nc); string(got) != body || failed || err != nil {
		t.Fatalf("%q is answered %q, failed %v, %v", body, got, failed, err)
	}
}

package messages

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/poolinit/poolinit/e2e/harness"
	"github.com/poolinit/poolinit/internal/testkit"
)

// The binary for arm64, under an emulator: messages, a reload, a clean stop. The
// emulator has no child subreaper.
func TestARM64(t *testing.T) {
	t.Parallel()
	harness.Need(t, "qemu-aarch64", "python3")
	binary := filepath.Join(t.TempDir(), "poolinit-arm64")
	build := exec.Command("../../tools/build.sh", binary)
	build.Env = append(os.Environ(), "GOARCH=arm64")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	addr := harness.FreePort(t)
	p := harness.PoolOf(harness.Start(t, harness.Program{Host: true, Args: []string{
		"qemu-aarch64", binary, "--listen", "tcp://" + addr + "?reply=always", "--ready", "started", "--", "python3", "../../examples/echo.py",
	}}))
	var nc net.Conn
	testkit.Eventually(t, "it listens", func() (any, bool) {
		var err error
		nc, err = net.Dial("tcp", addr)
		return p.Stderr.String(), err == nil
	})
	defer nc.Close()
	in := bufio.NewReader(nc)
	echoes := func(body string) {
		t.Helper()
		if err := harness.WriteFrame(nc, body); err != nil {
			t.Fatal(err)
		}
		if got, failed, err := harness.ReadFrame(in); err != nil || failed || string(got) != body {
			t.Fatalf("%q, %t, %v\n%s", got, failed, err, p.Stderr.String())
		}
	}
	echoes("before the reload")
	_ = syscall.Kill(p.Cmd.Process.Pid, syscall.SIGUSR1)
	p.ExpectLog("reload done", nil)
	echoes("after it")
	_ = syscall.Kill(p.Cmd.Process.Pid, syscall.SIGTERM)
	p.ExpectExit(0)
	p.ExpectLog("stopped: handled 2, spooled 0, lost 0, killed 0", nil)
}

package strangers

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/e2e/harness"
)

// spyDeed is a worker that tries to get at poolinit's memory and descriptors, and says
// what it could do. It is of the same user and has no CAP_SYS_PTRACE, as in docker.
var spyDeed = harness.Deed("spy", func([]string) int {
	runtime.LockOSThread() // capabilities are a thread's
	if err := dropPtrace(); err != nil {
		return harness.Failed(err)
	}
	pid := os.Getppid()
	if f, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid)); err == nil {
		fmt.Println("it opens the memory of", f.Name())
	}
	if err := unix.PtraceSeize(pid); err == nil {
		fmt.Println("it traces process", pid)
	}
	if fd, err := unix.PidfdOpen(pid, 0); err != nil {
		return harness.Failed(err)
	} else {
		for n := range 20 {
			if _, err := unix.PidfdGetfd(fd, n, 0); err == nil {
				fmt.Println("it takes descriptor", n)
			}
		}
	}
	fmt.Println("tried")
	return harness.Forever()
})

func dropPtrace() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Effective &^= 1 << unix.CAP_SYS_PTRACE
	return unix.Capset(&header, &data[0])
}

// The TLS keys are in poolinit's memory. A worker of the same user cannot read it,
// also after workers have been started as another user.
func TestWorkerCannotReadPoolinit(t *testing.T) {
	for _, flags := range [][]string{nil, {"--user", "0:0"}} {
		p := harness.StartRun(t, harness.Program{}, append(flags, "--", spyDeed)...)
		p.Stdout.Expect(t, "tried\n")
		if said := p.Stdout.String(); strings.Contains(said, "it ") {
			t.Errorf("%v: %s", flags, said)
		}
		p.Signal(syscall.SIGTERM)
		p.ExpectExit(0)
	}
}

// With --user a worker cannot become more than that user.
func TestUserGainsNothing(t *testing.T) {
	const script = `grep -E '^(NoNewPrivs|CapBnd|CapPrm):' /proc/self/status; echo "$HOME,$USER,$LOGNAME"`
	run := func(env []string, flags ...string) string {
		t.Helper()
		args := append([]string{harness.Binary(t), "--restart", "never"}, flags...)
		p, code := harness.Run(t, harness.Program{Args: append(args, "/bin/sh", "-c", script), Env: env})
		if code != 0 || strings.Contains(p.Stderr.String(), `"warn"`) {
			t.Errorf("exit code %d: %s", code, p.Stderr.String())
		}
		return strings.ReplaceAll(strings.TrimSpace(p.Stdout.String()), "\t", " ")
	}
	const none = "CapPrm: 0000000000000000\nCapBnd: 0000000000000000\nNoNewPrivs: 1\n"
	root := []string{"HOME=/root", "USER=root", "LOGNAME=root"}
	if got := run(root, "--user", "54321"); got != none+"/,," {
		t.Errorf("%s", got)
	}
	if got := run([]string{"HOME=/srv", "USER=me", "LOGNAME=me"}, "--user", "54321"); got != none+"/srv,me,me" {
		t.Errorf("%s", got)
	}
	if got := run(root, "--user", "54321", "--new-privs"); !strings.Contains(got, "NoNewPrivs: 0\n") || strings.Contains(got, "CapBnd: 0000000000000000") {
		t.Errorf("with --new-privs: %s", got)
	}
	if got := run(root); !strings.Contains(got, "NoNewPrivs: 0\n") || !strings.HasSuffix(got, "/root,root,root") {
		t.Errorf("without --user: %s", got)
	}
}

// A worker of another user opens /dev/stdout and /dev/stderr, as nginx does.
func TestUserOpensStdout(t *testing.T) {
	for _, tt := range []struct {
		flags []string
		want  string
	}{
		{[]string{"--output", "prefix"}, "[worker 0] %s"},
		{[]string{"--output", "json"}, `"message":"%s"`},
	} {
		p, code := harness.Run(t, harness.Program{Args: append(append([]string{harness.Binary(t), "--restart", "never", "--user", "54321"}, tt.flags...),
			"/bin/sh", "-c", "echo one >/dev/stdout; echo two >/dev/stderr")})
		said := p.Stdout.String() + p.Stderr.String()
		if code != 0 || !strings.Contains(said, fmt.Sprintf(tt.want, "one")) || !strings.Contains(said, fmt.Sprintf(tt.want, "two")) {
			t.Errorf("%v: exit code %d, %s", tt.flags, code, said)
		}
	}
}

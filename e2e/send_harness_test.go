package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SDKWorker returns the path of a worker made with the Go SDK, to which everything
// can happen: worker/internal/testworker says how.
func SDKWorker(t testing.TB) string { return ofModule(t, builtWorker) }

// SDKClient returns the path of a client made with the Go package, as
// client/internal/testclient describes it.
func SDKClient(t testing.TB) string { return ofModule(t, builtClient) }

var (
	builtWorker = sync.OnceValues(func() (string, error) { return buildOfModule("worker", "testworker") })
	builtClient = sync.OnceValues(func() (string, error) { return buildOfModule("client", "testclient") })
)

func ofModule(t testing.TB, built func() (string, error)) string {
	t.Helper()
	path, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// buildOfModule builds a program of another module, which this one does not import.
func buildOfModule(module, name string) (path string, err error) {
	dir, err := os.MkdirTemp("", "poolinit-e2e")
	if err != nil {
		return "", err
	}
	atEnd.add(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // other users run it, too
		return "", err
	}
	path = filepath.Join(dir, name)
	build := exec.Command("go", "build", "-C", "../"+module, "-o", path, "./internal/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}

// StartSource starts a pool that serves at the URL, and waits until it does.
func StartSource(t testing.TB, prog Program, url string, flagsAndCommand ...string) *Process {
	t.Helper()
	prog.Args = append([]string{Binary(t), "run", "--listen", url}, flagsAndCommand...)
	p := Start(t, prog)
	p.Stderr.Expect(t, "taking messages")
	return p
}

// StartSDK is startSource with the SDK's worker.
func StartSDK(t testing.TB, url string, flags ...string) *Process {
	t.Helper()
	return StartSource(t, Program{}, url, append(flags, "--", SDKWorker(t))...)
}

// UnixURL returns the URL of a new unix socket.
func UnixURL(t testing.TB, params string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "send") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return "unix://" + filepath.Join(dir, "pool.sock") + params
}

// Dial connects to a unix:// URL.
func Dial(t testing.TB, url string) net.Conn {
	t.Helper()
	path, _, _ := strings.Cut(strings.TrimPrefix(url, "unix://"), "?")
	nc, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return nc
}

// A Result is what `poolinit send` did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

func Send(t testing.TB, stdin io.Reader, args ...string) Result {
	t.Helper()
	return RunClient(t, stdin, append([]string{Binary(t), "send"}, args...)...)
}

// RunClient runs any client program to its end.
func RunClient(t testing.TB, stdin io.Reader, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

func (s Result) Want(t testing.TB, stdout string, code int) {
	t.Helper()
	if s.Stdout != stdout || s.Code != code {
		t.Errorf("exit code %d, want %d\nstdout %.300q, want %.300q\nstderr %.1000s", s.Code, code, s.Stdout, stdout, s.Stderr)
	}
}

// Seq is what seq(1) prints.
func Seq(n int) string {
	var b strings.Builder
	for i := 1; i <= n; i++ {
		fmt.Fprintln(&b, i)
	}
	return b.String()
}

// AloneChild runs a program in a network namespace of its own, where every port
// is free.
var AloneChild = Child("alone", func(args []string) int {
	runtime.LockOSThread() // the namespace is this thread's until exec
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return Failed(err)
	}
	if err := LoopbackUp(); err != nil {
		return Failed(err)
	}
	return Become(args)
})

// JoinChild runs a program in the network namespace of another process.
var JoinChild = Child("join", func(args []string) int {
	runtime.LockOSThread()
	fd, err := unix.Open("/proc/"+args[0]+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Failed(err)
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
		return Failed(err)
	}
	return Become(args[1:])
})

// TmpfsChild runs a program that finds a file system of its own in a directory,
// with such options. Others see it below /proc/PID/root.
var TmpfsChild = Child("tmpfs", func(args []string) int {
	if err := unix.Mount("none", args[0], "tmpfs", 0, args[1]); err != nil {
		return Failed(err)
	}
	return Become(args[2:])
})

// UserChild runs a program as the user with a number.
var UserChild = Child("user", func(args []string) int {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return Failed(err)
	}
	runtime.LockOSThread() // until exec they are this thread's
	if _, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, 0, 0, 0); errno != 0 {
		return Failed(errno)
	}
	for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} {
		if _, _, errno := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
			return Failed(errno)
		}
	}
	return Become(args[1:])
})

// Become becomes the program, with the role of E2E_NEXT.
func Become(args []string) int {
	path, err := exec.LookPath(args[0])
	if err == nil {
		err = os.Setenv("E2E_CHILD", os.Getenv("E2E_NEXT"))
	}
	if err == nil {
		err = syscall.Exec(path, args, os.Environ())
	}
	return Failed(err)
}

func LoopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var request struct {
		name  [unix.IFNAMSIZ]byte
		flags uint16
		_     [22]byte
	}
	copy(request.name[:], "lo")
	request.flags = unix.IFF_UP
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return errno
	}
	return nil
}

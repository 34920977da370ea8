package harness

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
	"strings"
	"testing"

	"github.com/poolinit/poolinit/internal/testkit"
)

// StartSource starts a pool that serves at the URL, and waits until it does.
func StartSource(t testing.TB, prog Program, url string, flagsAndCommand ...string) *Process {
	t.Helper()
	prog.Args = append([]string{Binary(t), "run", "--listen", url}, flagsAndCommand...)
	p := Start(t, prog)
	p.Stderr.Expect(t, "accepting messages")
	return p
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

// A Result is what a client did.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Send runs `poolinit send` to its end.
func Send(t testing.TB, stdin io.Reader, args ...string) Result {
	t.Helper()
	return RunClient(t, stdin, append([]string{Binary(t), "send"}, args...)...)
}

// RunClient runs any client program to its end.
func RunClient(t testing.TB, stdin io.Reader, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*testkit.Patience)
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

// Want checks all that it printed to stdout, and its exit code.
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

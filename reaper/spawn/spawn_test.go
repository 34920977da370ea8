package spawn

import (
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// run starts a program, waits for it, and returns its exit code and what it wrote to
// descriptor 1, which is a pipe.
func run(t *testing.T, attr Attr, path string, args ...string) (code int, text string) {
	t.Helper()
	if !Works {
		strict.Skip(t, "no assembly for %s", runtime.GOARCH)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	attr.Files = append([]uintptr{0, w.Fd(), 2}, attr.Files...)
	pid, err := Start(path, append([]string{path}, args...), &attr)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		t.Fatal(err)
	}
	return status.ExitStatus(), string(all)
}

func TestStart(t *testing.T) {
	code, text := run(t, Attr{Env: []string{"A=b c", "D=e"}}, "/bin/sh", "-c", `echo "$0 $1 $A $D"; exit 7`, "x", "y z")
	if code != 7 || text != "x y z b c e\n" {
		t.Errorf("exit code %d, %q", code, text)
	}
}

// The signals are those of Attr, whatever the Go runtime does with them here.
func TestSignals(t *testing.T) {
	for _, want := range []struct{ blocked, ignored string }{
		{"0000000000000000", "0000000000000000"},
		{"0000000000004800", "80000002003a4403"},
	} {
		var attr Attr
		for _, s := range []struct {
			text string
			set  *uint64
		}{{want.blocked, &attr.Blocked}, {want.ignored, &attr.Ignored}} {
			for _, digit := range s.text {
				*s.set = *s.set<<4 | uint64(strings.IndexRune("0123456789abcdef", digit))
			}
		}
		code, text := run(t, attr, "/bin/cat", "/proc/self/status")
		if code != 0 || !strings.Contains(text, "SigBlk:\t"+want.blocked+"\nSigIgn:\t"+want.ignored+"\n") {
			t.Errorf("exit code %d, want %v:\n%s", code, want, text)
		}
	}
}

// The thread that starts has its own signal mask afterwards.
func TestMaskIsRestored(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, after unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &before); err != nil {
		t.Fatal(err)
	}
	run(t, Attr{Blocked: 1 << 11}, "/bin/true")
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &after); err != nil || after != before {
		t.Errorf("%x, %v; want %x", after, err, before)
	}
}

// Descriptors come to their places even if these are taken by one another.
func TestFiles(t *testing.T) {
	var files []uintptr
	for _, text := range []string{"three", "four", "five"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.WriteString(w, text+"\n"); err != nil {
			t.Fatal(err)
		}
		w.Close()
		files = append(files, r.Fd())
	}
	// The test's own 3, 4 and 5 are among them or not: the order is turned.
	files[0], files[2] = files[2], files[0]
	code, text := run(t, Attr{Files: append(files, 1, 2, 0)}, "/bin/sh", "-c", "cat <&3; cat <&4; cat <&5; test -e /proc/self/fd/8")
	if code != 0 || text != "five\nfour\nthree\n" {
		t.Errorf("exit code %d, %q", code, text)
	}
	code, _ = run(t, Attr{Files: []uintptr{2, 1, 0, 4, 3}}, "/bin/sh", "-c", "test -e /proc/self/fd/7")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
}

func TestGroupAndLimit(t *testing.T) {
	code, text := run(t, Attr{NewGroup: true, Nofile: &syscall.Rlimit{Cur: 123, Max: 123}}, "/bin/sh", "-c", "ulimit -n; cut -d' ' -f5 /proc/$$/stat; echo $$")
	fields := strings.Fields(text)
	if code != 0 || len(fields) != 3 || fields[0] != "123" || fields[1] != fields[2] {
		t.Errorf("exit code %d, %q: the limit, the group and the PID", code, text)
	}
}

func TestUser(t *testing.T) {
	if os.Geteuid() != 0 {
		strict.Skip(t, "needs root")
	}
	code, text := run(t, Attr{Credential: &syscall.Credential{Uid: 1234, Gid: 2345, Groups: []uint32{3456}}, DeathSignal: syscall.SIGKILL},
		"/bin/sh", "-c", "id -u; id -g; id -G")
	if code != 0 || text != "1234\n2345\n2345 3456\n" {
		t.Errorf("exit code %d, %q", code, text)
	}
}

// A failure of execve is the kernel's error number; another one names the call. The
// child does not stay a zombie.
func TestFailures(t *testing.T) {
	if !Works {
		strict.Skip(t, "no assembly for %s", runtime.GOARCH)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	files := []uintptr{0, 1, 2}
	for _, tt := range []struct {
		path string
		attr Attr
		want error
	}{
		{"/no/such", Attr{Files: files}, syscall.ENOENT},
		{"/", Attr{Files: files}, syscall.EACCES},
		{"/bin/true", Attr{Files: []uintptr{0, 1, 12345}}, &Error{"dup3", syscall.EBADF}},
		{"/bin/true", Attr{Files: files, Foreground: true, Terminal: 12345}, &Error{"ioctl(TIOCSPGRP)", syscall.EBADF}},
		{"/bin/true", Attr{Files: files, Credential: &syscall.Credential{Uid: ^uint32(0), Gid: 0, NoSetGroups: true}}, &Error{"setuid(4294967295)", syscall.EINVAL}},
		{"/bin/\x00", Attr{Files: files}, syscall.EINVAL},
	} {
		_, err := Start(tt.path, []string{"x"}, &tt.attr)
		var got *Error
		if want, ok := tt.want.(*Error); ok && (!errors.As(err, &got) || *got != *want) || !ok && err != tt.want {
			t.Errorf("%q: %v, want %v", tt.path, err, tt.want)
		}
		if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
			t.Errorf("%q: a child is left: %v", tt.path, err)
		}
	}
}

// A relative path of the program is relative to the directory.
func TestDirectory(t *testing.T) {
	if code, text := run(t, Attr{Dir: "/bin"}, "./sh", "-c", "pwd -P; cd /proc/self && pwd"); code != 0 || !strings.HasSuffix(text, "bin\n/proc/self\n") {
		t.Errorf("exit code %d, %q", code, text)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var failed *Error
	if _, err := Start("/bin/true", []string{"true"}, &Attr{Dir: "/proc/self/no"}); !errors.As(err, &failed) || failed.Call != "chdir" || failed.Err != syscall.ENOENT {
		t.Errorf("a directory that is not there: %v", err)
	}
}

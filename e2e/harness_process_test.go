package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/strict"
)

// A program is what a test runs, and how. As it is, it runs as PID 1 of a PID
// namespace of its own with a /proc that belongs to it, so that everything
// ends with it.
type program struct {
	args  []string // the command, looked up in PATH, and its arguments
	env   []string // in addition to the test's
	child string   // E2E_CHILD for the program, if it is, or starts, the test binary
	under bool     // it is a child of the namespace's PID 1, not that itself
	host  bool     // no namespace at all (docker's client, for one)

	stdin  *os.File   // nil: /dev/null
	stderr *os.File   // nil: process.stderr collects it
	tty    *pty       // its controlling terminal, and 0, 1 and 2
	files  []*os.File // its descriptors from 3 on

	// What it finds at its start.
	closed           []int
	ignored, blocked []syscall.Signal
	nofile           uint64 // the soft limit of descriptors, if not 0
}

// A process is a program that runs.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	pid    int // seen from the test; with under it is that of the PID 1 above it
	under  bool
	exited chan struct{}

	stdout, stderr buffer // empty if it has a terminal
}

// start starts a program. It is killed at the end of the test, and with it
// whatever it started.
func start(t testing.TB, prog program) *process {
	t.Helper()
	p := &process{t: t, under: prog.under, exited: make(chan struct{})}
	p.cmd = prog.command(t)
	if prog.tty != nil {
		p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = prog.tty.slave, prog.tty.slave, prog.tty.slave
		p.cmd.SysProcAttr.Setsid, p.cmd.SysProcAttr.Setctty = true, true
	} else {
		p.cmd.Stdout, p.cmd.Stderr = &p.stdout, &p.stderr
		if prog.stdin != nil {
			p.cmd.Stdin = prog.stdin
		}
		if prog.stderr != nil {
			p.cmd.Stderr = prog.stderr
		}
	}
	if err := p.cmd.Start(); err != nil {
		if !prog.host && errors.Is(err, syscall.EPERM) {
			strict.Skip(t, "no permission to make a PID namespace: %v", err)
		}
		t.Fatal(err)
	}
	p.pid = p.cmd.Process.Pid
	go func() { // ends when the program does, which the cleanup sees to
		_ = p.cmd.Wait() // the exit code is in ProcessState
		close(p.exited)
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.exited
	})
	return p
}

func (prog program) command(t testing.TB) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(prog.args[0])
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "GORACE=atexit_sleep_ms=0") // else a child built with -race takes 1 s to exit
	env = append(env, prog.env...)
	if prog.host {
		cmd := exec.Command(path, prog.args[1:]...)
		cmd.Env, cmd.SysProcAttr = append(env, "E2E_CHILD="+prog.child), &syscall.SysProcAttr{}
		return cmd
	}
	how, err := json.Marshal(stub{Proc: true, Under: prog.under, Path: path, Child: prog.child, Closed: prog.closed,
		Ignored: prog.ignored, Blocked: prog.blocked, Nofile: prog.nofile})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t), prog.args...)
	cmd.Env = append(env, "E2E_CHILD="+stubName, "E2E_STUB="+string(how))
	cmd.ExtraFiles = prog.files
	cmd.WaitDelay = patience // for whoever keeps its stdout open; in a namespace nobody can
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	return cmd
}

// signal sends a signal to the program.
func (p *process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := syscall.Kill(p.self(), sig); err != nil {
		p.t.Fatalf("cannot send %v: %v", sig, err)
	}
}

// self returns the PID of the program itself, seen from the test, once it runs.
func (p *process) self() (pid int) {
	p.t.Helper()
	if p.cmd.Args[0] != self(p.t) { // a program on the host: no stub before it
		return p.pid
	}
	eventually(p.t, "the program runs", func() (any, bool) {
		pid = p.pid
		if p.under {
			pid = firstChild(p.pid)
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err, err == nil && len(env) > 0 && !strings.Contains(string(env), "E2E_CHILD="+stubName)
	})
	return pid
}

// wait returns the exit code of the program, 128+n for a signal.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.t.Fatalf("%q has not exited within %v\nstdout: %s\nstderr: %s\nprocesses: %v",
			p.cmd.Args, patience, p.stdout.String(), p.stderr.String(), p.list())
	}
	status := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// run is start and wait, for a program that ends by itself.
func run(t testing.TB, prog program) (p *process, code int) {
	t.Helper()
	p = start(t, prog)
	return p, p.wait()
}

// A stub is what stands between a test and the program: it prepares what
// exec(2) hands on, and then becomes the program, with the same PID.
type stub struct {
	Proc, Under      bool
	Path, Child      string
	Closed           []int
	Ignored, Blocked []syscall.Signal
	Nofile           uint64
}

var stubName = child("stub", func([]string) int {
	var s stub
	if err := json.Unmarshal([]byte(os.Getenv("E2E_STUB")), &s); err != nil {
		return stubFailed(err)
	}
	if s.Proc {
		if err := mountProc(); err != nil {
			return stubFailed(err)
		}
	}
	if s.Under {
		return s.above()
	}
	return stubFailed(s.become())
})

func stubFailed(err error) int {
	fmt.Fprintln(os.Stderr, "stub:", err)
	return 98
}

func mountProc() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("proc", "/proc", "proc", 0, "")
}

// above runs the program as a child, and reaps nobody else.
func (s stub) above() int {
	s.Proc, s.Under = false, false
	how, err := json.Marshal(s)
	if err != nil {
		return stubFailed(err)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), "E2E_STUB="+string(how))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTSTP, syscall.SIGTTOU) // on a terminal these are for the program
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		status := exit.Sys().(syscall.WaitStatus)
		if status.Signaled() {
			return 128 + int(status.Signal())
		}
		return status.ExitStatus()
	}
	if err != nil {
		return stubFailed(err)
	}
	return 0
}

func (s stub) become() error {
	runtime.LockOSThread() // the mask that exec hands on is this thread's
	env := []string{}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "E2E_CHILD=") && !strings.HasPrefix(v, "E2E_STUB=") {
			env = append(env, v)
		}
	}
	if s.Child != "" {
		env = append(env, "E2E_CHILD="+s.Child)
	}
	if s.Nofile > 0 {
		limit := unix.Rlimit{Cur: s.Nofile, Max: 4 * s.Nofile}
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
			return err
		}
	}
	for _, fd := range s.Closed {
		_ = syscall.Close(fd)
	}
	for _, sig := range signal1to64 {
		setDisposition(sig, false)
	}
	for _, sig := range s.Ignored {
		setDisposition(sig, true)
	}
	block(s.Blocked...)
	return syscall.Exec(s.Path, os.Args[1:], env)
}

// block blocks signals in this thread, which must be locked, and no others.
func block(sigs ...syscall.Signal) {
	var mask unix.Sigset_t
	for _, sig := range sigs {
		mask.Val[0] |= 1 << (sig - 1)
	}
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil)
}

var signal1to64 = func() (all []syscall.Signal) {
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		all = append(all, sig)
	}
	return all
}()

// setDisposition goes round the Go runtime, which would not touch all of them.
func setDisposition(sig syscall.Signal, ignore bool) {
	var action [4]uintptr // the kernel's struct sigaction: handler, flags, restorer, mask
	if ignore {
		action[0] = 1 // SIG_IGN
	}
	_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

package harness

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

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/internal/testkit/strict"
)

// A Program is what a test runs, and how. By default it runs as PID 1 of a PID
// namespace of its own with a /proc that belongs to it, so that everything ends
// with it.
type Program struct {
	Args  []string // the command, looked up in PATH, and its arguments
	Env   []string // in addition to the test's
	Child string   // what the test binary plays, if the program is, or starts, that
	Under bool     // it is a child of the namespace's PID 1, not PID 1 itself
	Host  bool     // no namespace at all (docker's client, for one)

	Stdin  *os.File   // nil: /dev/null
	Stderr *os.File   // nil: Process.Stderr collects it
	TTY    *PTY       // its controlling terminal, and 0, 1 and 2
	Files  []*os.File // its descriptors from 3 on

	// What it finds at its start.
	Closed           []int
	Ignored, Blocked []syscall.Signal
	Nofile           uint64 // the soft limit of descriptors, if not 0
}

// A Process is a program that runs.
type Process struct {
	T      testing.TB
	Cmd    *exec.Cmd
	PID    int // seen from the test; with Program.Under that of the PID 1 above it
	under  bool
	Exited chan struct{} // closed when it has ended

	Stdout, Stderr testkit.Output // empty if it has a terminal
}

// Start starts a program. It is killed at the end of the test, and with it
// whatever it started.
func Start(t testing.TB, prog Program) *Process {
	t.Helper()
	p := &Process{T: t, under: prog.Under, Exited: make(chan struct{})}
	p.Cmd = prog.command(t)
	if prog.TTY != nil {
		p.Cmd.Stdin, p.Cmd.Stdout, p.Cmd.Stderr = prog.TTY.slave, prog.TTY.slave, prog.TTY.slave
		p.Cmd.SysProcAttr.Setsid, p.Cmd.SysProcAttr.Setctty = true, true
	} else {
		p.Cmd.Stdout, p.Cmd.Stderr = &p.Stdout, &p.Stderr
		if prog.Stdin != nil {
			p.Cmd.Stdin = prog.Stdin
		}
		if prog.Stderr != nil {
			p.Cmd.Stderr = prog.Stderr
		}
	}
	if err := p.Cmd.Start(); err != nil {
		if !prog.Host && errors.Is(err, syscall.EPERM) {
			strict.Skip(t, "no permission to make a PID namespace: %v", err)
		}
		t.Fatal(err)
	}
	p.PID = p.Cmd.Process.Pid
	go func() { // ends when the program does; the cleanup kills that and waits
		_ = p.Cmd.Wait() // the exit code is in ProcessState
		close(p.Exited)
	}()
	t.Cleanup(func() {
		_ = p.Cmd.Process.Kill()
		<-p.Exited
	})
	return p
}

func (prog Program) command(t testing.TB) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath(prog.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "GORACE=atexit_sleep_ms=0") // without it a child with the race detector takes 1 s to exit
	env = append(env, prog.Env...)
	if prog.Host {
		cmd := exec.Command(path, prog.Args[1:]...)
		cmd.Env, cmd.SysProcAttr = append(env, "TEST_CHILD="+prog.Child), &syscall.SysProcAttr{}
		return cmd
	}
	how, err := json.Marshal(stub{Proc: true, Under: prog.Under, Path: path, Child: prog.Child, Closed: prog.Closed,
		Ignored: prog.Ignored, Blocked: prog.Blocked, Nofile: prog.Nofile})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(Self(t), prog.Args...)
	cmd.Env = append(env, "TEST_CHILD="+stubName, "E2E_STUB="+string(how))
	cmd.ExtraFiles = prog.Files
	cmd.WaitDelay = testkit.Patience // for a process that keeps its stdout open, which none in a namespace can
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	return cmd
}

// Signal sends a signal to the program.
func (p *Process) Signal(sig syscall.Signal) {
	p.T.Helper()
	if err := syscall.Kill(p.Self(), sig); err != nil {
		p.T.Fatalf("cannot send %v: %v", sig, err)
	}
}

// StopNow sends SIGINT until the program says that it kills the workers, or that
// nothing is left to wait for. The same signal twice within a moment counts once.
func (p *Process) StopNow() {
	p.T.Helper()
	pid := p.Self()
	testkit.Eventually(p.T, "it stops at once", func() (any, bool) {
		_ = syscall.Kill(pid, syscall.SIGINT) // it may be gone, but is not waited for yet
		text := p.Stderr.String()
		return text, strings.Contains(text, "killing the workers now") || strings.Contains(text, "no longer waiting for clients") || strings.Contains(text, "killing it")
	})
}

// Self returns the PID of the program itself, seen from the test, once it runs.
func (p *Process) Self() (pid int) {
	p.T.Helper()
	if p.Cmd.Args[0] != Self(p.T) { // a program on the host: no stub before it
		return p.PID
	}
	testkit.Eventually(p.T, "the program runs", func() (any, bool) {
		pid = p.PID
		if p.under {
			pid = FirstChild(p.PID)
		}
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		return err, err == nil && len(env) > 0 && !strings.Contains(string(env), "TEST_CHILD="+stubName)
	})
	return pid
}

// Wait returns the exit code of the program, 128+n for a signal.
func (p *Process) Wait() int {
	p.T.Helper()
	select {
	case <-p.Exited:
	case <-time.After(testkit.Patience):
		p.T.Fatalf("%q has not exited within %v\nstdout: %s\nstderr: %s\nprocesses: %v",
			p.Cmd.Args, testkit.Patience, p.Stdout.String(), p.Stderr.String(), p.List())
	}
	status := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// Run is Start and Wait, for a program that ends by itself.
func Run(t testing.TB, prog Program) (p *Process, code int) {
	t.Helper()
	p = Start(t, prog)
	return p, p.Wait()
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

var stubName = Child("stub", func([]string) int {
	var s stub
	if err := json.Unmarshal([]byte(os.Getenv("E2E_STUB")), &s); err != nil {
		return Failed(err)
	}
	if s.Proc {
		if err := mountProc(); err != nil {
			return Failed(err)
		}
	}
	if s.Under {
		return s.above()
	}
	return Failed(s.become())
})

// Failed prints why a child cannot do what it is for, and returns its exit code.
func Failed(err error) int {
	fmt.Fprintln(os.Stderr, "stub:", err)
	return 98
}

func mountProc() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	return unix.Mount("proc", "/proc", "proc", 0, "")
}

// above runs the program as a child, and reaps no other process.
func (s stub) above() int {
	s.Proc, s.Under = false, false
	how, err := json.Marshal(s)
	if err != nil {
		return Failed(err)
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
		return Failed(err)
	}
	return 0
}

func (s stub) become() error {
	runtime.LockOSThread() // the mask that exec hands on is this thread's
	env := []string{}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TEST_CHILD=") && !strings.HasPrefix(v, "E2E_STUB=") {
			env = append(env, v)
		}
	}
	if s.Child != "" {
		env = append(env, "TEST_CHILD="+s.Child)
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
	for _, sig := range AllSignals {
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

// AllSignals are 1 to 64.
var AllSignals = func() (all []syscall.Signal) {
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

// BlockedChild is a process that blocks every signal: what it was sent stays
// pending, where the test can read it, and nothing is lost in a handler.
var BlockedChild = Child("blocked", func([]string) int {
	return BecomeBlocked()
})

// BecomeBlocked does not return: the process becomes one that blocks every signal.
func BecomeBlocked() int {
	path, err := exec.LookPath("sleep")
	if err != nil {
		return Failed(err)
	}
	runtime.LockOSThread()
	for _, sig := range AllSignals {
		setDisposition(sig, false)
	}
	block(AllSignals...)
	return Failed(syscall.Exec(path, []string{"blocked", "1000000"}, nil))
}

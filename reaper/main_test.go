package reaper

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// children are what the test binary plays.
var children = testkit.Children{
	"exit":    func(args []string) int { return number(args[0]) },
	"hidden":  childHidden,
	"die":     childDie,
	"burn":    childBurn,
	"block":   childBlock,
	"zombies": childZombies,
	"leader":  childLeader,
	"mover":   childMover,
	"leaver":  childLeaver,
	"heir":    childHeir,
	"nobody":  childNobodyReaps,
	"parent":  childParent,
	"handed":  childHanded,
	"fresh":   childFresh,
	"sealed":  childSealed,
	"fds":     childFDs,
	"lender":  childLender,
	"tty":     childTTY,
}

func TestMain(m *testing.M) { os.Exit(children.Main(m)) }

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// failed is the exit code of a child that could not do what it is for.
func failed(what string, err error) int {
	fmt.Fprintln(os.Stderr, what+":", err)
	return 99
}

// play returns what starts the test binary as one of its children.
func play(name string, args ...string) *Spec {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	env := append(withoutChild(), testkit.ChildEnv(name)...)
	return &Spec{Args: append([]string{self}, args...), Env: env,
		Files: []uintptr{0, 1, 2}, NewGroup: true}
}

func withoutChild() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, testkit.ChildVariable+"=") {
			env = append(env, v)
		}
	}
	return env
}

func childDie(args []string) int {
	sig := syscall.Signal(number(args[0]))
	rtSigaction(sig, &sigaction{}, nil)
	_ = syscall.Kill(os.Getpid(), sig)
	return childBlock(nil) // the signal may take a moment
}

// childBurn uses a little CPU, for rusage.
func childBurn([]string) int {
	var usage syscall.Rusage
	for usage.Utime.Usec+usage.Stime.Usec < 30_000 && usage.Utime.Sec == 0 {
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &usage)
	}
	return 0
}

func childBlock([]string) int {
	for {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}

// fork makes a process without an exec, which is cheap enough to make
// thousands. It exits at once, or stays until it is killed.
//
//go:norace
//go:noinline
func fork(stay bool) (pid int) {
	got, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if got != 0 {
		return int(got)
	}
	for stay {
		_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 7, 0, 0)
	return 0
}

// childZombies leaves a number of dead children behind that it never waited for: they
// all become the test's at once.
func childZombies(args []string) int {
	runtime.LockOSThread()
	for range number(args[0]) {
		if fork(false) < 0 {
			return failed("fork", syscall.EAGAIN)
		}
	}
	return 0
}

// childLeader ends and leaves a child in its group.
func childLeader([]string) int {
	if fork(true) < 0 {
		return failed("fork", syscall.EAGAIN)
	}
	return 3
}

// childNobodyReaps is the control: a subreaper that does not wait. It returns
// how many of three orphans stay zombies.
func childNobodyReaps([]string) int {
	if err := BecomeSubreaper(); err != nil {
		return failed("subreaper", err)
	}
	spec := play("zombies", "3")
	pid, err := syscall.ForkExec(spec.Args[0], spec.Args, &syscall.ProcAttr{Env: spec.Env, Files: spec.Files})
	if err != nil {
		return failed("fork", err)
	}
	if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil { // this one only
		return failed("wait", err)
	}
	for deadline := time.Now().Add(testkit.Patience); zombiesOf(os.Getpid()) < 3 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // until they have ended
	}
	time.Sleep(200 * time.Millisecond) // what is to be seen is that nothing happens
	return zombiesOf(os.Getpid())
}

func zombiesOf(parent int) (n int) {
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && isZombieOf(pid, parent) {
			n++
		}
	}
	return n
}

func isZombieOf(pid, parent int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, fmt.Sprintf("Z %d ", parent))
}

// childParent starts one that shall die with it, and says its PID.
func childParent([]string) int {
	r, err := New(nil)
	if err != nil {
		return failed("new", err)
	}
	spec := play("block")
	spec.DeathSignal = syscall.SIGKILL
	p, err := r.Start(spec)
	if err != nil {
		return failed("start", err)
	}
	fmt.Println(p.PID())
	return childBlock(nil)
}

// handedOn is what childHanded ignores: with those that Go programs handle
// themselves, those that they do not touch.
var handedOn = []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM, syscall.SIGCHLD, syscall.SIGPIPE,
	syscall.SIGCONT, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, 32, 33, 34, 64}

// childHanded becomes childFresh with ignored and blocked signals, and a small
// limit of open files.
func childHanded([]string) int {
	runtime.LockOSThread()
	for _, sig := range handedOn {
		rtSigaction(sig, &sigaction{handler: sigIgnore}, nil)
	}
	mask := unix.Sigset_t{}
	mask.Val[0] = 1<<(syscall.SIGTERM-1) | 1<<(syscall.SIGUSR1-1)
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &mask, nil); err != nil {
		return failed("mask", err)
	}
	if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 123, Max: 456}, nil); err != nil {
		return failed("limit", err)
	}
	spec := play("fresh")
	return failed("exec", syscall.Exec(spec.Args[0], spec.Args, spec.Env))
}

// childFresh shows what its first child is started with.
func childFresh([]string) int {
	r, err := New(nil)
	if err != nil {
		return failed("new", err)
	}
	defer r.Close()
	p, err := r.Start(&Spec{Args: []string{"cat", "/proc/self/status", "/proc/self/limits"},
		Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		return failed("start", err)
	}
	<-p.Exited()
	return p.Exit().Status()
}

// childSealed has a descriptor too many when it starts childFDs.
func childSealed([]string) int {
	if err := unix.Dup2(1, 77); err != nil {
		return failed("dup", err)
	}
	SealFiles()
	r, err := New(nil)
	if err != nil {
		return failed("new", err)
	}
	defer r.Close()
	spec := play("fds")
	spec.Files = []uintptr{0, 1, 2, 1}
	p, err := r.Start(spec)
	if err != nil {
		return failed("start", err)
	}
	<-p.Exited()
	return p.Exit().Status()
}

// childFDs says what it was given. What the Go runtime has opened since (its
// epoll) is close-on-exec, so it was not.
func childFDs([]string) int {
	var open []int
	for fd := range 1024 {
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			open = append(open, fd)
		}
	}
	fmt.Println(open)
	return 0
}

// childLender lends its terminal to childTTY, and says whose the foreground
// was before, meanwhile and after.
func childLender([]string) int {
	terminal := OpenTerminal()
	if terminal == nil {
		return failed("terminal", os.ErrNotExist)
	}
	r := NewPlain(nil)
	defer r.Close()
	spec := play("tty")
	spec.Terminal = terminal
	p, err := r.Start(spec)
	if err != nil {
		return failed("start", err)
	}
	fmt.Println("meanwhile the child's:", terminal.foreground() == p.PID())
	<-p.Gone()
	fmt.Println("after it ours:", terminal.foreground() == unix.Getpgrp())
	terminal.Close()
	return p.Exit().Status()
}

// childTTY must have the foreground from its first moment. It reads a line,
// which from the background would stop it.
func childTTY([]string) int {
	foreground, err := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	if err != nil {
		return failed("foreground", err)
	}
	fmt.Println("at once the child's:", foreground == os.Getpid())
	_, _ = os.Stdin.Read(make([]byte, 100))
	return 5
}

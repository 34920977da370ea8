// Package spawn starts a program with vfork(2) and execve(2), with full control over
// what the child is between the two.
//
// syscall.ForkExec gives a child the signal mask of the thread that forks, so that
// thread would have to take signals which the program has not asked for yet, and lose
// them; and it resets every signal that the Go runtime handles, so a signal that was
// ignored cannot stay so. Here all signals are blocked in the parent until the child
// has become the program, and the child gets the mask and the ignored signals that
// Attr says.
//
// The child shares the memory of the parent, whose thread waits. So it must not run
// Go code: the parent writes down the system calls that the child will make as a list
// of steps, and a few lines of assembly make them one after the other. A step that
// fails ends the child, and its name is in the error.
package spawn

import (
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An Attr says what the program finds. Files are as in syscall.ProcAttr, but none may
// be closed.
type Attr struct {
	Dir              string // its working directory; "": the parent's
	Env              []string
	Files            []uintptr
	NewGroup         bool // it leads a process group of its own
	Foreground       bool // its group becomes the foreground of Terminal
	Terminal         int  // a descriptor
	Credential       *syscall.Credential
	DeathSignal      syscall.Signal  // what it gets when the thread that forks ends; 0: nothing
	Blocked, Ignored uint64          // sets of signals: bit n-1 is signal n
	Nofile           *syscall.Rlimit // nil: unchanged
}

// An Error is a system call, other than execve, that failed in the child.
type Error struct {
	Call string
	Err  syscall.Errno
}

func (e *Error) Error() string { return e.Call + ": " + e.Err.Error() }

// Unwrap returns the error number.
func (e *Error) Unwrap() error { return e.Err }

// A step is a system call that the child makes. The assembly knows its layout.
//
//lint:ignore U1000 assembly has e, for system calls with five arguments
type step struct {
	number, a, b, c, d, e uintptr
	kind                  uintptr
	x                     uintptr
}

// The kinds of steps.
const (
	must  = 0 // ends the child if it fails
	may   = 1 // may fail
	store = 2 // must not fail, and its result is stored at x
	equal = 3 // ends the child unless its result is x
)

// A plan is what a child does. Its memory must stay where it is until vfork returns.
type plan struct {
	steps []step
	names []string
	keep  []any // what the steps point to
}

func (p *plan) add(name string, s step) {
	p.steps = append(p.steps, s)
	p.names = append(p.names, name)
}

// failure is what a child says when a step fails. It is written to a pipe, so that it
// arrives even where vfork does not share memory, as under an emulator.
type failure struct {
	step, errno uintptr
}

// Start starts the program at a path. The error is a syscall.Errno if the kernel
// cannot execute it, and an Error if what Attr asks for failed. The calling goroutine
// must be locked to its thread, and the caller must keep the child from being waited
// for until Start returns.
func Start(path string, args []string, attr *Attr) (pid int, err error) {
	p, err := newPlan(path, args, attr)
	if err != nil {
		return 0, err
	}
	syscall.ForkLock.Lock() // no other start may inherit the pipe
	defer syscall.ForkLock.Unlock()
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return 0, err
	}
	defer unix.Close(pipe[0])
	// Above the child's descriptors, where no step overwrites it.
	write, err := unix.FcntlInt(uintptr(pipe[1]), unix.F_DUPFD_CLOEXEC, attr.above())
	unix.Close(pipe[1])
	if err != nil {
		return 0, err
	}
	r := p.vfork(uintptr(write))
	unix.Close(write)
	if r < 0 {
		return 0, syscall.Errno(-r)
	}
	return r, p.result(r, pipe[0])
}

// above returns the lowest number that is above the descriptors which the steps use.
func (a *Attr) above() int {
	n := len(a.Files)
	for _, fd := range a.Files {
		n = max(n, int(fd)+1)
	}
	return n + len(a.Files)
}

// vfork makes the child with all signals blocked, and returns its PID or a negative
// error number.
func (p *plan) vfork(pipe uintptr) int {
	all, old := ^uint64(0), uint64(0)
	if err := sigprocmask(&all, &old); err != 0 {
		return -int(err)
	}
	pid := vfork(&p.steps[0], uintptr(len(p.steps)), pipe, new(failure))
	runtime.KeepAlive(p)
	sigprocmask(&old, nil)
	return int(pid)
}

// result returns the child's failure, after having waited for it, or nil if it has
// become the program: then its end of the pipe is closed.
func (p *plan) result(pid, pipe int) error {
	var f failure
	text := unsafe.Slice((*byte)(unsafe.Pointer(&f)), unsafe.Sizeof(f))
	n, err := unix.Read(pipe, text)
	for err == unix.EINTR {
		n, err = unix.Read(pipe, text)
	}
	if err == nil && n == 0 {
		return nil
	}
	for err = unix.EINTR; err == unix.EINTR; {
		_, err = unix.Wait4(pid, nil, 0, nil)
	}
	switch name := "vfork"; {
	case n != len(text):
		return &Error{name, syscall.EPIPE}
	case f.step == uintptr(len(p.steps)-1):
		return syscall.Errno(f.errno)
	default:
		return &Error{p.names[f.step], syscall.Errno(f.errno)}
	}
}

// newPlan writes down what the child does. The order is that of syscall.ForkExec:
// the death signal after the user, because a change of user clears it.
func newPlan(path string, args []string, attr *Attr) (*plan, error) {
	p := new(plan)
	p.signals(attr)
	p.group(attr)
	p.user(attr.Credential)
	if err := p.dir(attr.Dir); err != nil {
		return nil, err
	}
	if attr.DeathSignal != 0 {
		p.add("prctl(PR_SET_PDEATHSIG)", step{number: unix.SYS_PRCTL, a: unix.PR_SET_PDEATHSIG, b: uintptr(attr.DeathSignal)})
		p.add("getppid", step{number: unix.SYS_GETPPID, kind: equal, x: uintptr(unix.Getpid())}) // the parent may be dead already
	}
	p.files(attr)
	if attr.Nofile != nil {
		p.keep = append(p.keep, attr.Nofile)
		p.add("prlimit64", step{number: unix.SYS_PRLIMIT64, b: unix.RLIMIT_NOFILE, c: uintptr(unsafe.Pointer(attr.Nofile)), kind: may})
	}
	mask := new(uint64)
	*mask = attr.Blocked
	p.keep = append(p.keep, mask)
	p.add("rt_sigprocmask", step{number: unix.SYS_RT_SIGPROCMASK, a: unix.SIG_SETMASK, b: uintptr(unsafe.Pointer(mask)), d: sigsetSize})
	return p, p.exec(path, args, attr.Env)
}

const (
	sigsetSize = 8 // the kernel's, in bytes
	lastSignal = 64
)

// sigaction is the kernel's struct on 64-bit machines.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

// signals gives every signal its default, or has it ignored. All of them: a handler of
// the parent must not run in the child.
func (p *plan) signals(attr *Attr) {
	byDefault, ignore := new(sigaction), &sigaction{handler: 1}
	p.keep = append(p.keep, byDefault, ignore)
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if sig == syscall.SIGKILL || sig == syscall.SIGSTOP {
			continue
		}
		action := byDefault
		if attr.Ignored&(1<<(sig-1)) != 0 {
			action = ignore
		}
		p.add("rt_sigaction", step{number: unix.SYS_RT_SIGACTION, a: uintptr(sig), b: uintptr(unsafe.Pointer(action)), d: sigsetSize})
	}
}

// group makes the child the leader of a group, and that the foreground. Signals are
// still blocked: the kernel sends SIGTTOU for the latter.
func (p *plan) group(attr *Attr) {
	if attr.NewGroup || attr.Foreground {
		p.add("setpgid", step{number: unix.SYS_SETPGID})
	}
	if attr.Foreground {
		pid := new(uintptr)
		p.keep = append(p.keep, pid)
		at := uintptr(unsafe.Pointer(pid))
		p.add("getpid", step{number: unix.SYS_GETPID, kind: store, x: at})
		p.add("ioctl(TIOCSPGRP)", step{number: unix.SYS_IOCTL, a: uintptr(attr.Terminal), b: unix.TIOCSPGRP, c: at})
	}
}

func (p *plan) user(cred *syscall.Credential) {
	if cred == nil {
		return
	}
	if !cred.NoSetGroups {
		groups := uintptr(0)
		if len(cred.Groups) > 0 {
			p.keep = append(p.keep, cred.Groups)
			groups = uintptr(unsafe.Pointer(&cred.Groups[0]))
		}
		p.add("setgroups", step{number: unix.SYS_SETGROUPS, a: uintptr(len(cred.Groups)), b: groups})
	}
	p.add("setgid("+strconv.Itoa(int(cred.Gid))+")", step{number: unix.SYS_SETGID, a: uintptr(cred.Gid)})
	p.add("setuid("+strconv.Itoa(int(cred.Uid))+")", step{number: unix.SYS_SETUID, a: uintptr(cred.Uid)})
}

// dir is for after the user: the directory must be the user's to enter.
func (p *plan) dir(path string) error {
	if path == "" {
		return nil
	}
	at, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	p.keep = append(p.keep, at)
	p.add("chdir", step{number: unix.SYS_CHDIR, a: uintptr(unsafe.Pointer(at))})
	return nil
}

// files moves the descriptors to 0, 1, 2 and so on: first those out of the way that
// would be overwritten, then all to their places.
func (p *plan) files(attr *Attr) {
	files := append([]uintptr(nil), attr.Files...)
	next := uintptr(attr.above() - len(files))
	for i, fd := range files {
		if fd < uintptr(i) {
			p.add("dup3", step{number: unix.SYS_DUP3, a: fd, b: next, c: unix.O_CLOEXEC})
			files[i] = next
			next++
		}
	}
	for i, fd := range files {
		if fd == uintptr(i) { // dup3 would refuse this
			p.add("fcntl(F_SETFD)", step{number: unix.SYS_FCNTL, a: fd, b: unix.F_SETFD})
			continue
		}
		p.add("dup3", step{number: unix.SYS_DUP3, a: fd, b: uintptr(i)})
	}
	for i := len(files); i < 3; i++ {
		p.add("close", step{number: unix.SYS_CLOSE, a: uintptr(i), kind: may})
	}
}

// exec is the last step.
func (p *plan) exec(path string, args, env []string) error {
	file, err := syscall.BytePtrFromString(path)
	if err != nil {
		return err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return err
	}
	envp, err := syscall.SlicePtrFromStrings(env)
	if err != nil {
		return err
	}
	p.keep = append(p.keep, file, argv, envp)
	p.add("execve", step{number: unix.SYS_EXECVE, a: uintptr(unsafe.Pointer(file)),
		b: uintptr(unsafe.Pointer(&argv[0])), c: uintptr(unsafe.Pointer(&envp[0]))})
	return nil
}

func sigprocmask(set, old *uint64) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK,
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), sigsetSize, 0, 0)
	return errno
}

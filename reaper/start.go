package reaper

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Spec says which program to start, and how.
type Spec struct {
	Args []string // the program, looked up as execvp(3) does, and its arguments
	Env  []string // "NAME=value"; nil: none
	Dir  string   // its working directory, to which Args[0] and PATH are relative too; "": this program's

	// Files become its descriptors 0, 1, 2 and so on. All other descriptors of
	// this program that are marked close-on-exec are closed in it.
	Files []uintptr

	NewGroup    bool           // it leads a process group of its own
	DeathSignal syscall.Signal // what the kernel sends it when this program dies; 0: nothing
	Credential  *syscall.Credential
	Terminal    *Terminal // whose foreground it gets when that is free; needs NewGroup
}

// A startRequest goes to the thread that forks.
type startRequest struct {
	spec  *Spec
	reply chan<- startReply
}

type startReply struct {
	p   *Process
	err error
}

// Start starts a program. Its signal mask is empty, the signals that Go programs
// handle have their defaults, and RLIMIT_NOFILE is what this program was given.
//
// The error is fs.ErrNotExist if there is no such program, fs.ErrPermission if it
// may not be executed, or another error of the kernel. ExitCode turns it into the
// exit code of a shell.
func (r *Reaper) Start(spec *Spec) (*Process, error) {
	reply := make(chan startReply, 1) // 1: the thread that forks never waits for the caller
	select {
	case r.starts <- startRequest{spec, reply}:
	case <-r.closing:
		return nil, os.ErrClosed
	}
	got := <-reply
	return got.p, got.err
}

// startLoop forks, always on the same thread: PR_SET_PDEATHSIG means the death of
// the thread that forked, not of the process. The thread lives until Close.
func (r *Reaper) startLoop() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	var none unix.Sigset_t
	// A child gets the signal mask of the thread that forked it.
	maskErr := unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil)
	for {
		select {
		case req := <-r.starts:
			p, err := r.start(req.spec)
			if maskErr != nil && err == nil {
				err = maskErr
			}
			req.reply <- startReply{p, err}
		case <-r.closing:
			return
		}
	}
}

func (r *Reaper) start(spec *Spec) (p *Process, err error) {
	if err := LookDir(spec.Dir); err != nil {
		return nil, err
	}
	err = try(spec.Args, spec.Env, spec.Dir, func(path string, args []string) (err error) {
		p, err = r.fork(path, args, spec)
		return err
	})
	return p, err
}

func (r *Reaper) fork(path string, args []string, spec *Spec) (*Process, error) {
	attr := &syscall.ProcAttr{Dir: spec.Dir, Env: spec.Env, Files: spec.Files, Sys: &syscall.SysProcAttr{
		Setpgid:    spec.NewGroup,
		Pdeathsig:  spec.DeathSignal,
		Credential: spec.Credential,
	}}
	lend := spec.Terminal.free()
	if lend {
		// The child takes the foreground itself between fork and exec, so that it
		// never runs in the background.
		attr.Sys.Foreground, attr.Sys.Ctty = true, spec.Terminal.fd
	}
	// The mutex is held during the fork: a child that dies at once is not reaped
	// before it is registered.
	r.mu.Lock()
	defer r.mu.Unlock()
	// Not os.StartProcess: that makes a pidfd, which is not needed, and forks a
	// child of its own to find out whether it can.
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return nil, err
	}
	p := r.register(pid, spec)
	if p.terminal != nil {
		p.terminal.started(p, lend)
	}
	return p, nil
}

// register makes a Process of a child that was forked under the mutex, which is
// still held. If the number is registered already, the kernel has given it to this
// child because the group of the earlier process became empty without a SIGCHLD.
func (r *Reaper) register(pid int, spec *Spec) *Process {
	if old := r.procs[pid]; old != nil {
		delete(r.procs, pid)
		r.lingering--
		close(old.gone)
	}
	p := &Process{
		r: r, pid: pid, ownGroup: spec.NewGroup, terminal: spec.Terminal, floor: ownPeak(),
		done: make(chan struct{}), gone: make(chan struct{}),
	}
	r.procs[pid] = p
	return p
}

// ownPeak is the most memory that this program ever had, in bytes. The kernel counts
// it as each child's own.
func ownPeak() uint64 {
	var usage unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return uint64(usage.Maxrss) << 10
}

// SealFiles marks every descriptor from 3 on close-on-exec: descriptors that this
// program has inherited by accident must not reach its children.
func SealFiles() {
	if unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	// Before Linux 5.11 there is no such flag.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return
	}
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// sigaction is the kernel's struct on 64-bit machines, not libc's.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	sigIgnore  = 1 // SIG_IGN
	lastSignal = 64
)

// resetIgnored gives every signal its default back that was ignored when this
// program was started. exec passes that on: a child that does not know would
// ignore Ctrl-Z, say, all its life.
//
// The Go runtime does it only for the signals that it handles itself, and leaves
// HUP and INT alone until the program asks for them. Signals that it handles are
// not touched here.
func resetIgnored() {
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if sig == syscall.SIGKILL || sig == syscall.SIGSTOP {
			continue
		}
		var is, byDefault sigaction
		if rtSigaction(sig, nil, &is) && is.handler == sigIgnore {
			rtSigaction(sig, &byDefault, nil)
		}
	}
}

func rtSigaction(sig syscall.Signal, set, old *sigaction) bool {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(set.mask), 0, 0)
	return errno == 0
}

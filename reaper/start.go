package reaper

import (
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/entry"
	"github.com/poolinit/poolinit/reaper/spawn"
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

	// KeepSignals gives it the blocked and ignored signals that this program was given
	// itself, where they are known: see package entry. Otherwise none is blocked or
	// ignored.
	KeepSignals bool
}

// A startRequest goes to the thread that forks.
type startRequest struct {
	spec    *Spec
	prepare func() error // is called in place of a start; or nil
	reply   chan<- startReply
}

type startReply struct {
	p   *Process
	err error
}

// Start starts a program. Unless KeepSignals says otherwise, its signal mask is empty
// and all signals have their defaults. RLIMIT_NOFILE is what this program was given.
//
// The error is fs.ErrNotExist if there is no such program, fs.ErrPermission if it
// may not be executed, or another error of the kernel. ExitCode turns it into the
// exit code of a shell.
func (r *Reaper) Start(spec *Spec) (*Process, error) {
	// On a disk that hangs, the caller hangs here. The thread that forks would hang with
	// the mutex held, and with it all that this program does.
	_ = Look(spec.Args, spec.Env, spec.Dir)
	reply := make(chan startReply, 1) // 1: the thread that forks never waits for the caller
	select {
	case r.starts <- startRequest{spec: spec, reply: reply}:
	case <-r.closing:
		return nil, os.ErrClosed
	}
	got := <-reply
	return got.p, got.err
}

// Confine takes from all programs that are started from now on what they could gain
// privileges by: set-user-ID programs and file capabilities have no effect
// (no_new_privs), and the bounding set of capabilities is empty. It is for programs
// that are started as another user, and leaves this program as it is.
//
// The error says what could not be done. For the bounding set that needs
// CAP_SETPCAP; no_new_privs needs nothing.
func (r *Reaper) Confine() error {
	reply := make(chan startReply, 1) // 1: the thread that forks never waits for the caller
	select {
	case r.starts <- startRequest{prepare: confineThread, reply: reply}:
	case <-r.closing:
		return nil
	}
	return (<-reply).err
}

// startLoop forks, always on the same thread: PR_SET_PDEATHSIG means the death of
// the thread that forked, not of the process. The thread lives until Close.
func (r *Reaper) startLoop() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	var maskErr error
	if _, known := given(); !known {
		// syscall.ForkExec gives a child the signal mask of the thread.
		var none unix.Sigset_t
		maskErr = unix.PthreadSigmask(unix.SIG_SETMASK, &none, nil)
	}
	for {
		select {
		case req := <-r.starts:
			if req.prepare != nil {
				req.reply <- startReply{err: req.prepare()}
				continue
			}
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

// given returns what this program was given at exec. It reports whether that is known,
// so that it can be given to children: then they are started by package spawn, and by
// syscall.ForkExec otherwise.
func given() (s entry.State, ok bool) {
	s, ok = entry.AtExec()
	return s, ok && spawn.Works
}

func (r *Reaper) fork(path string, args []string, spec *Spec) (*Process, error) {
	spec = r.refused.possible(spec)
	// A child that lends the foreground takes it itself between fork and exec, so that
	// it never runs in the background.
	lend := spec.Terminal.free()
	// The mutex is held during the fork: a child that dies at once is not reaped
	// before it is registered.
	r.mu.Lock()
	defer r.mu.Unlock()
	if spec.Credential != nil && isHidden() {
		defer func() { _ = HideMemory() }() // it has worked before
	}
	var pid int
	var err error
	if s, known := given(); known {
		pid, err = spawn.Start(path, args, spec.spawnAttr(&s, lend))
	} else {
		// Not os.StartProcess: that makes a pidfd, which is not needed, and forks a
		// child of its own to find out whether it can.
		pid, err = syscall.ForkExec(path, args, spec.procAttr(lend))
	}
	if err != nil {
		return nil, err
	}
	p := r.register(pid, spec)
	if p.terminal != nil {
		p.terminal.started(p, lend)
	}
	return p, nil
}

func (s *Spec) spawnAttr(given *entry.State, lend bool) *spawn.Attr {
	attr := &spawn.Attr{
		Dir: s.Dir, Env: s.Env, Files: s.Files, NewGroup: s.NewGroup, Foreground: lend,
		Credential: s.Credential, DeathSignal: s.DeathSignal, Nofile: &given.Nofile,
	}
	if lend {
		attr.Terminal = s.Terminal.fd
	}
	if s.KeepSignals {
		attr.Blocked, attr.Ignored = given.Blocked, given.Ignored
	}
	return attr
}

func (s *Spec) procAttr(lend bool) *syscall.ProcAttr {
	attr := &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Files: s.Files, Sys: &syscall.SysProcAttr{
		Setpgid:    s.NewGroup,
		Pdeathsig:  s.DeathSignal,
		Credential: s.Credential,
	}}
	if lend {
		attr.Sys.Foreground, attr.Sys.Ctty = true, s.Terminal.fd
	}
	return attr
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

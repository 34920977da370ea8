package reaper

import (
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Spec says what to start, and how.
type Spec struct {
	Args []string // the program, looked up as execvp(3) does, and its arguments
	Env  []string // "NAME=value"; nil: none

	// Files become its descriptors 0, 1, 2 and so on. Everything else that
	// this program has open and marked close-on-exec is closed in it.
	Files []uintptr

	NewGroup    bool           // it leads a process group of its own
	DeathSignal syscall.Signal // what the kernel sends it when this program dies; 0: nothing
	Credential  *syscall.Credential
	Terminal    *Terminal // whose foreground it gets, when that is free; needs NewGroup
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

// Start starts a program. Its signal mask is empty, the signals that Go
// programs handle have their defaults, and RLIMIT_NOFILE is what this program
// was given.
//
// The error is fs.ErrNotExist if there is no such program, fs.ErrPermission if
// it may not be executed, or another reason of the kernel's; ExitCode turns it
// into what a shell would exit with.
func (r *Reaper) Start(spec *Spec) (*Process, error) {
	reply := make(chan startReply, 1) // 1: the forking thread never waits for the caller
	select {
	case r.starts <- startRequest{spec, reply}:
	case <-r.closing:
		return nil, os.ErrClosed
	}
	got := <-reply
	return got.p, got.err
}

// startLoop forks, always on the same thread: PR_SET_PDEATHSIG means the death
// of the thread that forked, not of the process. The thread lives until Close.
func (r *Reaper) startLoop() {
	runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
	var none unix.Sigset_t
	// A child gets the mask of the thread that forked it.
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
	err = try(spec.Args, spec.Env, func(path string, args []string) (err error) {
		p, err = r.fork(path, args, spec)
		return err
	})
	return p, err
}

func (r *Reaper) fork(path string, args []string, spec *Spec) (*Process, error) {
	attr := &syscall.ProcAttr{Env: spec.Env, Files: spec.Files, Sys: &syscall.SysProcAttr{
		Setpgid:    spec.NewGroup,
		Pdeathsig:  spec.DeathSignal,
		Credential: spec.Credential,
	}}
	p := &Process{r: r, ownGroup: spec.NewGroup, terminal: spec.Terminal, done: make(chan struct{}), gone: make(chan struct{})}
	lent := spec.Terminal.give()
	if lent {
		attr.Sys.Foreground, attr.Sys.Ctty = true, spec.Terminal.fd
	}
	// The mutex is held over the fork: a child that dies at once is not reaped before it is known.
	r.mu.Lock()
	defer r.mu.Unlock()
	// Not os.StartProcess: it makes a pidfd that nobody needs, and forks a child of its own to see whether it can.
	pid, err := syscall.ForkExec(path, args, attr)
	if err != nil {
		return nil, err
	}
	p.pid = pid
	r.forget(pid)
	r.procs[pid] = p
	if p.terminal != nil {
		p.terminal.started(p, lent)
	}
	return p, nil
}

// forget drops a process whose number the kernel has given to another: its
// group ended without a word, which happens when its last member was somebody
// else's child.
func (r *Reaper) forget(pid int) {
	if old := r.procs[pid]; old != nil {
		delete(r.procs, pid)
		r.lingering--
		close(old.gone)
	}
}

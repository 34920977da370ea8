package reaper

import (
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// A Process is a child that Start has started. Its methods may be called from
// any goroutine at any time.
type Process struct {
	r        *Reaper
	pid      int
	ownGroup bool
	terminal *Terminal // that it may have the foreground of, or nil

	floor uint64 // a Maxrss up to this many bytes is not the process's own
	peak  uint64 // its memory at most, in bytes, when it was last signalled; guarded by the reaper's mutex

	done chan struct{} // closed when it has been reaped
	gone chan struct{} // closed when its group is empty as well
	exit Exit          // set before done is closed
}

// PID returns its PID, which is also the number of its group if it was started
// with one of its own.
func (p *Process) PID() int { return p.pid }

// Exited returns a channel that is closed when the process has been reaped.
// Other processes of its group may still be alive.
func (p *Process) Exited() <-chan struct{} { return p.done }

// Gone returns a channel that is closed when the process has been reaped and its
// group is empty. A zombie in the group whose parent does not wait for it can
// delay that for ever, so the caller sets a time limit.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Exit returns how the process ended. Exited must have been closed.
func (p *Process) Exit() Exit { return p.exit }

// Exiting reports whether the process has begun to end, or has ended. The kernel
// closes the files of a process some time before it reports its end, up to a
// second on a busy machine. So a closed socket does not say whether its owner goes
// on, but Exiting does.
//
// Where /proc cannot be read, only a process that was reaped counts as ended. A
// child has its directory in /proc until it is reaped, so "no such file" means
// that /proc is missing or that hidepid hides processes of other users. It says
// nothing about the child.
func (p *Process) Exiting() bool {
	if p.exited() {
		return true
	}
	stat, err := proc.StatOf(p.pid)
	if err != nil {
		return p.exited() // it may have been reaped meanwhile
	}
	return stat.Exiting()
}

// Signal sends a signal to the process alone. The error is os.ErrProcessDone if
// it has been reaped.
func (p *Process) Signal(sig syscall.Signal) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.exited() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.pid, sig)
}

// SetOOMScoreAdj sets how much the OOM killer prefers the process, and what it
// starts from now on. It does nothing if the process has been reaped.
func (p *Process) SetOOMScoreAdj(adj int) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.exited() {
		return nil
	}
	return proc.SetOOMScoreAdj(p.pid, adj)
}

// SignalGroup sends a signal to every process of its group, also after the
// process itself has ended, and to the process if it has moved to another group.
// The error is os.ErrProcessDone if the group is empty.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	if !p.ownGroup {
		return p.Signal(sig)
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.r.procs[p.pid] != p {
		return os.ErrProcessDone
	}
	if p.exited() {
		// First: another process that has the number by now must not get the signal.
		if p.r.checkGone(p); p.r.procs[p.pid] != p {
			return os.ErrProcessDone
		}
		return syscall.Kill(-p.pid, sig)
	}
	if peak, err := proc.Peak(p.pid); err == nil { // the kernel forgets it when the process ends
		p.peak = peak
	}
	err := syscall.Kill(-p.pid, sig)
	if p.moved() {
		return syscall.Kill(p.pid, sig) // its first group may be empty, or has got the signal
	}
	return err
}

// moved reports whether the process has left the group that it was started with:
// for one of a job of its own, or for its parent's. Other processes in that group
// are not known, so that group is never signalled. The process must not have been
// reaped.
func (p *Process) moved() bool {
	pgid, err := unix.Getpgid(p.pid)
	return err == nil && pgid != p.pid
}

func (p *Process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// An Exit is how a process ended.
type Exit struct {
	Code   int            // what it passed to exit(2), if Signal is 0
	Signal syscall.Signal // the signal that killed it, or 0
	Core   bool           // whether it left a core dump
	Rusage syscall.Rusage // of the process and the children that it waited for; see Peak for Maxrss
	Peak   uint64         // the most memory that it ever had, in bytes; 0: not known
	At     time.Time      // when it was reaped
}

func newExit(status syscall.WaitStatus, usage *syscall.Rusage) Exit {
	e := Exit{Rusage: *usage, At: time.Now()}
	if status.Signaled() {
		e.Signal, e.Core = status.Signal(), status.CoreDump()
	} else {
		e.Code = status.ExitStatus()
	}
	return e
}

// notePeak sets Peak. The kernel counts from the fork on, so that a process that is
// smaller than this program shows this program's memory.
func (e *Exit) notePeak(floor, seen uint64) {
	if e.Peak = seen; uint64(e.Rusage.Maxrss)<<10 > floor {
		e.Peak = uint64(e.Rusage.Maxrss) << 10
	}
}

// Status returns the exit code as shells write it: 128+n for signal n.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

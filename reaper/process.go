package reaper

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// A Process is a child that was started by Start. Its methods may be called
// from any goroutine at any time.
type Process struct {
	r        *Reaper
	pid      int
	ownGroup bool
	terminal *Terminal // whose foreground it was given, or nil

	done chan struct{} // closed when it has been reaped
	gone chan struct{} // closed when its group is empty as well
	exit Exit          // set before done is closed
}

// PID returns its PID, which is also its group's number if it was started with
// one of its own.
func (p *Process) PID() int { return p.pid }

// Exited returns a channel that is closed when the process has been reaped.
// Others of its group may still live.
func (p *Process) Exited() <-chan struct{} { return p.done }

// Gone returns a channel that is closed when the process has been reaped and
// nobody is left in its group. A zombie in the group whose parent does not wait
// for it can delay the news for ever: who waits sets a time limit.
func (p *Process) Gone() <-chan struct{} { return p.gone }

// Exit returns how it ended. Exited must have been closed.
func (p *Process) Exit() Exit { return p.exit }

// Signal sends a signal to the process alone. The error is
// os.ErrProcessDone if it has been reaped.
func (p *Process) Signal(sig syscall.Signal) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.exited() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.pid, sig)
}

// SignalGroup sends a signal to every process of its group, also after the
// process itself has ended, and to the process if it has moved to another group.
// The error is os.ErrProcessDone if nobody is left.
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
		if p.r.checkGone(p); p.r.procs[p.pid] != p { // or a stranger with its number would get the signal
			return os.ErrProcessDone
		}
		return syscall.Kill(-p.pid, sig)
	}
	err := syscall.Kill(-p.pid, sig)
	if p.moved() {
		return syscall.Kill(p.pid, sig) // its old group may be empty, or has heard it
	}
	return err
}

// moved reports whether the process is in another group than that it was started
// with: a job of its own, or its parent's. Who else is there is not known, so
// that group is never signalled. It must not have been reaped.
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

// Exiting reports whether the process has begun to end, or has ended. The kernel
// closes what a process has open some time before it tells of its end, a second
// if the machine has much to do: a socket that was closed does not tell by
// itself whether its owner goes on.
//
// Where /proc cannot be read the process has ended only when it was reaped. A
// child has its directory until then, so "no such file" means that there is no
// /proc, or that hidepid hides processes of other users: it says nothing about
// the child.
func (p *Process) Exiting() bool {
	if p.exited() {
		return true
	}
	stat, err := proc.StatOf(p.pid)
	if err != nil {
		return p.exited() // it may have been reaped just now
	}
	return stat.Exiting()
}

package reaper

import (
	"os"
	"syscall"
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
// nobody is left in its group. A member of the group that another process
// waits for can delay the news for ever: who waits sets a time limit.
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
// process itself has ended. The error is os.ErrProcessDone if nobody is left.
func (p *Process) SignalGroup(sig syscall.Signal) error {
	if !p.ownGroup {
		return p.Signal(sig)
	}
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.r.procs[p.pid] != p {
		return os.ErrProcessDone
	}
	err := syscall.Kill(-p.pid, sig)
	if err == syscall.ESRCH && p.exited() {
		p.r.checkGone(p)
		return os.ErrProcessDone
	}
	return err
}

func (p *Process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// Package reaper is the only place that waits for processes, starts them and
// signals them.
//
// Two waiters in one process steal each other's statuses, whatever they use
// (wait4(-1) takes any child; a pidfd does not protect its process from it).
// So there is one wait loop, and everybody else hears of an exit from it. For
// the same reason nothing in poolinit uses os/exec.
//
// A PID may be used again once it has been waited for, so starting, signalling
// and waiting happen under one mutex: a signal is sent only to what is
// registered, and what is registered has not been waited for.
//
// The package knows nothing of pools.
package reaper

import (
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Reaper owns the children of this program: those it started and those that
// it inherited. There must be one in a program. Its methods may be called from
// any goroutine.
type Reaper struct {
	onOrphan func(pid int, exit Exit)
	sigchld  chan os.Signal
	starts   chan startRequest
	closing  chan struct{}
	loops    sync.WaitGroup

	orphans atomic.Uint64

	mu        sync.Mutex
	procs     map[int]*Process // by PID, from its start until its group is gone
	lingering int              // how many of procs have exited themselves
}

// New takes over the children of this program: it begins to wait for them and,
// if it is not PID 1, makes itself their subreaper, so that orphans come here.
// onOrphan, if not nil, is told of each orphan that was reaped; it must not
// block, and must not call the Reaper.
//
// Close ends it.
func New(onOrphan func(pid int, exit Exit)) (*Reaper, error) {
	if os.Getpid() != 1 {
		if err := BecomeSubreaper(); err != nil {
			return nil, err
		}
	}
	return newReaper(onOrphan), nil
}

// NewPlain is New for a program that decides itself whether it is a subreaper.
func NewPlain(onOrphan func(pid int, exit Exit)) *Reaper { return newReaper(onOrphan) }

// BecomeSubreaper makes orphans among this program's descendants children of
// this program, as they are for PID 1.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become a child subreaper: %w", err)
	}
	return nil
}

// IsSubreaper reports whether this program is a child subreaper; a program
// that was started by one is not.
func IsSubreaper() bool {
	var is int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0)
	return err == nil && is == 1
}

func newReaper(onOrphan func(pid int, exit Exit)) *Reaper {
	resetIgnored()
	r := &Reaper{
		onOrphan: onOrphan,
		sigchld:  make(chan os.Signal, 1), // 1: a drop is the coalescing that SIGCHLD does anyway
		starts:   make(chan startRequest),
		closing:  make(chan struct{}),
		procs:    make(map[int]*Process),
	}
	signal.Notify(r.sigchld, syscall.SIGCHLD)
	r.loops.Go(r.reapLoop)
	r.loops.Go(r.startLoop)
	return r
}

// Close ends the wait loop. Processes that still run get SIGKILL from the
// kernel if they were started to die with their parent.
func (r *Reaper) Close() {
	signal.Stop(r.sigchld)
	close(r.closing)
	r.loops.Wait()
}

// Stats counts what a Reaper did.
type Stats struct {
	Orphans uint64 // processes reaped that this program did not start
}

// Stats returns the counts.
func (r *Reaper) Stats() Stats { return Stats{Orphans: r.orphans.Load()} }

// lingerTick is how often groups are looked at that have outlived their leader, at first;
// lingerMost when nothing has happened for long. For so long a group may be empty without our knowing.
const (
	lingerTick = 50 * time.Millisecond
	lingerMost = 8 * lingerTick
)

func (r *Reaper) reapLoop() {
	var look <-chan time.Time // nil when nobody lingers: an idle pool never wakes up
	pause := lingerTick
	// Children that ended before SIGCHLD was asked for have sent theirs: look once first.
	for {
		for r.reapOne() {
		}
		switch {
		case !r.anyLingers():
			look = nil
		case look == nil:
			look = time.After(pause)
		}
		select {
		case <-r.sigchld:
			if pause > lingerTick { // only then: a stream of them must not put the look off
				look, pause = nil, lingerTick
			}
		case <-look:
			look, pause = nil, min(2*pause, lingerMost)
			r.checkLingering()
		case <-r.closing:
			return
		}
	}
}

func (r *Reaper) anyLingers() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lingering > 0
}

// checkLingering looks at each group that has outlived its leader. There is no
// SIGCHLD when its last member is reaped by another process, or leaves it.
func (r *Reaper) checkLingering() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.procs {
		if p.exited() {
			r.checkGone(p)
		}
	}
}

// reapOne looks for a child that has something to say and deals with it. It
// reports whether there was one.
//
// It peeks first: while the zombie is there, its PID and its group cannot be
// anybody else's. The mutex is held from the look to the wait, but only for
// one child, so that a storm of orphans leaves room for starts and signals.
func (r *Reaper) reapOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	child, ok := peek()
	if !ok {
		return false
	}
	pid := int(child.pid)
	if child.code == cldStopped {
		consumeStop(pid)
		if p := r.procs[pid]; p != nil && p.terminal != nil {
			p.terminal.childStopped(p, syscall.Signal(child.status))
		}
		return true
	}
	var group *Process
	if r.lingering > 0 {
		group = r.groupOf(pid)
	}
	var status syscall.WaitStatus
	var exit Exit
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, &exit.Rusage)
	if got != pid || err != nil {
		return false // it was traced, or its thread group still ends: its next SIGCHLD tells
	}
	exit.take(status)
	if p := r.procs[pid]; p != nil && !p.exited() {
		r.leaderExited(p, exit)
		return true
	}
	r.orphans.Add(1)
	if group != nil {
		r.checkGone(group)
	}
	if r.onOrphan != nil {
		r.onOrphan(pid, exit)
	}
	return true
}

// groupOf returns the process whose group a zombie is in, if the leader of
// that group has already exited.
func (r *Reaper) groupOf(pid int) *Process {
	pgid, err := unix.Getpgid(pid)
	if err != nil {
		return nil
	}
	if p := r.procs[pgid]; p != nil && p.exited() {
		return p
	}
	return nil
}

func (r *Reaper) leaderExited(p *Process, exit Exit) {
	p.exit = exit
	r.lingering++
	r.checkGone(p) // first: who hears of its end may ask at once whether somebody is left
	close(p.done)
}

// checkGone drops p, which has been reaped, if nobody is left in its group. As
// long as somebody is, the kernel gives the number to no other process or group: a
// process that has it shows that the group has ended, and that this is another's.
func (r *Reaper) checkGone(p *Process) {
	if p.ownGroup && syscall.Kill(-p.pid, 0) != syscall.ESRCH && syscall.Kill(p.pid, 0) == syscall.ESRCH {
		return
	}
	r.lingering--
	delete(r.procs, p.pid)
	if p.terminal != nil {
		p.terminal.takeBack(p.pid)
	}
	close(p.gone)
}

// An Exit is how a process ended.
type Exit struct {
	Code   int            // what it passed to exit(2), if Signal is 0
	Signal syscall.Signal // what killed it, or 0
	Core   bool           // whether it left a core dump
	Rusage syscall.Rusage // of the process and the children that it waited for
	At     time.Time      // when it was reaped
}

func (e *Exit) take(status syscall.WaitStatus) {
	e.At = time.Now()
	if status.Signaled() {
		e.Signal, e.Core = status.Signal(), status.CoreDump()
		return
	}
	e.Code = status.ExitStatus()
}

// Status returns the exit code as shells write it: 128+n for signal n.
func (e Exit) Status() int {
	if e.Signal != 0 {
		return 128 + int(e.Signal)
	}
	return e.Code
}

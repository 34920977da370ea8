package reaper

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// foregroundTick is how often the foreground is checked for a child that was
// stopped because it did not have it: the kernel does not report when it is free.
const foregroundTick = 200 * time.Millisecond

// A Terminal is the controlling terminal of this program. Its foreground is lent
// to one child at a time: Ctrl-C, Ctrl-Z and window sizes then go to the child, as
// if this program were not there.
//
// A nil Terminal lends nothing.
type Terminal struct {
	fd  int
	own int // this program's process group

	mu        sync.Mutex // may be taken under the reaper's, but not the other way round
	holder    *Process   // the child that has the foreground, or nil
	next      *Process   // a child that asked for it meanwhile, and gets it next; or nil
	nextWaits bool       // next is stopped until it has the foreground
	retry     *time.Timer
}

// OpenTerminal returns the controlling terminal, or nil if there is none or if its
// foreground is not this program's to lend, because a shell runs this program in
// the background.
func OpenTerminal() *Terminal {
	fd, err := unix.Open("/dev/tty", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
	if err != nil {
		return nil
	}
	t := &Terminal{fd: fd, own: unix.Getpgrp()}
	if t.foreground() != t.own {
		unix.Close(fd)
		return nil
	}
	return t
}

func (t *Terminal) foreground() int {
	pgrp, err := unix.IoctlGetInt(t.fd, unix.TIOCGPGRP)
	if err != nil {
		return -1
	}
	return pgrp
}

// free reports whether the foreground may be lent now: this program has it, or a
// holder that has ended, or, where no shell would take it, a group that has no
// living member.
func (t *Terminal) free() bool {
	if t == nil {
		return false
	}
	group := t.foreground()
	return group == t.own || t.holderEnded(group) || !hasShellAbove(t.own) && isGroupDead(group)
}

// holderEnded reports whether the holder leads this group and has ended. Its group
// may still have members.
func (t *Terminal) holderEnded(pgid int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holder != nil && t.holder.pid == pgid && t.holder.exited()
}

// started is called for each new child that the terminal is for. A child that
// could not have the foreground, because the child that it replaces has it, gets
// it next.
func (t *Terminal) started(p *Process, lent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case lent:
		t.holder = p
	case t.holder != nil:
		t.next, t.nextWaits = p, false
	}
}

// lend gives the foreground to a child that runs already.
func (t *Terminal) lend(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lendLocked(p)
}

func (t *Terminal) lendLocked(p *Process) {
	t.set(p.pid)
	t.holder = p
	if t.next == p {
		t.next = nil
	}
}

// takeBack is called for each child whose group is gone. If that child had the
// foreground, the next one gets it, otherwise this program's group: without that,
// Ctrl-C between two processes of a worker would reach no process at all.
func (t *Terminal) takeBack(pgid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next != nil && t.next.pid == pgid {
		t.next = nil
	}
	if t.holder == nil || t.holder.pid != pgid {
		return
	}
	t.holder = nil
	// A child that was a shell may have left the foreground with one of its jobs.
	// Only a PID 1 knows that no other program may claim it.
	ours := os.Getpid() == 1 || t.foreground() == pgid
	if ours {
		t.set(t.own) // first: the next child may be in a group that cannot have it
	}
	t.handOver(ours)
}

// handOver continues the next child, if it was stopped, with the foreground if
// that is ours. If it is not, the child stops again, and childStopped handles that.
func (t *Terminal) handOver(ours bool) {
	p := t.next
	t.next = nil
	if p == nil || p.exited() {
		return
	}
	if ours {
		t.lendLocked(p)
	}
	if t.nextWaits {
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	}
}

// Close gives the foreground back to this program's group, for the shell that
// started it.
func (t *Terminal) Close() {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retry != nil {
		t.retry.Stop()
	}
	if p := t.holder; p != nil && (os.Getpid() == 1 || t.foreground() == p.pid) {
		t.set(t.own)
	}
	t.holder, t.next = nil, nil
	unix.Close(t.fd)
}

// set changes the foreground group. The kernel sends SIGTTOU to a background
// process that does this, unless the thread blocks it.
func (t *Terminal) set(pgid int) {
	restore, err := BlockSignals(syscall.SIGTTOU)
	if err != nil {
		return
	}
	defer restore()
	_ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, pgid) // fails if the terminal has hung up
}

// childStopped acts when a child that the terminal is for was stopped. Where a
// shell is above this program, this program stops with its child, as a job of the
// shell, and both go on together. Where there is no shell, nothing could continue
// the child, and the kernel would not have let Ctrl-Z stop it (its group would be
// orphaned), so it is continued. A child that was stopped because it lacks the
// foreground is continued only when it can have it: it would stop again at once,
// for ever.
//
// The reaper's mutex is held: p cannot go away.
func (t *Terminal) childStopped(p *Process, sig syscall.Signal) {
	wants := sig == syscall.SIGTTIN || sig == syscall.SIGTTOU
	switch {
	case !wants && sig != syscall.SIGTSTP:
		// kill -STOP: continuing it is left to the process that sent it
	case wants && t.free():
		t.lend(p)
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	case wants && t.waitsForHolder(p):
		// takeBack continues it
	case hasShellAbove(t.own):
		t.stopWith(p)
	case wants && t.foreground() != p.pid:
		t.lookAgain(p, sig)
	default:
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	}
}

// waitsForHolder makes a stopped child the next one if another child has the
// foreground, and reports whether it did.
func (t *Terminal) waitsForHolder(p *Process) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == nil || t.holder == p || t.holder.exited() {
		return false
	}
	t.next, t.nextWaits = p, true
	return true
}

// stopWith stops this program until the shell continues it, and then continues the
// child. kill(2) may return before this thread is stopped, so it waits for the
// SIGCONT itself: what it saw of the foreground before that would be out of date,
// and it would take the foreground from the shell.
func (t *Terminal) stopWith(p *Process) {
	if t.foreground() == p.pid { // in the background it is the shell's already
		t.set(t.own)
	}
	continued := make(chan os.Signal, 1) // 1: the first is enough
	signal.Notify(continued, syscall.SIGCONT)
	if syscall.Kill(0, syscall.SIGSTOP) == nil {
		<-continued
	}
	signal.Stop(continued)
	if t.foreground() == t.own { // by the shell's fg, not bg
		t.lend(p)
	}
	_ = syscall.Kill(-p.pid, syscall.SIGCONT)
}

// lookAgain repeats childStopped after a while, unless another process has
// continued the child: if it stops once more, the kernel reports that.
func (t *Terminal) lookAgain(p *Process, sig syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.retry != nil {
		t.retry.Stop()
	}
	t.retry = time.AfterFunc(foregroundTick, func() {
		p.r.mu.Lock()
		defer p.r.mu.Unlock()
		if p.r.procs[p.pid] == p && !p.exited() && !consumeContinue(p.pid) {
			t.childStopped(p, sig)
		}
	})
}

// hasShellAbove reports whether a shell in this session could continue this
// program's group. An entrypoint script that does not exec leads the session, and
// the group is the script's: then there is none.
func hasShellAbove(group int) bool {
	sid, err := unix.Getsid(0)
	if os.Getpid() == 1 || err == nil && sid == group {
		return false
	}
	parent := os.Getppid()
	for {
		if parent <= 0 { // outside of the PID namespace, or not known
			return false
		}
		pgid, err := unix.Getpgid(parent)
		if err != nil || pgid != group {
			break
		}
		stat, _ := proc.StatOf(parent) // not known: its Parent is 0
		parent = stat.Parent
	}
	parentSID, err := unix.Getsid(parent)
	return err == nil && parentSID == sid
}

// isGroupDead reports whether a group has no living member. Zombies do not count:
// the parent that would wait for them may be stopped. A group of which /proc shows
// no process counts as alive, because /proc may hide its members.
func isGroupDead(group int) bool {
	if group <= 1 || syscall.Kill(-group, 0) == syscall.ESRCH {
		return group > 1
	}
	if stat, _ := proc.StatOf(group); stat.Alive() { // the leader: most often there is no other
		return false
	}
	pids, _ := proc.PIDs() // without /proc there are none
	zombies := 0
	for _, pid := range pids {
		stat, _ := proc.StatOf(pid)
		if stat.Group != group {
			continue
		}
		if stat.Alive() {
			return false
		}
		zombies++
	}
	return zombies > 0
}

// BlockSignals blocks signals on the thread of the calling goroutine, which it
// ties to that thread, until restore is called.
//
// A process in the background that writes to its terminal, or changes it, gets a
// SIGTTOU, which stops it. A thread that blocks SIGTTOU may write. A PID 1 needs
// that for every write to a terminal whose foreground it has lent: it is not
// stopped, but the write fails, or the Go runtime restarts it for ever.
func BlockSignals(sigs ...syscall.Signal) (restore func(), err error) {
	runtime.LockOSThread()
	var set, old unix.Sigset_t
	for _, sig := range sigs {
		set.Val[0] |= 1 << (uint(sig) - 1)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil) // a mask that was valid is valid
		runtime.UnlockOSThread()
	}, nil
}

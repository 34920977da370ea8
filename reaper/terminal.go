package reaper

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// foregroundTick is how often the foreground is looked at for a child that was
// stopped for want of it: nobody tells when it is free.
const foregroundTick = 200 * time.Millisecond

// A Terminal is the controlling terminal of this program, whose foreground is
// lent to one child at a time: Ctrl-C, Ctrl-Z and window sizes then go to the
// child, as if this program were not there.
//
// A nil Terminal lends nothing.
type Terminal struct {
	fd  int
	own int // this program's process group

	mu     sync.Mutex // the reaper's may be held, but is not taken under it
	holder *Process   // whom it is lent to, or nil
	heir   *Process   // who wanted it meanwhile, and gets it next; or nil
	wakes  bool       // the heir is stopped for want of it
	retry  *time.Timer
}

// OpenTerminal returns the controlling terminal, or nil if there is none or if
// its foreground is not this program's to lend (it runs in the background of a
// shell).
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

// give reports whether the foreground may be lent now. The child takes it
// itself between fork and exec, so that it never runs in the background.
func (t *Terminal) give() bool { return t != nil && t.free() }

// free reports whether the foreground is nobody's but this program's: also if who
// it was lent to has ended, or, where no shell would take it, if nobody lives in
// the group that has it.
func (t *Terminal) free() bool {
	fg := t.foreground()
	return fg == t.own || t.left(fg) || alone(t.own) && dead(fg)
}

// left reports whether the holder has ended, but not its group, which has the foreground.
func (t *Terminal) left(pgid int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holder != nil && t.holder.pid == pgid && t.holder.exited()
}

// started is told of each child that the terminal is for. One that could not have
// the foreground, as the one that it is to replace has it, is the heir.
func (t *Terminal) started(p *Process, lent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case lent:
		t.holder = p
	case t.holder != nil:
		t.heir, t.wakes = p, false
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
	if t.heir == p {
		t.heir = nil
	}
}

// takeBack is told of each child whose group is gone. If the foreground was lent
// to that, the heir gets it, or else this program's group: without that, a Ctrl-C
// between two lives of a worker would reach nobody.
func (t *Terminal) takeBack(pgid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heir != nil && t.heir.pid == pgid {
		t.heir = nil
	}
	if t.holder == nil || t.holder.pid != pgid {
		return
	}
	t.holder = nil
	// A child that was a shell may have left the foreground with a job of its own; only a
	// PID 1 knows that it is nobody else's.
	ours := os.Getpid() == 1 || t.foreground() == pgid
	if ours {
		t.set(t.own) // first: the heir may be in no group that can have it
	}
	t.handOver(ours)
}

// handOver continues the heir, if it was stopped, with the foreground if that is
// ours. Else it stops again, and is then looked after like any child.
func (t *Terminal) handOver(ours bool) {
	p := t.heir
	t.heir = nil
	if p == nil || p.exited() {
		return
	}
	if ours {
		t.lendLocked(p)
	}
	if t.wakes {
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	}
}

// Close gives the foreground back to this program's group, for the shell that
// it was started from.
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
	t.holder, t.heir = nil, nil
	unix.Close(t.fd)
}

// set changes the foreground group. The kernel stops a background process that
// tries, by SIGTTOU, unless that is blocked.
func (t *Terminal) set(pgid int) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var ttou, old unix.Sigset_t
	ttou.Val[0] = 1 << (uint(unix.SIGTTOU) - 1)
	if unix.PthreadSigmask(unix.SIG_BLOCK, &ttou, &old) != nil {
		return
	}
	_ = unix.IoctlSetPointerInt(t.fd, unix.TIOCSPGRP, pgid) // the terminal hung up: nothing to set
	_ = unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
}

// childStopped acts when a child that the terminal is for was stopped. Where a
// shell is above this program, it stops with its child, as a job of the shell, and
// both go on together. Where none is, nobody could continue the child and the
// kernel would not have let Ctrl-Z stop it (its group would be orphaned), so it
// goes on: but not before it can have the foreground if it was stopped for want of
// that, or it would stop again at once, for ever.
//
// The reaper's mutex is held: p cannot go away.
func (t *Terminal) childStopped(p *Process, sig syscall.Signal) {
	wants := sig == syscall.SIGTTIN || sig == syscall.SIGTTOU
	switch {
	case !wants && sig != syscall.SIGTSTP:
		// somebody's kill -STOP is theirs to undo
	case wants && t.free():
		t.lend(p)
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	case wants && t.inherits(p):
		// takeBack continues it
	case !alone(t.own):
		t.stopWith(p)
	case wants && t.foreground() != p.pid:
		t.lookAgain(p, sig)
	default:
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
	}
}

// inherits makes a child that was stopped the heir if another has the foreground.
func (t *Terminal) inherits(p *Process) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder == nil || t.holder == p || t.holder.exited() {
		return false
	}
	t.heir, t.wakes = p, true
	return true
}

// stopWith stops this program until the shell continues it, and then the child.
// kill(2) may return before this thread is stopped: who looks at the foreground
// then, and acts on it when continued, takes it from the shell.
func (t *Terminal) stopWith(p *Process) {
	if t.foreground() == p.pid { // in the background it is the shell's, and stays so
		t.set(t.own)
	}
	continued := make(chan os.Signal, 1) // 1: the first is enough
	signal.Notify(continued, syscall.SIGCONT)
	if syscall.Kill(0, syscall.SIGSTOP) == nil {
		<-continued
	}
	signal.Stop(continued)
	if t.foreground() == t.own { // by fg, not bg
		t.lend(p)
	}
	_ = syscall.Kill(-p.pid, syscall.SIGCONT)
}

// lookAgain does childStopped once more in a while, unless somebody else has
// continued the child: if it stops again, that is news.
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

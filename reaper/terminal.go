package reaper

import (
	"os"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Terminal is the controlling terminal of this program, whose foreground is
// lent to one child at a time: Ctrl-C, Ctrl-Z and window sizes then go to the
// child, as if this program were not there.
//
// A nil Terminal lends nothing.
type Terminal struct {
	fd     int
	own    int // this program's process group
	mu     sync.Mutex
	holder int // the group that it is lent to, or 0
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
func (t *Terminal) give() bool {
	return t != nil && t.foreground() == t.own
}

func (t *Terminal) given(pgid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.holder = pgid
}

// takeBack makes this program's group the foreground again if it was lent to pgid.
// Without that, a Ctrl-C between two lives of a worker would reach nobody.
func (t *Terminal) takeBack(pgid int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.holder != pgid {
		return
	}
	// A child that was a shell may have left the foreground with a job of its own; only a
	// PID 1 knows that it is nobody else's.
	if os.Getpid() == 1 || t.foreground() == pgid {
		t.set(t.own)
	}
	t.holder = 0
}

// Close gives the foreground back to this program's group, for the shell that
// it was started from.
func (t *Terminal) Close() {
	if t == nil {
		return
	}
	t.takeBack(t.holder)
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

// childStopped acts when the child in the foreground was stopped. A PID 1, or
// who else leads the session, has no shell above it that could continue it, and
// the kernel does not let Ctrl-Z stop it (its group is orphaned), so the child
// goes on. Else this program stops with its child, as a job of the shell, and
// both go on together.
//
// The reaper's mutex is held: p cannot go away.
func (t *Terminal) childStopped(p *Process, sig syscall.Signal) {
	if sig != syscall.SIGTSTP && sig != syscall.SIGTTIN && sig != syscall.SIGTTOU {
		return // somebody's kill -STOP is theirs to undo
	}
	if sid, err := unix.Getsid(0); os.Getpid() == 1 || err == nil && sid == os.Getpid() {
		_ = syscall.Kill(-p.pid, syscall.SIGCONT)
		return
	}
	t.set(t.own)
	_ = syscall.Kill(0, syscall.SIGSTOP) // returns when the shell continues us
	if t.foreground() == t.own {         // by fg, not bg
		t.set(p.pid)
	}
	_ = syscall.Kill(-p.pid, syscall.SIGCONT)
}

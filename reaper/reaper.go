package reaper

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/proc"
)

// A Reaper owns the children of this program: those that it started and those
// that it inherited. A program must not have two at a time. Its methods may be
// called from any goroutine.
type Reaper struct {
	onOrphan func(pid int, exit Exit)
	sigchld  chan os.Signal
	starts   chan startRequest
	closing  chan struct{}
	loops    sync.WaitGroup
	refused  refusals

	orphans atomic.Uint64

	mu        sync.Mutex
	procs     map[int]*Process // by PID, from its start until its group is gone
	lingering int              // how many of procs have exited and left a group
}

// New takes over the children of this program: it begins to wait for them and,
// if this program is not PID 1, makes it their subreaper, so that orphans come
// here. onOrphan, if not nil, is called for each orphan that was reaped. It must
// not block, and must not call the Reaper.
//
// It starts two goroutines, which end in Close.
func New(onOrphan func(pid int, exit Exit)) (*Reaper, error) {
	if os.Getpid() != 1 {
		if err := BecomeSubreaper(); err != nil {
			return nil, err
		}
	}
	return newReaper(onOrphan, findRefusals()), nil
}

// NewPlain is New for a program that decides for itself whether it is a subreaper.
func NewPlain(onOrphan func(pid int, exit Exit)) *Reaper { return newReaper(onOrphan, findRefusals()) }

// BecomeSubreaper makes orphans among this program's descendants children of
// this program, as they are for PID 1.
func BecomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot become a child subreaper: %w", err)
	}
	return nil
}

// IsSubreaper reports whether this program is a child subreaper. A child does not
// inherit that.
func IsSubreaper() bool {
	var is int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&is)), 0, 0, 0)
	return err == nil && is == 1
}

func newReaper(onOrphan func(pid int, exit Exit), refused refusals) *Reaper {
	resetIgnored()
	r := &Reaper{
		refused:  refused,
		onOrphan: onOrphan,
		sigchld:  make(chan os.Signal, 1), // 1: the kernel coalesces SIGCHLD anyway
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

// Stats counts the work of a Reaper.
type Stats struct {
	Orphans uint64 // processes reaped that this program did not start
}

// Stats returns the counts.
func (r *Reaper) Stats() Stats { return Stats{Orphans: r.orphans.Load()} }

// Adopted returns the processes that have begun at a time or later and became
// children of this program because their parents ended: daemons, for example. It
// leaves out what is still in the group of a Process. Where /proc cannot be read it
// returns none.
func (r *Reaper) Adopted(since time.Time) []Left {
	pids, _ := proc.PIDs()
	slices.Sort(pids)
	r.mu.Lock() // after that: what was forked before is registered now
	defer r.mu.Unlock()
	var adopted []Left
	for _, pid := range pids {
		stat, err := proc.StatOf(pid)
		if err != nil || stat.Parent != os.Getpid() || !stat.Alive() || r.procs[pid] != nil || r.procs[stat.Group] != nil {
			continue
		}
		if began, err := proc.Began(pid); err == nil && !began.Before(since) {
			adopted = append(adopted, Left{pid, proc.Name(pid)})
		}
	}
	return adopted
}

// Lacks returns which system calls this Reaper does without.
func (r *Reaper) Lacks() []Lack { return r.refused.lacks() }

// lingerTick is how often the loop looks at first at groups that have outlived
// their leader, and lingerMost how often when nothing has happened for long. For
// that time a group may be empty without this program knowing.
const (
	lingerTick = 50 * time.Millisecond
	lingerMost = 8 * lingerTick
)

// reapLoop is the only place that waits for children. It ends in Close.
func (r *Reaper) reapLoop() {
	var look <-chan time.Time // nil while there are no such groups: an idle pool never wakes up
	pause := lingerTick
	// Look once before the first SIGCHLD: a child may have ended before Notify.
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
			if pause > lingerTick { // only then: a stream of signals must not delay the look
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
// SIGCHLD when another process reaps its last member, or when that leaves it.
func (r *Reaper) checkLingering() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.procs {
		if p.exited() {
			r.checkGone(p)
		}
	}
}

// reapOne handles one child that has exited or stopped, and reports whether there
// was one.
//
// It peeks first: while the zombie is there, its PID and its group belong to no
// other process. The mutex is held from the look to the wait, but for one child
// only, so that a storm of orphans leaves room for starts and signals.
func (r *Reaper) reapOne() bool {
	if r.refused.waitid != nil {
		return r.reapBlindly()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	child, ok := peek()
	if !ok {
		return false
	}
	pid := int(child.pid)
	if child.code == cldStopped {
		consumeStop(pid)
		r.stopped(pid, syscall.Signal(child.status))
		return true
	}
	group := r.lingeringGroup(pid)
	var status syscall.WaitStatus
	var usage syscall.Rusage
	got, err := syscall.Wait4(pid, &status, syscall.WNOHANG, &usage)
	if got != pid || err != nil {
		return false // it is traced, or its other threads still end: another SIGCHLD follows
	}
	if !r.noteExit(pid, newExit(status, &usage)) && group != nil && !hasZombie(group.pid) { // checkGone has the kernel go through the whole group
		r.checkGone(group)
	}
	return true
}

// reapBlindly is reapOne where waitid is refused: a child cannot be looked at before
// it is reaped.
func (r *Reaper) reapBlindly() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	var usage syscall.Rusage
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG|syscall.WUNTRACED, &usage)
	switch {
	case err == syscall.EINTR:
		return true
	case err != nil || pid <= 0:
		return false
	case status.Stopped():
		r.stopped(pid, status.StopSignal())
		return true
	}
	if !r.noteExit(pid, newExit(status, &usage)) {
		for _, p := range r.procs { // the orphan may have been the last of any of these groups
			if p.exited() {
				r.checkGone(p)
			}
		}
	}
	return true
}

// stopped handles a child that was stopped. The caller holds mu.
func (r *Reaper) stopped(pid int, sig syscall.Signal) {
	if p := r.procs[pid]; p != nil && p.terminal != nil {
		p.terminal.childStopped(p, sig)
	}
}

// noteExit handles a child that has been reaped, and reports whether this program
// had started it. The caller holds mu.
func (r *Reaper) noteExit(pid int, exit Exit) (ours bool) {
	if p := r.procs[pid]; p != nil && !p.exited() {
		r.leaderExited(p, exit)
		return true
	}
	r.orphans.Add(1)
	if r.onOrphan != nil {
		r.onOrphan(pid, exit)
	}
	return false
}

// lingeringGroup returns the process whose group a zombie is in, if that process
// has exited already; otherwise nil.
func (r *Reaper) lingeringGroup(pid int) *Process {
	if r.lingering == 0 {
		return nil
	}
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
	exit.notePeak(p.floor, p.peak)
	p.exit = exit
	r.lingering++
	r.checkGone(p) // before done: a caller may ask at once whether the group is empty
	close(p.done)
}

// checkGone drops p, which has been reaped, if its group is empty. While the group
// has a member, the kernel gives its number to no other process or group. So a
// process with that number shows that the group has ended, and that the number
// belongs to another one now.
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

// EndRest ends every process that is left in the PID namespace: by SIGHUP, which an
// interactive shell obeys, and SIGTERM, and by SIGKILL after grace or as soon as
// hurried is done. It returns when none is left, except children of this program
// that have not ended yet: its caller has given those up. tell is called with the
// processes that get SIGTERM, or SIGKILL, unless they are all zombies. EndRest does
// nothing unless OwnsNamespace.
func (r *Reaper) EndRest(hurried context.Context, grace time.Duration, tell func(left []Left, sig syscall.Signal)) {
	ours := r.running()
	if !OwnsNamespace() || isAlone(ours) {
		return
	}
	tellOf(ours, unix.SIGTERM, tell)
	_ = unix.Kill(-1, unix.SIGHUP) // an error means that none is left
	_ = unix.Kill(-1, unix.SIGTERM)
	_ = unix.Kill(-1, unix.SIGCONT) // a stopped process cannot end
	if waitAlone(hurried, ours, grace) {
		return
	}
	tellOf(ours, unix.SIGKILL, tell)
	_ = unix.Kill(-1, unix.SIGKILL)
	waitAlone(context.Background(), ours, lastWait)
}

// running returns the children that have not ended.
func (r *Reaper) running() map[int]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	pids := make(map[int]bool)
	for pid, p := range r.procs {
		if !p.exited() {
			pids[pid] = true
		}
	}
	return pids
}

// childInfo is the part of siginfo_t that waitid fills in, as 64-bit kernels
// lay it out (include/uapi/asm-generic/siginfo.h).
type childInfo struct {
	signo, errno, code, _ int32
	pid                   int32
	uid                   uint32
	status                int32 // exit code or signal
	_                     [128 - 7*4]byte
}

const cldStopped = 5 // CLD_STOPPED: a child was stopped by a signal

// peek returns a child that has exited or stopped, and does not consume its
// state.
func peek() (childInfo, bool) {
	var info childInfo
	err := waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT)
	return info, err == 0 && info.pid != 0
}

// hasZombie reports whether a child in a group waits to be reaped. The kernel stops
// at the first one.
func hasZombie(pgid int) bool {
	var info childInfo
	err := waitid(unix.P_PGID, pgid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT)
	return err == 0 && info.pid != 0
}

// consumeStop consumes the report that a child was stopped. Without that, peek
// would return it for ever.
func consumeStop(pid int) {
	var info childInfo
	_ = waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOHANG) // it may have ended meanwhile
}

// consumeContinue reports whether a child that was stopped has been continued
// since, and consumes that report.
func consumeContinue(pid int) bool {
	var info childInfo
	err := waitid(unix.P_PID, pid, &info, unix.WCONTINUED|unix.WNOHANG)
	return err == 0 && info.pid != 0
}

func waitid(idType, id int, info *childInfo, options int) syscall.Errno {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_WAITID, uintptr(idType), uintptr(id),
			uintptr(unsafe.Pointer(info)), uintptr(options), 0, 0)
		if errno != unix.EINTR {
			return errno
		}
	}
}

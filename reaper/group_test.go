package reaper

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
)

// Tests of a group whose leader has ended, or has left it.

//go:norace
//go:noinline
func rawFork() int {
	pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	return int(pid)
}

// childMover leaves a child in its group, and joins that of another child, whose
// PID it prints.
func childMover([]string) int {
	runtime.LockOSThread()
	job := fork(true)
	if job < 0 || fork(true) < 0 {
		return failed("fork", syscall.EAGAIN)
	}
	if err := syscall.Setpgid(job, job); err != nil {
		return failed("setpgid of the child", err)
	}
	if err := syscall.Setpgid(0, job); err != nil {
		return failed("setpgid", err)
	}
	fmt.Println(job)
	return childBlock(nil)
}

// childLeaver ends and leaves a child in its group, which leaves it as soon as its
// parent has been reaped.
func childLeaver([]string) int {
	if forkLeaver(os.Getpid()) < 0 {
		return failed("fork", syscall.EAGAIN)
	}
	return 3
}

//go:norace
//go:noinline
func forkLeaver(parent int) int {
	if pid := rawFork(); pid != 0 {
		return pid
	}
	millisecond := [2]int64{0, 1e6}
	for reaped := syscall.Errno(0); reaped == 0; {
		ppoll(&millisecond)
		_, _, reaped = syscall.RawSyscall(unix.SYS_KILL, uintptr(parent), 0, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return 0
}

// childHeir ends and leaves a child in its group that is waited for by another
// process, which is of another session.
func childHeir([]string) int {
	heir := forkHeir()
	if heir < 0 {
		return failed("fork", syscall.EAGAIN)
	}
	for sid := 0; sid != heir; time.Sleep(time.Millisecond) { // between two looks
		sid, _ = unix.Getsid(heir)
	}
	return 3
}

//go:norace
//go:noinline
func forkHeir() int {
	if pid := rawFork(); pid != 0 {
		return pid
	}
	child := rawFork()
	for child == 0 {
		ppoll(nil)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	_, _, _ = syscall.RawSyscall6(unix.SYS_WAIT4, uintptr(child), 0, 0, 0, 0, 0)
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return 0
}

//go:norace
//go:noinline
func ppoll(limit *[2]int64) {
	_, _, _ = syscall.RawSyscall6(unix.SYS_PPOLL, 0, 0, uintptr(unsafe.Pointer(limit)), 0, 0, 0)
}

// SignalGroup reaches a process that has left its own group, and the processes that
// are still in that group. It does not reach the others of the group that the process
// is in now.
func TestLeaderLeavesItsGroup(t *testing.T) {
	r := newTest(t, nil)
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	spec := play("mover")
	spec.Files[1] = writing.Fd()
	p := start(t, r, spec)
	writing.Close()
	var job int
	if _, err := fmt.Fscan(reading, &job); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(job, syscall.SIGKILL) })
	if err := p.SignalGroup(syscall.SIGKILL); err != nil {
		t.Errorf("SignalGroup: %v", err)
	}
	testkit.Wait(t, "exit", p.Exited())
	testkit.Wait(t, "nobody left", p.Gone())
	if err := syscall.Kill(job, 0); err != nil || stateOf(job) == 'Z' {
		t.Errorf("the other group was signalled as well: %v", err)
	}
	expectEmpty(t, r)
}

// There is no signal when the last process leaves a group, or is reaped by another
// process. The Reaper notices it all the same.
func TestGroupEndsWithoutSignal(t *testing.T) {
	for name, end := range map[string]func(p *Process) error{
		"leaver": func(*Process) error { return nil },
		"heir":   func(p *Process) error { return p.SignalGroup(syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newTest(t, nil)
			p := start(t, r, play(name))
			testkit.Wait(t, "exit", p.Exited())
			if got := p.Exit().Status(); got != 3 {
				t.Fatalf("status %d", got)
			}
			if err := end(p); err != nil {
				t.Error(err)
			}
			testkit.Wait(t, "nobody left", p.Gone())
			expectEmpty(t, r)
		})
	}
}

// When the end of a process that was alone in its group is known, it is also known
// that the group is empty.
func TestGoneIsKnownAtTheEnd(t *testing.T) {
	r := newTest(t, nil)
	args := exits(t)
	for range scaled(1000) {
		p, err := r.Start(&Spec{Args: args(0), NewGroup: true})
		if err != nil {
			t.Fatal(err)
		}
		awaitZombie(p.PID())
		for !p.exited() {
			// Not a wait for the channel: that would be late. The reaper may need this CPU.
			runtime.Gosched()
			_, _, _ = syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		select {
		case <-p.Gone():
		default:
			t.Fatal("Exited before Gone, with nobody in its group")
		}
	}
}

// awaitZombie waits until a child has ended, and leaves it to the Reaper. To spin
// from the start would keep the signal from the Reaper for milliseconds.
func awaitZombie(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// The number of a group that ended without a signal may belong to another process at
// once. That process is not signalled.
func TestReusedNumberIsNotSignalled(t *testing.T) {
	r := newTest(t, nil)
	stranger := start(t, r, play("block"))
	old := &Process{r: r, pid: stranger.pid, ownGroup: true, done: make(chan struct{}), gone: make(chan struct{})}
	close(old.done)
	r.mu.Lock()
	r.procs[old.pid] = old
	r.lingering++
	r.mu.Unlock()
	if err := old.SignalGroup(syscall.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("SignalGroup: %v", err)
	}
	testkit.Wait(t, "nobody left", old.Gone())
	r.mu.Lock()
	r.procs[stranger.pid] = stranger
	r.mu.Unlock()
	if state := stateOf(stranger.pid); state == 0 || state == 'Z' {
		t.Errorf("the stranger is %q", state)
	}
}

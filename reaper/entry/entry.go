// Package entry is the first code of poolinit that runs: a few instructions before
// the Go runtime.
//
// The runtime needs about half a millisecond until a program can ask for a signal,
// and it changes what it found. So tools/build.sh makes the function start, which is
// written in assembly, the entry point of the program. It notes which signals were
// blocked and ignored at exec, and the limit of descriptors, which the runtime
// raises. It blocks the signals that the runtime leaves blocked in all of its
// threads until the program asks for them; then the kernel delivers what is pending.
// Then it jumps to the entry point of the runtime.
//
// The runtime unblocks TERM, INT, QUIT and HUP itself before it has a handler for
// them, and it unblocks CONT and the stop signals of a terminal before it sets one.
// For these the function record is the handler until the runtime sets its own.
//
// A program that was linked in the usual way, as go install and go test do, does not
// run start: AtExec says so, and everything is as in any Go program.
package entry

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// A State is what exec(2) handed to this program.
type State struct {
	Blocked, Ignored uint64 // sets of signals: bit n-1 is signal n
	Nofile           syscall.Rlimit
}

// atExec is filled in by start, which knows its layout.
var atExec struct {
	noted            uint64 // 1 if start ran
	blocked, ignored uint64
	early            uint64 // what record has seen: it may be called at any time
	nofile           syscall.Rlimit
}

// AtExec returns the state of this program at exec. ok is false if it is not known,
// because the program has another entry point.
func AtExec() (s State, ok bool) {
	return State{atExec.blocked, atExec.ignored, atExec.nofile}, atExec.noted == 1
}

// TakeRecorded returns the signals that came before the runtime had a handler for
// them, and forgets them.
func TakeRecorded() uint64 { return atomic.SwapUint64(&atExec.early, 0) }

// recorded is the signals whose handler is record until the runtime sets its own and
// that the runtime does not handle before it is asked to: TSTP, TTIN, TTOU and CONT.
var recorded = [...]syscall.Signal{syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGCONT}

// sigaction is the kernel's struct on 64-bit machines.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const sigSetmask = 2 // SIG_SETMASK

// RestoreMask gives the calling thread the signal mask that the program had at exec.
// It does nothing if that is not known.
func RestoreMask() {
	if atExec.noted != 1 {
		return
	}
	mask := atExec.blocked
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&mask)), 0, unsafe.Sizeof(mask), 0, 0)
}

// Release undoes what start did, for a program that does not forward signals: Ctrl-Z
// stops it again. The kernel delivers signals to any thread that does not block them,
// so it is enough that the calling one does not.
func Release() {
	if atExec.noted != 1 {
		return
	}
	for _, sig := range recorded {
		if atExec.ignored&(1<<(sig-1)) == 0 {
			setAction(sig, new(sigaction), nil)
		}
	}
	RestoreMask()
}

// Suspend does what SIGTSTP does to a program that has no handler for it: it stops
// this program until a shell continues it, unless no shell could. The program may have
// a handler all the same.
func Suspend() {
	runtime.LockOSThread() // the signal is for this thread, so that it is stopped when Tgkill returns
	defer runtime.UnlockOSThread()
	RestoreMask()
	var handler sigaction
	setAction(syscall.SIGTSTP, new(sigaction), &handler)
	_, _, _ = syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(syscall.Getpid()), uintptr(syscall.Gettid()), uintptr(syscall.SIGTSTP))
	setAction(syscall.SIGTSTP, &handler, nil)
}

func setAction(sig syscall.Signal, set, old *sigaction) {
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(set.mask), 0, 0)
}

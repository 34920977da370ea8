package reaper

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sigaction is the kernel's struct of 64-bit machines, not libc's.
type sigaction struct {
	handler, flags, restorer uintptr
	mask                     uint64
}

const (
	sigIgnore  = 1 // SIG_IGN
	lastSignal = 64
)

// resetIgnored gives its default back to every signal that this program was
// started with as ignored: exec hands that on, and a child that was never told
// would be deaf to Ctrl-Z, say, all its life.
//
// The Go runtime does it only for the signals that it handles itself, and
// leaves HUP and INT alone until somebody asks for them. What it handles is not
// touched here.
func resetIgnored() {
	for sig := syscall.Signal(1); sig <= lastSignal; sig++ {
		if sig == syscall.SIGKILL || sig == syscall.SIGSTOP {
			continue
		}
		var is, byDefault sigaction
		if rtSigaction(sig, nil, &is) && is.handler == sigIgnore {
			rtSigaction(sig, &byDefault, nil)
		}
	}
}

func rtSigaction(sig syscall.Signal, set, old *sigaction) bool {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig),
		uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)), unsafe.Sizeof(set.mask), 0, 0)
	return errno == 0
}

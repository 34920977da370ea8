package reaper

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

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

// peek returns a child that has exited or stopped, and leaves it as it is.
func peek() (childInfo, bool) {
	var info childInfo
	err := waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WSTOPPED|unix.WNOHANG|unix.WNOWAIT)
	return info, err == 0 && info.pid != 0
}

// consumeStop takes the news that a child was stopped, which peek would else
// return for ever.
func consumeStop(pid int) {
	var info childInfo
	_ = waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WNOHANG) // gone meanwhile: nothing to take
}

// consumeContinue reports whether a child that was stopped has been continued since.
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

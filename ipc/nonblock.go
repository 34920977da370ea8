package ipc

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// readNow and writeNow are read(2) and write(2) on a non-blocking descriptor.
// They never wait, so the runtime is not told of them: that costs a tenth of a
// small message, and under load has it start threads for goroutines that are
// about to go on.

func readNow(fd int, b []byte) (int, error) {
	return callNow(unix.SYS_READ, fd, b)
}

func writeNow(fd int, b []byte) (int, error) {
	return callNow(unix.SYS_WRITE, fd, b)
}

func callNow(number uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.EAGAIN:
			return 0, unix.EAGAIN // a constant error: nothing is allocated
		default:
			return 0, errno
		}
	}
}

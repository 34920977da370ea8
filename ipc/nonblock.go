package ipc

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are system calls on non-blocking sockets. They never wait, so the runtime is
// not told of them: that costs a tenth of a small message, and under load has it start
// threads for goroutines that are about to go on.

// readNow is read(2).
func readNow(fd int, b []byte) (int, error) { return callNow(unix.SYS_READ, fd, b) }

// writeNow is write(2).
func writeNow(fd int, b []byte) (int, error) { return callNow(unix.SYS_WRITE, fd, b) }

func callNow(number uintptr, fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return outcome(n, errno)
		}
	}
}

// acceptNow is accept4(2). Connections that are gone already are passed over.
func acceptNow(fd int, peer *unix.RawSockaddrAny) (int, error) {
	for {
		size := uint32(unix.SizeofSockaddrAny)
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(peer)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		if errno != unix.EINTR && errno != unix.ECONNABORTED {
			return outcome(n, errno)
		}
	}
}

// closeNow is close(2), for a socket without SO_LINGER. It is not repeated after EINTR:
// the descriptor is closed then as well.
func closeNow(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0)
}

func outcome(n uintptr, errno syscall.Errno) (int, error) {
	switch errno {
	case 0:
		return int(n), nil
	case unix.EAGAIN:
		return 0, unix.EAGAIN // a constant error: nothing is allocated
	}
	return 0, errno
}

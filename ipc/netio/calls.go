package netio

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// These are system calls on non-blocking sockets. They never wait, so the Go
// runtime is not told of them: telling it costs a tenth of a small message, and
// under load makes it start threads for goroutines that are about to go on.
// What could make them wait all the same is kept away by ancillary.Refuse; where
// the kernel cannot do that, an ancillary.Closer takes their place.

// readNow is read(2).
func readNow(fd int, b []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
		if errno != unix.EINTR {
			return outcome(n, errno)
		}
	}
}

// writeNow is send(2). If last, TCP keeps the end of it back until shutdownNow,
// for a packet that has the end of the stream in it too.
func writeNow(fd int, b []byte, last bool) (int, error) {
	flags := unix.MSG_NOSIGNAL
	if last {
		flags |= unix.MSG_MORE
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags), 0, 0)
		if errno != unix.EINTR {
			return outcome(n, errno)
		}
	}
}

// shutdownNow ends what is written, by shutdown(2). close(2) alone would do, but
// drops what it finds unsent if something unread has arrived.
func shutdownNow(fd int) {
	_, _, _ = unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0)
}

// Accept is accept4(2) on a non-blocking socket. The error is unix.EAGAIN if no
// connection is there; one that is gone already is skipped.
func Accept(fd int, peer *unix.RawSockaddrAny) (int, error) {
	for {
		size := uint32(unix.SizeofSockaddrAny)
		n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(peer)),
			uintptr(unsafe.Pointer(&size)), unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0, 0)
		if errno != unix.EINTR && errno != unix.ECONNABORTED {
			return outcome(n, errno)
		}
	}
}

// Close is close(2), for a socket without SO_LINGER. It is not repeated after
// EINTR: the descriptor is closed then as well.
func Close(fd int) {
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

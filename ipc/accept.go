package ipc

import (
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// acceptor accepts connections by hand. net.Listener spends three system calls
// on each that a connection here does not need.
type acceptor struct {
	file *os.File // of the listening socket
	raw  syscall.RawConn
	fd   int
	peer unix.Sockaddr
	err  error
	try  func(fd uintptr) bool
}

// newAcceptor takes a listening socket over; file is the acceptor's own.
func newAcceptor(file *os.File) (*acceptor, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	a := &acceptor{file: file, raw: raw}
	a.try = a.attempt
	// Accepted sockets inherit it. A unix socket has no such option, and no need.
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) })
	return a, nil
}

// deferUntilData has the kernel hand over a connection only when something has
// arrived on it, or after a second. A connection for one message then mostly
// needs no waiting at all. It is for TCP; a unix socket refuses, and needs none.
func (a *acceptor) deferUntilData() {
	_ = a.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

// accept waits for a connection.
func (a *acceptor) accept() (fd int, peer unix.Sockaddr, err error) {
	if err := a.raw.Read(a.try); err != nil {
		return -1, nil, err
	}
	return a.fd, a.peer, a.err
}

func (a *acceptor) attempt(fd uintptr) bool {
	a.fd, a.peer, a.err = acceptNow(int(fd))
	return a.err != unix.EAGAIN
}

// acceptNow accepts what is there, if anything.
func acceptNow(fd int) (int, unix.Sockaddr, error) {
	for {
		n, peer, err := unix.Accept4(fd, unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK)
		if err != unix.EINTR && err != unix.ECONNABORTED {
			return n, peer, err
		}
	}
}

// address returns a peer's address; it is not valid for a unix socket.
func address(peer unix.Sockaddr) netip.Addr {
	switch a := peer.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(a.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(a.Addr).Unmap()
	}
	return netip.Addr{}
}

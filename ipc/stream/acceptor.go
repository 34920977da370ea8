package stream

import (
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/ipc/netio"
)

// An acceptor accepts connections by hand. net.Listener spends three system
// calls on each that a connection here does not need.
type acceptor struct {
	file    *os.File // of the listening socket
	raw     syscall.RawConn
	unlink  *socketFile // to be removed before the socket is closed; or nil
	welcome func(fd int, peer netip.Addr)

	door sync.Mutex          // held from before a connection is accepted until it was welcomed
	shut bool                // none is accepted any more; guarded by door
	peer unix.RawSockaddrAny // of the connection that is being accepted; guarded by door

	err error // of attempt
	try func(fd uintptr) bool
}

// newAcceptor takes a listening socket over; file is the acceptor's own, and is
// closed if that fails. welcome gets each connection.
func newAcceptor(file *os.File, unlink *socketFile, welcome func(fd int, peer netip.Addr)) (*acceptor, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	a := &acceptor{file: file, raw: raw, unlink: unlink, welcome: welcome}
	a.try = a.attempt
	// Accepted sockets inherit it. A unix socket has no such option, and no need.
	_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) })
	return a, nil
}

// deferUntilData makes the kernel keep a connection back until something has
// arrived on it, or for a second. A connection for one message then mostly needs
// no waiting at all. It is for TCP; a unix socket refuses, and needs none.
func (a *acceptor) deferUntilData() {
	_ = a.raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 1)
	})
}

// refuseFiles is netio.RefuseFiles of a unix socket.
func (a *acceptor) refuseFiles() (ok bool) {
	_ = a.raw.Control(func(fd uintptr) { ok = netio.RefuseFiles(int(fd)) })
	return ok
}

// accept waits for a connection. It is for one goroutine.
func (a *acceptor) accept() error {
	if err := a.raw.Read(a.try); err != nil {
		return err
	}
	return a.err
}

func (a *acceptor) attempt(fd uintptr) bool {
	a.err = a.one(int(fd))
	return a.err != unix.EAGAIN
}

// one accepts a connection, if one is there. While the door is held each
// connection is either welcomed or still with the kernel.
func (a *acceptor) one(fd int) error {
	a.door.Lock()
	defer a.door.Unlock()
	if a.shut {
		return net.ErrClosed
	}
	n, err := netio.Accept(fd, &a.peer)
	if err == nil {
		a.welcome(n, addressOf(&a.peer))
	}
	return err
}

// rest accepts what is in the backlog, until over says that time is up.
func (a *acceptor) rest(over func() bool) {
	_ = a.raw.Control(func(fd uintptr) {
		for !over() && a.one(int(fd)) == nil {
		}
	})
}

// close closes the listening socket. All connections that were accepted have
// been welcomed when it returns.
func (a *acceptor) close() {
	a.door.Lock()
	was := a.shut
	a.shut = true
	a.door.Unlock()
	if was {
		return
	}
	if a.unlink != nil {
		a.unlink.remove() // first: another process may bind the path as soon as this one does not listen
	}
	a.file.Close() // waits for attempt and rest
}

func (a *acceptor) isShut() bool {
	a.door.Lock()
	defer a.door.Unlock()
	return a.shut
}

// addressOf returns a peer's address; it is not valid for a unix socket.
func addressOf(peer *unix.RawSockaddrAny) netip.Addr {
	switch peer.Addr.Family {
	case unix.AF_INET:
		return netip.AddrFrom4((*unix.RawSockaddrInet4)(unsafe.Pointer(peer)).Addr)
	case unix.AF_INET6:
		return netip.AddrFrom16((*unix.RawSockaddrInet6)(unsafe.Pointer(peer)).Addr).Unmap()
	}
	return netip.Addr{}
}

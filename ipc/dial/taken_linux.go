package dial

import (
	"crypto/tls"
	"io"
	"math"
	"net"
	"syscall"
	"time"
	"unsafe"
)

// closeTime is how long after its close_notify a pool may take to close.
const closeTime = 5 * time.Second

// unacknowledged returns how many bytes a pool that has closed had not confirmed;
// the end of our side counts as one. What was confirmed and has not broken the
// connection was read.
func unacknowledged(conn net.Conn) int {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
		_ = conn.SetReadDeadline(time.Now().Add(closeTime))
		if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
			return math.MaxInt // it said goodbye, and left something unread
		}
	}
	socket, ok := conn.(syscall.Conn) // a *net.TCPConn or *net.UnixConn
	if !ok {
		return math.MaxInt
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return math.MaxInt
	}
	var n int32 // stays 0 where the kernel does not know
	var broken int
	err = raw.Control(func(fd uintptr) {
		_, _, _ = syscall.Syscall(syscall.SYS_IOCTL, fd, syscall.TIOCOUTQ, uintptr(unsafe.Pointer(&n)))
		broken, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR) // after it: a reset empties the queue
	})
	if err != nil || broken != 0 {
		return math.MaxInt
	}
	return int(n)
}

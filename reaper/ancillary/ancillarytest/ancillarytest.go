// Package ancillarytest has what tests of attached files need: files that take
// long to close, and sockets that accept them as on an old kernel.
package ancillarytest

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// Accept makes a unix socket accept attached files, as all do before Linux 6.16.
func Accept(fd int) {
	const soPassRights = 83
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, soPassRights, 1) // fails where there is no such option
}

// Send attaches sockets whose close takes an hour, or until the end of the test, to
// a message that send sends. The message has the last descriptors of them. It
// returns what send does.
func Send(t testing.TB, n int, send func(files []int) error) error {
	t.Helper()
	files := lingeringOnes(t, n)
	err := send(files)
	for _, fd := range files {
		if err != nil {
			_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		}
		unix.Close(fd)
	}
	return err
}

func lingeringOnes(t testing.TB, n int) (files []int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() }) // resets those that were never accepted
	for range n {
		files = append(files, lingering(t, ln.Addr().(*net.TCPAddr)))
	}
	return files
}

func lingering(t testing.TB, addr *net.TCPAddr) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 3600}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = unix.Write(fd, make([]byte, 64<<10))
	}
	return fd
}

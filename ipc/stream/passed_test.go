package stream

import (
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rs/zerolog"

	"github.com/poolinit/poolinit/ipc/frame"
	"github.com/poolinit/poolinit/ipc/ipctest"
)

// unixSource is a second source of a world, not served yet.
func (w *world) unixSource(params string) (src *listener, path string) {
	w.T.Helper()
	path = filepath.Join(w.T.TempDir(), "s")
	u, err := parseURL("unix://" + path + params)
	if err != nil {
		w.T.Fatal(err)
	}
	opened, err := u.open(w.Q, zerolog.Nop())
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(opened.Close)
	return opened.(*listener), path
}

func (w *world) dialUnix(path string) *net.UnixConn {
	w.T.Helper()
	nc, err := net.Dial("unix", path)
	if err != nil {
		w.T.Fatal(err)
	}
	w.T.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(ipctest.Patience))
	return nc.(*net.UnixConn)
}

// attach sends a message with an open file.
func attach(nc *net.UnixConn, fd int) error {
	_, _, err := nc.WriteMsgUnix(frame.Append(nil, []byte("x")), unix.UnixRights(fd), nil)
	return err
}

// Neither clients nor workers can attach files; without them they are served.
func TestAttachedFilesAreRefused(t *testing.T) {
	w := newWorld(t, "", nil)
	said := make(chan error, 1)
	w.Worker(func(sock net.Conn) {
		said <- attach(sock.(*net.UnixConn), 0)
		ipctest.Answering(ipctest.Echo)(sock)
	})
	src, path := w.unixSource("?reply=always")
	w.Ended.Go(src.Serve)
	if src.slow {
		t.Log("this kernel lets them")
		return
	}
	if err := <-said; !errors.Is(err, syscall.EPERM) {
		t.Errorf("the worker: %v", err)
	}
	nc := w.dialUnix(path)
	if err := attach(nc, 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("the client: %v", err)
	}
	if _, err := nc.Write(frame.Append(nil, []byte("hello"))); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 100)
	if n, err := nc.Read(reply); err != nil || string(reply[frame.HeaderSize:n]) != "hello" {
		t.Errorf("%q, %v", reply[:n], err)
	}
}

// lingering is a socket whose close takes a minute, or until it is freed.
func lingering(t *testing.T) (fd int, free func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().(*net.TCPAddr)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 60}); err != nil {
		t.Fatal(err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil; {
		_, err = unix.Write(fd, make([]byte, 64<<10))
	}
	return fd, func() {
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		_, _ = io.Copy(io.Discard, peer)
	}
}

// Where the kernel lets files through, a client that has sent one which takes long
// to close waits itself; no other does.
func TestAttachedFilesHoldNobodyElseUp(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	src, path := w.unixSource("?reply=always")
	if !src.slow { // as on a kernel before 6.16
		const soPassRights = 83 // of Linux 6.16
		_ = src.accepts.raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, soPassRights, 1) })
		src.slow = true
	}
	var (
		held  []*net.UnixConn
		frees []func()
	)
	for range 4 * runtime.GOMAXPROCS(0) {
		nc := w.dialUnix(path)
		fd, free := lingering(t)
		if err := attach(nc, fd); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd) // the message has the last of it
		held, frees = append(held, nc), append(frees, free)
	}
	w.Ended.Go(src.Serve)
	ipctest.Eventually(t, "they are accepted", func() bool { return len(src.all()) == len(held) })
	w.served(t)
	for _, nc := range held {
		if answered(t, nc) {
			t.Error("it did not take long at all")
		}
	}
	for i, nc := range held {
		frees[i]()
		if n, err := nc.Read(make([]byte, 100)); n != frame.HeaderSize+1 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
}

// answered reports whether there is something to read now.
func answered(t *testing.T, nc *net.UnixConn) bool {
	t.Helper()
	raw, err := nc.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		_, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
	})
	return err != unix.EAGAIN
}

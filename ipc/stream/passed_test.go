package stream

import (
	"errors"
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
	"github.com/poolinit/poolinit/reaper/ancillary"
	"github.com/poolinit/poolinit/reaper/ancillary/ancillarytest"
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

// attach sends a message with open files.
func attach(nc *net.UnixConn, files ...int) error {
	_, _, err := nc.WriteMsgUnix(frame.Append(nil, []byte("x")), unix.UnixRights(files...), nil)
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
	if src.files != nil {
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

// Where the kernel lets files through, those that take long to close hold up no
// client, not even the one that has sent them; nor a stop.
func TestAttachedFilesHoldNothingUp(t *testing.T) {
	w := newWorld(t, "?reply=always", nil)
	w.Worker(ipctest.Answering(ipctest.Echo))
	src, path := w.unixSource("?reply=always")
	if src.files == nil { // as on a kernel before 6.16
		_ = src.accepts.raw.Control(func(fd uintptr) { ancillarytest.Accept(int(fd)) })
		src.files = ancillary.NewCloser()
	}
	var held []*net.UnixConn
	for range 4 * runtime.GOMAXPROCS(0) {
		nc := w.dialUnix(path)
		if err := ancillarytest.Send(t, 2, func(files []int) error { return attach(nc, files...) }); err != nil {
			t.Fatal(err)
		}
		held = append(held, nc)
	}
	w.Ended.Go(src.Serve)
	w.served(t)
	for _, nc := range held {
		if n, err := nc.Read(make([]byte, 100)); n != frame.HeaderSize+1 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	// Attached to what is never read: the connection is rejected, or not accepted.
	src.url.connections = 0
	for range 4 {
		nc := w.dialUnix(path)
		_ = ancillarytest.Send(t, 2, func(files []int) error { return attach(nc, files...) }) // it may be closed already
	}
	w.served(t)
}

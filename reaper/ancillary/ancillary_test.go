package ancillary

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/internal/testkit"
	"github.com/poolinit/poolinit/reaper/ancillary/ancillarytest"
)

// pair returns two connected sockets, which accept attached files.
func pair(t *testing.T, kind int) (ours, theirs int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ancillarytest.Accept(fds[0])
	return fds[0], fds[1]
}

func attach(fd int, files ...int) error {
	return unix.Sendmsg(fd, []byte("x"), unix.UnixRights(files...), nil, 0)
}

func TestRefuse(t *testing.T) {
	ours, theirs := pair(t, unix.SOCK_STREAM)
	defer unix.Close(ours)
	defer unix.Close(theirs)
	if err := attach(theirs, 0); err != nil {
		t.Fatalf("before: %v", err)
	}
	if !Refuse(ours) {
		t.Log("this kernel cannot")
		return
	}
	if err := attach(theirs, 0); err != unix.EPERM {
		t.Errorf("after: %v", err)
	}
	if NewCloser().For(ours) != nil {
		t.Error("a socket that refuses files needs a Closer")
	}
}

// A file that SO_LINGER cannot help with: a socket that holds a lingering one.
func nested(t *testing.T) int {
	t.Helper()
	ours, theirs := pair(t, unix.SOCK_STREAM)
	if err := ancillarytest.Send(t, 1, func(files []int) error { return attach(theirs, files...) }); err != nil {
		t.Fatal(err)
	}
	unix.Close(theirs)
	return ours
}

// Sixteen messages with files that take for ever to close, and no more.
func TestWhileAllAreBusy(t *testing.T) {
	ours, theirs := pair(t, unix.SOCK_DGRAM)
	defer unix.Close(theirs)
	closed := make(chan struct{})
	t.Cleanup(func() { testkit.Wait(t, "it is closed in the end", closed) }) // the peers of those that linger have gone by then
	c := NewCloser()
	data := make([]byte, 10)
	for range maxClosing {
		fd := nested(t)
		if err := attach(theirs, fd); err != nil {
			t.Fatal(err)
		}
		unix.Close(fd) // the message has the last of it
		if m, err := c.Receive(ours, data); m.N != 1 || err != nil {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	if err := attach(theirs); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Receive(ours, data); err != ErrBusy {
		t.Errorf("while all are busy: %v", err)
	}
	c.Await(1)
	if m, err := NewCloser().Receive(ours, data); m.N != 1 || err != nil {
		t.Errorf("the message was lost: %+v, %v", m, err)
	}
	c.Retire(rawConn(ours), func() error { return unix.Close(ours) }, func() { close(closed) })
	select {
	case <-closed:
		t.Error("it is closed although all are busy")
	default:
	}
}

// A look at a message closes none of its files.
func TestPeek(t *testing.T) {
	ours, theirs := pair(t, unix.SOCK_DGRAM)
	defer unix.Close(ours)
	defer unix.Close(theirs)
	if err := unix.SetsockoptInt(ours, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := Peek(ours); err != unix.EAGAIN {
		t.Errorf("nothing is there: %v", err)
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pipe[0])
	if err := attach(theirs, pipe[1]); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[1])
	for range 3 {
		if s, err := Peek(ours); err != nil || s.PID != os.Getpid() || s.UID != uint32(os.Getuid()) {
			t.Errorf("%+v, %v", s, err)
		}
	}
	if _, err := unix.Read(pipe[0], make([]byte, 1)); err != unix.EAGAIN {
		t.Errorf("the attached file was closed by a look: %v", err)
	}
	if _, err := NewCloser().Receive(ours, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "it is closed", func() (any, bool) {
		n, err := unix.Read(pipe[0], make([]byte, 1))
		return err, n == 0 && err == nil
	})
}

// A listener closes although what was sent to a connection in its backlog lingers.
func TestCloseListener(t *testing.T) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	name := &unix.SockaddrUnix{Name: "@" + t.Name() + t.TempDir()}
	ancillarytest.Accept(fd)
	if err := unix.Bind(fd, name); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 10); err != nil {
		t.Fatal(err)
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	if err := unix.Connect(client, name); err != nil {
		t.Fatal(err)
	}
	if err := ancillarytest.Send(t, 1, func(files []int) error { return attach(client, files...) }); err != nil {
		t.Fatal(err)
	}
	CloseListener(os.NewFile(uintptr(fd), "listener"))
}

// A rawConn is a descriptor.
type rawConn int

func (fd rawConn) Control(f func(uintptr)) error  { f(uintptr(fd)); return nil }
func (fd rawConn) Read(func(uintptr) bool) error  { return os.ErrInvalid }
func (fd rawConn) Write(func(uintptr) bool) error { return os.ErrInvalid }

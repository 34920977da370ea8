package ancillary

import (
	"errors"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// soPassRights is SO_PASSRIGHTS of Linux 6.16 (asm-generic/socket.h).
const soPassRights = 83

// Refuse makes the kernel refuse files that are attached to what is sent to a unix
// socket, and to those that are accepted from it. It reports whether this kernel
// can do that. If not, the socket is for a Closer.
func Refuse(fd int) bool {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, soPassRights, 0) == nil
}

// maxClosing is how many goroutines of a Closer close files at a time. Each one
// that the kernel holds up needs a thread.
const maxClosing = 16

// ErrBusy means that files of earlier messages are still being closed, by as many
// goroutines as there may be. Nothing was received.
var ErrBusy = errors.New("still closing files that came with earlier messages")

// A Closer closes files that came with messages, without making the receiver of
// the messages wait. Its methods may be called by several goroutines.
type Closer struct {
	room chan struct{} // a semaphore: as many as maxClosing
}

// NewCloser returns a Closer. Sockets that share one share its bound: when the
// senders to one of them have used it up, the others are not read either.
func NewCloser() *Closer { return &Closer{make(chan struct{}, maxClosing)} }

// For makes the kernel refuse files that are attached to what is sent to a socket,
// as Refuse does. If it cannot, For returns the Closer, otherwise nil: the socket
// needs none.
func (c *Closer) For(fd int) *Closer {
	if Refuse(fd) {
		return nil
	}
	return c
}

// A Message is what Receive returns about one.
type Message struct {
	N     int // bytes
	Flags int // of recvmsg(2): MSG_TRUNC, for one
}

// controls are buffers for ancillary data. Receivers that wait need none.
var controls = sync.Pool{New: func() any { return new(control) }}

// A control has room for the 253 files that one message can have (SCM_MAX_FD of the
// kernel), which take 1,032 bytes, and for credentials, which take 32. With room for
// fewer, recvmsg(2) itself would close the rest.
type control [1280]byte

// Receive is recvmsg(2) on a non-blocking unix socket. Files that come along are
// closed later. The error is unix.EAGAIN if there is no message, and ErrBusy if
// nothing may be received now: see Await.
func (c *Closer) Receive(fd int, b []byte) (Message, error) {
	select {
	case c.room <- struct{}{}: // first: files must not be received without it
	default:
		return Message{}, ErrBusy
	}
	buffer := controls.Get().(*control)
	defer controls.Put(buffer)
	m, files, err := receive(fd, b, buffer)
	if len(files) == 0 {
		<-c.room
		return m, err
	}
	go func() { // ends when the kernel has closed the files; no caller waits for it
		closeAll(files)
		<-c.room
	}()
	return m, err
}

func receive(fd int, b []byte, buffer *control) (m Message, files []int, err error) {
	for {
		n, size, flags, _, err := unix.Recvmsg(fd, b, buffer[:], unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return Message{}, nil, err
		}
		return Message{n, flags}, filesIn(buffer[:size]), nil
	}
}

// filesIn returns the descriptors in ancillary data.
func filesIn(data []byte) (files []int) {
	if len(data) == 0 {
		return nil
	}
	messages, err := unix.ParseSocketControlMessage(data)
	if err != nil {
		return nil
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			files = append(files, fds...)
		}
	}
	return files
}

// closeAll closes files, and sockets without waiting for their peers. Even to set
// the option may take long: a socket can be locked by a call of its owner's.
func closeAll(files []int) {
	for _, fd := range files {
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // not a socket: no matter
		unix.Close(fd)
	}
}

// Await waits until something may be received, at most for the given time. Another
// receiver may be faster then.
func (c *Closer) Await(patience time.Duration) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case c.room <- struct{}{}:
		<-c.room
	case <-timer.C:
	}
}

// Retire closes a unix socket without waiting: what has been sent to it, and not
// been received, may have files. The socket is closed by closeSocket, and then is
// called afterwards if it is not nil. Both are called by another goroutine.
func (c *Closer) Retire(raw syscall.RawConn, closeSocket func() error, then func()) {
	go func() { // ends when the kernel has closed what was attached
		c.room <- struct{}{}
		_ = raw.Control(func(fd uintptr) { drain(int(fd)) }) // closed already: nothing is left
		_ = closeSocket()
		<-c.room
		if then != nil {
			then()
		}
	}()
}

// drain ends what is sent to a socket, and receives what was.
func drain(fd int) {
	_ = unix.Shutdown(fd, unix.SHUT_RD) // fails where the peer has gone
	buffer := controls.Get().(*control)
	defer controls.Put(buffer)
	data := make([]byte, 16<<10)
	for {
		m, files, err := receive(fd, data, buffer)
		closeAll(files)
		if err != nil || m.N == 0 && len(files) == 0 {
			return
		}
	}
}

// listenerTime is how long CloseListener waits.
const listenerTime = 200 * time.Millisecond

// CloseListener closes a listening socket. Connections that nothing has accepted are
// closed with it, and what is attached to what was sent to them. If the kernel
// takes long for that, it goes on by itself.
func CloseListener(l interface{ Close() error }) {
	closed := make(chan struct{})
	go func() { // ends when the kernel has closed all
		_ = l.Close() // closed already: fine
		close(closed)
	}()
	timer := time.NewTimer(listenerTime)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
	}
}

// A Sender is the process that sent a message, according to the kernel.
type Sender struct {
	PID int // in this PID namespace; 0: it is in another one
	UID uint32
}

// Peek returns which process sent the next message to a non-blocking unix socket that has
// SO_PASSCRED. The message stays there, with its files. The error is unix.EAGAIN if
// there is none.
func Peek(fd int) (Sender, error) {
	var data [1]byte
	var credentials [32]byte // CMSG_SPACE of them: no room for a file
	for {
		_, size, _, _, err := unix.Recvmsg(fd, data[:], credentials[:], unix.MSG_PEEK|unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return Sender{}, err
		}
		return senderIn(credentials[:size]), nil
	}
}

func senderIn(data []byte) Sender {
	messages, err := unix.ParseSocketControlMessage(data)
	if err != nil {
		return Sender{}
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			return Sender{int(cred.Pid), cred.Uid}
		}
	}
	return Sender{}
}

package notify

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Socket receives the messages of one process and its group. It is in the
// abstract namespace, so that it needs no writable directory. The credentials that
// the kernel attaches decide which messages are accepted.
type Socket struct {
	name     string
	file     *os.File
	onError  func(error)
	messages chan Message
	closed   chan struct{}
	reader   sync.WaitGroup
}

// Listen opens a socket under a name that cannot be guessed. Serve then reads from
// it. onError is called for messages that could not be parsed or came from another
// process group, once for each reason. It is called by the goroutine that reads.
func Listen(onError func(error)) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the notify socket: %w", err)
	}
	name := "@poolinit/" + rand.Text()
	if err := bind(fd, name); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot bind the notify socket: %w", err)
	}
	return &Socket{
		name: name, file: os.NewFile(uintptr(fd), name), onError: onError,
		messages: make(chan Message), closed: make(chan struct{}),
	}, nil
}

func bind(fd int, name string) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrUnix{Name: name})
}

// Name returns the value for NOTIFY_SOCKET. The @ stands for the zero byte of the
// abstract namespace.
func (s *Socket) Name() string { return s.name }

// Serve begins to read. Messages are accepted from the process group pgid only.
// Messages that were sent before wait in the kernel, so the process may be started
// first.
func (s *Socket) Serve(pgid int) {
	s.reader.Go(func() { s.read(pgid) })
}

// Messages returns the channel of accepted messages. It is closed after Close.
func (s *Socket) Messages() <-chan Message { return s.messages }

// Close ends the reading and waits for it.
func (s *Socket) Close() {
	close(s.closed)
	s.file.Close()
	s.reader.Wait()
}

// buffers hold one datagram and its control message each. All sockets share them,
// so that a silent socket, as most are, needs no memory for them.
var buffers = sync.Pool{New: func() any { return new(buffer) }}

type buffer struct {
	data [MaxMessage + 1]byte
	oob  [256]byte // credentials, and descriptors that a sender may attach
}

func (s *Socket) read(pgid int) {
	defer close(s.messages)
	conn, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	reported := make(map[string]bool) // errors, of which there are few different ones
	for {
		m, err := receive(conn, pgid)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			if !reported[err.Error()] {
				reported[err.Error()] = true
				s.onError(err)
			}
		default:
			select {
			case s.messages <- m:
			case <-s.closed:
				return
			}
		}
	}
}

// receive waits for one datagram and reads it.
func receive(conn syscall.RawConn, pgid int) (m Message, err error) {
	waitErr := conn.Read(func(fd uintptr) bool {
		b := buffers.Get().(*buffer)
		defer buffers.Put(b)
		n, oobn, flags, _, rerr := unix.Recvmsg(int(fd), b.data[:], b.oob[:], unix.MSG_CMSG_CLOEXEC)
		if rerr == unix.EAGAIN || rerr == unix.EINTR {
			return false
		}
		if err = rerr; err == nil {
			m, err = decode(b.data[:n], b.oob[:oobn], flags, pgid)
			// After decode: when its BARRIER is closed the sender may end, and its
			// group can no longer be looked up.
			closeFiles(b.oob[:oobn])
		}
		return true
	})
	if waitErr != nil {
		return m, os.ErrClosed
	}
	return m, err
}

var errStranger = errors.New("message from a process that is not of this worker")

func decode(data, oob []byte, flags, pgid int) (Message, error) {
	switch {
	case !isInGroup(sender(oob), pgid):
		return Message{}, errStranger
	case flags&unix.MSG_TRUNC != 0:
		return Message{}, errTooLong
	case string(data) == barrier:
		return Message{}, nil // the answer is that its descriptor is closed: all earlier messages were read
	}
	return Parse(data)
}

// sender returns the PID that the kernel attached, as this PID namespace numbers
// it. It is 0 for a process of another namespace.
func sender(oob []byte) int {
	pid := 0
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0
	}
	for _, m := range messages {
		if cred, err := unix.ParseUnixCredentials(&m); err == nil {
			pid = int(cred.Pid)
		}
	}
	return pid
}

// closeFiles closes the descriptors that came with a message.
func closeFiles(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for _, m := range messages {
		if fds, err := unix.ParseUnixRights(&m); err == nil {
			for _, fd := range fds {
				unix.Close(fd)
			}
		}
	}
}

// isInGroup reports whether a process is in a process group. A process that has
// ended since it sent its message (a short-lived helper that did not wait for the
// BARRIER) does not count: it cannot be told from any other.
func isInGroup(pid, pgid int) bool {
	if pid <= 0 {
		return false
	}
	if pid == pgid {
		return true
	}
	group, err := unix.Getpgid(pid)
	return err == nil && group == pgid
}

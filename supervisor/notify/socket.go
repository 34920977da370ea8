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
// abstract namespace, so that it needs no writable directory; who may speak is
// decided by the credentials that the kernel attaches.
type Socket struct {
	name     string
	file     *os.File
	onError  func(error)
	messages chan Message
	closed   chan struct{}
	reader   sync.WaitGroup
	owner    int // the group that may speak
}

// Listen opens a socket under a name that nobody can guess; Serve then reads
// from it. onError is told of what could not be understood or came from a
// stranger, once for each reason; it is called from the goroutine that reads.
func Listen(onError func(error)) (*Socket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the notify socket: %w", err)
	}
	s := &Socket{
		name: "@poolinit/" + rand.Text(), onError: onError,
		messages: make(chan Message),
		closed:   make(chan struct{}),
	}
	if err := s.bind(fd); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("cannot bind the notify socket: %w", err)
	}
	s.file = os.NewFile(uintptr(fd), s.name)
	return s, nil
}

func (s *Socket) bind(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		return err
	}
	return unix.Bind(fd, &unix.SockaddrUnix{Name: s.name})
}

// Name is the value for NOTIFY_SOCKET; the @ stands for the zero byte of the
// abstract namespace.
func (s *Socket) Name() string { return s.name }

// Serve begins to read. Only the process group pgid may speak; what others send
// is dropped. What was sent before waits in the kernel, so the process may be
// started first.
func (s *Socket) Serve(pgid int) {
	s.owner = pgid
	s.reader.Go(s.read)
}

// Messages yields what was said. It is closed after Close.
func (s *Socket) Messages() <-chan Message { return s.messages }

// Close ends the reading and waits for it.
func (s *Socket) Close() {
	close(s.closed)
	s.file.Close()
	s.reader.Wait()
}

// buffers hold one datagram and its control message. They are shared, so that
// a silent socket, as most are, costs no memory for them.
var buffers = sync.Pool{New: func() any { return new(buffer) }}

type buffer struct {
	data [MaxMessage + 1]byte
	oob  [256]byte // credentials, and descriptors that somebody sends along
}

func (s *Socket) read() {
	defer close(s.messages)
	conn, err := s.file.SyscallConn()
	if err != nil {
		return
	}
	said := make(map[string]bool) // complaints; their texts are few
	for {
		m, err := s.receive(conn)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			if !said[err.Error()] {
				said[err.Error()] = true
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
func (s *Socket) receive(conn syscall.RawConn) (m Message, err error) {
	waitErr := conn.Read(func(fd uintptr) bool {
		b := buffers.Get().(*buffer)
		defer buffers.Put(b)
		n, oobn, flags, _, rerr := unix.Recvmsg(int(fd), b.data[:], b.oob[:], unix.MSG_CMSG_CLOEXEC)
		if rerr == unix.EAGAIN || rerr == unix.EINTR {
			return false
		}
		if err = rerr; err == nil {
			m, err = s.understand(b.data[:n], b.oob[:oobn], flags)
			closeFiles(b.oob[:oobn]) // not before: a sender may end when its BARRIER is closed, and is a stranger then
		}
		return true
	})
	if waitErr != nil {
		return m, os.ErrClosed
	}
	return m, err
}

var errStranger = errors.New("message from a process that is not of this worker")

func (s *Socket) understand(data, oob []byte, flags int) (Message, error) {
	pid := sender(oob)
	switch {
	case !s.isOwn(pid):
		return Message{}, errStranger
	case flags&unix.MSG_TRUNC != 0:
		return Message{}, errTooLong
	case string(data) == barrier:
		return Message{}, nil // that its descriptor is closed is the answer: all before it was read
	}
	return Parse(data)
}

// sender returns the PID that the kernel vouches for, in this namespace; 0 for
// one of another namespace.
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

// closeFiles closes descriptors that came along: nobody asked for them.
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

// isOwn reports whether a process is of the group that may speak. One that has
// ended since it spoke (a short-lived helper that did not wait for the BARRIER
// as systemd-notify does) cannot be told from a stranger.
func (s *Socket) isOwn(pid int) bool {
	if pid <= 0 {
		return false
	}
	if pid == s.owner {
		return true
	}
	pgid, err := unix.Getpgid(pid)
	return err == nil && pgid == s.owner
}

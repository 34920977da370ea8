package notify

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/poolinit/poolinit/reaper/ancillary"
)

// A Socket receives the messages of one process and its group. It is in the
// abstract namespace, so that it needs no writable directory. The credentials that
// the kernel attaches decide which messages are accepted.
type Socket struct {
	name     string
	file     *os.File
	onError  func(error)
	raw      syscall.RawConn // of file
	refuses  bool            // the kernel refuses attached files: reading and closing never take long
	messages chan Message
	closed   chan struct{}
	reader   sync.WaitGroup
}

// Listen opens a socket under a name that cannot be guessed. Serve then reads from
// it. onError is called for messages that could not be parsed or came from another
// process group, once for each reason, by the goroutine that reads; and by Close.
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
	s := &Socket{
		name: name, file: os.NewFile(uintptr(fd), name), onError: onError, refuses: ancillary.Refuse(fd),
		messages: make(chan Message), closed: make(chan struct{}),
	}
	if s.raw, err = s.file.SyscallConn(); err != nil {
		s.file.Close()
		return nil, fmt.Errorf("cannot open the notify socket: %w", err)
	}
	return s, nil
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

// closeTime is how long Close waits for the goroutine that reads. It needs
// microseconds, unless the kernel holds it up.
const closeTime = time.Second

// Close ends the reading and waits for that, but not for ever: if it takes longer
// than a second onError is told, and the goroutine is left behind.
func (s *Socket) Close() {
	close(s.closed)
	ended := make(chan struct{})
	end := func() {
		s.reader.Wait()
		close(ended)
	}
	if s.refuses {
		s.file.Close()
		go end() // ends with the reader, which finds its socket closed
	} else {
		_ = s.file.SetReadDeadline(time.Unix(1, 0)) // ends the reader
		closer.Retire(s.raw, s.file.Close, end)
	}
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		s.onError(errStuck)
	}
}

// closer is for the sockets of all workers, so that its bound holds for the pool.
var closer = ancillary.NewCloser()

// buffers hold one datagram each. All sockets share them, so that a silent socket,
// as most are, needs no memory for them.
var buffers = sync.Pool{New: func() any { return new([MaxMessage + 1]byte) }}

func (s *Socket) read(pgid int) {
	defer close(s.messages)
	reported := make(map[string]bool) // errors, of which there are few different ones
	for {
		m, err := s.receive(pgid)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err == ancillary.ErrBusy:
			closer.Await(busyTime)
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

// busyTime is how long the reader waits before it looks whether it has to end.
const busyTime = 50 * time.Millisecond

// receive waits for one datagram and reads it.
func (s *Socket) receive(pgid int) (m Message, err error) {
	waitErr := s.raw.Read(func(fd uintptr) bool {
		m, err = receiveNow(int(fd), pgid)
		return err != unix.EAGAIN
	})
	if waitErr != nil {
		return m, os.ErrClosed
	}
	return m, err
}

// receiveNow reads a datagram that is there. Its sender is looked up while it is
// still in the queue: when it has been taken out the sender may end (see Send), and
// its group can no longer be looked up. What a stranger wrote is not even read.
func receiveNow(fd, pgid int) (Message, error) {
	sender, err := ancillary.Peek(fd)
	if err != nil {
		return Message{}, err
	}
	if !isInGroup(sender.PID, pgid) {
		if _, err := closer.Receive(fd, make([]byte, 1)); err != nil {
			return Message{}, err
		}
		return Message{}, errStranger
	}
	buffer := buffers.Get().(*[MaxMessage + 1]byte)
	defer buffers.Put(buffer)
	got, err := closer.Receive(fd, buffer[:])
	data := buffer[:got.N]
	switch {
	case err != nil:
		return Message{}, err
	case got.Flags&unix.MSG_TRUNC != 0:
		return Message{}, errTooLong
	case string(data) == barrier:
		return Message{}, nil // the answer is that its descriptor is closed: all earlier messages were read
	}
	return Parse(data)
}

var (
	errStranger = errors.New("message from a process that is not of this worker")
	errStuck    = errors.New("the notify socket did not close in time, leaving it behind")
)

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

package notify

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// MaxMessage is the longest message that is accepted, in bytes. It is systemd's
// limit (NOTIFY_BUFFER_MAX, which is PIPE_BUF).
const MaxMessage = 4096

// maxStatus is the longest STATUS that is kept, in bytes.
const maxStatus = 512

// barrier comes with a descriptor, which the manager closes when it has read the
// message.
const barrier = "BARRIER=1"

// A Message is the content of one datagram. Assignments that are not listed here
// (MAINPID, ERRNO, FDSTORE and so on) are ignored, as sd_notify(3) asks receivers
// to do.
type Message struct {
	Ready            bool          // READY=1
	Stopping         bool          // STOPPING=1
	Status           string        // STATUS=text
	Watchdog         bool          // WATCHDOG=1
	WatchdogTrigger  bool          // WATCHDOG=trigger: act as if it were late
	WatchdogInterval time.Duration // WATCHDOG_USEC=n: a new interval
}

var (
	errEmpty    = errors.New("empty message")
	errNoAssign = errors.New("a line is not NAME=value")
	errUTF8     = errors.New("not UTF-8")
	errTooLong  = errors.New("message is longer than 4096 bytes")
	errWatchdog = errors.New("WATCHDOG_USEC is not a positive number of microseconds")
	errUnread   = errors.New("the receiver does not read its messages")
)

// Parse reads a datagram: lines of NAME=value.
func Parse(datagram []byte) (Message, error) {
	var m Message
	switch {
	case len(datagram) > MaxMessage:
		return m, errTooLong
	case !utf8.Valid(datagram):
		return m, errUTF8
	}
	text := strings.TrimRight(string(datagram), "\n")
	if text == "" {
		return m, errEmpty
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok || name == "" {
			return Message{}, errNoAssign
		}
		if err := m.assign(name, value); err != nil {
			return Message{}, err
		}
	}
	return m, nil
}

func (m *Message) assign(name, value string) error {
	switch name {
	case "READY":
		m.Ready = value == "1"
	case "STOPPING":
		m.Stopping = value == "1"
	case "STATUS":
		m.Status = shorten(value)
	case "WATCHDOG":
		m.Watchdog = value == "1"
		m.WatchdogTrigger = value == "trigger"
	case "WATCHDOG_USEC":
		usec, err := strconv.ParseUint(value, 10, 64)
		if err != nil || usec == 0 || usec > uint64(time.Duration(1<<63-1)/time.Microsecond) {
			return errWatchdog
		}
		m.WatchdogInterval = time.Duration(usec) * time.Microsecond
	}
	return nil
}

// shorten cuts a status to maxStatus bytes, between two characters.
func shorten(s string) string {
	if len(s) <= maxStatus {
		return s
	}
	cut := maxStatus
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}

// Send tells a manager the state of this process, for the process group that it is
// in: lines of NAME=value, to the socket that NOTIFY_SOCKET names (a path, or @ and
// an abstract name). It returns when the manager has read them, because the manager
// can identify the sender only while it is alive. This is sd_notify_barrier(3), or,
// where the manager refuses the descriptor, a look at what is unread. If that takes
// longer than patience, the error says so.
func Send(socket, state string, patience time.Duration) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	read, written, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	to := &unix.SockaddrUnix{Name: socket}
	if err = unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, to); err == nil {
		err = unix.Sendmsg(fd, []byte(barrier), unix.UnixRights(int(written.Fd())), to, unix.MSG_NOSIGNAL)
	}
	written.Close() // the manager has the other copy
	switch {
	case errors.Is(err, unix.EPERM): // it refuses descriptors, as poolinit does
		return awaitRead(fd, patience)
	case errors.Is(err, unix.EAGAIN):
		return errUnread
	case err != nil:
		return fmt.Errorf("%s: %w", socket, err)
	}
	_ = read.SetReadDeadline(time.Now().Add(patience)) // a pipe has deadlines
	if _, err := read.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		return errUnread
	}
	return nil
}

// Tell sends a state as Send does, but does not wait for anything: the error is
// unix.EAGAIN if the manager has too many unread messages.
func Tell(socket, state string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, []byte(state), unix.MSG_NOSIGNAL, &unix.SockaddrUnix{Name: socket})
}

// awaitRead waits until all that was sent from a socket has been taken out of the
// queue of the one that it was sent to. poolinit looks the sender up before that.
func awaitRead(fd int, patience time.Duration) error {
	deadline := time.Now().Add(patience)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		switch unread, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ); {
		case err != nil:
			return os.NewSyscallError("ioctl", err)
		case unread == 0:
			return nil
		case time.Now().After(deadline):
			return errUnread
		}
		time.Sleep(pause)
	}
}
